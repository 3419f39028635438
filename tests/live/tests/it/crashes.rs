//! SIGKILL anywhere: the old state or the new one, and nothing is lost.

use live::Fleet;
use serde_json::json;

use crate::seed;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_step_comes_back_whole() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let token = fleet.token("/push", 1).await;
    // Fails on odd numbers, so that the way back to the last known good is walked as well.
    let config = "[handlers.app]\ncommand = [\"sh\", \"-c\", \"! grep -q '\\\"n\\\":[0-9]*[13579][,}]' \\\"$MUSTER_FILE\\\"\"]\n";
    let mut agent = live::AgentProcess::new(fleet.dir(), "push-1", &token).with_config(config);
    agent.start();
    agent.reaches("app", "/n", &json!(0)).await;
    let mut n = 0;
    for point in agent::CRASH_POINTS.iter().filter(|point| !["refreshed", "repaired"].contains(point)) {
        agent.kill().await;
        agent.start_with(&[("MUSTER_CRASH_AT", point)]);
        // One that fails and one that is good: between them they pass every step.
        let _ = policy.apply(&seed::app_push(n + 1)).await;
        live::eventually("it fails on an odd number, or dies on the way", async || {
            let shown = fleet.cli("presence").json("agent show push-1").await;
            let tried = shown["progress"] == "FAILED" || agent.process().ended().is_some();
            if tried { Ok(()) } else { Err(shown.to_string()) }
        })
        .await;
        let _ = policy.apply(&seed::app_push(n + 2)).await;
        n += 2;
        let status = agent.process().wait().await;
        assert!(!status.success(), "{point} is passed");
        let found = agent.applied("app").expect("something whole is in force");
        assert!(found["n"].as_u64().is_some_and(|found| found <= n), "{point}: {found}");
        agent.start();
        agent.reaches("app", "/n", &json!(n)).await;
        fleet.shows("push-1", "at the head", |s| s["progress"] == "CURRENT").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_killed_between_commit_and_publish_publishes_at_its_next_start() {
    let mut fleet = Fleet::with_replicas(1).await;
    seed::groups(&fleet.cli("policy")).await;
    let agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let at = fleet.replicas("policy")[0];
    fleet.services[at].process.kill().await;
    let crashing = fleet.add("policy", 9, &[("MUSTER_CRASH_AT", "publish-head")]);
    fleet.wait_ready(crashing).await;
    let failed = fleet.cli_of(crashing).run_with(&["apply", "-f", "-"], &seed::app_push(1)).await;
    assert_ne!(failed.code, 0, "the server died before it could answer");
    let _ = fleet.services[crashing].process.wait().await;
    assert_eq!(agent.applied("app"), Some(json!({"n": 0, "fixed": "here"})));
    fleet.restart(at).await;
    agent.reaches("app", "/n", &json!(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_killed_and_restarted_loses_nothing() {
    let mut fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let push = fleet.agent("push-1", "/push").await;
    let pull = fleet.agent("pull-1", "/pull").await;
    let _ = policy.apply(&seed::app_push(1)).await;
    push.reaches("app", "/n", &json!(1)).await;
    fleet.nats.kill().await.expect("it can be killed");
    fleet.nats.start_again().await.expect("it starts again");
    live::eventually("policy takes changes again", async || {
        let output = policy.run_with(&["apply", "-f", "-"], &seed::app_push(2)).await;
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    let _ = policy.apply(&seed::policy("app-pull", "{n: 2}")).await;
    push.reaches("app", "/n", &json!(2)).await;
    pull.reaches("app", "/n", &json!(2)).await;
    fleet.shows("push-1", "online", |s| s["state"] == "ONLINE" && s["progress"] == "CURRENT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_desired_stream_is_rebuilt_and_agents_do_not_go_back() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let agent = fleet.agent("push-1", "/push").await;
    let _ = policy.apply(&seed::app_push(1)).await;
    agent.reaches("app", "/n", &json!(1)).await;
    let nats = fleet.admin(wire::access::Account::Fleet).await;
    let jetstream = async_nats::jetstream::new(nats);
    let _ = jetstream.delete_stream(subject_stream()).await.expect("an administrator may");
    live::eventually("policy takes changes again", async || {
        let output = policy.run_with(&["apply", "-f", "-"], &seed::app_push(2)).await;
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    agent.reaches("app", "/n", &json!(2)).await;
    let newcomer = fleet.agent("pull-1", "/pull").await;
    newcomer.reaches("app", "/n", &json!(0)).await;
}

fn subject_stream() -> &'static str {
    wire::subject::STREAM_DESIRED
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_killed_and_restarted_calls_nobody_offline() {
    let mut fleet = Fleet::with_replicas(1).await;
    seed::groups(&fleet.cli("policy")).await;
    let _push = fleet.agent("push-1", "/push").await;
    let _pull = fleet.agent("pull-1", "/pull").await;
    for agent in ["push-1", "pull-1"] {
        fleet.shows(agent, "online", |s| s["state"] == "ONLINE" && s["progress"] == "CURRENT").await;
    }
    let at = fleet.replicas("presence")[0];
    fleet.services[at].process.kill().await;
    fleet.restart(at).await;
    let listed = fleet.cli("presence").json("agent list --state offline").await;
    assert!(listed["agents"].as_array().is_none_or(Vec::is_empty), "{listed}");
    for agent in ["push-1", "pull-1"] {
        fleet.shows(agent, "online", |s| s["state"] == "ONLINE" && s["progress"] == "CURRENT").await;
    }
}
