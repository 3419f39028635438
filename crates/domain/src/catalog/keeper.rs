//! Marks of ownership: who keeps an object in order, so that others do not undo that by accident.

use std::fmt;
use std::str::FromStr;

use super::ObjectKey;

/// Longest mark, in bytes: a word and a namespace of Kubernetes (63) fit.
pub const MAX_KEEPER_BYTES: usize = 128;

/// Why a text is no mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeeperError {
    /// Empty, or longer than [`MAX_KEEPER_BYTES`].
    #[error("must have 1 to {MAX_KEEPER_BYTES} bytes")]
    Length,
    /// A character that is none of those.
    #[error("may have a-z, 0-9, '.', '_', '-', ':' and '/' only, as in kubernetes:default")]
    Character,
}

/// Who keeps an object in order, e.g. `kubernetes:default`: what it is, and where the object stands there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keeper(Box<str>);

impl Keeper {
    /// Checks the text and wraps it.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeeperError> {
        let text = text.as_ref();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-:/".contains(&b);
        if text.is_empty() || text.len() > MAX_KEEPER_BYTES {
            return Err(KeeperError::Length);
        }
        if text.bytes().all(plain) { Ok(Self(text.into())) } else { Err(KeeperError::Character) }
    }

    /// The mark as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What to type there to change an object that it keeps, if that is known.
    #[must_use]
    pub fn way_out(&self, key: &ObjectKey) -> Option<String> {
        let (_, namespace) = self.0.split_once(':').filter(|(what, _)| what.starts_with("kubernetes"))?;
        let object = match key {
            ObjectKey::Kind(name) => format!("edit policykinds.muster.dev {name}"),
            ObjectKey::Policy(name) => format!("edit policies.muster.dev {name}"),
            ObjectKey::Group(id) => format!("edit groups.muster.dev {id}"),
            // These have names of their own there.
            ObjectKey::Token(_) => "get enrollmenttokens.muster.dev".to_owned(),
            ObjectKey::Channel(_) => "get contentreleases.muster.dev".to_owned(),
            ObjectKey::Epoch
            | ObjectKey::ApiToken(_)
            | ObjectKey::Content(..)
            | ObjectKey::Uploads
            | ObjectKey::Sweep => return None,
        };
        Some(format!("kubectl --namespace {namespace} {object}"))
    }
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Keeper {
    type Err = KeeperError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PolicyName;

    #[test]
    fn marks_are_short_and_plain_and_tell_the_way() {
        let policy = ObjectKey::Policy(PolicyName::new("base").unwrap());
        for (text, expected) in [
            (
                "kubernetes:default",
                Ok(Some("kubectl --namespace default edit policies.muster.dev base".to_owned())),
            ),
            ("kubernetes-eu:a", Ok(Some("kubectl --namespace a edit policies.muster.dev base".to_owned()))),
            ("terraform:web", Ok(None)),
            ("somebody", Ok(None)),
            ("", Err(KeeperError::Length)),
            ("Kubernetes", Err(KeeperError::Character)),
            ("a b", Err(KeeperError::Character)),
            ("a\n", Err(KeeperError::Character)),
        ] {
            assert_eq!(Keeper::new(text).map(|mark| mark.way_out(&policy)), expected, "{text:?}");
        }
        assert!(Keeper::new("x".repeat(MAX_KEEPER_BYTES)).is_ok());
        assert_eq!(Keeper::new("x".repeat(MAX_KEEPER_BYTES + 1)), Err(KeeperError::Length));
    }
}
