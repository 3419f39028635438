//! Who writes which field, when Helm, autoscalers, people and tools of GitOps write to the same objects by server-side apply.

use std::collections::BTreeSet;

use cluster::{Chart, NAMESPACE, Plane, chart_dir, have};
use live::eventually;
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::rig::{self, Rig, condition_of};

const DEPLOYMENT: &str = "muster-policy";
/// Where `managedFields` tell of the number of Pods.
const REPLICAS: &str = "/f:spec/f:replicas";

fn path() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{DEPLOYMENT}")
}

async fn deployment(plane: &Plane) -> Value {
    plane.get("apps/v1", "deployments", DEPLOYMENT).await.unwrap()
}

/// Who wrote a field, by its place in `managedFields`, and by which subresource.
fn writers(object: &Value, field: &str) -> Vec<(String, String)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
    let of_it = entries.filter(|entry| entry["fieldsV1"].pointer(field).is_some());
    of_it.map(|entry| (text(entry, "manager"), text(entry, "subresource"))).collect()
}

fn scaled(min: u32) -> Chart {
    let autoscaling = json!({ "enabled": true, "minReplicas": min, "maxReplicas": 9 });
    Chart::new().with(json!({ "policy": { "autoscaling": autoscaling } }))
}

async fn has_replicas(plane: &Plane, wanted: u64) {
    eventually(format!("{wanted} replicas"), async || {
        let object = deployment(plane).await;
        if object["spec"]["replicas"] == wanted {
            Ok(())
        } else {
            Err(object["spec"]["replicas"].to_string())
        }
    })
    .await;
}

/// Scales as an autoscaler does, or `kubectl scale`.
async fn scale(plane: &Plane, replicas: u64) {
    let scale = format!("{}/scale", path());
    let (_, mut wanted) = plane.call("GET", &scale, None).await;
    wanted["spec"]["replicas"] = replicas.into();
    // The newest one is meant, whatever happens to its status meanwhile.
    wanted["metadata"]["resourceVersion"] = Value::Null;
    let (status, answer) =
        plane.call("PUT", &format!("{scale}?fieldManager=autoscaler"), Some(&wanted)).await;
    assert_eq!(status, 200, "{answer}");
}

/// Without an autoscaler the chart says how many. Twice, for the autoscaler may act once more before it goes.
async fn without(plane: &Plane) {
    let arguments = ["upgrade", "muster", "--reset-values", "--force-conflicts"];
    for _ in 0..2 {
        plane.helm(&arguments, Some(&Chart::new())).await.unwrap();
    }
    assert_eq!(deployment(plane).await["spec"]["replicas"], 2);
}

