//! What is printed. Failures to write it end the command instead of the process, or nothing at all.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::error::CommandError;

/// Lines on standard output, buffered.
pub(crate) struct Output<W: Write> {
    to: BufWriter<W>,
    /// What is written before anything else, and not before there is something else: work that fails before it found
    /// anything prints nothing.
    heading: Option<String>,
}

impl Output<io::StdoutLock<'static>> {
    pub(crate) fn stdout() -> Self {
        Self::new(io::stdout().lock(), None)
    }

    /// Standard output, with a first line.
    pub(crate) fn with_heading(line: &str) -> Self {
        Self::new(io::stdout().lock(), Some(format!("{line}\n")))
    }
}

impl<W: Write> Output<W> {
    fn new(to: W, heading: Option<String>) -> Self {
        Self {
            to: BufWriter::new(to),
            heading,
        }
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), CommandError> {
        self.text(line)?;
        self.text("\n")
    }

    fn text(&mut self, text: &str) -> Result<(), CommandError> {
        let heading = self.heading.take().unwrap_or_default();
        let mut write = |text: &str| self.to.write_all(text.as_bytes());
        write(&heading)
            .and_then(|()| write(text))
            .map_err(CommandError::Print)
    }

    /// Writes out what is left.
    pub(crate) fn finish(mut self) -> Result<(), CommandError> {
        self.text("")?;
        self.to.flush().map_err(CommandError::Print)
    }
}

/// Prints a line.
pub(crate) fn print_line(line: &str) -> Result<(), CommandError> {
    let mut output = Output::stdout();
    output.line(line)?;
    output.finish()
}

/// Prints a value as JSON, for programs.
pub(crate) fn print_json(value: &Value) -> Result<(), CommandError> {
    print_line(&serde_json::to_string_pretty(value)?)
}

/// A line on standard error. Where it cannot be written, nobody can be told.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A path in JSON, which has no place for bytes that are no text: they are replaced.
pub(crate) fn path(path: &Path) -> Value {
    json!(path.to_string_lossy())
}

/// A JSON object that ends in a list that is written item by item, so that it need not be held in memory.
pub(crate) struct JsonList<W: Write> {
    output: Output<W>,
    items: u64,
}

impl JsonList<io::StdoutLock<'static>> {
    /// An object on standard output with `members`, which is an object that is not empty, and a list under `name`.
    pub(crate) fn stdout(members: &Value, name: &str) -> Result<Self, CommandError> {
        Self::new(io::stdout().lock(), members, name)
    }
}

impl<W: Write> JsonList<W> {
    fn new(to: W, members: &Value, name: &str) -> Result<Self, CommandError> {
        let text = serde_json::to_string_pretty(members)?;
        let members = text.strip_suffix("\n}").unwrap_or("{");
        let heading = format!("{members},\n  \"{name}\": [");
        Ok(Self {
            output: Output::new(to, Some(heading)),
            items: 0,
        })
    }

    pub(crate) fn item(&mut self, item: &Value) -> Result<(), CommandError> {
        let separator = if self.items == 0 { "" } else { "," };
        self.items += 1;
        self.output.text(&format!("{separator}\n    {item}"))
    }

    /// Ends the list and the object, after work that ended in `result`. If it failed, and something is printed already,
    /// the object says why, so that it is whole in any case.
    pub(crate) fn finish<T>(mut self, result: Result<T, CommandError>) -> Result<T, CommandError> {
        let is_begun = self.items > 0;
        match result {
            Ok(value) => {
                self.output.line("\n  ]\n}")?;
                self.output.finish()?;
                Ok(value)
            }
            Err(error) if is_begun && !matches!(error, CommandError::Print(_)) => {
                let text = json!(error.to_string());
                self.output
                    .line(&format!("\n  ],\n  \"error\": {text}\n}}"))?;
                self.output.finish()?;
                Err(CommandError::Told(Box::new(error)))
            }
            error => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(count: usize, result: Result<(), CommandError>) -> (Vec<u8>, Option<CommandError>) {
        let mut bytes = Vec::new();
        let members = json!({ "image": "a", "nested": { "x": 1 } });
        let mut list = JsonList::new(&mut bytes, &members, "items").unwrap();
        (0..count).for_each(|i| list.item(&json!({ "i": i })).unwrap());
        let error = list.finish(result).err();
        (bytes, error)
    }

    #[test]
    fn a_list_written_item_by_item_is_json() {
        for count in [0, 1, 3] {
            let (bytes, error) = list(count, Ok(()));
            assert!(error.is_none());
            let read: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(read["nested"]["x"], 1);
            assert_eq!(read["items"].as_array().unwrap().len(), count);
            assert_eq!(read.get("error"), None);
        }
    }

    #[test]
    fn a_list_that_breaks_off_is_json_and_says_why() {
        let broken = || Err(CommandError::Usage("a \"bad\" one".to_owned()));
        let (bytes, error) = list(2, broken());
        let read: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read["items"], json!([{ "i": 0 }, { "i": 1 }]));
        assert_eq!(read["error"], "a \"bad\" one");
        assert!(matches!(error, Some(CommandError::Told(_))), "{error:?}");
        let (bytes, error) = list(0, broken());
        assert_eq!(bytes, b"");
        assert!(matches!(error, Some(CommandError::Usage(_))), "{error:?}");
    }
}
