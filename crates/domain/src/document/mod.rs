//! Documents: JSON objects that overlay each other by JSON Merge Patch (RFC 7396).

mod pointer;
mod provenance;

use std::sync::Arc;

use serde_json::{Map, Number, Value};

pub use pointer::{MAX_POINTER_BYTES, Pointer, PointerError};
pub use provenance::{Provenance, touches};

use crate::digest::Digest;
pub use crate::snapshot::MAX_DOCUMENT_BYTES;

/// Deepest nesting of a document: what one can be carried in (`google.protobuf.Struct` takes three levels of
/// protobuf for each, of which decoders accept a hundred). Every walk over a document recurses, so this
/// bounds its stack as well.
pub const MAX_JSON_DEPTH: usize = 30;
/// Largest magnitude of a number: beyond 2^53 - 1 readers disagree about its value (RFC 7493, I-JSON).
pub const MAX_NUMBER: i64 = (1 << 53) - 1;

/// Why a value is not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Overlays combine objects; anything else would replace all that the groups above assign.
    #[error("must be a JSON object")]
    NotAnObject,
    /// Nested deeper than [`MAX_JSON_DEPTH`].
    #[error("is nested deeper than {MAX_JSON_DEPTH} levels at {0}")]
    TooDeep(Pointer),
    /// A number outside ±[`MAX_NUMBER`].
    #[error("has the number {number} at {at}; beyond ±(2^53 - 1) numbers lose their exact value")]
    Number {
        /// The number.
        number: String,
        /// Where it stands.
        at: Pointer,
    },
    /// More than [`MAX_DOCUMENT_BYTES`] of canonical JSON.
    #[error("is {0} bytes long as canonical JSON; at most {MAX_DOCUMENT_BYTES} are allowed")]
    TooLarge(usize),
}

/// A checked JSON object: bounded in size and depth, every number exact in any reader.
///
/// Numbers are normalised (`1.0` and `1` are one number), so equal documents have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Arc<Value>);

impl Document {
    /// Checks a value and normalises its numbers.
    ///
    /// # Errors
    /// [`DocumentError`] names the first thing that is wrong.
    pub fn new(mut value: Value) -> Result<Self, DocumentError> {
        if !value.is_object() {
            return Err(DocumentError::NotAnObject);
        }
        normalise(&mut value, &mut Pointer::root(), 1)?;
        let bytes = canonical(&value).len();
        if bytes > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge(bytes));
        }
        Ok(Self(Arc::new(value)))
    }

    /// The document without members.
    #[must_use]
    pub fn empty() -> Self {
        Self(Arc::new(Value::Object(Map::new())))
    }

    /// The object.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }
}

/// Checks depth and numbers, and gives every number its one canonical form.
fn normalise(value: &mut Value, at: &mut Pointer, depth: usize) -> Result<(), DocumentError> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) => {
            *number = exact(number)
                .ok_or_else(|| DocumentError::Number { number: number.to_string(), at: at.clone() })?;
            Ok(())
        }
        Value::Array(_) | Value::Object(_) if depth > MAX_JSON_DEPTH => {
            Err(DocumentError::TooDeep(at.clone()))
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                at.push(&index.to_string());
                normalise(item, at, depth + 1)?;
                at.pop();
            }
            Ok(())
        }
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                at.push(name);
                normalise(member, at, depth + 1)?;
                at.pop();
            }
            Ok(())
        }
    }
}

/// The number in its one form: an integer where it is one. `None` if it is beyond ±[`MAX_NUMBER`].
fn exact(number: &Number) -> Option<Number> {
    if let Some(integer) = number.as_i64() {
        return (-MAX_NUMBER..=MAX_NUMBER).contains(&integer).then(|| number.clone());
    }
    let float = number.as_f64()?;
    // Exact: 2^53 - 1 is representable.
    #[allow(clippy::cast_precision_loss, reason = "2^53 - 1 is exact as a double")]
    let limit = MAX_NUMBER as f64;
    if !float.is_finite() || float.abs() > limit {
        return None;
    }
    if float.fract() == 0.0 {
        #[allow(clippy::cast_possible_truncation, reason = "whole and within ±(2^53 - 1)")]
        let integer = float as i64;
        return Some(integer.into());
    }
    Number::from_f64(float)
}

/// Canonical JSON: keys sorted, no insignificant white space.
#[must_use]
pub fn canonical(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("invariant: a JSON value has string keys and finite numbers only")
}

/// What a group's agents get of one kind: the overlay of all that its line of groups assigns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveDocument {
    value: Arc<Value>,
    bytes: Arc<[u8]>,
    pub(crate) digest: Digest,
}

impl EffectiveDocument {
    /// The overlay of `patch` on `base` (an empty object if there is none), by RFC 7396.
    #[must_use]
    pub fn overlay(base: Option<&Self>, patch: &Document) -> Self {
        let mut value = base.map_or_else(|| Value::Object(Map::new()), |base| (*base.value).clone());
        json_patch::merge(&mut value, patch.value());
        let bytes = canonical(&value);
        let digest = Digest::of(&bytes);
        Self { value: Arc::new(value), bytes: bytes.into(), digest }
    }

    /// The object.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Canonical JSON.
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Digest of [`EffectiveDocument::bytes`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: Value, expected: Result<&str, &str>) {
        let got = Document::new(value)
            .map(|document| String::from_utf8(canonical(document.value())).unwrap())
            .map_err(|error| error.to_string());
        assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn documents_are_bounded_objects_with_exact_numbers() {
        check(json!({"b": 1.0, "a": [-0.0, 1.5]}), Ok(r#"{"a":[0,1.5],"b":1}"#));
        check(json!([1]), Err("must be a JSON object"));
        check(json!({"n": 9_007_199_254_740_991_i64}), Ok(r#"{"n":9007199254740991}"#));
        check(
            json!({"a/b": [0, 9_007_199_254_740_992_i64]}),
            Err(
                "has the number 9007199254740992 at /a~1b/1; beyond ±(2^53 - 1) numbers lose their exact value",
            ),
        );
        check(
            json!({"n": 1e300}),
            Err("has the number 1e+300 at /n; beyond ±(2^53 - 1) numbers lose their exact value"),
        );
        let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"d": inner}));
        assert!(Document::new(nested(MAX_JSON_DEPTH)).is_ok());
        assert!(matches!(Document::new(nested(MAX_JSON_DEPTH + 1)), Err(DocumentError::TooDeep(_))));
        let large = json!({"s": "x".repeat(MAX_DOCUMENT_BYTES)});
        check(large, Err("is 262152 bytes long as canonical JSON; at most 262144 are allowed"));
    }

    #[test]
    fn overlays_follow_rfc_7396() {
        // The examples of the RFC's appendix A whose target and patch are objects.
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let base = EffectiveDocument::overlay(None, &Document::new(target).unwrap());
            let over = EffectiveDocument::overlay(Some(&base), &Document::new(patch).unwrap());
            assert_eq!(*over.value(), expected);
            assert_eq!(over.digest(), Digest::of(expected.to_string().as_bytes()));
        }
    }
}
