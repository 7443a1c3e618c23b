//! One module for each command.

pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod hotplug;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod map;
pub(crate) mod rebase;
pub(crate) mod resize;
pub(crate) mod set;
pub(crate) mod show;
pub(crate) mod top;
pub(crate) mod tree;

/// What a base is, on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum BaseFormat {
    /// dscow if it has a dscow header, raw otherwise
    Detect,
    /// Raw, whatever it begins with: for disks that a guest has written
    Raw,
    /// A dscow image
    Dscow,
}

impl From<BaseFormat> for blockio::image::ParentFormat {
    fn from(format: BaseFormat) -> Self {
        match format {
            BaseFormat::Detect => Self::Detect,
            BaseFormat::Raw => Self::Raw,
            BaseFormat::Dscow => Self::Dscow,
        }
    }
}
