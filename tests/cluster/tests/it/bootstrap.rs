//! `musterd bootstrap` against a real API server, with what the Job's ServiceAccount may do and no more.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::{Chart, NAMESPACE, Plane, Secrets, granted, have, settle};
use serde_json::{Value, json};

/// Programs of a control plane, and those of who uses it.
pub(crate) const PROGRAMS: [&str; 7] =
    ["helm", "kubectl", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"];

/// Runs what the Job's Pod names, as its ServiceAccount.
pub(crate) async fn run(plane: &Plane, chart: &Chart) -> Output {
    let objects = chart.render().unwrap();
    let job = objects.of("Job").next().unwrap();
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["command"], json!(["/musterd"]));
    let account =
        plane.service_account(job["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap()).await;
    let mut command = Command::new(live::binary("musterd"));
    command.args(container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()));
    for variable in container["env"].as_array().unwrap() {
        // The only field that it asks for is the namespace.
        command.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap_or(NAMESPACE));
    }
    command
        .env("KUBERNETES_SERVICE_HOST", plane.address().ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", plane.address().port().to_string())
        .env("MUSTER_SERVICE_ACCOUNT_DIR", account);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// As [`run`], and it must go well.
pub(crate) async fn done(plane: &Plane, chart: &Chart) {
    let output = run(plane, chart).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the Secrets of a release hold.
pub(crate) async fn secrets(plane: &Plane) -> Secrets {
    let mut found = every_secret(plane).await;
    found.retain(|name, _| name.starts_with("muster-"));
    found
}

/// What all Secrets hold.
pub(crate) async fn every_secret(plane: &Plane) -> Secrets {
    let (_, list) = plane.call("GET", &format!("/api/v1/namespaces/{NAMESPACE}/secrets"), None).await;
    let mut found = BTreeMap::new();
    for secret in list["items"].as_array().unwrap() {
        let entries = secret["data"].as_object().into_iter().flatten();
        let data =
            entries.map(|(key, value)| (key.clone(), STANDARD.decode(value.as_str().unwrap()).unwrap()));
        found.insert(secret["metadata"]["name"].as_str().unwrap().to_owned(), data.collect());
    }
    found
}

pub(crate) async fn patch(plane: &Plane, secret: &str, data: Value) {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{secret}");
    let (status, answer) = plane.call("PATCH", &path, Some(&json!({ "data": data }))).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_filled_once_and_never_again() {
    if !have(&PROGRAMS) {
        return;
    }
    let plane = Plane::start().await;
    let chart = Chart::new();
    plane.helm(&["install", "muster"], Some(&chart)).await.unwrap();
    done(&plane, &chart).await;
    let first = secrets(&plane).await;
    for (name, data) in &first {
        assert!(name.starts_with("sh.helm") || !data.is_empty(), "{name} is empty");
    }
    done(&plane, &chart).await;
    assert_eq!(secrets(&plane).await, first);

    // An upgrade that renders the Secrets anew leaves what is in them.
    plane
        .helm(
            &["upgrade", "muster"],
            Some(&chart.clone().with(json!({ "global": { "labels": { "a": "b" } } }))),
        )
        .await
        .unwrap();
    assert_eq!(secrets(&plane).await, first);

    // What is missing follows from the root; what is another is not touched.
    patch(&plane, "muster-presence-keys", json!({ "fleet.creds": null })).await;
    patch(&plane, "muster-content-keys", Value::Null).await;
    done(&plane, &chart).await;
    assert_eq!(secrets(&plane).await, first);
    patch(&plane, "muster-policy-keys", json!({ "director.key": STANDARD.encode([7; 32]) })).await;
    let said = String::from_utf8_lossy(&run(&plane, &chart).await.stderr).into_owned();
    assert!(said.contains("muster-policy-keys") && said.contains("director.key"), "{said}");
    assert_eq!(secrets(&plane).await["muster-policy-keys"]["director.key"], [7; 32]);
    patch(
        &plane,
        "muster-policy-keys",
        json!({ "director.key": STANDARD.encode(&first["muster-policy-keys"]["director.key"]) }),
    )
    .await;

    // The root may be taken off-line. Then nothing can be made, and nothing is made anew.
    let root = format!("/api/v1/namespaces/{NAMESPACE}/secrets/muster-root");
    let (_, held) = plane.call("GET", &root, None).await;
    patch(&plane, "muster-root", Value::Null).await;
    done(&plane, &chart).await;
    patch(&plane, "muster-content-keys", Value::Null).await;
    let said = String::from_utf8_lossy(&run(&plane, &chart).await.stderr).into_owned();
    assert!(said.contains("muster-content-keys") && said.contains("restore muster-root"), "{said}");
    patch(&plane, "muster-root", held["data"].clone()).await;
    done(&plane, &chart).await;
    assert_eq!(secrets(&plane).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_fit_is_made_anew_and_nats_starts_again() {
    if !have(&PROGRAMS) {
        return;
    }
    let plane = Plane::start().await;
    let annotation = async || {
        let set = plane.get("apps/v1", "statefulsets", "muster-nats").await.unwrap();
        set.pointer("/spec/template/metadata/annotations/muster.dev~1certificate").cloned()
    };
    let chart = Chart::new();
    plane.helm(&["install", "muster"], Some(&chart)).await.unwrap();
    done(&plane, &chart).await;
    let first = secrets(&plane).await;
    assert_eq!(annotation().await, None, "servers that wait for their first certificate need no push");
    let further = Chart::new().with(json!({ "tls": { "nats": { "extraNames": ["nats.example.org"] } } }));
    plane.helm(&["upgrade", "muster"], Some(&further)).await.unwrap();
    done(&plane, &further).await;
    let second = secrets(&plane).await;
    assert_ne!(second["muster-nats-tls"]["tls.crt"], first["muster-nats-tls"]["tls.crt"]);
    assert_eq!(second["muster-nats-tls"]["ca.crt"], first["muster-nats-tls"]["ca.crt"]);
    assert_eq!(second["muster-api-tls"], first["muster-api-tls"]);
    let after = annotation().await;
    assert!(after.is_some());
    // Helm leaves the annotation, which is not its own.
    plane.helm(&["upgrade", "muster"], Some(&further)).await.unwrap();
    assert_eq!(annotation().await, after);
    // It did all that it is there for, and that is all that it may do.
    let granted = granted(&further.render().unwrap(), "muster-bootstrap");
    settle(&granted, &plane.asked_by("muster-bootstrap"), &[], &[]);
}

/// The ServiceAccount of the Job can do what the Job does; this is what it cannot do.
#[tokio::test(flavor = "multi_thread")]
async fn the_job_may_do_nothing_but_fill_its_secrets() {
    if !have(&PROGRAMS) {
        return;
    }
    let plane = Plane::start().await;
    let chart = Chart::new().with(json!({ "operator": { "enabled": true } }));
    plane.helm(&["install", "muster"], Some(&chart)).await.unwrap();
    let folder = plane.service_account("muster-bootstrap").await;
    let token = std::fs::read_to_string(folder.join("token")).unwrap();
    let other = json!({ "metadata": { "name": "other" } });
    let secrets = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    plane.create(&secrets, &other).await;
    for (method, path, body) in [
        ("GET", secrets.clone(), None),
        ("GET", format!("{secrets}/other"), None),
        ("POST", secrets.clone(), Some(&other)),
        ("DELETE", format!("{secrets}/muster-root"), None),
        ("PATCH", format!("{secrets}/other"), Some(&other)),
        ("GET", format!("/api/v1/namespaces/{NAMESPACE}/pods"), None),
        ("GET", format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/muster-nats"), None),
        ("PATCH", format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/muster-policy"), Some(&other)),
        ("GET", "/api/v1/namespaces/default/secrets".to_owned(), None),
    ] {
        assert_eq!(plane.call_as(&token, method, &path, body).await.0, 403, "{method} {path}");
    }
    for name in ["muster-root", "muster-operator-token"] {
        assert_eq!(plane.call_as(&token, "GET", &format!("{secrets}/{name}"), None).await.0, 200);
    }
}
