//! JSON Schemas of what people write, derived from the types that read it: for those who check a manifest before they send it,
//! such as a Kubernetes API server.
//!
//! A schema is *structural* as Kubernetes wants it: nothing by reference, every field typed, and no defaults, for what is
//! absent means that it is inherited. It refuses nothing that is read, and tells of bounds as far as patterns and rules of CEL
//! can; the rest is told by the server.

use domain::catalog::MAX_LOCKS;
use domain::content::MAX_CHANNELS_PER_GROUP;
use domain::document::MAX_POINTER_BYTES;
use domain::enrol::{MAX_LABEL_BYTES, MAX_PATTERN_CHARS, MAX_RULE_LABELS};
use domain::path::MAX_DEPTH;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// Where rules of CEL stand in a schema.
pub const RULES: &str = "x-kubernetes-validations";
/// Says that an object may have fields that no schema names: a policy document.
const OPEN: &str = "x-kubernetes-preserve-unknown-fields";
/// What a name is made of, as patterns say it.
const NAME: &str = "[a-z0-9_-]{1,64}";
/// Longest text of a duration or a size: longer ones are refused anyhow.
const MAX_VALUE: usize = 64;

/// The schema of a type, structural.
///
/// # Panics
/// Never: a derived schema is an object.
#[must_use]
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    structural(&mut schema);
    schema
}

/// Takes away what a structural schema may not have, and what says nothing there.
fn structural(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    for key in ["$schema", "title", "default", "additionalProperties"] {
        if key != "additionalProperties" || fields.get(key) == Some(&Value::Bool(false)) {
            fields.remove(key);
        }
    }
    if let Some(text) = fields.get_mut("description") {
        *text = plain(text.as_str().unwrap_or_default()).into();
    }
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(structural);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(key) {
            structural(inner);
        }
    }
}

/// A doc comment as one paragraph.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(pattern: &str, max: usize) -> Schema {
    json_schema!({ "type": "string", "pattern": format!("^{pattern}$"), "minLength": 1, "maxLength": max })
}

/// Whether somebody has to approve who joins.
pub(super) fn approval(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["none", "required"] })
}

/// Labels that an agent must have.
pub(super) fn facts(_: &mut SchemaGenerator) -> Schema {
    let value = json!({ "type": "string", "maxLength": MAX_LABEL_BYTES });
    json_schema!({ "type": "object", "maxProperties": MAX_RULE_LABELS, "additionalProperties": value })
}

/// What a host name looks like.
pub(super) fn host_pattern(_: &mut SchemaGenerator) -> Schema {
    text("[A-Za-z0-9._*-]+", MAX_PATTERN_CHARS)
}

/// A name: of a policy, a kind, a stage.
pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    text(NAME, 64)
}

/// Names, each once.
pub(super) fn names(_: &mut SchemaGenerator) -> Schema {
    let item = text(NAME, 64);
    json_schema!({ "type": "array", "items": item, "maxItems": super::fields::MAX_LIST })
}

/// Path of a group.
pub(super) fn path(_: &mut SchemaGenerator) -> Schema {
    text(&format!("/({NAME}(/{NAME}){{0,{}}})?", MAX_DEPTH - 1), MAX_DEPTH * 65)
}

/// Path or name of a group.
pub(super) fn group(_: &mut SchemaGenerator) -> Schema {
    text(&format!("(/({NAME}(/{NAME}){{0,{}}})?|{NAME})", MAX_DEPTH - 1), MAX_DEPTH * 65)
}

fn channel_schema() -> Schema {
    text(&format!("{NAME}(/{NAME}){{0,3}}"), 4 * 65)
}

/// Name of a content channel.
pub(super) fn channel(_: &mut SchemaGenerator) -> Schema {
    channel_schema()
}

/// Number of a content revision.
pub(super) fn revision(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": u32::MAX })
}

/// Push or pull.
pub(super) fn mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["push", "pull"] })
}

/// A duration, such as `1h30m`.
pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    text("([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?", MAX_VALUE)
}

/// Bytes in a second. A number alone is taken as well.
pub(super) fn rate(_: &mut SchemaGenerator) -> Schema {
    text("(none|[0-9]+ ?([KMGT]i)?B?(/s)?)", MAX_VALUE)
}

