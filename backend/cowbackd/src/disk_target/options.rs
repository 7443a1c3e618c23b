//! The options of a target.

use dscow::engine::OnNoSpace;
use dscow::size;
use dscow::units::BlockSize;
use thiserror::Error;

/// How an image is made if it is not there, and how it is served. What is not given is as `cowback create` and the image say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TargetOptions {
    /// Size in bytes of a new disk; the base's if not given. A disk that is there keeps its own.
    pub(crate) size: Option<u64>,
    /// Bytes of a block. One that is there must have these.
    pub(crate) block_size: Option<BlockSize>,
    /// Bytes of a logical sector, as guests see it: 512 or 4096. A disk that is there must have these.
    pub(crate) sector_size: Option<u32>,
    /// What happens when the host runs out of space; what the image says if not given.
    pub(crate) on_no_space: Option<OnNoSpace>,
    /// Whether writes are searched for blocks of zeros, which become holes.
    pub(crate) detect_zeroes: bool,
    /// How the image's own data is read and written.
    pub(crate) cache: Cache,
    /// Whether writes are refused, whatever the toolstack says.
    pub(crate) read_only: bool,
}

/// How an image's own data is read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cache {
    /// Past the host's page cache where that works.
    #[default]
    Direct,
    /// Through it. A flush reaches the storage all the same.
    Host,
}

/// Why an option is not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum OptionError {
    /// There is no such option.
    #[error(
        "there is no option {0:?}; there are size, block-size, sector-size, on-enospc, detect-zeroes, cache and read-only"
    )]
    Unknown(String),
    /// It is given twice.
    #[error("{0} is given more than once")]
    Twice(&'static str),
    /// Its value makes no sense.
    #[error("{key}={value:?}: {cause}")]
    Value {
        /// Which one.
        key: &'static str,
        /// What it was given as.
        value: String,
        /// What it may be.
        cause: String,
    },
}

/// The names of options, each with what it does.
type Setter = fn(&mut TargetOptions, &str) -> Result<(), String>;
const KEYS: [(&str, Setter); 7] = [
    ("size", |options, value| {
        options.size = Some(size::parse(value)?);
        Ok(())
    }),
    ("block-size", |options, value| {
        let block_size = BlockSize::from_bytes(size::parse(value)?);
        options.block_size = Some(block_size.ok_or("must be a power of two between 4K and 2M")?);
        Ok(())
    }),
    ("sector-size", |options, value| {
        let sector_size = size::parse(value)?;
        let possible = [512, 4096].into_iter();
        let found = possible.clone().find(|one| u64::from(*one) == sector_size);
        options.sector_size = Some(found.ok_or("must be 512 or 4096")?);
        Ok(())
    }),
    ("on-enospc", |options, value| {
        let choices = [("pause", OnNoSpace::Pause), ("report", OnNoSpace::Report)];
        options.on_no_space = Some(chosen(value, &choices)?);
        Ok(())
    }),
    ("detect-zeroes", |options, value| {
        options.detect_zeroes = chosen(value, &[("on", true), ("off", false)])?;
        Ok(())
    }),
    ("cache", |options, value| {
        let choices = [("direct", Cache::Direct), ("host", Cache::Host)];
        options.cache = chosen(value, &choices)?;
        Ok(())
    }),
    ("read-only", |options, value| {
        options.read_only = chosen(value, &[("", true), ("on", true), ("off", false)])?;
        Ok(())
    }),
];

impl TargetOptions {
    /// Understands `key=value` words.
    pub(super) fn parse<'t>(words: impl Iterator<Item = &'t str>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let mut given = Vec::new();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let found = KEYS.iter().find(|(known, _)| *known == key);
            let (key, set) = found.ok_or_else(|| OptionError::Unknown(key.to_owned()))?;
            if given.contains(key) {
                return Err(OptionError::Twice(key));
            }
            given.push(*key);
            set(&mut options, value).map_err(|cause| OptionError::Value {
                key,
                value: value.to_owned(),
                cause,
            })?;
        }
        Ok(options)
    }
}

/// One of several things by its name.
fn chosen<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value) {
        return Ok(*choice);
    }
    let names: Vec<_> = choices
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !name.is_empty())
        .collect();
    Err(format!("must be {}", names.join(" or ")))
}
