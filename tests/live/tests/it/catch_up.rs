//! Agents that were away get the newest state, once.

use live::Fleet;
use serde_json::json;

use crate::seed;

/// How many snapshots a log says were applied.
fn applied(log: &str) -> usize {
    log.lines().filter(|line| line.contains("\"applied and healthy\"")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_missed_changes_are_caught_up_with_one_fetch() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let mut agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    fleet.shows("push-1", "at the head", |s| s["progress"] == "CURRENT").await;
    agent.kill().await;
    for n in 1..=50 {
        let _ = policy.apply(&seed::app_push(n)).await;
    }
    let mark = agent.process().log().len();
    agent.start();
    agent.reaches("app", "/n", &json!(50)).await;
    fleet.shows("push-1", "at the head", |s| s["progress"] == "CURRENT").await;
    let log = agent.process().log();
    assert_eq!(applied(&log[mark..]), 1, "{}", &log[mark..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_is_late_then_offline_then_online_again() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let mut agent = fleet.agent("push-1", "/push").await;
    fleet.shows("push-1", "online", |s| s["state"] == "ONLINE").await;
    agent.kill().await;
    fleet.shows("push-1", "late or offline", |s| s["state"] == "LATE" || s["state"] == "OFFLINE").await;
    fleet.shows("push-1", "offline", |s| s["state"] == "OFFLINE").await;
    agent.start();
    fleet.shows("push-1", "online", |s| s["state"] == "ONLINE" && s["progress"] == "CURRENT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_came_is_never_seen() {
    let mut fleet = Fleet::with_replicas(1).await;
    seed::groups(&fleet.cli("policy")).await;
    // Joins while nobody hears heartbeats, and dies.
    let at = fleet.replicas("presence")[0];
    fleet.services[at].process.kill().await;
    let mut agent = fleet.agent("pull-1", "/pull").await;
    let identity = fleet.cli("identity");
    live::eventually("it has joined", async || {
        let tokens = identity.json("token list").await;
        if tokens["tokens"][0]["used"] == 1 { Ok(()) } else { Err(tokens.to_string()) }
    })
    .await;
    agent.kill().await;
    fleet.restart(at).await;
    fleet.shows("pull-1", "never seen", |s| s["state"] == "NEVER_SEEN").await;
}
