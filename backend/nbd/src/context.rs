//! Metadata contexts: what can be asked about ranges.

/// In `base:allocation`: nothing is stored for the range.
pub const STATE_HOLE: u32 = 1 << 0;
/// In `base:allocation`: the range reads as zeros.
pub const STATE_ZERO: u32 = 1 << 1;

/// What can be asked about ranges of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`: holes and zeros, as [`STATE_HOLE`] and [`STATE_ZERO`].
    Allocation,
    /// `qemu:allocation-depth`: 0 where no image of the chain holds the range, 1 where the image itself does, 2 where
    /// its parent does, and so on.
    AllocationDepth,
}

impl Context {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::Allocation, Self::AllocationDepth];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::AllocationDepth => "qemu:allocation-depth",
        }
    }

    /// What replies call it. Fixed, though clients may not count on that.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
            Self::AllocationDepth => 2,
        }
    }

    /// The context that is named exactly so.
    pub(crate) fn named(query: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|context| context.name().as_bytes() == query)
    }

    /// Whether a query of a list finds it: by its name, or by its namespace alone.
    pub(crate) fn matches(self, query: &[u8]) -> bool {
        let name = self.name().as_bytes();
        query == name || (query.ends_with(b":") && name.starts_with(query))
    }
}

/// A set of contexts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contexts(u8);

impl Contexts {
    /// The set of none.
    pub const EMPTY: Self = Self(0);

    /// The set with `context` in it.
    #[must_use]
    pub const fn with(self, context: Context) -> Self {
        Self(self.0 | 1 << context.id())
    }

    /// Whether `context` is in it.
    #[must_use]
    pub const fn contains(self, context: Context) -> bool {
        self.0 & 1 << context.id() != 0
    }

    /// Whether there is none in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Context> {
        Context::ALL
            .into_iter()
            .filter(move |context| self.contains(*context))
    }
}
