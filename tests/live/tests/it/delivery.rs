//! A policy reaches agents by both roads, and presence shows it.

use live::Fleet;
use serde_json::json;

use crate::seed;

#[tokio::test(flavor = "multi_thread")]
async fn push_and_pull_agents_reach_the_head_and_presence_shows_it() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let push = fleet.agent("push-1", "/push").await;
    let pull = fleet.agent("pull-1", "/pull").await;
    let child = fleet.agent("child-1", "/push/child").await;
    push.reaches("app", "/n", &json!(0)).await;
    pull.reaches("app", "/n", &json!(0)).await;
    child.reaches("app", "/extra", &json!("child")).await;
    assert_eq!(child.applied("app"), Some(json!({"n": 0, "fixed": "here", "extra": "child"})));

    let _ = policy.apply(&seed::app_push(1)).await;
    push.reaches("app", "/n", &json!(1)).await;
    child.reaches("app", "/n", &json!(1)).await;
    let _ = policy.apply(&seed::policy("app-pull", "{n: 7}")).await;
    pull.reaches("app", "/n", &json!(7)).await;

    for (agent, mode) in [("push-1", "PUSH"), ("pull-1", "PULL"), ("child-1", "PUSH")] {
        let shown = fleet
            .shows(agent, "online and at the head", |shown| {
                shown["state"] == "ONLINE" && shown["progress"] == "CURRENT" && shown["mode"] == mode
            })
            .await;
        assert_eq!(shown["items"][0]["kind"], "app");
        assert_eq!(shown["items"][0]["state"], "healthy");
        assert_eq!(shown["revision"], shown["headRevision"]);
    }
    let waited = fleet.cli("presence").run("wait --group / --timeout 30s").await;
    let _ = waited.ok();
    let status = fleet.cli("presence").json("status").await;
    assert_eq!(status["all"]["online"], "3");
    assert_eq!(status["all"]["current"], "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_switched_between_push_and_pull_live() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let agent = fleet.agent("switch-1", "/pull").await;
    fleet.shows("switch-1", "pull, at the head", |s| s["mode"] == "PULL" && s["progress"] == "CURRENT").await;

    let _ = policy.run("settings set --group /pull --mode push").await.ok();
    fleet.shows("switch-1", "push, at the head", |s| s["mode"] == "PUSH" && s["progress"] == "CURRENT").await;
    let _ = policy.apply(&seed::policy("app-pull", "{n: 3}")).await;
    agent.reaches("app", "/n", &json!(3)).await;

    let _ = policy.run("settings set --group /pull --mode pull").await.ok();
    fleet.shows("switch-1", "pull again", |s| s["mode"] == "PULL" && s["progress"] == "CURRENT").await;
    let _ = policy.apply(&seed::policy("app-pull", "{n: 4}")).await;
    agent.reaches("app", "/n", &json!(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_a_new_and_higher_generation() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let _ = policy.apply(&seed::app_push(1)).await;
    agent.reaches("app", "/n", &json!(1)).await;
    let before = policy.json("policy show app-push").await;

    let _ = policy.run("policy rollback app-push --to 1 -m broken").await.ok();
    agent.reaches("app", "/n", &json!(0)).await;
    let after = policy.json("policy show app-push").await;
    assert_eq!((&before["generation"], &after["generation"]), (&json!("2"), &json!("3")));
    let history = policy.json("policy history app-push").await;
    let newest = &history["generations"][0];
    assert_eq!((&newest["generation"], &newest["change"]["message"]), (&json!("3"), &json!("broken")));
    let diff = policy.json("policy diff app-push --from 2 --to 3").await;
    assert_eq!(diff["changes"][0]["pointer"], "/n");
    assert_eq!((&diff["changes"][0]["before"], &diff["changes"][0]["after"]), (&json!(1), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_handler_brings_back_the_last_known_good_and_is_reported() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let token = fleet.token("/push", 1).await;
    let config = "[handlers.app]\ncommand = [\"sh\", \"-c\", \"! grep -q '\\\"n\\\":13' \\\"$MUSTER_FILE\\\" || { echo unlucky number >&2; exit 1; }\"]\n";
    let mut agent = live::AgentProcess::new(fleet.dir(), "push-1", &token).with_config(config);
    agent.start();
    agent.reaches("app", "/n", &json!(0)).await;

    let _ = policy.apply(&seed::app_push(13)).await;
    let shown = fleet.shows("push-1", "failed", |s| s["progress"] == "FAILED").await;
    let item = &shown["items"][0];
    assert_eq!(item["state"], "failed");
    assert!(item["reason"].as_str().is_some_and(|reason| reason.contains("unlucky number")), "{item}");
    assert_eq!(
        agent.applied("app"),
        Some(json!({"n": 0, "fixed": "here"})),
        "the last known good is in force"
    );
    let waited = fleet.cli("presence").run("wait --group /push --timeout 30s").await;
    assert!(waited.refused(7).contains("push-1"));

    let _ = policy.apply(&seed::app_push(14)).await;
    agent.reaches("app", "/n", &json!(14)).await;
    fleet.shows("push-1", "current again", |s| s["progress"] == "CURRENT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_of_applied_files_is_repaired() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let agent = fleet.agent("pull-1", "/pull").await;
    agent.reaches("app", "/n", &json!(0)).await;
    fleet.shows("pull-1", "at the head", |s| s["progress"] == "CURRENT").await;
    let file = agent.state.join("current/policies/app.json");
    std::fs::write(&file, "{\"n\":999}").expect("root may write anywhere");
    agent.reaches("app", "/n", &json!(0)).await;
    fleet.shows("pull-1", "a repair", |s| s["repairs"] == "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_agents_come_heads_change_and_policies_applied() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let env = policy.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let watch = live::Process::start(fleet.dir(), "watch", "muster", &["watch", "-o", "json"], &env);
    let sees = |what: &'static str, holds: fn(&serde_json::Value) -> bool| {
        let watch = &watch;
        live::until(format!("the watcher sees {what}"), move || {
            let log = watch.log();
            let events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            if events.into_iter().any(|event| holds(&event)) { Ok(()) } else { Err(log.clone()) }
        })
    };
    let mut agent = fleet.agent("push-1", "/push").await;
    sees("the agent come", |e| e["transition"]["agent"] == "push-1" && e["transition"]["to"] == "ONLINE")
        .await;
    agent.reaches("app", "/n", &json!(0)).await;
    let _ = policy.apply(&seed::app_push(1)).await;
    sees("the new head", |e| e["head"]["group"] == "/push").await;
    sees("it applied", |e| e["applied"]["agent"] == "push-1" && e["applied"]["group"] == "/push").await;
    agent.kill().await;
    sees("the agent go", |e| e["transition"]["agent"] == "push-1" && e["transition"]["to"] == "OFFLINE")
        .await;
}
