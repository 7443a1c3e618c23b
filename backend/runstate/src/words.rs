//! Memory in 32-bit words that outlives the process.

/// Words that other processes see, in the order in which they were stored.
///
/// A killed process dies between two instructions, and what it has stored by then stays. So a reader finds what some
/// prefix of the stores left. Every store is a release: the compiler and the processor keep it behind those before it.
pub trait Words {
    /// The word at `index`.
    ///
    /// # Panics
    /// If there is none.
    fn load(&self, index: usize) -> u32;

    /// Stores a word, after everything that was stored before, here or in memory shared in another way.
    ///
    /// # Panics
    /// If there is none at `index`.
    fn store(&self, index: usize, value: u32);
}
