//! What the operator may do, by the values that bear on it, against what it asks a real API server for: enough, and no more.

use cluster::{NAMESPACE, Plane, granted, have, settle, unused};
use live::eventually;
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::rig::{Rig, condition_of, plural};

const OTHER: &str = "other";

/// Objects of a namespace.
struct Place<'a> {
    rig: &'a Rig,
    namespace: &'a str,
}

impl Place<'_> {
    fn plane(&self) -> &Plane {
        &self.rig.plane
    }

    fn path(&self, kind: &str, name: &str) -> String {
        format!("/apis/muster.dev/v1alpha1/namespaces/{}/{}/{name}", self.namespace, plural(kind))
    }

    async fn apply(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        let path = format!("{}?fieldManager=gitops", self.path(kind, name));
        let (status, answer) = self.plane().call("PATCH", &path, Some(&object)).await;
        assert!(status == 200 || status == 201, "{status} {answer}");
    }

    /// Waits until a condition of what stands there now has a status and a message that contains a text.
    async fn says(&self, (kind, name): (&str, &str), (condition, wanted): (&str, &str), text: &str) {
        eventually(format!("{kind} {name} in {}: {condition} is {wanted}", self.namespace), async || {
            let (_, object) = self.plane().call("GET", &self.path(kind, name), None).await;
            let observed = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            let said = condition_of(&object, condition);
            let told = said["message"].as_str().unwrap_or_default().contains(text);
            match observed && said["status"] == wanted && told {
                true => Ok(()),
                false => Err(format!("{object:#} {}", self.rig.logs())),
            }
        })
        .await;
    }

    /// Objects come, change and are refused.
    async fn begin(&self, secrets: bool) {
        let name = self.namespace;
        self.apply("PolicyKind", name, json!({ "schema": { "type": "object" } })).await;
        self.apply("Policy", name, json!({ "kind": name, "document": {} })).await;
        self.apply("Group", name, json!({ "path": format!("/{name}"), "policies": [name] })).await;
        for kind in ["PolicyKind", "Policy", "Group"] {
            self.says((kind, name), ("Ready", "True"), "").await;
        }
        // Two refusals in a row are one event that is counted.
        let release = json!({ "channel": "rules", "stage": name, "revision": 1 });
        self.apply("ContentRelease", name, release).await;
        self.says(("ContentRelease", name), ("Synced", "False"), "no channel").await;
        for lost in ["lost-1", "lost-2"] {
            self.apply("Group", name, json!({ "path": format!("/{name}"), "policies": [lost] })).await;
            self.says(("Group", name), ("Degraded", "True"), lost).await;
        }
        // Other terms are another token in the same Secret.
        for uses in [1, 2] {
            self.apply("EnrollmentToken", name, json!({ "group": format!("/{name}"), "uses": uses })).await;
            match secrets {
                true => self.says(("EnrollmentToken", name), ("Ready", "True"), "").await,
                false => {
                    let why = "its Secret cannot be had";
                    self.says(("EnrollmentToken", name), ("Degraded", "True"), why).await;
                }
            }
        }
    }

    async fn end(&self) {
        for kind in ["EnrollmentToken", "ContentRelease", "Group", "Policy", "PolicyKind"] {
            let path = self.path(kind, self.namespace);
            let (status, answer) = self.plane().call("DELETE", &path, None).await;
            assert!(status == 200 || status == 202, "{status} {answer}");
            eventually(format!("{path} is gone"), async || {
                match self.plane().call("GET", &path, None).await {
                    (404, _) => Ok(()),
                    (status, object) => Err(format!("{status} {object:#} {}", self.rig.logs())),
                }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_do_what_it_does_whatever_it_is_there_for() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let mut rig = Rig::start().await;
    rig.plane.namespace(OTHER).await;
    for (name, values, namespaces, refused) in [
        ("all", json!({ "allNamespaces": true }), vec![NAMESPACE, OTHER], vec![]),
        ("one", json!({ "namespace": OTHER }), vec![OTHER], vec![]),
        // Without that right it says so of each EnrollmentToken, and the rest goes on.
        (
            "none",
            json!({ "namespace": OTHER, "joinSecrets": false }),
            vec![OTHER],
            vec!["get secrets other-join-token in other"],
        ),
    ] {
        rig.instead(json!({ "global": { "fullnameOverride": name }, "operator": values }), name).await;
        for namespace in &namespaces {
            Place { rig: &rig, namespace }.begin(refused.is_empty()).await;
        }
        for namespace in &namespaces {
            Place { rig: &rig, namespace }.end().await;
        }
        let account = &rig.installed.account;
        let granted = granted(&rig.installed.objects, account);
        let secrets = granted.iter().any(|right| right.resource == "secrets");
        assert_eq!(secrets, refused.is_empty(), "{name}");
        let everywhere = |right: &cluster::Right| right.namespace.is_empty();
        assert_eq!(granted.iter().any(everywhere), namespaces.len() > 1, "{name}");
        // The Lease is renewed in its time.
        eventually(format!("{name}: all rights are used"), async || {
            let unused = unused(&granted, &rig.plane.asked_by(account));
            if unused.is_empty() { Ok(()) } else { Err(format!("{unused:?} {}", rig.logs())) }
        })
        .await;
        settle(&granted, &rig.plane.asked_by(account), &[], &refused);
    }
}