/// The autoscaler of Kubernetes itself goes to its least without any metric; what it does when the load rises, a test does.
#[tokio::test(flavor = "multi_thread")]
async fn helm_and_an_autoscaler_do_not_fight_for_replicas() {
    if !have(&PROGRAMS) {
        return;
    }
    let plane = Plane::start().await;
    plane.helm(&["install", "muster"], Some(&scaled(3))).await.unwrap();
    has_replicas(&plane, 3).await;
    scale(&plane, 5).await;
    let louder = scaled(3).with(json!({ "global": { "logLevel": "debug" } }));
    plane.helm(&["upgrade", "muster"], Some(&louder)).await.unwrap();
    let after = deployment(&plane).await;
    assert_eq!(after["spec"]["replicas"], 5, "an upgrade leaves replicas to the autoscaler");
    assert!(after.to_string().contains("\"debug\""), "and changes what is Helm's");
    assert!(!writers(&after, REPLICAS).iter().any(|(manager, _)| manager == "helm"), "{after:#}");

    without(&plane).await;
    // Who scales by hand then is named by the next upgrade.
    scale(&plane, 4).await;
    let by_scale = [("autoscaler".to_owned(), "scale".to_owned())];
    assert_eq!(writers(&deployment(&plane).await, REPLICAS), by_scale);
    let said = plane.helm(&["upgrade", "muster", "--reset-values"], Some(&Chart::new())).await.unwrap_err().0;
    assert!(said.contains("conflict") && said.contains(".spec.replicas"), "{said}");
    // The way out, where it was meant: what the chart does not say is whose it is.
    plane.helm(&["upgrade", "muster"], Some(&scaled(3))).await.unwrap();
    assert_eq!(deployment(&plane).await["spec"]["replicas"], 4);
    without(&plane).await;
    // An autoscaler that begins where Helm said how many: one for a moment, then its least.
    plane.helm(&["upgrade", "muster"], Some(&scaled(3))).await.unwrap();
    has_replicas(&plane, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_names_who_edited_what_it_owns_and_takes_it_back_when_told() {
    if !have(&PROGRAMS) {
        return;
    }
    let plane = Plane::start().await;
    plane.helm(&["install", "muster"], Some(&Chart::new())).await.unwrap();
    let period = "/spec/template/spec/terminationGracePeriodSeconds";
    let before = deployment(&plane).await.pointer(period).unwrap().clone();
    let edit = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": DEPLOYMENT },
        "spec": { "template": { "spec": { "terminationGracePeriodSeconds": 99 } } },
    });
    let edited = format!("{}?fieldManager=kubectl-edit&force=true", path());
    assert_eq!(plane.call("PATCH", &edited, Some(&edit)).await.0, 200);
    // What nobody disputes goes on to be anybody's.
    let note = json!({ "metadata": { "annotations": { "example.org/note": "mine" } } });
    assert_eq!(plane.call("PATCH", &path(), Some(&note)).await.0, 200);
    let louder = Chart::new().with(json!({ "global": { "logLevel": "debug" } }));
    let said = plane.helm(&["upgrade", "muster"], Some(&louder)).await.unwrap_err().0;
    for part in ["conflict", "kubectl-edit", "terminationGracePeriodSeconds"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(deployment(&plane).await.pointer(period), Some(&json!(99)), "nothing is taken without a word");
    plane.helm(&["upgrade", "muster", "--force-conflicts"], Some(&louder)).await.unwrap();
    let after = deployment(&plane).await;
    assert_eq!(after.pointer(period), Some(&before));
    assert_eq!(after["metadata"]["annotations"]["example.org/note"], "mine");
    let field = "/f:spec/f:template/f:spec/f:terminationGracePeriodSeconds";
    assert!(writers(&after, field).iter().all(|(manager, _)| manager == "helm"), "{after:#}");
    let page = std::fs::read_to_string(chart_dir().join("README.md")).unwrap();
    assert!(page.contains("--force-conflicts"), "the chart's page says so");
}

/// Two tools apply the same: neither sees a difference, and the operator's fields are its own.
#[tokio::test(flavor = "multi_thread")]
async fn tools_that_apply_the_same_see_no_difference() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let rig = Rig::start().await;
    rig.begin().await;
    rig.reaches("Group", "web", ("Ready", "True")).await;
    let before = rig.reaches("Policy", "base", ("Ready", "True")).await;
    let object = |round: u64| {
        json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "Policy",
            // What Argo CD puts on all that it applies.
            "metadata": { "name": "base", "labels": { "argocd.argoproj.io/instance": "fleet" } },
            "spec": { "kind": "firewall", "document": { "round": round } },
        })
    };
    let by = |manager: &str| format!("{}?fieldManager={manager}", rig::path("Policy", "base"));
    for manager in ["argocd-controller", "kustomize-controller"] {
        let (status, answer) = rig.plane.call("PATCH", &by(manager), Some(&object(1))).await;
        assert_eq!(status, 200, "{answer}");
    }
    // The operator has seen it, for it has done what comes after it.
    rig.apply("Group", "db", json!({ "path": "/db" })).await;
    rig.reaches("Group", "db", ("Ready", "True")).await;
    let after = rig.get("Policy", "base").await.unwrap();
    assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"], "{after:#}");
    assert_eq!(after["status"], before["status"], "{after:#}");
    let names = |field: &str| -> Vec<String> {
        let names: BTreeSet<String> =
            writers(&after, field).into_iter().map(|(manager, _)| manager).collect();
        names.into_iter().collect()
    };
    assert_eq!(names("/f:spec/f:kind"), ["argocd-controller", "gitops", "kustomize-controller"]);
    assert_eq!(names("/f:status"), ["muster-operator"]);
    assert_eq!(names("/f:metadata/f:finalizers"), ["muster-operator"]);
    // Who wants something else is told by Kubernetes who is in the way, and the agents' policy stays as it is.
    let (status, answer) = rig.plane.call("PATCH", &by("kustomize-controller"), Some(&object(2))).await;
    assert!(status == 409 && answer.to_string().contains("argocd-controller"), "{status} {answer}");
    // A tool that leaves takes nothing of the operator's along.
    let nothing = json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "Policy", "metadata": { "name": "base" },
    });
    let (status, answer) = rig.plane.call("PATCH", &by("kustomize-controller"), Some(&nothing)).await;
    assert_eq!(status, 200, "{answer}");
    let last = rig.get("Policy", "base").await.unwrap();
    assert_eq!((&last["spec"], &last["status"]), (&before["spec"], &before["status"]));
    assert_eq!(condition_of(&last, "Ready")["status"], "True");
    assert!(last["metadata"]["finalizers"].as_array().is_some_and(|all| all.len() == 1), "{last:#}");
}
