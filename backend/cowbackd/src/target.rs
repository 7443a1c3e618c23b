//! What a disk specification's `target=` asks for.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// The image that a disk is served from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The dscow image.
    pub(crate) image: PathBuf,
    /// Its base: if the image does not exist it is created over this.
    pub(crate) base: Option<PathBuf>,
}

/// Why a target is not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TargetError {
    /// Nothing at all.
    #[error(
        "the disk has no target; give target=/path/to/image or target=dscow:/path/to/image:/path/to/base"
    )]
    Empty,
    /// `dscow:` needs two absolute paths.
    #[error(
        "target {0:?} is not of the form dscow:/path/to/image:/path/to/base, with two absolute paths"
    )]
    NotTwoPaths(String),
    /// It can be split in more than one way.
    #[error("target {0:?} is ambiguous: it can be split at \":/\" in more than one place")]
    Ambiguous(String),
    /// A relative path.
    #[error(
        "target {0:?} is neither an absolute path nor of the form dscow:/path/to/image:/path/to/base"
    )]
    NotAbsolute(String),
}

impl Target {
    /// Understands a target: an absolute path, or `dscow:COW:BASE` with two absolute paths.
    ///
    /// Paths may hold colons, but not a colon followed by a slash, which is what separates the two.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        if text.is_empty() {
            return Err(TargetError::Empty);
        }
        let Some(paths) = text.strip_prefix("dscow:") else {
            return if text.starts_with('/') {
                Ok(Self {
                    image: PathBuf::from(text),
                    base: None,
                })
            } else {
                Err(TargetError::NotAbsolute(text.to_owned()))
            };
        };
        let (image, base) = paths
            .split_once(":/")
            .filter(|(image, _)| image.starts_with('/'))
            .ok_or_else(|| TargetError::NotTwoPaths(text.to_owned()))?;
        if base.contains(":/") {
            return Err(TargetError::Ambiguous(text.to_owned()));
        }
        Ok(Self {
            image: PathBuf::from(image),
            base: Some(Path::new("/").join(base)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_understood() {
        let target = |image: &str, base: Option<&str>| Target {
            image: image.into(),
            base: base.map(Into::into),
        };
        for (text, expected) in [
            ("/images/a.cow", target("/images/a.cow", None)),
            ("/images/a:b.cow", target("/images/a:b.cow", None)),
            (
                "dscow:/images/a.cow:/images/base.img",
                target("/images/a.cow", Some("/images/base.img")),
            ),
            (
                "dscow:/images/a:b c.cow:/dev/vg/base",
                target("/images/a:b c.cow", Some("/dev/vg/base")),
            ),
        ] {
            assert_eq!(Target::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "the disk has no target"),
            ("a.cow", "is neither an absolute path"),
            ("raw:/images/a.img", "is neither an absolute path"),
            ("dscow:/images/a.cow", "with two absolute paths"),
            ("dscow:a.cow:/images/base.img", "with two absolute paths"),
            ("dscow:/images/a.cow:base.img", "with two absolute paths"),
            ("dscow:/a:/b:/c", "more than one place"),
        ] {
            let message = Target::parse(text).unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }
}
