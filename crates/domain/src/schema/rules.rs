//! Which keywords of JSON Schema a kind may use: those whose meaning needs no other document.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{DRAFT_URI, MAX_PATTERNS, SchemaError};
use crate::document::Pointer;

/// Keywords whose value is one schema that applies to the same value of the document.
pub(super) const IN_PLACE: [&str; 4] = ["not", "if", "then", "else"];
/// Keywords whose value is a list of schemas that apply to the same value.
pub(super) const IN_PLACE_LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords whose value is a schema for members or items.
pub(super) const BELOW: [&str; 7] = [
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "contains",
    "unevaluatedItems",
    "contentSchema",
];
/// Keywords whose value maps names to schemas.
const MAPS: [&str; 5] = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];
/// Keywords that let other documents, or the place of use, decide what a schema means.
const REFUSED: [&str; 6] =
    ["$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary", "$anchor"];

/// Checks every schema within `schema`.
pub(super) fn check(schema: &Value) -> Result<(), SchemaError> {
    let mut visit = Visit::default();
    visit.schema(schema)?;
    if visit.patterns > MAX_PATTERNS {
        return Err(SchemaError::TooManyPatterns(visit.patterns));
    }
    for (at, reference) in visit.references {
        if !pointer_of(&reference).is_some_and(|target| visit.seen.contains(&target)) {
            let reason = format!("$ref {reference:?} does not name a schema in this schema");
            return Err(SchemaError::Keyword { at, reason });
        }
    }
    Ok(())
}

/// A walk over all schemas of a schema.
#[derive(Default)]
struct Visit {
    at: Pointer,
    patterns: usize,
    seen: BTreeSet<Pointer>,
    references: Vec<(Pointer, String)>,
}

impl Visit {
    fn below(&mut self, step: &str, schema: &Value) -> Result<(), SchemaError> {
        self.at.push(step);
        self.schema(schema)?;
        self.at.pop();
        Ok(())
    }

    fn schema(&mut self, schema: &Value) -> Result<(), SchemaError> {
        self.seen.insert(self.at.clone());
        let Value::Object(keywords) = schema else { return Ok(()) };
        check_keywords(keywords, &self.at)?;
        self.patterns += usize::from(keywords.contains_key("pattern"));
        self.patterns += keywords.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        if let Some(reference) = keywords.get("$ref").and_then(Value::as_str) {
            self.references.push((self.at.clone(), reference.to_owned()));
        }
        for (keyword, value) in keywords {
            let name = keyword.as_str();
            self.at.push(name);
            if MAPS.contains(&name) {
                for (member, schema) in value.as_object().into_iter().flatten() {
                    self.below(member, schema)?;
                }
            } else if IN_PLACE_LISTS.contains(&name) || name == "prefixItems" {
                for (index, schema) in value.as_array().into_iter().flatten().enumerate() {
                    self.below(&index.to_string(), schema)?;
                }
            } else if IN_PLACE.contains(&name) || BELOW.contains(&name) {
                self.schema(value)?;
            }
            self.at.pop();
        }
        Ok(())
    }
}

fn check_keywords(keywords: &Map<String, Value>, at: &Pointer) -> Result<(), SchemaError> {
    let refuse = |reason: String| Err(SchemaError::Keyword { at: at.clone(), reason });
    for keyword in REFUSED {
        if keywords.contains_key(keyword) {
            return refuse(format!(
                "{keyword} is not supported; use $ref with a JSON Pointer (\"#/$defs/name\")"
            ));
        }
    }
    let text = |keyword: &str| keywords.get(keyword).and_then(Value::as_str);
    if text("$schema").is_some_and(|uri| uri.trim_end_matches('#') != DRAFT_URI) {
        return refuse(format!("$schema must be {DRAFT_URI:?} (draft 2020-12) or absent"));
    }
    if keywords.contains_key("$id") {
        return refuse("$id is not supported: a kind has a name".to_owned());
    }
    match text("$ref") {
        Some(reference) if !is_local(reference) => refuse(format!(
            "$ref {reference:?} must start with '#' and hold a JSON Pointer into this schema: other documents \
             are never read"
        )),
        _ => Ok(()),
    }
}

/// Whether a reference is `#` or `#/…`.
fn is_local(reference: &str) -> bool {
    reference.strip_prefix('#').is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a local reference points to.
pub(super) fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    pointer_of(reference)?.resolve(root)
}

/// The pointer in a local reference. The fragment may be percent-encoded (RFC 6901, section 6).
fn pointer_of(reference: &str) -> Option<Pointer> {
    Pointer::new(percent_decoded(reference.strip_prefix('#')?)?).ok()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit =
            || rest.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (high, low) = (digit()?, digit()?);
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).ok()
}
