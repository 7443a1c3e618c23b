//! What a backend's process holds.

/// The account of one connected backend process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendAccount {
    /// The process.
    pub pid: i32,
    /// Grants that it has mapped now; a grant mapped twice counts twice.
    pub grants_mapped: usize,
    /// Event channels that it has bound now.
    pub channels_bound: usize,
    /// Grants that it has mapped so far.
    pub grants_mapped_total: u64,
}

impl BackendAccount {
    /// Whether it holds nothing of any domain.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.grants_mapped == 0 && self.channels_bound == 0
    }
}
