//! Names of channels and stages, numbers of revisions.

use std::fmt;
use std::str::FromStr;

use crate::id::{self, IdError};

/// Most names that a channel's name is made of.
pub const MAX_CHANNEL_NAMES: usize = 4;

/// Why a text is not the name of a channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    /// One of its names is none.
    #[error("{name:?} in it {source}")]
    Name {
        /// The part, cut to 64 characters.
        name: String,
        /// What is wrong with it.
        source: IdError,
    },
    /// More than [`MAX_CHANNEL_NAMES`].
    #[error("has {0} names between \"/\"; at most {MAX_CHANNEL_NAMES} are allowed")]
    TooDeep(usize),
}

/// A content channel: one to four ids joined by "/", such as `definitions/ips`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Box<str>);

impl ChannelName {
    /// Checks the text and wraps it.
    ///
    /// # Errors
    /// [`ChannelNameError`] names the first thing that is wrong.
    pub fn new(text: impl AsRef<str>) -> Result<Self, ChannelNameError> {
        let text = text.as_ref();
        let names = text.split('/').count();
        if names > MAX_CHANNEL_NAMES {
            return Err(ChannelNameError::TooDeep(names));
        }
        for name in text.split('/') {
            id::check(name).map_err(|source| {
                let name = name.chars().take(id::MAX_ID_BYTES).collect();
                ChannelNameError::Name { name, source }
            })?;
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelName({})", self.0)
    }
}

impl FromStr for ChannelName {
    type Err = ChannelNameError;
    fn from_str(text: &str) -> Result<Self, ChannelNameError> {
        Self::new(text)
    }
}

impl AsRef<str> for ChannelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Number of a content revision within its channel, from 1. Numbers are never used again. 0 means "none".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentRevision(pub u32);

impl fmt::Display for ContentRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), &str>) {
        let got = ChannelName::new(text).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn channels_are_ids_joined_by_slashes() {
        check("rules", Ok(()));
        check("a/b/c/d", Ok(()));
        check("a/b/c/d/e", Err("has 5 names between \"/\"; at most 4 are allowed"));
        check("", Err("\"\" in it must not be empty"));
        check("a//b", Err("\"\" in it must not be empty"));
        let rest = "only a-z, 0-9, '_' and '-' are allowed";
        check("a/../b", Err(&format!("\"..\" in it has the character '.' at byte 0; {rest}")));
        check("a/*", Err(&format!("\"*\" in it has the character '*' at byte 0; {rest}")));
    }
}
