//! EnrollmentTokens between a real API server and a real fleet: by time, and when their Secrets cannot be written.

use cluster::{NAMESPACE, have};
use live::eventually;
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::rig::{Rig, condition_of, join_token};

/// Ids of the tokens that agents could join with.
async fn tokens(rig: &Rig) -> Vec<String> {
    let listed = rig.cli().json("token list").await;
    let all = listed["tokens"].as_array().cloned().unwrap_or_default();
    all.iter().map(|token| token["name"].as_str().unwrap().to_owned()).collect()
}

/// Which token the Secret says that it holds.
async fn held(rig: &Rig) -> Option<String> {
    let secret = rig.plane.get("v1", "secrets", "web-join-token").await?;
    secret["metadata"]["annotations"]["muster.dev/token"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_gets_another_token_in_time() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let rig = Rig::start().await;
    rig.apply("Group", "web", json!({ "path": "/web" })).await;
    rig.apply("EnrollmentToken", "web", json!({ "group": "/web", "ttl": "3s", "uses": 1 })).await;
    let mut before = join_token(&rig.plane, "web", || rig.logs()).await;
    for round in 0..2 {
        let (first, id) = (before.clone(), held(&rig).await.unwrap());
        before = eventually(format!("another token, round {round}"), async || {
            match join_token(&rig.plane, "web", || rig.logs()).await {
                next if next != first => Ok(next),
                _ => Err(rig.logs()),
            }
        })
        .await;
        assert_ne!(held(&rig).await.as_ref(), Some(&id));
    }
    let told = rig.reaches("EnrollmentToken", "web", ("Ready", "True")).await;
    assert!(told["status"]["token"].as_str().is_some_and(|id| id.starts_with("web-")), "{told:#}");
}

/// What an admission policy or a quota does to Secrets: what was made for one is of no use to anybody.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_left_that_no_secret_holds() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let rig = Rig::start().await;
    let account = rig.installed.account.clone();
    let role = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/{account}");
    let whole = rig.installed.objects.get("Role", &account)["rules"].clone();
    let mut less = whole.clone();
    let of_secrets =
        less.as_array_mut().unwrap().iter_mut().find(|rule| rule["resources"] == json!(["secrets"]));
    of_secrets.unwrap()["verbs"] = json!(["get"]);
    let set = async |rules: &Value| {
        let (status, answer) = rig.plane.call("PATCH", &role, Some(&json!({ "rules": rules }))).await;
        assert_eq!(status, 200, "{answer}");
    };
    set(&less).await;
    rig.apply("Group", "web", json!({ "path": "/web" })).await;
    rig.apply("EnrollmentToken", "web", json!({ "group": "/web", "uses": 2 })).await;
    let refused = |verb: &str| {
        let asked = rig.plane.asked_by(&account);
        let of_it = |right: &cluster::Right| right.resource == "secrets" && right.verb == verb;
        asked.iter().filter(|one| one.code == 403 && of_it(&one.right)).count()
    };
    let trouble = rig.reaches("EnrollmentToken", "web", ("Degraded", "True")).await;
    let why = condition_of(&trouble, "Ready")["message"].as_str().unwrap();
    assert!(why.contains("its Secret cannot be had") && why.contains("forbidden"), "{why}");
    eventually("it was tried again, and nothing is left of it", async || {
        let (times, left) = (refused("create"), tokens(&rig).await);
        if times > 2 && left.is_empty() { Ok(()) } else { Err(format!("{times} {left:?} {}", rig.logs())) }
    })
    .await;
    set(&whole).await;
    rig.reaches("EnrollmentToken", "web", ("Ready", "True")).await;
    let first = join_token(&rig.plane, "web", || rig.logs()).await;
    assert_eq!(tokens(&rig).await, [held(&rig).await.unwrap()]);

    // One that is there keeps what it holds, which is good until its end, while another cannot be written.
    set(&less).await;
    rig.apply("EnrollmentToken", "web", json!({ "group": "/web", "uses": 3 })).await;
    rig.reaches("EnrollmentToken", "web", ("Degraded", "True")).await;
    eventually("only the one in the Secret is left", async || {
        let (times, left, held) = (refused("patch"), tokens(&rig).await, held(&rig).await.unwrap());
        if times > 2 && left == [held] { Ok(()) } else { Err(format!("{times} {left:?} {}", rig.logs())) }
    })
    .await;
    assert_eq!(join_token(&rig.plane, "web", || rig.logs()).await, first);
    set(&whole).await;
    rig.reaches("EnrollmentToken", "web", ("Ready", "True")).await;
    assert_ne!(join_token(&rig.plane, "web", || rig.logs()).await, first);
    assert_eq!(tokens(&rig).await, [held(&rig).await.unwrap()]);
}
