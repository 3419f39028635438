//! Two replicas of each service.

use live::Fleet;
use serde_json::json;

use crate::seed;

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_never_lose_a_change_and_heads_never_go_back() {
    let fleet = Fleet::with_replicas(2).await;
    let [one, two] = fleet.replicas("policy")[..] else { panic!("two replicas") };
    let (one, two) = (fleet.cli_of(one), fleet.cli_of(two));
    seed::groups(&one).await;
    let agent = fleet.agent("push-1", "/push").await;
    let (a, b) = tokio::join!(write(&one, "a", 10), write(&two, "b", 10));
    assert_eq!((a, b), (10, 10));
    for cli in [&one, &two] {
        live::eventually("both replicas list all", async || {
            let listed = cli.json("policy list").await;
            let names = listed["policies"].as_array().map_or(0, Vec::len);
            if names == 3 + 20 { Ok(()) } else { Err(format!("{names} policies")) }
        })
        .await;
    }
    for n in 1..=10 {
        let cli = if n % 2 == 0 { &one } else { &two };
        let _ = cli.apply(&seed::app_push(n)).await;
    }
    agent.reaches("app", "/n", &json!(10)).await;
    for at in fleet.replicas("presence") {
        live::eventually("both presence replicas see it", async || {
            let shown = fleet.cli_of(at).json("agent show push-1").await;
            if shown["progress"] == "CURRENT" && shown["state"] == "ONLINE" {
                Ok(())
            } else {
                Err(shown.to_string())
            }
        })
        .await;
    }
}

/// Writes so many policies one after the other; how many were accepted.
async fn write(cli: &live::Cli, prefix: &str, count: usize) -> usize {
    let mut accepted = 0;
    for n in 0..count {
        let manifest = seed::policy(&format!("{prefix}-{n}"), "{n: 1}");
        let output = cli.run_with(&["apply", "-f", "-"], &manifest).await;
        assert_eq!(output.code, 0, "{}", output.stderr);
        accepted += 1;
    }
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_stopped_gracefully_fails_no_heartbeat_while_another_runs() {
    let mut fleet = Fleet::with_replicas(2).await;
    seed::groups(&fleet.cli("policy")).await;
    let agent = fleet.agent("pull-1", "/pull").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let url = fleet.nats.url();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(heartbeats(fleet.master(wire::access::Account::Agents), url, stopped));
    let [first, second] = fleet.replicas("presence")[..] else { panic!("two replicas") };
    let status = fleet.services[first].process.stop().await;
    assert!(status.success(), "{}", fleet.services[first].process.log());
    fleet.restart(first).await;
    let status = fleet.services[second].process.stop().await;
    assert!(status.success(), "{}", fleet.services[second].process.log());
    stop.send(true).expect("the load listens");
    let (answered, failed) = load.await.expect("the load ends by itself");
    assert_eq!(failed, 0, "of {answered} heartbeats");
    assert!(answered > 100, "{answered} heartbeats are a load");
}

/// Sends one heartbeat after the other until told to stop; how many were answered, and how many not.
async fn heartbeats(
    options: async_nats::ConnectOptions,
    url: String,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> (u64, u64) {
    let inbox = "_INBOX_agent.pull-1";
    let nats = options.custom_inbox_prefix(inbox).connect(url).await.expect("the broker is there");
    let (mut answered, mut failed) = (0, 0);
    while !*stopped.borrow_and_update() {
        let request = async_nats::Request::new()
            .inbox(format!("{inbox}.{}", answered + failed))
            .timeout(Some(std::time::Duration::from_secs(10)));
        match nats.send_request("svc.heartbeat.pull-1", request).await {
            Ok(_) => answered += 1,
            Err(_) => failed += 1,
        }
    }
    (answered, failed)
}
