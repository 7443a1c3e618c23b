//! A blocking xenstore client.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const WRITE: u32 = 11;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

pub(crate) struct Client {
    stream: UnixStream,
    event_came: bool,
}

impl Client {
    pub(crate) fn connect() -> io::Result<Self> {
        let path = std::env::var_os("XENSTORED_PATH")
            .ok_or_else(|| io::Error::other("XENSTORED_PATH is not set"))?;
        Ok(Self {
            stream: UnixStream::connect(path)?,
            event_came: false,
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    fn receive(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        let mut payload = vec![0; word(12) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((word(0), payload))
    }

    /// Sends a request and waits for its reply; `None` if it is an error.
    fn ask(&mut self, message_type: u32, payload: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let header = [message_type, 0, 0, length];
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.stream.write_all(&header)?;
        self.stream.write_all(payload)?;
        loop {
            match self.receive()? {
                (WATCH_EVENT, _) => self.event_came = true,
                (ERROR, _) => return Ok(None),
                (_, payload) => return Ok(Some(payload)),
            }
        }
    }

    pub(crate) fn watch(&mut self, path: &str) -> io::Result<()> {
        let set = self.ask(WATCH, format!("{path}\0w\0").as_bytes())?;
        set.map(drop)
            .ok_or_else(|| io::Error::other(format!("cannot watch {path}")))
    }

    /// Whether an event came that was not taken yet, as far as known without reading.
    pub(crate) fn knows_of_event(&self) -> bool {
        self.event_came
    }

    /// Whether anything has changed since this was last asked; does not wait.
    pub(crate) fn take_events(&mut self) -> io::Result<bool> {
        while super::xen::is_readable(self.fd())? {
            if self.receive()?.0 == WATCH_EVENT {
                self.event_came = true;
            }
        }
        Ok(std::mem::take(&mut self.event_came))
    }

    pub(crate) fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        let value = self.ask(READ, format!("{path}\0").as_bytes())?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    pub(crate) fn number(&mut self, path: &str) -> io::Result<Option<u32>> {
        Ok(self.read(path)?.and_then(|text| text.parse().ok()))
    }

    pub(crate) fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        let written = self.ask(WRITE, format!("{path}\0{value}").as_bytes())?;
        written
            .map(drop)
            .ok_or_else(|| io::Error::other(format!("cannot write {path}")))
    }

    pub(crate) fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let names = self.ask(DIRECTORY, format!("{path}\0").as_bytes())?;
        Ok(names
            .unwrap_or_default()
            .split(|&c| c == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }
}
