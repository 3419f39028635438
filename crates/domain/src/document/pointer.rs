//! JSON Pointers (RFC 6901): names of places in a document.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::MAX_JSON_DEPTH;

/// Longest pointer, in bytes. A lock is kept in every group below it and named in refusals.
pub const MAX_POINTER_BYTES: usize = 1024;

/// Why a text is not a pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// Neither empty nor starting with a slash.
    #[error("must be empty or start with '/'")]
    NoSlash,
    /// A `~` that is not followed by `0` or `1`.
    #[error("has a '~' at byte {0} that is not followed by 0 or 1")]
    Escape(usize),
    /// Longer than [`MAX_POINTER_BYTES`].
    #[error("is {0} bytes long; at most {MAX_POINTER_BYTES} are allowed")]
    TooLong(usize),
    /// More steps than a document has levels.
    #[error("has {0} steps; at most {MAX_JSON_DEPTH} are allowed")]
    TooDeep(usize),
}

/// A place in a document. The empty pointer names the whole document.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer(Vec<Box<str>>);

impl Pointer {
    /// The whole document.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads the text form, e.g. `/rules/a~1b`.
    ///
    /// # Errors
    /// [`PointerError`] names the first thing that is wrong.
    pub fn new(text: impl AsRef<str>) -> Result<Self, PointerError> {
        let text = text.as_ref();
        if text.len() > MAX_POINTER_BYTES {
            return Err(PointerError::TooLong(text.len()));
        }
        if text.is_empty() {
            return Ok(Self::root());
        }
        let Some(rest) = text.strip_prefix('/') else { return Err(PointerError::NoSlash) };
        let wrong = |&(at, _): &(usize, &str)| !matches!(text.as_bytes().get(at + 1), Some(b'0' | b'1'));
        if let Some((at, _)) = text.match_indices('~').find(wrong) {
            return Err(PointerError::Escape(at));
        }
        let steps: Vec<Box<str>> =
            rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~").into()).collect();
        if steps.len() > MAX_JSON_DEPTH {
            return Err(PointerError::TooDeep(steps.len()));
        }
        Ok(Self(steps))
    }

    /// The steps from the top down, unescaped.
    #[must_use]
    pub fn steps(&self) -> &[Box<str>] {
        &self.0
    }

    /// Goes one step down.
    pub fn push(&mut self, step: &str) {
        self.0.push(step.into());
    }

    /// Goes one step up; nothing happens at the top.
    pub fn pop(&mut self) {
        self.0.pop();
    }

    /// Whether `self` is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The value at this place.
    #[must_use]
    pub fn resolve<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, step| match value {
            Value::Object(members) => members.get(&**step),
            Value::Array(items) => index(step).and_then(|at| items.get(at)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }
}

/// An index as RFC 6901 writes it: decimal, no sign, no leading zero.
fn index(step: &str) -> Option<usize> {
    let plain = step.bytes().all(|b| b.is_ascii_digit()) && (step == "0" || !step.starts_with('0'));
    if plain { step.parse().ok() } else { None }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

impl FromStr for Pointer {
    type Err = PointerError;
    fn from_str(text: &str) -> Result<Self, PointerError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resolves_the_examples_of_the_rfc() {
        let document = json!({
            "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6,
            " ": 7, "m~n": 8
        });
        for (text, expected) in [
            ("", Some(document.clone())),
            ("/foo", Some(json!(["bar", "baz"]))),
            ("/foo/0", Some(json!("bar"))),
            ("/", Some(json!(0))),
            ("/a~1b", Some(json!(1))),
            ("/c%d", Some(json!(2))),
            ("/e^f", Some(json!(3))),
            ("/g|h", Some(json!(4))),
            ("/i\\j", Some(json!(5))),
            ("/k\"l", Some(json!(6))),
            ("/ ", Some(json!(7))),
            ("/m~0n", Some(json!(8))),
            ("/foo/01", None),
            ("/foo/-", None),
            ("/foo/+1", None),
            ("/nothing/here", None),
        ] {
            let pointer = Pointer::new(text).unwrap();
            assert_eq!(pointer.resolve(&document), expected.as_ref(), "{text}");
            assert_eq!(pointer.to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_a_pointer() {
        for (text, expected) in [
            ("rules", "must be empty or start with '/'"),
            ("/a~", "has a '~' at byte 2 that is not followed by 0 or 1"),
            ("/a~2b", "has a '~' at byte 2 that is not followed by 0 or 1"),
            (&"/a".repeat(31), "has 31 steps; at most 30 are allowed"),
            (&"/a".repeat(600), "is 1200 bytes long; at most 1024 are allowed"),
        ] {
            assert_eq!(Pointer::new(text).unwrap_err().to_string(), expected);
        }
    }
}
