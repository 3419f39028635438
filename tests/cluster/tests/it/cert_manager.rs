//! Certificates from cert-manager: its own controllers, in a program without those that speak to somebody outside.

use cluster::{Chart, NAMESPACE, Plane, have, shared_definitions, tool};
use live::{Process, eventually, until};
use serde_json::{Value, json};

use super::bootstrap::{PROGRAMS, secrets};
use super::pods::{both, manifests, round};
use super::release::{Given, POLICY, Release};

/// What the chart's values name, from its beginning: a CA that cert-manager made itself.
fn issuers() -> [(&'static str, Value); 3] {
    let issuer = |name: &str, spec: Value| json!({ "apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": { "name": name }, "spec": spec });
    let ca = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": { "name": "internal-ca" },
        "spec": {
            "isCA": true, "commonName": "internal", "secretName": "internal-ca",
            "privateKey": { "algorithm": "ECDSA" }, "issuerRef": { "name": "self", "kind": "ClusterIssuer" },
        },
    });
    [
        ("clusterissuers", issuer("self", json!({ "selfSigned": {} }))),
        ("clusterissuers", issuer("internal-ca", json!({ "ca": { "secretName": "internal-ca" } }))),
        ("certificates", ca),
    ]
}

/// Starts the controllers, and makes an issuer.
async fn start(plane: &Plane) -> Process {
    for definition in shared_definitions("cert-manager") {
        plane.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    }
    for (plural, object) in issuers() {
        let within =
            if plural == "certificates" { format!("namespaces/{NAMESPACE}/") } else { String::new() };
        let path = format!("/apis/cert-manager.io/v1/{within}{plural}");
        eventually(format!("Kubernetes knows {plural}"), async || {
            match plane.call("POST", &path, Some(&object)).await {
                (201 | 409, _) => Ok(()),
                (status, answer) => Err(format!("{status} {answer}")),
            }
        })
        .await;
    }
    let mut command = tokio::process::Command::new(tool("cert-manager"));
    command
        .arg("--kubeconfig")
        .arg(plane.path("kubeconfig"))
        .args(["--cluster-resource-namespace", NAMESPACE]);
    Process::of(&plane.path(""), "cert-manager", command)
}

/// Waits until cert-manager has put another certificate into a Secret.
async fn another(plane: &Plane, name: &str, than: &[u8]) {
    eventually(format!("{name} has a new certificate"), async || {
        let found = secrets(plane).await;
        match found.get(name).and_then(|data| data.get("tls.crt")) {
            Some(certificate) if certificate != than => Ok(()),
            _ => Err(format!("{:?}", found.keys())),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_come_from_cert_manager_and_are_taken_anew() {
    if !have(&PROGRAMS) || !have(&["nats-server", "cert-manager"]) {
        return;
    }
    let plane = Plane::start().await;
    let _controllers = start(&plane).await;
    let chart = Chart::new().file(cluster::chart_dir().join("examples/cert-manager.yaml"));
    let mut release = Release::start_on(plane, &chart, Given::default()).await;
    release.first_token().await;
    let policy = release.cli(POLICY);
    policy.apply(&manifests("1s")).await;
    let agents = both(&release).await;
    round(&policy, 1, &agents).await;

    // As it is with a renewal, but at once.
    for name in ["muster-nats-tls", "muster-api-tls"] {
        let before = release.host.secret(name, "tls.crt").to_vec();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
        assert_eq!(release.plane.call("DELETE", &path, None).await.0, 200);
        another(&release.plane, name, &before).await;
    }
    release.look_at_secrets().await;
    release.services.iter().for_each(|(pod, _)| release.host.deliver(pod));
    for (pod, _) in &release.services {
        until(format!("{} has a new certificate", pod.name), || {
            let log = pod.log();
            if log.contains("the listener has a new certificate") { Ok(()) } else { Err(log) }
        })
        .await;
    }
    round(&policy, 2, &agents).await;
    // A server takes it when it starts again, and gets on with those that have not.
    let pod = &mut release.broker.pods[0];
    pod.terminate();
    until("the server ends", || pod.ended().map(drop).ok_or_else(|| pod.log())).await;
    release.host.deliver(pod);
    pod.start(&release.host);
    release.broker.ready(0).await;
    round(&policy, 3, &agents).await;
}
