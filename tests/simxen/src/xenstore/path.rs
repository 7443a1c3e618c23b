//! Xenstore paths: what is valid, and how a relative one is resolved (docs/misc/xenstore.txt of Xen).

use super::wire::XsError;

/// Longest absolute path, in bytes (`XENSTORE_ABS_PATH_MAX`).
const ABSOLUTE_PATH_BYTES_MAX: usize = 3072;
/// Longest path of a domain, in bytes (`XENSTORE_REL_PATH_MAX`).
const RELATIVE_PATH_BYTES_MAX: usize = 2048;
/// Where the relative paths of a socket connection begin.
pub(crate) const DOM0_HOME: &[u8] = b"/local/domain/0";

/// A valid absolute path: begins with a slash, does not end with one unless it is the root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Path(Vec<u8>);

impl Path {
    /// Resolves what a client in domain 0 sent.
    ///
    /// # Errors
    /// `EINVAL` for a path with invalid characters, an empty component, a slash at the end, or of excessive length.
    pub(crate) fn resolve(sent: &[u8]) -> Result<Self, XsError> {
        if sent.first() == Some(&b'/') {
            return Self::absolute(sent.to_vec());
        }
        if sent.is_empty() || sent.len() > RELATIVE_PATH_BYTES_MAX {
            return Err(XsError::Einval);
        }
        let mut whole = DOM0_HOME.to_vec();
        whole.push(b'/');
        whole.extend_from_slice(sent);
        Self::absolute(whole)
    }

    fn absolute(path: Vec<u8>) -> Result<Self, XsError> {
        let characters_valid = path
            .iter()
            .all(|&c| c.is_ascii_alphanumeric() || b"-/_@".contains(&c));
        let ends_well = path == b"/" || path.last() != Some(&b'/');
        let components_valid = !path.windows(2).any(|pair| pair == b"//");
        if characters_valid
            && ends_well
            && components_valid
            && path.len() <= ABSOLUTE_PATH_BYTES_MAX
        {
            Ok(Self(path))
        } else {
            Err(XsError::Einval)
        }
    }

    /// The path's bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names along the path, from the root; none for the root itself.
    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|&c| c == b'/')
            .filter(|component| !component.is_empty())
    }

    /// The path of the node that this one is in; `None` for the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        if self.0 == b"/" {
            return None;
        }
        let slash = self.0.iter().rposition(|&c| c == b'/')?;
        Some(Self(self.0[..slash.max(1)].to_vec()))
    }

    /// The path of a child.
    pub(crate) fn child(&self, name: &[u8]) -> Self {
        let mut path = self.0.clone();
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }

    /// Whether this is `ancestor` or lies beneath it.
    pub(crate) fn is_at_or_below(&self, ancestor: &Self) -> bool {
        ancestor.0 == b"/"
            || (self.0.starts_with(&ancestor.0)
                && (self.0.len() == ancestor.0.len() || self.0[ancestor.0.len()] == b'/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(sent: &str) -> Result<String, XsError> {
        Path::resolve(sent.as_bytes()).map(|path| String::from_utf8(path.0).unwrap())
    }

    #[test]
    fn relative_paths_begin_at_domain_zero() {
        assert_eq!(
            resolved("backend/vbd").unwrap(),
            "/local/domain/0/backend/vbd"
        );
        assert_eq!(resolved("/a").unwrap(), "/a");
        assert_eq!(resolved("/").unwrap(), "/");
    }

    #[test]
    fn invalid_paths_are_refused() {
        for sent in ["", "/a/", "/a//b", "//", "/a b", "/a\n", "a/", "/é"] {
            assert_eq!(resolved(sent), Err(XsError::Einval), "{sent:?}");
        }
        assert_eq!(
            resolved(&format!("/{}", "a".repeat(3071))).unwrap().len(),
            3072
        );
        assert_eq!(
            resolved(&format!("/{}", "a".repeat(3072))),
            Err(XsError::Einval)
        );
        assert_eq!(resolved(&"a".repeat(2049)), Err(XsError::Einval));
    }

    #[test]
    fn parents_and_ancestry() {
        let path = Path::resolve(b"/a/b").unwrap();
        assert_eq!(path.parent().unwrap().as_bytes(), b"/a");
        assert_eq!(path.parent().unwrap().parent().unwrap().as_bytes(), b"/");
        assert_eq!(
            path.parent().unwrap().parent().unwrap().parent(),
            None::<Path>
        );
        assert!(path.is_at_or_below(&Path::resolve(b"/a").unwrap()));
        assert!(path.is_at_or_below(&Path::resolve(b"/").unwrap()));
        assert!(path.is_at_or_below(&path));
        assert!(!path.is_at_or_below(&Path::resolve(b"/a/bc").unwrap()));
        assert!(
            !Path::resolve(b"/a/bc")
                .unwrap()
                .is_at_or_below(&Path::resolve(b"/a/b").unwrap())
        );
    }
}
