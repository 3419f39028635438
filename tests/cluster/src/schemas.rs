//! Schemas for kubeconform, made from the Kubernetes API's own description and from definitions of custom resources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::tools::{shared, tool};

/// The version whose description they are made from; kubeconform only puts it into paths.
const VERSION: &str = "1.36.4";

/// A folder of schemas.
pub struct Schemas(tempfile::TempDir);

impl Schemas {
    /// Makes a schema for each kind that is named, `apps/v1/Deployment` or `v1/Service`.
    ///
    /// # Panics
    /// If a file cannot be read or written, or a kind is not described.
    #[must_use]
    pub fn of(kinds: &BTreeSet<String>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let text = fs::read_to_string(shared("swagger.json")).expect("the description is there");
        let api: Value = serde_json::from_str(&text).expect("the description is JSON");
        let custom = custom();
        for kind in kinds {
            let parts: Vec<&str> = kind.split('/').collect();
            let (group, version, name) = match parts.as_slice() {
                [version, name] => ("", *version, *name),
                [group, version, name] => (*group, *version, *name),
                _ => panic!("{kind} is no kind"),
            };
            let found = custom.iter().find(|(known, _)| known == kind).map(|(_, schema)| schema.clone());
            let schema = found.or_else(|| built_in(&api, group, version, name));
            let schema = schema.unwrap_or_else(|| panic!("nothing describes {kind}"));
            let group = group.split('.').next().unwrap_or_default();
            let middle = if group.is_empty() { String::new() } else { format!("{group}-") };
            let file = format!("{}-{middle}{version}.json", name.to_lowercase());
            fs::write(dir.path().join(file), schema.to_string()).expect("a schema can be written");
        }
        Self(dir)
    }

    /// What kubeconform says against manifests; nothing when all is well and nothing was skipped.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn check(&self, manifests: &Path) -> Vec<String> {
        let template = "{{ .ResourceKind }}{{ .KindSuffix }}.json";
        let output = Command::new(tool("kubeconform"))
            .args(["-strict", "-summary", "-output", "json", "-kubernetes-version", VERSION])
            .arg("-schema-location")
            .arg(format!("{}/{template}", self.0.path().display()))
            .arg(manifests)
            .output()
            .expect("kubeconform can be run");
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let mut found: Vec<String> =
            said["resources"].as_array().into_iter().flatten().map(Value::to_string).collect();
        if said["summary"]["skipped"] != 0 || said["summary"]["valid"] == 0 {
            found.push(said["summary"].to_string());
        }
        found
    }
}

/// The schema of a kind of the API, with all that it refers to.
fn built_in(api: &Value, group: &str, version: &str, kind: &str) -> Option<Value> {
    let definitions = api["definitions"].as_object()?;
    let wanted = json!({ "group": group, "version": version, "kind": kind });
    let is_it = |definition: &Value| {
        definition["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.contains(&wanted))
    };
    let (name, _) = definitions.iter().find(|(_, definition)| is_it(definition))?;
    let mut reached = Map::new();
    reach(definitions, name, &mut reached);
    Some(json!({ "$ref": format!("#/definitions/{name}"), "definitions": reached }))
}

fn reach(definitions: &Map<String, Value>, name: &str, reached: &mut Map<String, Value>) {
    if reached.contains_key(name) {
        return;
    }
    let mut definition = definitions.get(name).cloned().unwrap_or_default();
    if name.ends_with(".IntOrString") || name.ends_with(".Quantity") {
        definition = json!({ "type": ["string", "integer"] });
    }
    close(&mut definition);
    reached.insert(name.to_owned(), definition.clone());
    let mut names = Vec::new();
    references(&definition, &mut names);
    for name in names {
        reach(definitions, &name, reached);
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(Value::as_str);
            found.extend(name.and_then(|name| name.strip_prefix("#/definitions/")).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(all) => all.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// Refuses properties that are not listed, where some are.
fn close(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let open = map.get("x-kubernetes-preserve-unknown-fields").is_some();
            if map.get("properties").is_some_and(Value::is_object)
                && map.get("additionalProperties").is_none()
                && !open
            {
                map.insert("additionalProperties".to_owned(), false.into());
            }
            if map.get("x-kubernetes-int-or-string").is_some() {
                map.remove("anyOf");
                map.insert("type".to_owned(), json!(["string", "integer"]));
            }
            // Patterns of definitions are RE2, which is what kubeconform has; formats are left to the API server.
            map.remove("format");
            map.values_mut().for_each(close);
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}

/// Definitions of the custom resources that the chart makes where they are known.
pub(crate) fn definitions() -> Vec<Value> {
    shared_definitions("crds")
}

/// Definitions that came with the tools, of a folder.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn shared_definitions(folder: &str) -> Vec<Value> {
    let folder = shared(folder);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a folder can be read").path()).collect();
    paths.sort();
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a definition can be read");
    paths.iter().flat_map(|path| crate::Objects::read(&read(path)).0).collect()
}

fn custom() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let of_gitops = if shared("gitops").exists() { shared_definitions("gitops") } else { Vec::new() };
    for definition in definitions().into_iter().chain(of_gitops) {
        let spec = &definition["spec"];
        for version in spec["versions"].as_array().into_iter().flatten() {
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            // What every object has is not said in a definition.
            schema["properties"]["metadata"] = json!({ "type": "object", "additionalProperties": true });
            close(&mut schema);
            let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let kind = format!(
                "{}/{}/{}",
                part(&spec["group"]),
                part(&version["name"]),
                part(&spec["names"]["kind"])
            );
            found.push((kind, schema));
        }
    }
    found
}
