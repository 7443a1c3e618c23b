//! Standard output, for what may be long: buffered, and with failures that end the command instead of the process.

use std::io::{self, BufWriter, Write};

use serde_json::Value;

use crate::error::CommandError;

/// Lines on standard output.
pub(crate) struct Output<W: Write> {
    to: BufWriter<W>,
}

impl Output<io::StdoutLock<'static>> {
    pub(crate) fn stdout() -> Self {
        Self::new(io::stdout().lock())
    }
}

impl<W: Write> Output<W> {
    fn new(to: W) -> Self {
        Self {
            to: BufWriter::new(to),
        }
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), CommandError> {
        writeln!(self.to, "{line}").map_err(CommandError::Print)
    }

    fn text(&mut self, text: &str) -> Result<(), CommandError> {
        write!(self.to, "{text}").map_err(CommandError::Print)
    }

    /// Writes out what is left.
    pub(crate) fn finish(mut self) -> Result<(), CommandError> {
        self.to.flush().map_err(CommandError::Print)
    }
}

/// A JSON object whose last member is a list that is written item by item, so that it need not be held in memory.
pub(crate) struct JsonList<W: Write> {
    output: Output<W>,
    items: u64,
}

impl<W: Write> JsonList<W> {
    /// Begins the object with `members`, which is an object that is not empty, and the list under `name`.
    pub(crate) fn begin(
        mut output: Output<W>,
        members: &Value,
        name: &str,
    ) -> Result<Self, CommandError> {
        let text = serde_json::to_string_pretty(members)?;
        let members = text.strip_suffix("\n}").unwrap_or("{");
        output.line(&format!("{members},"))?;
        output.text(&format!("  \"{name}\": ["))?;
        Ok(Self { output, items: 0 })
    }

    pub(crate) fn item(&mut self, item: &Value) -> Result<(), CommandError> {
        let separator = if self.items == 0 { "" } else { "," };
        self.items += 1;
        self.output.text(&format!("{separator}\n    {item}"))
    }

    pub(crate) fn finish(mut self) -> Result<(), CommandError> {
        self.output.line("\n  ]")?;
        self.output.line("}")?;
        self.output.finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_written_item_by_item_is_json() {
        for count in [0, 1, 3] {
            let mut bytes = Vec::new();
            let members = json!({ "image": "a", "nested": { "x": 1 } });
            let mut list = JsonList::begin(Output::new(&mut bytes), &members, "items").unwrap();
            (0..count).for_each(|i| list.item(&json!({ "i": i })).unwrap());
            list.finish().unwrap();
            let read: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(read["nested"]["x"], 1);
            assert_eq!(read["items"].as_array().unwrap().len(), count);
        }
    }
}
