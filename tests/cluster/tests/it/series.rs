//! The number of series does not depend on the number of agents.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use agent::join;
use live::{AgentProcess, Fleet, eventually};
use nkeys::KeyPair;
use prost::Message as _;
use runtime::nats::Nats;
use runtime::telemetry::{CATALOGUE, Kind};
use runtime::tls::BrokerTls;
use serde_json::json;
use wire::access::Account;
use wire::agent::v1::Heartbeat;
use wire::join::JoinToken;

use super::collector::{Collector, app, environment, telling_fleet};
use super::scrape::{Series, scraped};

/// Agents that join, at first and in the end: each join is signed, and written to the disk several times.
const FEW: usize = 10;
const MANY: usize = 1_000;
/// Connections over which they join, one after the other on each.
const JOINERS: usize = 16;
/// Names under which somebody beats who is no agent of this fleet.
const STRANGERS: usize = 10_000;
/// Series that all of this may make: what the SDK keeps of one metric.
const MOST: usize = 2_000;
/// How a publish ends is a matter of chance: two that write at once meet, or do not.
const CHANCE: &str = "messaging_client_operation_duration";

const GROUPS: &str = "\
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: push}
spec: {path: /push, settings: {mode: push, heartbeatInterval: 1s}, policies: [app]}
";

/// Lets agents join; their ids.
async fn join_all(token: &str, count: usize) -> Vec<String> {
    let token = JoinToken::decode(token).expect("a token");
    let shares = (0..JOINERS).map(|at| count * (at + 1) / JOINERS - count * at / JOINERS);
    futures::future::join_all(shares.map(|share| join_some(&token, share))).await.concat()
}

async fn join_some(token: &JoinToken, count: usize) -> Vec<String> {
    let connection = join::connection(token, &BrokerTls::default(), &KeyPair::new_user());
    let nats = Nats::connect(&connection).await.expect("the broker is there");
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let joined = join::request(&nats, token, &KeyPair::new_user(), &join::About::default()).await;
        ids.push(joined.expect("the token is good").enrolment.agent.to_string());
    }
    nats.close().await;
    ids
}

/// Sends the first heartbeat of each.
async fn beat(fleet: &Fleet, ids: &[String]) {
    let nats = fleet.admin(Account::Agents).await;
    for (session, id) in (1..).zip(ids) {
        let beat = Heartbeat { session, sequence: 1, ..Heartbeat::default() };
        let (to, reply) = (format!("svc.heartbeat.{id}"), format!("_INBOX_agent.{id}.1"));
        nats.publish_with_reply(to, reply, beat.encode_to_vec().into()).await.expect("published");
    }
    nats.flush().await.expect("flushed");
}

/// Waits until `musterd` has told of so many agents and of so many heartbeats of strangers, and of everything that it may
/// tell of; its series.
async fn series(metrics: SocketAddr, (agents, strangers): (usize, usize)) -> BTreeSet<String> {
    let name = |metric: &runtime::telemetry::Metric| match metric.kind {
        Kind::Histogram(_) => metric.prometheus() + "_count",
        Kind::Counter | Kind::Gauge => metric.prometheus(),
    };
    let own: Vec<String> = CATALOGUE.iter().filter(|row| row.is_told_by("musterd")).map(name).collect();
    eventually(format!("{agents} agents and {strangers} strangers are counted"), async || {
        let mut told = scraped(&[metrics]).await?;
        told.retain(|series| series.labels.contains("service_name=\"musterd\""));
        let sum = |name: &str, label: &str| -> f64 {
            let of = told.iter().filter(|series| series.name == name && series.labels.contains(label));
            of.map(|series| series.value).sum()
        };
        let counted = [sum("muster_agents", ""), sum("muster_heartbeats_total", "outcome=\"unknown\"")];
        let missing: Vec<&String> =
            own.iter().filter(|name| !told.iter().any(|series| series.name == **name)).collect();
        #[expect(clippy::cast_precision_loss, reason = "counts here are small")]
        let enough = counted == [agents as f64, strangers as f64];
        if !enough || !missing.is_empty() {
            return Err(format!("{counted:?}, and nothing of {missing:?}"));
        }
        Ok(told.iter().map(|Series { name, labels, .. }| format!("{name}{labels}")).collect())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_agents_have_the_series_of_few() {
    if !cluster::have(&["otelcol"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (collector, metrics) = Collector::of_the_example(dir.path()).await;
    let fleet = telling_fleet(&collector.endpoint()).await;
    fleet.cli("policy").apply(&app(GROUPS, 0)).await;
    let token = fleet.token("/push", 1 + u32::try_from(MANY).unwrap()).await;
    let mut agent = AgentProcess::new(fleet.dir(), "real", &token);
    agent.start_with(&environment(&collector.endpoint()));
    agent.reaches("app", "/n", &json!(0)).await;
    let mut strangers: Vec<String> = (0..STRANGERS).map(|n| format!("stranger-{n}")).collect();
    let change = async |n: u64| {
        fleet.cli("policy").apply(&app(GROUPS, n)).await;
        agent.reaches("app", "/n", &json!(n)).await;
    };

    let ids = join_all(&token, FEW).await;
    beat(&fleet, &ids).await;
    let rest = strangers.split_off(FEW);
    beat(&fleet, &strangers).await;
    change(1).await;
    let few = series(metrics, (FEW + 1, FEW)).await;

    let ids = join_all(&token, MANY - FEW).await;
    beat(&fleet, &ids).await;
    beat(&fleet, &rest).await;
    change(2).await;
    let many = series(metrics, (MANY + 1, STRANGERS)).await;

    let certain = |all: &BTreeSet<String>| -> Vec<String> {
        all.iter().filter(|series| !series.starts_with(CHANCE)).cloned().collect()
    };
    assert_eq!(certain(&many), certain(&few));
    assert!(many.len() <= MOST, "{} series", many.len());
    let named =
        |series: &&String| ["stranger", "real"].iter().chain([&&ids[0][..]]).any(|id| series.contains(id));
    assert_eq!(many.iter().find(named), None, "an id is no label");
}
