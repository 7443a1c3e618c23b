//! Broken rules, one at a time. Each is applied between the engine and the disk; production code has no switches.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The sync before the bitmap is written does nothing.
    NoDataSync,
    /// The sync after the bitmap is written does nothing.
    NoBitmapSync,
    /// The same, only while the image is being closed.
    NoBitmapSyncAtClose,
    /// The sync after the header of an open does nothing.
    NoOpenHeaderSync,
    /// The sync after the header of a close does nothing.
    NoCloseHeaderSync,
    /// No sync does anything.
    NoSync,
    /// The bitmap is written from the bits that are set by then, not from the copy.
    NoPageCopy,
    /// The bitmap is written before the data is synced.
    BitmapBeforeDataSync,
    /// The bitmap is not written.
    NoBitmapWrite,
    /// The bitmap is not written while the image is being closed.
    NoBitmapWriteAtClose,
    /// Data writes are reported as completed while they are still in flight.
    WriteReportedEarly,
    /// Flushes are reported as finished when the bitmap is written and not synced.
    FlushReportedEarly,
    /// Flushes are reported as finished at once.
    FlushReportedAtOnce,
    /// The header that was read at opening is not made durable before the other slot is written.
    HeaderNotWrittenAgain,
    /// Headers are always written to slot A.
    HeaderInOneSlot,
    /// The header of an open does not raise the generation.
    GenerationNotRaised,
    /// The second slot is written while the first may still be torn.
    NoSyncBetweenSlots,
    /// Of a block that is copied up only the guest's sectors are written.
    CopyUpWritesGuestSectorsOnly,
    /// The guest's sectors are not copied over the block that is copied up.
    CopyUpWithoutOverlay,
    /// The base's content is not read into the block that is copied up.
    CopyUpWithoutRead,
    /// What no parent holds of a block that is copied up is not filled with zeros.
    CopyUpWithoutZeros,
    /// Data lands one sector too far.
    DataMisplaced,
    /// What is to be made zeros is left as it is.
    ZeroingSkipped,
    /// Zeros are reported as written while they are still in flight.
    ZeroingReportedEarly,
    /// The file is not made longer.
    LengthNotSet,
    /// The sync between the file's new length and the header that needs it does nothing.
    NoLengthSync,
    /// The sync after the header of a larger disk does nothing.
    NoGrowHeaderSync,
    /// The header of a larger disk does not say that the base is to be hidden in what is new.
    GrownWithoutParentLimit,
    /// A write of data that failed is reported as done.
    FailedWriteHidden,
    /// A write of the bitmap that failed is reported as done.
    FailedBitmapWriteHidden,
    /// A sync that failed is reported as done.
    FailedSyncHidden,
    /// A read that failed is reported as done.
    FailedReadHidden,
    /// A write that found no space is reported as done.
    NoSpaceHidden,
    /// What is tried again after there was no space does not reach the disk.
    RetryDropped,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 34] = [
        Self::NoDataSync,
        Self::NoBitmapSync,
        Self::NoBitmapSyncAtClose,
        Self::NoOpenHeaderSync,
        Self::NoCloseHeaderSync,
        Self::NoSync,
        Self::NoPageCopy,
        Self::BitmapBeforeDataSync,
        Self::NoBitmapWrite,
        Self::NoBitmapWriteAtClose,
        Self::WriteReportedEarly,
        Self::FlushReportedEarly,
        Self::FlushReportedAtOnce,
        Self::HeaderNotWrittenAgain,
        Self::HeaderInOneSlot,
        Self::GenerationNotRaised,
        Self::NoSyncBetweenSlots,
        Self::CopyUpWritesGuestSectorsOnly,
        Self::CopyUpWithoutOverlay,
        Self::CopyUpWithoutRead,
        Self::CopyUpWithoutZeros,
        Self::DataMisplaced,
        Self::ZeroingSkipped,
        Self::ZeroingReportedEarly,
        Self::LengthNotSet,
        Self::NoLengthSync,
        Self::NoGrowHeaderSync,
        Self::GrownWithoutParentLimit,
        Self::FailedWriteHidden,
        Self::FailedBitmapWriteHidden,
        Self::FailedSyncHidden,
        Self::FailedReadHidden,
        Self::NoSpaceHidden,
        Self::RetryDropped,
    ];

    /// The mutation of this name, as `{:?}` writes it.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mutation| format!("{mutation:?}") == name)
    }
}
