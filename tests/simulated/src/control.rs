//! The daemon's control API, spoken to without help, so that tests see what is really said.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::Rig;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header lines.
    pub headers: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Rig {
    /// Asks the control API, with a body of JSON if there is one.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        ask(&self.path("run/control.sock"), method, path, body).expect("an answer")
    }
}

/// Asks whoever listens at a socket.
///
/// # Errors
/// If nobody does, or no answer comes.
pub fn ask(socket: &Path, method: &str, path: &str, body: Option<&str>) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: cowbackd\r\nConnection: close\r\n");
    if let Some(body) = body {
        request += "Content-Type: application/json\r\n";
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    } else {
        request += "\r\n";
    }
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (headers, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Answer {
        status: status.ok_or_else(|| io::Error::other(format!("no answer: {answer:?}")))?,
        headers: headers.to_owned(),
        body: body.to_owned(),
    })
}
