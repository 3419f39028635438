//! Schemas of kinds: JSON Schema, draft 2020-12, within bounds that keep validation cheap.

mod budget;
mod rules;

use std::fmt;
use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use crate::document::{Document, DocumentError, Pointer};
use budget::Budget;

/// Largest schema, in bytes of canonical JSON. A schema stands once in the store and in the memory of
/// every policy replica, compiled.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// Most regular expressions in one schema: each compiles to at most [`MAX_PATTERN_BYTES`] of program.
pub const MAX_PATTERNS: usize = 256;
/// Largest compiled regular expression, in bytes. Enough for bounded repeats of Unicode classes.
pub const MAX_PATTERN_BYTES: usize = 512 * 1024;
/// Most failures that one validation lists: a person fixes a few and tries again.
pub const MAX_FAILURES: usize = 20;
/// Longest message of a failure, in characters: messages may quote the value that failed.
pub const MAX_MESSAGE_CHARS: usize = 300;

/// The draft that all schemas follow.
const DRAFT_URI: &str = "https://json-schema.org/draft/2020-12/schema";

/// Why a value is not the schema of a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Not a bounded JSON object.
    #[error("schema {0}")]
    Document(#[from] DocumentError),
    /// Larger than [`MAX_SCHEMA_BYTES`].
    #[error("schema is {0} bytes long as canonical JSON; at most {MAX_SCHEMA_BYTES} are allowed")]
    TooLarge(usize),
    /// A keyword that is not allowed here, or allowed in another form only.
    #[error("schema at {at:?}: {reason}")]
    Keyword {
        /// Where.
        at: Pointer,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// More than [`MAX_PATTERNS`] regular expressions.
    #[error("schema has {0} regular expressions; at most {MAX_PATTERNS} are allowed")]
    TooManyPatterns(usize),
    /// Not a valid schema by the draft's own schema, or one that cannot be compiled.
    #[error("schema at {at:?} is not valid by JSON Schema 2020-12: {message}")]
    Invalid {
        /// Where in the schema.
        at: String,
        /// What is wrong.
        message: String,
    },
}

impl SchemaError {
    /// Where in the schema the error stands, as a JSON Pointer.
    #[must_use]
    pub fn pointer(&self) -> String {
        match self {
            Self::Document(DocumentError::TooDeep(at) | DocumentError::Number { at, .. })
            | Self::Keyword { at, .. } => at.to_string(),
            Self::Invalid { at, .. } => at.clone(),
            Self::Document(DocumentError::NotAnObject | DocumentError::TooLarge(_))
            | Self::TooLarge(_)
            | Self::TooManyPatterns(_) => String::new(),
        }
    }
}

/// One way in which a document does not satisfy a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// JSON Pointer of the value in the document.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

/// A schema that was checked and compiled.
#[derive(Clone)]
pub struct Schema {
    source: Document,
    compiled: Arc<Validator>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(self.source.value()).finish()
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Schema {}

impl Schema {
    /// Checks a schema and compiles it. References may only point into the schema itself.
    ///
    /// # Errors
    /// [`SchemaError`] names the first thing that is wrong.
    pub fn new(value: Value) -> Result<Self, SchemaError> {
        let source = Document::new(value)?;
        let bytes = crate::document::canonical(source.value()).len();
        if bytes > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLarge(bytes));
        }
        if let Err(error) = jsonschema::draft202012::meta::validate(source.value()) {
            return Err(invalid(&error.instance_path().to_string(), &error.to_string()));
        }
        rules::check(source.value())?;
        let patterns =
            PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
        let compiled = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .with_pattern_options(patterns)
            .build(source.value())
            .map_err(|error| invalid(&error.instance_path().to_string(), &error.to_string()))?;
        Ok(Self { source, compiled: Arc::new(compiled) })
    }

    /// The schema as JSON.
    #[must_use]
    pub fn source(&self) -> &Document {
        &self.source
    }

    /// Validates a document; lists at most [`MAX_FAILURES`] failures, none if it satisfies the schema.
    ///
    /// A document whose evaluation would take too many steps or nest too deep is refused before it is
    /// evaluated, so the time is bounded whatever schema and document are.
    #[must_use]
    pub fn failures(&self, document: &Value) -> Vec<Failure> {
        if let Err(exhausted) = Budget::new(self.source.value()).walk(document) {
            return vec![Failure { pointer: String::new(), message: exhausted.to_string() }];
        }
        if self.compiled.is_valid(document) {
            return Vec::new();
        }
        let failure = |error: jsonschema::ValidationError<'_>| Failure {
            pointer: error.instance_path().to_string(),
            message: shorten(&error.to_string()),
        };
        self.compiled.iter_errors(document).take(MAX_FAILURES).map(failure).collect()
    }
}

