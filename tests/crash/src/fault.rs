//! I/O that fails.

use std::fmt;
use std::str::FromStr;

use dscow::engine::Errno;

/// What an action does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Io {
    Read,
    /// Data or zeros.
    Data,
    Bitmap,
    Header,
    Length,
    Sync,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// With `EIO`, and every second sector is written.
    Error,
    /// With `EIO`, and nothing is written.
    Refused,
    /// With `ENOSPC`, if it is a write that takes space; it is tried again.
    NoSpace,
}

/// An action that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How many actions are issued before it.
    pub at: usize,
    /// How.
    pub failure: Failure,
}

/// The faults of a run, and the I/O that was issued so far.
#[derive(Default)]
pub(crate) struct Faults {
    planned: Vec<Fault>,
    issued: Vec<Io>,
    /// Whether an action has failed that was not tried again.
    pub(crate) told: bool,
}

impl Faults {
    pub(crate) fn new(planned: Vec<Fault>) -> Self {
        Self {
            planned,
            ..Self::default()
        }
    }

    /// Whether an action that is issued now fails.
    pub(crate) fn issue(&mut self, io: Io) -> Option<Failure> {
        let at = self.issued.len();
        self.issued.push(io);
        let fault = self.planned.iter().find(|fault| fault.at == at)?;
        let happens = fault.failure.may_happen_to(io);
        self.told |= happens && fault.failure != Failure::NoSpace;
        happens.then_some(fault.failure)
    }

    pub(crate) fn issued(&self) -> &[Io] {
        &self.issued
    }
}

impl Failure {
    pub(crate) const ALL: [Self; 3] = [Self::Error, Self::Refused, Self::NoSpace];

    /// Whether an action can fail like this, and not only in the same way as another.
    pub(crate) fn may_happen_to(self, io: Io) -> bool {
        match self {
            Self::Error => true,
            Self::Refused => !matches!(io, Io::Read | Io::Sync),
            Self::NoSpace => matches!(io, Io::Data | Io::Bitmap),
        }
    }

    pub(crate) fn errno(self) -> Errno {
        match self {
            Self::Error | Self::Refused => Errno::EIO,
            Self::NoSpace => Errno::ENOSPC,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Error => "fail",
            Self::Refused => "refuse",
            Self::NoSpace => "full",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.failure.name(), self.at)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = Failure::ALL.into_iter().find_map(|failure| {
            let at = text.strip_prefix(failure.name())?.parse().ok()?;
            Some(Self { at, failure })
        });
        parsed.ok_or_else(|| format!("{text} is not a fault"))
    }
}
