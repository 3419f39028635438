//! Objects of Kubernetes as the planner sees them.

use std::collections::BTreeMap;
use std::fmt;

use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use serde_json::{Map, Value, json};
use wire::api::v1::Resource;

use crate::status::Status;

/// Keeps an object in Kubernetes until it is gone from the fleet.
pub(crate) const FINALIZER: &str = "muster.dev/operator";
/// Share of its agents, in percent, that must have an object before it is Ready.
pub(crate) const READY_SHARE: &str = "muster.dev/ready-share";
/// Domains of labels that tools put on objects for themselves. They are none of a group's.
const TOOL_DOMAINS: [&str; 5] = ["kubernetes.io", "k8s.io", "helm.sh", "fluxcd.io", "argoproj.io"];

/// The kinds of custom resources, in the order in which they need each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A policy kind.
    PolicyKind,
    /// A policy.
    Policy,
    /// What a stage of a channel names.
    ContentRelease,
    /// A node of the tree.
    Group,
    /// An enrolment token.
    EnrollmentToken,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::PolicyKind, Self::Policy, Self::ContentRelease, Self::Group, Self::EnrollmentToken];
    /// Their API group.
    pub const GROUP: &str = "muster.dev";
    /// Its version.
    pub const VERSION: &str = "v1alpha1";

    /// The kind as manifests name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PolicyKind => "PolicyKind",
            Self::Policy => "Policy",
            Self::ContentRelease => "ContentRelease",
            Self::Group => "Group",
            Self::EnrollmentToken => "EnrollmentToken",
        }
    }

    /// The name of its collection.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::PolicyKind => "policykinds",
            Self::Policy => "policies",
            Self::ContentRelease => "contentreleases",
            Self::Group => "groups",
            Self::EnrollmentToken => "enrollmenttokens",
        }
    }

    /// Whether agents have something of it.
    pub(crate) fn reaches_agents(self) -> bool {
        match self {
            Self::Policy | Self::ContentRelease | Self::Group => true,
            Self::PolicyKind | Self::EnrollmentToken => false,
        }
    }

    pub(crate) fn resource(self) -> ApiResource {
        let kind = GroupVersionKind::gvk(Self::GROUP, Self::VERSION, self.name());
        ApiResource::from_gvk_with_plural(&kind, self.plural())
    }
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    /// Somebody has asked for its end.
    pub(crate) deleted: bool,
    /// Whether it waits for us at its end.
    pub(crate) held: bool,
    /// What [`READY_SHARE`] says, or why that is nothing.
    pub(crate) ready_share: Result<Option<u64>, String>,
    /// What it says, or why that is nothing.
    pub(crate) wanted: Result<Resource, String>,
    pub(crate) status: Status,
}

impl Object {
    /// Reads an object; `None` if it lacks what all have.
    pub(crate) fn read(kind: Kind, object: &DynamicObject) -> Option<Self> {
        let meta = &object.metadata;
        let name = meta.name.clone()?;
        let status = object.data.get("status").cloned().unwrap_or_default();
        let share = meta.annotations.as_ref().and_then(|all| all.get(READY_SHARE));
        let share = share.filter(|_| kind.reaches_agents());
        Some(Self {
            wanted: wanted(kind, &name, object),
            key: Key { kind, namespace: meta.namespace.clone()?, name },
            uid: meta.uid.clone()?,
            generation: meta.generation.unwrap_or(0),
            deleted: meta.deletion_timestamp.is_some(),
            held: meta.finalizers.iter().flatten().any(|one| one == FINALIZER),
            ready_share: share.map(|text| ready_share(text)).transpose(),
            status: serde_json::from_value(status).unwrap_or_default(),
        })
    }

    /// What it says, if all that it says can be used.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn usable(&self) -> Result<&Resource, &String> {
        self.ready_share.as_ref()?;
        self.wanted.as_ref()
    }
}

fn ready_share(text: &str) -> Result<u64, String> {
    let share = text.parse().ok().filter(|share| *share <= 100);
    share.ok_or_else(|| {
        format!(
            "annotation {READY_SHARE} is {text:?} and must be a whole number of percent from 0 to 100, without a sign: change it, \
             or remove it"
        )
    })
}

