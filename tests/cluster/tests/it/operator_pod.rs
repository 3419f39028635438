//! The operator as a Pod: with the token that the bootstrap made for it, against the real API, between real agents.

use cluster::{Chart, NAMESPACE, granted, have, settle, sufficient};
use live::{AgentProcess, eventually};
use serde_json::{Value, json};

use super::bootstrap::{PROGRAMS, patch, secrets};
use super::release::{IDENTITY, Release, loopback, service};
use super::rig::{apply, condition_of, get, join_token, reaches};

const SECRET: &str = "muster-operator-token";
/// Rights that the Job did not need here, and why.
const NOT_BY_THE_JOB: [(&str, &str); 1] = [(
    "patch statefulsets muster-nats in fleet",
    "no certificate was made anew; a test of the bootstrap has that and uses all else",
)];

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_goes_from_kubernetes_to_agents_and_back_without_a_step_by_hand() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let chart = Chart::new().with(json!({ "operator": { "enabled": true } }));
    let mut release = Release::start(&chart).await;
    release.account("muster-operator").await;
    let pod = service(&release.host, ("operator", "operator"), loopback(), &release.ca).await;
    let plane = &release.plane;
    let logs = || pod.log();

    apply(plane, "PolicyKind", "firewall", json!({ "schema": { "type": "object" } })).await;
    apply(plane, "Policy", "base", json!({ "kind": "firewall", "document": { "round": 1 } })).await;
    let mut agents = Vec::new();
    for (mode, interval) in [("push", "10s"), ("pull", "1s")] {
        let path = format!("/{mode}");
        let settings = json!({ "mode": mode, "heartbeatInterval": interval });
        apply(plane, "Group", mode, json!({ "path": path, "policies": ["base"], "settings": settings }))
            .await;
        apply(plane, "EnrollmentToken", mode, json!({ "group": path, "uses": 1 })).await;
        let mut agent = AgentProcess::new(&release.dir, mode, &join_token(plane, mode, logs).await);
        agent.start();
        agents.push(agent);
    }
    for round in [1, 2] {
        apply(plane, "Policy", "base", json!({ "kind": "firewall", "document": { "round": round } })).await;
        for agent in &agents {
            agent.reaches("firewall", "/round", &json!(round)).await;
        }
        let counts = json!({ "total": 2, "atRevision": 2, "failed": 0 });
        let policy = eventually("the status counts both agents", async || {
            let policy = get(plane, "Policy", "base").await.unwrap_or_default();
            let observed = policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
            match observed && policy["status"]["agents"] == counts {
                true => Ok(policy),
                false => Err(format!("{policy:#} {}", pod.log())),
            }
        })
        .await;
        assert_eq!(condition_of(&policy, "Synced")["status"], "True", "{policy:#}");
        reaches(plane, ("Policy", "base"), ("Ready", "True"), logs).await;
    }
    let objects = chart.render().unwrap();
    // That it is not too much either is held against the chart where there is occasion for all of it: super::rights.
    let asked = plane.asked_by("muster-operator");
    let allowed = granted(&objects, "muster-operator");
    sufficient(&allowed, &asked, &[]);
    token_is_found_again(&mut release).await;
    let asked = release.plane.asked_by("muster-bootstrap");
    settle(&granted(&objects, "muster-bootstrap"), &asked, &NOT_BY_THE_JOB, &[]);
}

/// The Job leaves what it finds, never writes over another token, and does not revive one.
async fn token_is_found_again(release: &mut Release) {
    let first_token = release.first_token().await;
    let notes = format!("keeps the fleet as the custom resources in namespace {NAMESPACE} say");
    assert!(first_token.contains(&notes), "{first_token}");
    let cli = release.cli(IDENTITY);
    let listed = cli.json("api-token list").await;
    let of_it = |token: &&Value| token["name"] == "muster-operator";
    let token = listed["tokens"].as_array().unwrap().iter().find(of_it).cloned();
    let token = token.unwrap_or_else(|| panic!("{listed}"));
    assert_eq!(token["role"], "OPERATOR", "{token}");

    let first = secrets(&release.plane).await[SECRET].clone();
    assert_eq!(first.keys().collect::<Vec<_>>(), ["token"], "no draft is left");
    let (well, said) = release.bootstrap("again").await;
    assert!(well, "{said}");
    assert_eq!(secrets(&release.plane).await[SECRET], first);
    // It is lost, and another has its name.
    patch(&release.plane, SECRET, Value::Null).await;
    let (well, said) = release.bootstrap("taken").await;
    assert!(!well && said.contains("muster api-token revoke muster-operator`"), "{said}");
    assert!(!secrets(&release.plane).await[SECRET].contains_key("token"));
    drop(cli.run("api-token revoke muster-operator --yes").await.ok());
    let (well, said) = release.bootstrap("new").await;
    assert!(well, "{said}");
    let second = secrets(&release.plane).await[SECRET].clone();
    assert!(second.keys().eq(["token"]) && second != first);
    // What somebody revoked stays revoked.
    drop(cli.run("api-token revoke muster-operator --yes").await.ok());
    let (well, said) = release.bootstrap("revoked").await;
    assert!(well && said.contains("was revoked"), "{said}");
    assert_eq!(secrets(&release.plane).await[SECRET], second);
    let listed = cli.json("api-token list").await;
    assert!(!listed["tokens"].as_array().unwrap().iter().any(|token| of_it(&token)), "{listed}");
}