fn invalid(at: &str, message: &str) -> SchemaError {
    SchemaError::Invalid { at: at.to_owned(), message: shorten(message) }
}

fn shorten(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE_CHARS) {
        None => message.to_owned(),
        Some((at, _)) => format!("{}…", &message[..at]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(schema: Value, expected: &str) {
        let error = Schema::new(schema).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn schemas_are_checked_themselves() {
        refused(json!({"type": "objekt"}), r#"schema at "/type" is not valid by JSON Schema 2020-12"#);
        refused(json!({"properties": {"a": {"minimum": "1"}}}), r#""/properties/a/minimum""#);
        refused(json!({"pattern": "("}), "pattern");
        refused(json!({"type": "object", "$id": "x", "properties": {"a": {"$id": "y"}}}), "$id");
        refused(json!({"x": "y".repeat(MAX_SCHEMA_BYTES)}), "65544 bytes");
        refused(json!({"$ref": "#/$defs/nothing"}), "#/$defs/nothing");
        refused(json!({"pattern": "(a{1000}){1000}"}), "pattern");
        let many: serde_json::Map<String, Value> =
            (0..=MAX_PATTERNS).map(|i| (format!("p{i}"), json!({"pattern": "a"}))).collect();
        refused(json!({"properties": many}), "257 regular expressions");
    }

    #[test]
    fn references_to_other_documents_are_refused() {
        for reference in
            ["https://example.com/s.json", "file:///etc/passwd", "other.json", "http://127.0.0.1:1/x#/a", ""]
        {
            refused(json!({"properties": {"a": {"$ref": reference}}}), "must start with '#'");
        }
        refused(json!({"$schema": "http://json-schema.org/draft-07/schema#"}), "draft 2020-12");
        refused(json!({"$dynamicRef": "#x"}), "$dynamicRef is not supported");
    }

    #[test]
    fn failures_name_the_place() {
        let schema = Schema::new(json!({
            "$schema": DRAFT_URI,
            "type": "object", "required": ["rules"], "additionalProperties": false,
            "properties": {"rules": {"type": "object", "additionalProperties": {"$ref": "#/$defs/action"}}},
            "$defs": {"action": {"enum": ["allow", "deny"]}}
        }))
        .unwrap();
        for (document, expected) in [
            (json!({"rules": {"ssh": "deny"}}), vec![]),
            (json!({}), vec![("", "\"rules\" is a required property")]),
            (
                json!({"rules": {"ssh": "denied", "http": 1}}),
                vec![
                    ("/rules/http", "1 is not one of \"allow\" or \"deny\""),
                    ("/rules/ssh", "\"denied\" is not one of \"allow\" or \"deny\""),
                ],
            ),
        ] {
            let got: Vec<(String, String)> =
                schema.failures(&document).into_iter().map(|f| (f.pointer, f.message)).collect();
            let expected: Vec<(String, String)> =
                expected.into_iter().map(|(p, m)| (p.to_owned(), m.to_owned())).collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn evaluation_is_bounded_for_any_schema() {
        // Each of 40 definitions refers twice to the next: 2^40 evaluations if nothing stopped it.
        let mut defs = serde_json::Map::new();
        for i in 0..40 {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            defs.insert(format!("d{i}"), json!({"allOf": [next, next]}));
        }
        defs.insert("d40".into(), json!({"type": "object"}));
        let doubling = Schema::new(json!({"$ref": "#/$defs/d0", "$defs": defs})).unwrap();
        let failures = doubling.failures(&json!({}));
        assert!(failures[0].message.contains("steps"), "{failures:?}");

        // A reference to itself without going down in the document never ends.
        let endless = Schema::new(json!({"allOf": [{"$ref": "#"}]})).unwrap();
        let failures = endless.failures(&json!({}));
        assert!(failures[0].message.contains("levels"), "{failures:?}");

        // The same doubling for each level of the document.
        let nested = (0..29).fold(json!({}), |inner, _| json!({"d": inner}));
        let deep = Schema::new(json!({
            "properties": {"d": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}
        }))
        .unwrap();
        assert!(deep.failures(&nested)[0].message.contains("steps"));

        // A recursive schema used as meant is fine.
        let tree = Schema::new(json!({
            "type": "object", "properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}}, "unevaluatedProperties": false
        }))
        .unwrap();
        let document = (0..12).fold(json!({}), |inner, _| json!({"l": inner, "r": inner}));
        assert_eq!(tree.failures(&document), []);
    }
}