fn wanted(kind: Kind, name: &str, object: &DynamicObject) -> Result<Resource, String> {
    let mut metadata = json!({ "name": name });
    if kind == Kind::Group {
        metadata["labels"] = labels(object.metadata.labels.as_ref());
    }
    let manifest = json!({
        "apiVersion": format!("{}/{}", Kind::GROUP, Kind::VERSION),
        "kind": kind.name(),
        "metadata": metadata,
        "spec": object.data.get("spec").cloned().unwrap_or_default(),
    });
    wire::manifest::from_object(&manifest).map_err(|error| error.to_string())
}

/// Labels without those that tools put there for themselves.
fn labels(labels: Option<&BTreeMap<String, String>>) -> Value {
    let of_tool = |key: &str| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        TOOL_DOMAINS.iter().any(|tool| domain == *tool || domain.ends_with(&format!(".{tool}")))
    };
    let kept = labels.into_iter().flatten().filter(|(key, _)| !of_tool(key));
    let kept: Map<String, Value> = kept.map(|(key, value)| (key.clone(), value.clone().into())).collect();
    kept.into()
}

#[cfg(test)]
mod tests {
    use wire::api::v1::resource::Resource as Any;

    use super::*;

    fn object(text: Value) -> DynamicObject {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn an_object_is_read_as_a_manifest_is() {
        let read = |spec: Value| {
            let object = object(json!({
                "apiVersion": "muster.dev/v1alpha1", "kind": "Group",
                "metadata": {
                    "name": "web", "namespace": "fleet", "uid": "u", "generation": 3,
                    "finalizers": ["other", FINALIZER], "annotations": { READY_SHARE: "90" },
                    "labels": {
                        "tier": "front", "app.kubernetes.io/managed-by": "Helm", "argocd.argoproj.io/instance": "x",
                    },
                },
                "spec": spec,
                "status": { "observedGeneration": 2, "revision": 7, "unknown": [] },
            }));
            Object::read(Kind::Group, &object).unwrap()
        };
        let web = read(json!({ "path": "/web" }));
        let Some(Any::Group(group)) = &web.wanted.as_ref().unwrap().resource else { panic!("a group") };
        assert_eq!(
            (group.path.as_str(), group.labels.len(), group.labels["tier"].as_str()),
            ("/web", 1, "front")
        );
        assert_eq!((web.generation, web.held, web.deleted, web.ready_share), (3, true, false, Ok(Some(90))));
        assert_eq!((web.status.observed_generation, web.status.revision), (2, 7));
        assert_eq!(web.key.to_string(), "Group fleet/web");
        let wrong = read(json!({ "path": "web" }));
        assert_eq!(wrong.wanted.unwrap_err(), "spec.path: must start with '/'");
    }

    #[test]
    fn a_share_is_read_or_the_object_is_of_no_use() {
        let read = |kind: Kind, spec: &Value, share: &str| {
            let object = object(json!({
                "apiVersion": "muster.dev/v1alpha1", "kind": kind.name(),
                "metadata": {
                    "name": "web", "namespace": "fleet", "uid": "u", "annotations": { READY_SHARE: share },
                },
                "spec": spec,
            }));
            Object::read(kind, &object).unwrap()
        };
        let group = json!({ "path": "/web" });
        for (share, expected) in [("0", 0), ("2", 2), ("95", 95), ("100", 100)] {
            let web = read(Kind::Group, &group, share);
            assert_eq!(web.ready_share, Ok(Some(expected)));
            assert!(web.usable().is_ok());
        }
        for share in ["95%", "abc", "", "101", "-1", "0.95", " 95"] {
            let web = read(Kind::Group, &group, share);
            let why = web.usable().unwrap_err();
            let expected = format!("annotation muster.dev/ready-share is {share:?} and must be");
            assert!(why.starts_with(&expected) && why.ends_with("or remove it"), "{why}");
        }
        // Agents have nothing of a kind, so it has no share.
        let kind = read(Kind::PolicyKind, &json!({ "schema": { "type": "object" } }), "abc");
        assert!(kind.usable().is_ok(), "{kind:?}");
    }
}
