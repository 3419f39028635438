//! Full downloads take turns, and policies go before them.

use std::time::{Duration, Instant};

use live::{Faults, Fleet, Lane, Tree};
use serde_json::json;
use wire::api::v1::GetContentStatusRequest;
use wire::api::v1::presence_service_client::PresenceServiceClient;

use super::{CHANNEL, CONTENT, Edge, groups, number, prepared, promote, push, settled, whole_bytes};

#[tokio::test(flavor = "multi_thread")]
async fn full_downloads_take_turns_and_all_come_to_their_end() {
    let fleet = Fleet::start_with(&["--max-full-downloads", "1"]).await;
    let tree = Tree::dense(1, 3 << 19);
    let _ = push(&fleet, CHANNEL, &tree).await;
    let _ = promote(&fleet, CHANNEL, 1, "stable").await;
    groups(&fleet).await;
    let full = whole_bytes(&prepared(&fleet, CHANNEL, 1, &[]).await);
    let mut edges = Vec::new();
    for n in 0..4 {
        let edge = Edge::new(&fleet, &format!("edge-{n}"), "/edge").await;
        // About a second for each.
        edge.proxy.set(CONTENT, Faults::down(Lane { bytes_per_second: Some(2 << 20), ..Lane::default() }));
        edges.push(edge);
    }
    edges.iter_mut().for_each(|edge| edge.agent.start());

    let mut spans: Vec<Option<(Instant, Instant)>> = vec![None; edges.len()];
    live::eventually("all of them have all of it", async || {
        let status = fleet.cli("presence").json(&format!("content status {CHANNEL}")).await;
        assert!(number(&status["downloading"]) <= 1, "{status}");
        let mut done = 0;
        for (edge, span) in edges.iter().zip(&mut spans) {
            let fetched = edge.fetched().all();
            if fetched > 0 && fetched < full {
                let now = Instant::now();
                span.get_or_insert((now, now)).1 = now;
            }
            done += usize::from(fetched == full);
        }
        if done == edges.len() { Ok(()) } else { Err(format!("{done} are done: {status}")) }
    })
    .await;
    for edge in &edges {
        edge.agent.holds(CHANNEL, &tree).await;
        let _ = settled(&fleet, &edge.agent.id, CHANNEL, 1).await;
    }
    let mut spans: Vec<(Instant, Instant)> = spans.into_iter().flatten().collect();
    assert!(spans.len() > 1, "downloads that take a second are seen while they run");
    spans.sort();
    for two in spans.windows(2) {
        assert!(two[0].1 <= two[1].0, "two full downloads at once: {spans:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_does_not_wait_for_content() {
    let tree = Tree::dense(1, 2 << 20);
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    crate::seed::groups(&policy).await;
    super::seed(&fleet, &tree).await;
    let group = "apiVersion: muster.dev/v1alpha1\nkind: Group\nmetadata: {name: push}\nspec: {path: /push, settings: {mode: push, heartbeatInterval: 1s, offlineAfter: 5s, contentSpread: 0s}, policies: [app-push], content: [{channel: rules/ips, stage: stable}]}\n";
    let _ = policy.apply(group).await;
    let mut edge = Edge::new(&fleet, "edge-1", "/push").await;
    edge.proxy.set(CONTENT, Faults::down(Lane { hold_after: Some(600_000), ..Lane::default() }));
    edge.agent.start();
    live::until("the download is under way", || {
        let down = edge.proxy.bytes_down(CONTENT);
        if down >= 600_000 { Ok(()) } else { Err(format!("{down} bytes")) }
    })
    .await;
    let _ = policy.apply(&crate::seed::app_push(1)).await;
    edge.agent.reaches("app", "/n", &json!(1)).await;
    let shown = fleet.shows("edge-1", "at the head", |shown| shown["progress"] == "CURRENT").await;
    let content = super::channel_of(&shown, CHANNEL);
    assert_eq!((number(&content["active"]), number(&content["wanted"])), (0, 1), "{shown}");
    assert_eq!(edge.agent.content(CHANNEL), None);
    edge.proxy.calm();
    edge.agent.holds(CHANNEL, &tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_keeps_to_its_rate() {
    let tree = Tree::dense(1, 1 << 20);
    let fleet = super::seeded(&tree).await;
    let _ = fleet.cli("policy").run("settings set --group /edge --content-rate-limit 512KiB").await.ok();
    let mut edge = Edge::new(&fleet, "edge-1", "/edge").await;
    edge.agent.start();
    live::until("the first piece is there", || match edge.fetched().all() {
        0 => Err("nothing".to_owned()),
        _ => Ok(()),
    })
    .await;
    let (start, first) = (Instant::now(), edge.fetched().all());
    edge.agent.holds(CHANNEL, &tree).await;
    let rest = edge.fetched().all() - first;
    let least =
        Duration::from_secs_f64(rest as f64 / f64::from(512 << 10)).saturating_sub(Duration::from_secs(1));
    assert!(start.elapsed() >= least, "{rest} bytes in {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_said_when_the_last_agent_will_have_its_content() {
    let (first, second) = (Tree::dense(1, 1 << 20), Tree::dense(2, 1 << 20));
    let fleet = super::seeded(&first).await;
    let mut edges = Vec::new();
    // As many as it takes until their pace says something, and one that is slow.
    for n in 0..6 {
        let group = if n == 0 { "/edge/canary" } else { "/edge" };
        edges.push(Edge::start(&fleet, &format!("edge-{n}"), group).await);
    }
    for edge in &edges {
        edge.agent.holds(CHANNEL, &first).await;
        let _ = settled(&fleet, &edge.agent.id, CHANNEL, 1).await;
    }
    let policy = fleet.cli("policy");
    let _ = policy.run("settings set --group /edge/canary --content-rate-limit 32KiB/s").await.ok();
    let _ = fleet.shows("edge-0", "at the head", |shown| shown["progress"] == "CURRENT").await;
    let presence = fleet.replicas("presence")[0];
    let line = live::admin_line(&fleet.services[presence], fleet.dir()).await.expect("presence listens");
    let mut presence = PresenceServiceClient::new(line);
    let _ = push(&fleet, CHANNEL, &second).await;
    // The slow one is on its way before the others begin.
    let _ = promote(&fleet, CHANNEL, 2, "canary").await;
    let downloads = |one: &serde_json::Value| number(&one["wanted"]) == 2 && one["state"] == "received";
    let _ = super::shows(&fleet, "edge-0", CHANNEL, "it downloads", downloads).await;
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    let request = GetContentStatusRequest { channel: CHANNEL.to_owned(), group: String::new() };
    let status = live::eventually("all but one are done", async || {
        let status = presence.get_content_status(request.clone()).await.expect("an answer").into_inner();
        let has_new = status.revisions.iter().any(|one| one.revision == 2 && one.active == 5);
        let done = has_new && (status.current, status.downloading) == (5, 1);
        if done { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    let [now, finish] = [status.time, status.expected_finish].map(|time| {
        let time = time.expect("both are told");
        Duration::new(
            time.seconds.try_into().expect("after 1970"),
            time.nanos.try_into().expect("not negative"),
        )
    });
    // Five took less than a minute: the sixth is not expected to take more.
    assert!(finish > now && finish < now + Duration::from_secs(60), "{status:?}");
    let said = fleet.cli("presence").run(&format!("content status {CHANNEL}")).await.ok();
    assert!(said.contains("expected to be done"), "{said}");

    let _ = policy.run("settings set --group /edge/canary --inherit content-rate-limit").await.ok();
    for edge in &edges {
        edge.agent.holds(CHANNEL, &second).await;
    }
    live::eventually("nobody is on the way", async || {
        let status = presence.get_content_status(request.clone()).await.expect("an answer").into_inner();
        let done = status.current == 6 && status.expected_finish.is_none();
        if done { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}