/// How many agents may join with a token.
pub(super) fn uses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": super::fields::MAX_USES })
}

/// A JSON object with whatever fields. It is one value: who writes it writes all of it.
pub(super) fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", OPEN: true, "x-kubernetes-map-type": "atomic" })
}

/// JSON Pointers, each once.
pub(super) fn pointers(_: &mut SchemaGenerator) -> Schema {
    let item = json_schema!({ "type": "string", "pattern": "^(/.*)?$", "maxLength": MAX_POINTER_BYTES });
    json_schema!({ "type": "array", "items": item, "maxItems": MAX_LOCKS })
}

/// What a group follows of channels.
pub(super) fn content(_: &mut SchemaGenerator) -> Schema {
    let mut revision = revision_schema();
    described(&mut revision, "This revision of the channel.");
    let mut stage = text(NAME, 64);
    described(&mut stage, "The revision that this stage of the channel names.");
    let mut channel = channel_schema();
    described(&mut channel, "The channel.");
    let rule = json!([{
        "rule": "has(self.stage) != has(self.revision)",
        "message": "must have either a stage or a revision",
    }]);
    json_schema!({
        "type": "array",
        "maxItems": MAX_CHANNELS_PER_GROUP,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["channel"],
        "items": {
            "type": "object",
            "required": ["channel"],
            "properties": { "channel": channel, "stage": stage, "revision": revision },
            RULES: rule,
        },
    })
}

fn revision_schema() -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": u32::MAX })
}

fn described(schema: &mut Schema, text: &str) {
    schema.insert("description".to_owned(), text.into());
}

/// A rule on the whole of a spec.
fn rule(schema: &mut Schema, rule: &str, message: &str) {
    let rules = schema.ensure_object().entry(RULES).or_insert_with(|| json!([]));
    if let Value::Array(rules) = rules {
        let rule: Map<String, Value> = [("rule", rule), ("message", message)]
            .map(|(key, text)| (key.to_owned(), text.into()))
            .into_iter()
            .collect();
        rules.push(rule.into());
    }
}

/// The kind of a policy never changes.
pub(super) fn policy_rules(schema: &mut Schema) {
    rule(schema, "self.kind == oldSelf.kind", "the kind of a policy cannot be changed");
}

/// The root stays the root, and nothing else becomes it.
pub(super) fn group_rules(schema: &mut Schema) {
    rule(schema, "(self.path == '/') == (oldSelf.path == '/')", "the root group cannot be moved");
}

#[cfg(test)]
mod tests {
    use super::super::{
        ContentReleaseSpec, EnrollmentTokenSpec, GroupSpec, PolicyKindSpec, PolicySpec, SettingsSpec,
    };
    use super::*;

    /// Every value of a schema, with the key under which it stands.
    fn walk<'a>(key: &'a str, value: &'a Value, see: &mut impl FnMut(&'a str, &'a Value)) {
        see(key, value);
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| walk(key, value, see)),
            Value::Array(items) => items.iter().for_each(|item| walk("", item, see)),
            _ => {}
        }
    }

    #[test]
    fn schemas_are_structural_and_explained() {
        for schema in [
            of::<GroupSpec>(),
            of::<PolicyKindSpec>(),
            of::<PolicySpec>(),
            of::<EnrollmentTokenSpec>(),
            of::<ContentReleaseSpec>(),
            of::<SettingsSpec>(),
        ] {
            walk("", &schema, &mut |key, _| {
                assert!(
                    !["$ref", "$defs", "anyOf", "oneOf", "default", "title"].contains(&key),
                    "{schema:#}"
                );
            });
            for (name, field) in schema["properties"].as_object().unwrap() {
                assert!(field["type"].is_string() && field["description"].is_string(), "{name}: {field}");
            }
        }
    }

    #[test]
    fn fields_are_those_that_are_read() {
        let keys = |schema: Value| -> Vec<String> {
            schema["properties"].as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(of::<GroupSpec>()), ["content", "path", "policies", "settings"]);
        assert_eq!(of::<GroupSpec>()["required"], json!(["path"]));
        assert_eq!(of::<PolicySpec>()["required"], json!(["kind", "document"]));
        assert_eq!(
            keys(of::<SettingsSpec>()),
            ["contentRateLimit", "contentSpread", "heartbeatInterval", "mode", "offlineAfter"]
        );
    }
}
