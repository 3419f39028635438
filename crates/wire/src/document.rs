//! JSON documents: between `serde_json::Value`, `google.protobuf.Struct` and canonical bytes.
//!
//! A protobuf number is a double, so whole numbers beyond 2^53 are refused on the way in (I-JSON, RFC
//! 7493, section 2.2) rather than rounded in silence.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use serde_json::{Map, Number, Value};

/// Deepest nesting of a document. Each level of a `Struct` is three levels of protobuf, of which decoders
/// accept a hundred; the rest is left for the messages around the document.
pub const MAX_DEPTH: usize = 30;
/// Largest whole number that a double holds exactly.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// Why a document cannot be carried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A number that is not finite or not exact as a double.
    #[error("has the number {0}, which is not exact in every JSON parser; put it in a string")]
    Number(String),
    /// A protobuf value without a kind.
    #[error("has a value without a kind")]
    Empty,
}

/// Reads a struct into a JSON object.
///
/// # Errors
/// [`DocumentError`] for documents that are too deep or hold numbers that are not exact.
pub fn from_struct(document: Struct) -> Result<Value, DocumentError> {
    object(document, MAX_DEPTH)
}

/// Reads one protobuf value.
///
/// # Errors
/// As [`from_struct`].
pub fn from_proto_value(value: ProtoValue) -> Result<Value, DocumentError> {
    json(value, MAX_DEPTH)
}

fn object(document: Struct, depth: usize) -> Result<Value, DocumentError> {
    let depth = depth.checked_sub(1).ok_or(DocumentError::TooDeep)?;
    let fields: Result<Map<_, _>, _> =
        document.fields.into_iter().map(|(key, value)| Ok((key, json(value, depth)?))).collect();
    fields.map(Value::Object)
}

fn json(value: ProtoValue, depth: usize) -> Result<Value, DocumentError> {
    match value.kind.ok_or(DocumentError::Empty)? {
        Kind::NullValue(_) => Ok(Value::Null),
        Kind::BoolValue(value) => Ok(Value::Bool(value)),
        Kind::StringValue(value) => Ok(Value::String(value)),
        Kind::NumberValue(value) => number(value).map(Value::Number),
        Kind::StructValue(value) => object(value, depth),
        Kind::ListValue(list) => {
            let depth = depth.checked_sub(1).ok_or(DocumentError::TooDeep)?;
            let items: Result<_, _> = list.values.into_iter().map(|item| json(item, depth)).collect();
            items.map(Value::Array)
        }
    }
}

/// The integer that a double stands for, if it is whole and exact.
pub(crate) fn whole(value: f64) -> Option<Number> {
    #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53, so exact")]
    let whole = || Number::from(value as i64);
    (value.fract() == 0.0 && value.abs() <= MAX_SAFE_INTEGER).then(whole)
}

/// Whole doubles become integers, so 1 and 1.0 are one value with one digest.
fn number(value: f64) -> Result<Number, DocumentError> {
    if let Some(whole) = whole(value) {
        return Ok(whole);
    }
    if value.abs() > MAX_SAFE_INTEGER {
        return Err(DocumentError::Number(value.to_string()));
    }
    Number::from_f64(value).ok_or_else(|| DocumentError::Number(value.to_string()))
}

/// Writes a JSON object as a struct. Values that are no object give an empty struct's worth of nothing:
/// `None`.
///
/// # Errors
/// [`DocumentError`] for documents that are too deep or hold numbers that are not exact.
pub fn to_struct(document: &Value) -> Result<Option<Struct>, DocumentError> {
    match document {
        Value::Object(fields) => struct_of(fields, MAX_DEPTH).map(Some),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Ok(None),
    }
}

/// Writes any JSON value.
///
/// # Errors
/// As [`to_struct`].
pub fn to_proto_value(value: &Value) -> Result<ProtoValue, DocumentError> {
    proto(value, MAX_DEPTH)
}

fn struct_of(fields: &Map<String, Value>, depth: usize) -> Result<Struct, DocumentError> {
    let depth = depth.checked_sub(1).ok_or(DocumentError::TooDeep)?;
    let fields: Result<BTreeMap<_, _>, _> =
        fields.iter().map(|(key, value)| Ok((key.clone(), proto(value, depth)?))).collect();
    Ok(Struct { fields: fields? })
}

fn proto(value: &Value, depth: usize) -> Result<ProtoValue, DocumentError> {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Number(number) => {
            let double =
                number.as_f64().filter(|double| double.is_finite() && double.abs() <= MAX_SAFE_INTEGER);
            Kind::NumberValue(double.ok_or_else(|| DocumentError::Number(number.to_string()))?)
        }
        Value::Object(fields) => Kind::StructValue(struct_of(fields, depth)?),
        Value::Array(items) => {
            let depth = depth.checked_sub(1).ok_or(DocumentError::TooDeep)?;
            let values: Result<_, _> = items.iter().map(|item| proto(item, depth)).collect();
            Kind::ListValue(ListValue { values: values? })
        }
    };
    Ok(ProtoValue { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_round_trip() {
        let document = json!({"a": [1, -2.5, "x", null, true], "b": {"c": 9_007_199_254_740_991_i64}});
        let carried = to_struct(&document).unwrap().unwrap();
        assert_eq!(from_struct(carried).unwrap(), document);
    }

    #[test]
    fn inexact_numbers_and_deep_documents_are_refused() {
        let error = to_struct(&json!({"n": 9_007_199_254_740_993_u64})).unwrap_err();
        assert_eq!(error, DocumentError::Number("9007199254740993".into()));
        let nan = Struct {
            fields: [("n".to_owned(), ProtoValue { kind: Some(Kind::NumberValue(f64::NAN)) })].into(),
        };
        assert_eq!(from_struct(nan), Err(DocumentError::Number("NaN".into())));

        let mut deep = json!(1);
        for _ in 0..MAX_DEPTH {
            deep = json!({ "d": deep });
        }
        assert!(to_struct(&deep).is_ok());
        assert_eq!(to_struct(&json!({ "d": deep })), Err(DocumentError::TooDeep));
    }
}
