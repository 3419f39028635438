//! The life of a release in a namespace that enforces Pod Security "restricted".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::{Chart, NAMESPACE, Plane, have, tool};
use live::eventually;
use serde_json::json;

use super::bootstrap::{PROGRAMS, done, patch, secrets};

/// Longest wait for a release. Pods are ready at once; the rest is the control plane's own pace.
const WAIT: [&str; 3] = ["--wait", "--timeout", "180s"];

fn with<'a>(first: &[&'a str]) -> Vec<&'a str> {
    first.iter().copied().chain(WAIT).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_installed_changed_taken_back_and_its_data_outlives_it() {
    if !have(&PROGRAMS) {
        return;
    }
    let plane = Plane::start().await;
    let chart = Chart::new();
    plane.helm(&with(&["install", "muster"]), Some(&chart)).await.unwrap();
    done(&plane, &chart).await;
    let made = secrets(&plane).await;
    let ready = |object: &serde_json::Value| object["status"]["readyReplicas"].as_u64();
    assert_eq!(ready(&plane.get("apps/v1", "statefulsets", "muster-nats").await.unwrap()), Some(3));
    assert_eq!(ready(&plane.get("apps/v1", "deployments", "muster-policy").await.unwrap()), Some(2));

    notes(&plane).await;
    helm_test(&plane).await;
    plane.helm(&with(&["upgrade", "muster"]), Some(&chart)).await.unwrap();
    // An autoscaler takes replicas over, and gives them back.
    let scaled = Chart::new().with(json!({ "policy": { "autoscaling": { "enabled": true } } }));
    plane.helm(&with(&["upgrade", "muster"]), Some(&scaled)).await.unwrap();
    // Without a value of ours Helm would take those of the last time.
    plane.helm(&with(&["upgrade", "muster", "--reset-values"]), Some(&chart)).await.unwrap();
    let policy = plane.get("apps/v1", "deployments", "muster-policy").await.unwrap();
    assert_eq!(policy["spec"]["replicas"], 2);
    operator_comes_and_goes(&plane).await;
    plane.helm(&with(&["rollback", "muster", "1"]), None).await.unwrap();
    for (path, _) in super::values::files() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Agents on nodes are a release of their own in another namespace; one node has no room for what is spread.
        if ["node-agents.yaml", "values-ha.yaml"].contains(&name.as_str()) {
            continue;
        }
        // Volumes and what they are made from cannot be changed in a StatefulSet that is there.
        let chart = Chart::new()
            .file(&path)
            .with(json!({ "nats": { "persistence": { "enabled": true, "size": "20Gi" } } }));
        let result = plane.helm(&with(&["upgrade", "muster"]), Some(&chart)).await;
        assert!(result.is_ok(), "{name}: {}", result.unwrap_err().0);
    }
    // To what was before the last file.
    plane.helm(&with(&["rollback", "muster"]), None).await.unwrap();
    assert_eq!(secrets(&plane).await, made, "keys are those of the first day");

    plane.helm(&with(&["uninstall", "muster"]), None).await.unwrap();
    assert_eq!(secrets(&plane).await, made, "keys outlive the release");
    let claims = format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims");
    let (_, held) = plane.call("GET", &claims, None).await;
    assert_eq!(held["items"].as_array().unwrap().len(), 3, "volumes outlive the release");
    assert!(plane.get("apps/v1", "statefulsets", "muster-nats").await.is_none());
    plane.helm(&with(&["install", "muster"]), Some(&chart)).await.unwrap();
    done(&plane, &chart).await;
    assert_eq!(secrets(&plane).await, made, "a release that comes back finds its keys");
    nothing_is_left_where_that_was_asked_for(&plane).await;
}

