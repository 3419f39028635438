//! Agents that change group, and agents that are deleted.

use live::Fleet;
use serde_json::json;

use crate::seed;

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_agent_follows_live_by_either_road() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let identity = fleet.cli("identity");
    let agent = fleet.agent("rover", "/push").await;
    agent.reaches("app", "/fixed", &json!("here")).await;

    let _ = identity.run("agent move rover --to /pull").await.ok();
    fleet
        .shows("rover", "in /pull", |s| {
            s["group"] == "/pull" && s["progress"] == "CURRENT" && s["mode"] == "PULL"
        })
        .await;
    assert_eq!(agent.applied("app"), Some(json!({"n": 0})));

    let _ = identity.run("agent move rover --to /push/child").await.ok();
    fleet
        .shows("rover", "in /push/child", |s| s["group"] == "/push/child" && s["progress"] == "CURRENT")
        .await;
    agent.reaches("app", "/extra", &json!("child")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_group_takes_its_agents_along() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let agent = fleet.agent("child-1", "/push/child").await;
    agent.reaches("app", "/fixed", &json!("here")).await;
    let _ = policy.run("group move /push/child --to /pull/child").await.ok();
    fleet
        .shows("child-1", "in /pull/child", |s| s["group"] == "/pull/child" && s["progress"] == "CURRENT")
        .await;
    assert_eq!(agent.applied("app"), Some(json!({"n": 0, "extra": "child"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_agent_is_gone_and_its_id_is_never_used_again() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let identity = fleet.cli("identity");
    let mut agent = fleet.agent("gone", "/push").await;
    fleet.shows("gone", "online", |s| s["state"] == "ONLINE").await;
    let _ = identity.run("agent delete gone --yes").await.ok();
    live::eventually("presence forgets it", async || {
        let output = fleet.cli("presence").run("agent show gone").await;
        if output.code == 4 { Ok(()) } else { Err(output.stdout) }
    })
    .await;
    assert!(agent.applied("app").is_some(), "a deleted agent keeps its last known good");
    let log = agent.process().log();
    assert!(!log.contains("refused"), "being deleted is no bad envelope: {log}");
    agent.kill().await;

    let token = fleet.token("/push", 1).await;
    let again_dir = fleet.dir().join("again");
    std::fs::create_dir(&again_dir).expect("a directory can be made");
    let mut again = live::AgentProcess::new(&again_dir, "gone", &token);
    again.start();
    let status = again.process().wait().await;
    assert!(!status.success());
    assert!(again.process().log().contains("gone"), "{}", again.process().log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_use_of_a_token_lets_one_of_many_in() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let token = fleet.token("/push", 1).await;
    let mut agents: Vec<_> =
        (0..8).map(|n| live::AgentProcess::new(fleet.dir(), &format!("race-{n}"), &token)).collect();
    agents.iter_mut().for_each(live::AgentProcess::start);
    live::until("all but one are refused", || {
        let ended = agents.iter_mut().filter_map(|agent| agent.process().ended()).count();
        if ended == agents.len() - 1 { Ok(()) } else { Err(format!("{ended} ended")) }
    })
    .await;
    let listed = fleet.cli("presence").json("agent list --group /push").await;
    assert_eq!(listed["agents"].as_array().map(Vec::len), Some(1), "{listed}");
    let tokens = fleet.cli("identity").json("token list").await;
    assert_eq!(tokens["tokens"][0]["used"], 1, "{tokens}");
}
