//! The custom resource definitions: what `muster apply` reads, with what an operator reports.

use serde_json::{Map, Value, json};
use wire::manifest::schema::{self, RULES};
use wire::manifest::{ContentReleaseSpec, EnrollmentTokenSpec, GroupSpec, PolicyKindSpec, PolicySpec};

use crate::object::Kind;

/// Longest name of most objects: the names of the fleet are no longer.
const MAX_NAME: usize = 64;
/// Longest name of an EnrollmentToken: the tokens that are made for it have eight characters and a hyphen more.
const MAX_TOKEN_NAME: usize = 55;

/// The definitions, in order of their plural.
#[must_use]
pub fn definitions() -> Vec<Value> {
    let mut all: Vec<Value> = Kind::ALL.into_iter().map(definition).collect();
    all.sort_by(|a, b| a["metadata"]["name"].as_str().cmp(&b["metadata"]["name"].as_str()));
    all
}

fn definition(kind: Kind) -> Value {
    let name = kind.name();
    let plural = kind.plural();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{}", Kind::GROUP),
            // Whoever removes the chart does not mean to remove what is in the fleet.
            "annotations": { "helm.sh/resource-policy": "keep" },
        },
        "spec": {
            "group": Kind::GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": name,
                "listKind": format!("{name}List"),
                "plural": plural,
                "singular": name.to_lowercase(),
                "categories": ["muster"],
            },
            "versions": [{
                "name": Kind::VERSION,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns(kind),
                "schema": { "openAPIV3Schema": root(kind) },
            }],
        },
    })
}

fn root(kind: Kind) -> Value {
    let max = if kind == Kind::EnrollmentToken { MAX_TOKEN_NAME } else { MAX_NAME };
    let mut rules = vec![json!({
        "rule": format!("self.metadata.name.matches('^[a-z0-9-]{{1,{max}}}$')"),
        "message": format!("the name must be 1 to {max} of a-z, 0-9 and '-'"),
    })];
    if kind == Kind::Group {
        rules.push(json!({
            "rule": "(self.metadata.name == 'root') == (self.spec.path == '/')",
            "message": "the group at / is named root, and no other is",
        }));
    }
    json!({
        "type": "object",
        "description": about(kind),
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": spec(kind),
            "status": status(kind),
        },
        RULES: rules,
    })
}

fn about(kind: Kind) -> &'static str {
    match kind {
        Kind::Group => "A node of the tree: settings, policies and content of the agents in it and below.",
        Kind::PolicyKind => "A policy kind: documents of this kind satisfy its schema.",
        Kind::Policy => "A policy: a named document of a kind, which groups assign.",
        Kind::ContentRelease => "What a stage of a content channel names.",
        Kind::EnrollmentToken => {
            "An enrolment token: a Secret of this name with \"-join-token\" behind it holds what agents join with. It is made anew in time."
        }
    }
}

fn spec(kind: Kind) -> Value {
    let mut spec = match kind {
        Kind::Group => schema::of::<GroupSpec>(),
        Kind::PolicyKind => schema::of::<PolicyKindSpec>(),
        Kind::Policy => schema::of::<PolicySpec>(),
        Kind::ContentRelease => schema::of::<ContentReleaseSpec>(),
        Kind::EnrollmentToken => schema::of::<EnrollmentTokenSpec>(),
    };
    if let Some(spec) = spec.as_object_mut() {
        spec.entry("description").or_insert_with(|| "What is wanted.".into());
    }
    spec
}

fn number(about: &str) -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": 0, "description": about })
}

fn text(about: &str, max: usize) -> Value {
    json!({ "type": "string", "maxLength": max, "description": about })
}

fn status(kind: Kind) -> Value {
    let mut fields = Map::new();
    fields.insert("observedGeneration".into(), number("Generation of the spec that this is about."));
    fields.insert("conditions".into(), conditions());
    if kind == Kind::EnrollmentToken {
        fields
            .insert("secretName".into(), text("Secret that holds the join token, under the key token.", 253));
        fields.insert("token".into(), text("Id of the token in the fleet.", MAX_NAME));
        fields.insert(
            "expires".into(),
            json!({ "type": "string", "format": "date-time", "description": "When it ends." }),
        );
        fields.insert("uses".into(), number("How many agents may join with it."));
        fields.insert("used".into(), number("How many agents have joined with it."));
    } else {
        fields.insert("revision".into(), number("Revision of the store that last changed the object."));
    }
    if kind.reaches_agents() {
        fields.insert(
            "agents".into(),
            json!({
                "type": "object",
                "description": "Agents that should have it.",
                "properties": {
                    "total": number("All of them."),
                    "atRevision": number("Those that run the newest of their group."),
                    "failed": number("Those that refused it, or went back from it."),
                },
            }),
        );
    }
    json!({ "type": "object", "description": "What the operator found.", "properties": fields })
}

fn conditions() -> Value {
    json!({
        "type": "array",
        "maxItems": 8,
        "description": "Synced: the fleet has it as it stands here. Ready: the agents have it. Degraded: somebody has to look.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "reason": { "type": "string", "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 },
            },
        },
    })
}

fn columns(kind: Kind) -> Vec<Value> {
    let column = |name: &str, kind: &str, path: &str| json!({ "name": name, "type": kind, "jsonPath": path });
    let mut columns = match kind {
        Kind::Group => {
            vec![column("Path", "string", ".spec.path"), column("Mode", "string", ".spec.settings.mode")]
        }
        Kind::PolicyKind => vec![],
        Kind::Policy => vec![column("Kind", "string", ".spec.kind")],
        Kind::ContentRelease => vec![
            column("Channel", "string", ".spec.channel"),
            column("Stage", "string", ".spec.stage"),
            column("Revision", "integer", ".spec.revision"),
        ],
        Kind::EnrollmentToken => vec![
            column("Group", "string", ".spec.group"),
            column("Secret", "string", ".status.secretName"),
            column("Used", "integer", ".status.used"),
            column("Uses", "integer", ".status.uses"),
            column("Expires", "date", ".status.expires"),
        ],
    };
    columns.push(column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"));
    columns.push(column("Synced", "string", ".status.conditions[?(@.type==\"Synced\")].status"));
    if kind.reaches_agents() {
        columns.push(column("Agents", "integer", ".status.agents.total"));
        columns.push(column("Current", "integer", ".status.agents.atRevision"));
        columns.push(column("Failed", "integer", ".status.agents.failed"));
    }
    columns.push(column("Age", "date", ".metadata.creationTimestamp"));
    columns
}