/// With `global.keepOnUninstall: false` the release takes its keys and its volumes along.
async fn nothing_is_left_where_that_was_asked_for(plane: &Plane) {
    let trial =
        Chart::new().with(json!({ "global": { "keepOnUninstall": false }, "backup": { "enabled": true } }));
    // Nothing mounts the claim of backups before the first one, so nobody waits for it.
    plane.helm(&["upgrade", "muster"], Some(&trial)).await.unwrap();
    let said = plane.helm(&["get", "notes", "muster"], None).await.unwrap();
    assert!(said.contains("`helm uninstall` DELETES all keys"), "{said}");
    let claims = async || {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims");
        let (_, held) = plane.call("GET", &path, None).await;
        let names =
            held["items"].as_array().unwrap().iter().map(|claim| claim["metadata"]["name"].to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(claims().await.len(), 4, "three of NATS, one for backups");
    plane.helm(&with(&["uninstall", "muster"]), None).await.unwrap();
    assert!(secrets(plane).await.is_empty());
    eventually("volumes go with the release", async || {
        let left = claims().await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// The Secret with the operator's token outlives the operator, and the next one finds it.
async fn operator_comes_and_goes(plane: &Plane) {
    const SECRET: &str = "muster-operator-token";
    // Without any values Helm takes those of the release before.
    let [operator, without] =
        [true, false].map(|enabled| Chart::new().with(json!({ "operator": { "enabled": enabled } })));
    plane.helm(&with(&["upgrade", "muster"]), Some(&operator)).await.unwrap();
    let kept = STANDARD.encode("kept");
    patch(plane, SECRET, json!({ "token": kept })).await;
    for chart in [&without, &operator, &without] {
        plane.helm(&with(&["upgrade", "muster"]), Some(chart)).await.unwrap();
        let secret = plane.get("v1", "secrets", SECRET).await.unwrap();
        assert_eq!(secret["data"]["token"], kept.as_str(), "{secret}");
    }
    eventually("the operator is gone", async || {
        let deployment = plane.get("apps/v1", "deployments", "muster-operator").await;
        deployment.map_or(Ok(()), |found| Err(found["metadata"].to_string()))
    })
    .await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}");
    assert_eq!(plane.call("DELETE", &path, None).await.0, 200);
}

/// The Pod of `helm test` is let into the namespace, and Helm waits for its end. What it would do is tried on the host.
async fn helm_test(plane: &Plane) {
    for _ in 0..2 {
        let said = plane.helm(&["test", "muster", "--timeout", "180s"], None).await.unwrap();
        assert!(said.contains("Succeeded"), "{said}");
    }
    let pod = plane.get("v1", "pods", "muster-selftest").await.unwrap();
    assert_eq!(pod["status"]["phase"], "Succeeded", "{pod}");
}

/// The command of the notes that this machine can carry out: the others want containers.
async fn notes(plane: &Plane) {
    let said = plane.helm(&["get", "notes", "muster"], None).await.unwrap();
    let line =
        said.lines().find(|line| line.contains("get secret")).expect("the notes say how to get the CA");
    assert!(line.trim().starts_with("kubectl "), "{line}");
    let line = line.trim().replacen("kubectl", &tool("kubectl").display().to_string(), 1);
    let dir = tempfile::tempdir().unwrap();
    let done = tokio::process::Command::new("bash")
        .args(["-euc", &line])
        .current_dir(dir.path())
        .env("KUBECONFIG", plane.path("kubeconfig"))
        .env("KUBECACHEDIR", dir.path())
        .output()
        .await
        .unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    let ca = std::fs::read(dir.path().join("muster-ca.pem")).unwrap();
    assert_eq!(ca, secrets(plane).await["muster-api-tls"]["ca.crt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spread_waits_for_nodes_and_agents_need_a_namespace_of_their_own() {
    if !have(&PROGRAMS) {
        return;
    }
    let plane = Plane::start().await;
    for number in 1..3 {
        let name = format!("node-{number}");
        plane
            .create(
                "/api/v1/nodes",
                &json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } }),
            )
            .await;
    }
    let ha = Chart::new().file(cluster::chart_dir().join("values-ha.yaml"));
    let ha = ha.file(cluster::chart_dir().join("examples/monitoring.yaml"));
    plane.helm(&with(&["install", "muster"]), Some(&ha)).await.unwrap();
    for (kind, name) in [("podmonitors", "muster-nats"), ("prometheusrules", "muster-rules")] {
        let made = plane.get("monitoring.coreos.com/v1", kind, name).await;
        assert!(made.is_some(), "Kubernetes takes {kind}");
    }
    let agents = Chart::new().file(cluster::chart_dir().join("examples/node-agents.yaml"));
    plane.helm(&["install", "agents"], Some(&agents)).await.unwrap();
    eventually("Pod Security refuses what mounts a folder of a node", async || {
        let path = format!(
            "/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.name=agents-muster-agent"
        );
        let (_, events) = plane.call("GET", &path, None).await;
        if events.to_string().contains("violates PodSecurity") { Ok(()) } else { Err(events.to_string()) }
    })
    .await;
    plane.helm(&["uninstall", "agents"], None).await.unwrap();
    let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "privileged" } } });
    assert_eq!(plane.call("PATCH", &format!("/api/v1/namespaces/{NAMESPACE}"), Some(&label)).await.0, 200);
    plane.helm(&with(&["install", "agents"]), Some(&agents)).await.unwrap();
    let set = plane.get("apps/v1", "daemonsets", "agents-muster-agent").await.unwrap();
    assert_eq!(set["status"]["numberReady"], 3);
}
