//! Paths of groups: `/`, `/servers`, `/servers/web`.

use std::fmt;
use std::str::FromStr;

use crate::id::{self, IdError};

/// Deepest path, in segments. Resolution walks root to leaf, so depth bounds its cost.
pub const MAX_DEPTH: usize = 16;

/// Why a text is not the path of a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Paths are absolute.
    #[error("must start with '/'")]
    NotAbsolute,
    /// More than [`MAX_DEPTH`] segments.
    #[error("has {0} segments; at most {MAX_DEPTH} are allowed")]
    TooDeep(usize),
    /// One segment is not `[a-z0-9_-]{1,64}`.
    #[error("segment {index} {source}")]
    Segment {
        /// Position of the segment, counted from 1.
        index: usize,
        /// What is wrong with it.
        source: IdError,
    },
}

/// The place of a group in the tree. `/` is the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupPath(Box<str>);

impl GroupPath {
    /// The root, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Checks the text and wraps it.
    ///
    /// # Errors
    /// [`PathError`] names the first thing that is wrong.
    pub fn new(text: impl AsRef<str>) -> Result<Self, PathError> {
        let text = text.as_ref();
        let Some(rest) = text.strip_prefix('/') else { return Err(PathError::NotAbsolute) };
        if rest.is_empty() {
            return Ok(Self::root());
        }
        let depth = rest.split('/').count();
        if depth > MAX_DEPTH {
            return Err(PathError::TooDeep(depth));
        }
        for (at, segment) in rest.split('/').enumerate() {
            id::check(segment).map_err(|source| PathError::Segment { index: at + 1, source })?;
        }
        Ok(Self(text.into()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The path one level up; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            Some(0) | None => Some(Self::root()),
            Some(at) => Some(Self(self.0[..at].into())),
        }
    }

    /// The segments from the root down; none for the root.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|s| !s.is_empty())
    }

    /// Whether `self` is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(&*other.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The same place after everything below `from` moved to `to`; `None` if `self` is not within `from`
    /// or the new path would be too deep.
    #[must_use]
    pub fn rebased(&self, from: &Self, to: &Self) -> Option<Self> {
        if !self.is_within(from) {
            return None;
        }
        let rest = if from.is_root() { &self.0[..] } else { &self.0[from.0.len()..] };
        let base = if to.is_root() { "" } else { to.as_str() };
        let joined = format!("{base}{}", if rest == "/" { "" } else { rest });
        Self::new(if joined.is_empty() { "/" } else { &joined }).ok()
    }
}

impl fmt::Display for GroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupPath({})", self.0)
    }
}

impl FromStr for GroupPath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GroupPath {
        GroupPath::new(text).unwrap()
    }

    #[test]
    fn refuses_what_is_not_a_path() {
        for (text, expected) in [
            ("", "must start with '/'"),
            ("servers", "must start with '/'"),
            ("//a", "segment 1 must not be empty"),
            ("/a/", "segment 2 must not be empty"),
            ("/a/b.c", "segment 2 has the character '.' at byte 1; only a-z, 0-9, '_' and '-' are allowed"),
        ] {
            assert_eq!(GroupPath::new(text).unwrap_err().to_string(), expected);
        }
        assert_eq!(GroupPath::new("/a".repeat(17)), Err(PathError::TooDeep(17)));
    }

    #[test]
    fn family_relations() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(GroupPath::root()));
        assert_eq!(GroupPath::root().parent(), None);
        assert!(path("/a/b").is_within(&path("/a")));
        assert!(path("/a").is_within(&path("/")));
        assert!(!path("/ab").is_within(&path("/a")));
    }

    #[test]
    fn rebasing_moves_a_subtree() {
        for (at, from, to, expected) in [
            ("/a/b", "/a", "/x/y", Some("/x/y/b")),
            ("/a", "/a", "/x", Some("/x")),
            ("/a/b", "/a", "/", Some("/b")),
            ("/ab", "/a", "/x", None),
        ] {
            assert_eq!(path(at).rebased(&path(from), &path(to)), expected.map(path), "{at} {from} {to}");
        }
    }
}
