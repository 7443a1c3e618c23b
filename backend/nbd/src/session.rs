//! What was negotiated.

use crate::context::Contexts;
use crate::export::Export;

/// What client and server agreed upon; everything that decoding requests and encoding replies depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub(crate) structured: bool,
    pub(crate) contexts: Contexts,
}

impl Session {
    /// Whether replies with data are structured.
    #[must_use]
    pub fn structured(&self) -> bool {
        self.structured
    }

    /// What a block status request is answered with.
    #[must_use]
    pub fn contexts(&self) -> Contexts {
        self.contexts
    }

    /// The transmission flags that the client was told.
    #[must_use]
    pub fn flags(&self, export: &Export) -> u16 {
        export.flags(self.structured)
    }
}
