//! What a run acts upon: an image with an engine, and I/O that ends as the run decides.

use std::fmt;

use dscow::engine::{Engine, Errno, Mode, OnNoSpace, Request, Token};
use dscow::units::DiskRange;

use crate::script::Script;

/// Prints what happens in a run, if the environment has `FUZZ_TRACE`.
macro_rules! trace {
    ($run:expr, $($what:tt)*) => {
        if $run.traced {
            eprintln!("{:4} {}", $run.now, format_args!($($what)*));
        }
    };
}
pub(crate) use trace;

/// What a client, or whoever operates the disk, asks for; each is answered once.
pub(crate) enum Order {
    Open,
    Request(Request, Vec<u8>),
    /// A write with whole blocks of zeros in it, which are known to be.
    SparseWrite {
        range: DiskRange,
        zeros: Vec<DiskRange>,
        data: Vec<u8>,
    },
    Grow(u64),
    Close,
}

/// What is done to a disk without an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Nudge {
    CommitIdle,
    RetryStalled,
    FailStalled,
}

/// How a step of the I/O that waits goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is done, and completes.
    Done,
    /// A part of it is done, more will follow: as many of 256 parts.
    Part(u8),
    /// It is to be tried again, says this errno.
    Again(i32),
    /// It fails; of what it writes, as many of 256 parts have landed, or those sectors whose bits are set.
    Fails { errno: i32, landed: u8 },
}

impl Fate {
    /// Whether nothing may fail for it.
    pub(crate) fn is_harmless(self) -> bool {
        match self {
            Self::Done | Self::Again(_) => true,
            // Nothing at all was transferred: the end of a file.
            Self::Part(part) => part > 0,
            Self::Fails { .. } => false,
        }
    }
}

/// How an image is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) mode: Mode,
    pub(crate) on_no_space: OnNoSpace,
    /// For the image's own file; who has real files goes by what those say.
    pub(crate) io_alignment: u32,
}

/// The answer to an order.
pub(crate) struct Answer {
    pub(crate) token: Token,
    pub(crate) result: Result<(), Errno>,
    /// The request's buffer.
    pub(crate) data: Vec<u8>,
}

/// An image in files of some kind, with an engine over it.
pub(crate) trait World {
    fn engine(&self) -> &Engine;

    fn order(&mut self, token: Token, order: Order);

    fn nudge(&mut self, nudge: Nudge);

    /// How many steps of I/O wait for their fate.
    fn waiting(&self) -> usize;

    /// Decides the fate of a step that waits.
    fn advance(&mut self, index: usize, fate: Fate);

    /// What waits there, for people.
    fn describe(&self, index: usize) -> String;

    fn take_answers(&mut self) -> Vec<Answer>;

    /// Whether something failed after which no flush may succeed any more.
    fn is_poisoned(&self) -> bool;

    /// The process dies, and the image is opened by another. What was under way has landed or not.
    fn restart(&mut self, script: &mut Script<'_>, setting: Setting);

    /// With nothing under way, nothing is held.
    ///
    /// # Panics
    /// If something is.
    fn check_rest(&self);
}

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => formatter.write_str("open"),
            Self::Request(request, _) => write!(formatter, "{request:?}"),
            Self::SparseWrite { range, zeros, .. } => {
                write!(formatter, "Write({range:?}) with zeros in {zeros:?}")
            }
            Self::Grow(size) => write!(formatter, "grow to {size} bytes"),
            Self::Close => formatter.write_str("close"),
        }
    }
}
