//! The life of the custom resource definitions: an older shape is upgraded with objects in it, and outlives its chart.

use std::fs;
use std::path::{Path, PathBuf};

use cluster::{NAMESPACE, Plane, have, root};
use live::eventually;
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;

const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/policies.muster.dev";

/// What the older shape does not know.
const LOCK: &str = "/rules/ssh";

fn chart() -> PathBuf {
    root().join("helm/muster-crds")
}

/// The chart as it was before policies had locks.
fn older(dir: &Path) -> PathBuf {
    let older = dir.join("muster-crds");
    fs::create_dir_all(older.join("templates")).unwrap();
    for name in ["Chart.yaml", "values.yaml"] {
        fs::copy(chart().join(name), older.join(name)).unwrap();
    }
    for file in fs::read_dir(chart().join("templates")).unwrap() {
        let file = file.unwrap();
        let mut definition: Value =
            serde_saphyr::from_str(&fs::read_to_string(file.path()).unwrap()).unwrap();
        if file.file_name() == "policies.yaml" {
            let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
            let properties = definition.pointer_mut(spec).unwrap().as_object_mut().unwrap();
            properties.remove("locks").expect("policies have locks");
        }
        fs::write(older.join("templates").join(file.file_name()), definition.to_string()).unwrap();
    }
    older
}

async fn helm(plane: &Plane, verb: &str, chart: Option<&Path>) {
    let chart = chart.map(|chart| chart.display().to_string());
    let arguments: Vec<&str> = [verb, "muster-crds"].into_iter().chain(chart.as_deref()).collect();
    plane.helm(&arguments, None).await.unwrap();
}

/// Applies a policy, as it was and with locks, and returns what is stored.
async fn apply(plane: &Plane, locks: Option<&str>) -> (u16, Value) {
    let mut policy = json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "Policy", "metadata": { "name": "base" },
        "spec": { "kind": "firewall", "document": { "rules": { "ssh": "deny" } } },
    });
    if let Some(locks) = locks {
        policy["spec"]["locks"] = json!([locks]);
    }
    let path = format!("/apis/muster.dev/v1alpha1/namespaces/{NAMESPACE}/policies/base?fieldManager=gitops");
    plane.call("PATCH", &path, Some(&policy)).await
}

async fn stored(plane: &Plane) -> Value {
    plane.get("muster.dev/v1alpha1", "policies", "base").await.expect("the policy is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_upgraded_with_objects_in_them_and_outlive_their_chart() {
    if !have(&PROGRAMS) {
        return;
    }
    let plane = Plane::start().await;
    let dir = tempfile::tempdir().unwrap();
    helm(&plane, "install", Some(&older(dir.path()))).await;
    eventually("policies are served", async || match apply(&plane, None).await {
        (200..300, _) => Ok(()),
        (status, answer) => Err(format!("{status} {answer}")),
    })
    .await;
    let (status, answer) = apply(&plane, Some(LOCK)).await;
    assert!(status >= 400 && answer.to_string().contains(".spec.locks"), "{status} {answer}");
    let path = format!("/apis/muster.dev/v1alpha1/namespaces/{NAMESPACE}/policies/base/status");
    let status = json!({ "status": { "observedGeneration": 1, "revision": 7, "conditions": [] } });
    assert_eq!(plane.call("PATCH", &path, Some(&status)).await.0, 200);
    let before = stored(&plane).await;

    helm(&plane, "upgrade", Some(&chart())).await;
    let after = stored(&plane).await;
    assert_eq!((&after["metadata"]["uid"], &after["spec"]), (&before["metadata"]["uid"], &before["spec"]));
    assert_eq!(after["status"]["revision"], 7, "{after:#}");
    let new = eventually("policies have locks", async || {
        let (_, policy) = apply(&plane, Some(LOCK)).await;
        if policy["spec"]["locks"] == json!([LOCK]) { Ok(policy) } else { Err(policy.to_string()) }
    })
    .await;
    assert_eq!(new["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(new["status"]["revision"], 7, "{new:#}");

    // Who removes the chart removes nothing of the fleet, and may come back.
    helm(&plane, "uninstall", None).await;
    let (status, definition) = plane.call("GET", DEFINITION, None).await;
    assert!(
        status == 200 && definition["metadata"]["deletionTimestamp"].is_null(),
        "{status} {definition:#}"
    );
    assert_eq!(stored(&plane).await["spec"], new["spec"]);
    helm(&plane, "install", Some(&chart())).await;
    assert_eq!(stored(&plane).await["metadata"]["uid"], before["metadata"]["uid"]);
}
