//! What a disk specification's `target=` asks for.
//!
//! ```text
//! target  = path                                    an image that is there
//!         | "dscow" *("," option) ":" path [":" path]    an image, and its base
//! option  = key "=" value | "read-only"
//! path    = an absolute path; after "dscow" "%" and two hexadecimal digits stand for a byte
//! ```
//!
//! Paths may hold anything. In the second form they are split at the one `:/` between them; a `:/` within a path is written
//! `%3A/`, as is any colon where there is only one path, and a `%` that is followed by two hexadecimal digits `%25`. Options
//! come before the first colon, so that no path can look like one.

mod options;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub(crate) use options::{Cache, OptionError, TargetOptions};

/// The image that a disk is served from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The dscow image.
    pub(crate) image: PathBuf,
    /// Its base: if the image does not exist it is created over this.
    pub(crate) base: Option<PathBuf>,
    /// How it is made and served.
    pub(crate) options: TargetOptions,
}

/// Why a target is not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TargetError {
    /// Nothing at all.
    #[error(
        "the disk has no target; give target=/path/to/image or target=dscow:/path/to/image:/path/to/base"
    )]
    Empty,
    /// Neither of the two forms.
    #[error(
        "target {0:?} is neither an absolute path nor of the form dscow:/path/to/image:/path/to/base"
    )]
    NeitherForm(String),
    /// The part after the options is not one or two absolute paths.
    #[error(
        "target {0:?} is not of the form dscow:/path/to/image:/path/to/base, with two absolute paths (or one, after \
         options); write %3A for a colon that belongs to a path"
    )]
    NotPaths(String),
    /// It can be split in more than one way.
    #[error(
        "target {0:?} is ambiguous: it can be split at \":/\" in more than one place; write %3A for a colon that belongs to a path"
    )]
    Ambiguous(String),
    /// An option is not understood.
    #[error("target {target:?}: {cause}")]
    Option {
        /// All of it.
        target: String,
        /// What is wrong.
        #[source]
        cause: OptionError,
    },
}

impl Target {
    /// Understands a target; the grammar is that of the module.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        if text.is_empty() {
            return Err(TargetError::Empty);
        }
        if text.starts_with('/') {
            return Ok(Self {
                image: PathBuf::from(text),
                base: None,
                options: TargetOptions::default(),
            });
        }
        let neither = || TargetError::NeitherForm(text.to_owned());
        let (head, paths) = text.split_once(':').ok_or_else(neither)?;
        let mut words = head.split(',');
        if words.next() != Some("dscow") {
            return Err(neither());
        }
        let options = TargetOptions::parse(words).map_err(|cause| TargetError::Option {
            target: text.to_owned(),
            cause,
        })?;
        let (image, base) = split(text, paths)?;
        if base.is_none() && options.size.is_none() && head == "dscow" {
            return Err(TargetError::NotPaths(text.to_owned()));
        }
        Ok(Self {
            image: decoded(image),
            base: base.map(|base| Path::new("/").join(decoded(base))),
            options,
        })
    }
}

/// The image's path, and the base's without its first slash.
fn split<'t>(text: &str, paths: &'t str) -> Result<(&'t str, Option<&'t str>), TargetError> {
    if !paths.starts_with('/') {
        return Err(TargetError::NotPaths(text.to_owned()));
    }
    match paths.split_once(":/") {
        Some((_, base)) if base.contains(":/") => Err(TargetError::Ambiguous(text.to_owned())),
        Some((image, base)) => Ok((image, Some(base))),
        // More likely a base that is no absolute path than a colon in the image's name.
        None if paths.contains(':') => Err(TargetError::NotPaths(text.to_owned())),
        None => Ok((paths, None)),
    }
}

/// A path with the bytes that were written as `%XX`.
fn decoded(path: &str) -> PathBuf {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(hexadecimal);
        if let (b'%', Some(byte)) = (bytes[at], digits) {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    PathBuf::from(OsString::from_vec(decoded))
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let value = |digit: &u8| char::from(*digit).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(value(high)? * 16 + value(low)?).ok()
}

#[cfg(test)]
mod tests;
