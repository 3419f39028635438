//! Rendered objects.

use std::collections::BTreeMap;

use serde_json::Value;

/// All that a chart renders to.
#[derive(Debug, Clone, Default)]
pub struct Objects(pub Vec<Value>);

impl Objects {
    /// Reads what Helm printed.
    ///
    /// # Panics
    /// If it is no YAML.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut objects = Vec::new();
        let says = |line: &str| !line.is_empty() && !line.starts_with('#');
        for part in text.split("\n---").map(|part| part.trim_start_matches("---")) {
            if !part.lines().any(says) {
                continue;
            }
            let object: Value =
                serde_saphyr::from_str(part).unwrap_or_else(|error| panic!("{error}\n{part}"));
            if object.is_object() {
                objects.push(object);
            }
        }
        Self(objects)
    }

    /// Those of a kind.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// One by kind and name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// One by kind and name, if it is there.
    #[must_use]
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    /// Those that make Pods, with the template of the Pods.
    pub fn workloads(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.0.iter().filter_map(|object| Some((object, pod_of(object)?)))
    }
}

/// The template of the Pods that an object makes.
#[must_use]
pub fn pod_of(object: &Value) -> Option<&Value> {
    let pointer = match object["kind"].as_str()? {
        "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => "/spec/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        "Pod" => "",
        _ => return None,
    };
    object.pointer(pointer)
}

/// All containers of a Pod's template.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|key| pod["spec"][key].as_array().into_iter().flatten())
}

/// Labels as a map.
pub(crate) fn labels(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// Whether a selector (`matchLabels` alone) finds something with these labels. An empty one finds all.
pub(crate) fn finds(selector: &Value, found: &BTreeMap<String, String>) -> bool {
    labels(selector).iter().all(|(key, value)| found.get(key) == Some(value))
}
