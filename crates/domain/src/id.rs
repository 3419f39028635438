//! Identifiers. Each is a type of its own and, once built, safe as one token of a NATS subject.

use std::fmt;
use std::str::FromStr;

/// Longest id, in bytes. Keeps subjects short and fits a DNS label with room for a suffix.
pub const MAX_ID_BYTES: usize = 64;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text has no characters.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than [`MAX_ID_BYTES`].
    #[error("is {0} bytes long; at most {MAX_ID_BYTES} are allowed")]
    TooLong(usize),
    /// A character outside `[a-z0-9_-]`.
    #[error("has the character {character:?} at byte {at}; only a-z, 0-9, '_' and '-' are allowed")]
    Character {
        /// The first character that is not allowed.
        character: char,
        /// Its byte offset.
        at: usize,
    },
}

/// Checks the one alphabet all ids share: `[a-z0-9_-]{1,64}`.
///
/// # Errors
/// [`IdError`] names the first thing that is wrong.
pub fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong(text.len()));
    }
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_' || *c == '-';
    match text.char_indices().find(|(_, c)| !allowed(c)) {
        None => Ok(()),
        Some((at, character)) => Err(IdError::Character { character, at }),
    }
}

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the text and wraps it.
            ///
            /// # Errors
            /// [`IdError`] if the text is not `[a-z0-9_-]{1,64}`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The id as text: one valid subject token.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

ids! {
    /// A fleet (tenant).
    FleetId;
    /// A group. Stable when the group moves in the tree: paths change, ids do not.
    GroupId;
    /// An agent.
    AgentId;
    /// The name of a policy.
    PolicyName;
    /// The name of a policy kind.
    KindName;
    /// An enrolment token (its public part).
    TokenId;
    /// An API token (its public part).
    ApiTokenName;
    /// A stage of a content channel, such as `stable`.
    StageName;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_case(text: &str, expected: Result<(), &str>) {
        let got = GroupId::new(text).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn ids_are_one_safe_subject_token() {
        check_case("web-1_a", Ok(()));
        check_case("", Err("must not be empty"));
        let rest = "only a-z, 0-9, '_' and '-' are allowed";
        for (text, c, at) in [
            ("a.b", '.', 1),
            ("*", '*', 0),
            (">", '>', 0),
            ("a\r\nPUB x", '\r', 1),
            ("A", 'A', 0),
            ("ü", 'ü', 0),
            ("a b", ' ', 1),
        ] {
            check_case(text, Err(&format!("has the character {c:?} at byte {at}; {rest}")));
        }
        check_case(&"a".repeat(64), Ok(()));
        check_case(&"a".repeat(10_000), Err("is 10000 bytes long; at most 64 are allowed"));
    }
}
