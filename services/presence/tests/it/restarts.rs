//! What survives: a stop, a broker that stands still, silence.

use std::time::Duration;

use domain::Mode;
use wire::agent::v1::Mode as WireMode;
use wire::api::v1::{PresenceState, Progress};
use wire::subject::{STREAM_DESIRED, STREAM_EVENTS, STREAM_IDENTITY, STREAM_POLICY};

use crate::fleet::{Fleet, PATIENCE, status};

const NEVER_SEEN: u32 = 1;
const ONLINE: u32 = 2;
const LATE: u32 = 3;
const OFFLINE: u32 = 4;

/// Waits until the stored transitions of an agent are as wanted.
async fn stored(fleet: &Fleet, agent: &str, wanted: &[(u32, u32)]) {
    let mut last = Vec::new();
    let wait = async {
        while last != wanted {
            last = fleet.events(agent).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, wait).await;
    assert!(done.is_ok(), "stored {last:?} instead of {wanted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_noticed_and_stored() {
    let fleet = Fleet::start().await;
    fleet.enrol("a", "web", 1).await;
    let mut replica = fleet.replica().await;
    let mut agent = fleet.agent("a").await;
    agent.beat(None).await;
    replica.sees_state("a", PresenceState::Late).await;
    replica.sees_state("a", PresenceState::Offline).await;
    agent.beat(None).await;
    let all = [(NEVER_SEEN, ONLINE), (ONLINE, LATE), (LATE, OFFLINE), (OFFLINE, ONLINE)];
    stored(&fleet, "a", &all).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_for_a_heartbeat() {
    let fleet = Fleet::start().await;
    fleet.head("slow", "/slow", (Mode::Pull, 3_600_000), 5).await;
    fleet.enrol("a", "slow", 1).await;
    let replica = fleet.replica().await;
    let mut agent = fleet.agent("a").await;
    agent.revision = 5;
    agent.beat(Some(status(WireMode::Pull, 5, None))).await;
    stored(&fleet, "a", &[(NEVER_SEEN, ONLINE)]).await;
    let mut before = Vec::new();
    for stream in [STREAM_POLICY, STREAM_IDENTITY, STREAM_DESIRED] {
        before.push((stream, fleet.nats.stream_state(stream).await.unwrap()));
    }
    for _ in 0..500 {
        agent.beat(None).await;
    }
    for (stream, state) in before {
        assert_eq!(fleet.nats.stream_state(stream).await.unwrap(), state, "{stream}");
    }
    // Checkpoints go on by the clock, and only their last version is kept.
    assert_eq!(fleet.events("a").await, [(NEVER_SEEN, ONLINE)]);
    let events = fleet.nats.stream_state(STREAM_EVENTS).await.unwrap().unwrap();
    assert!(events.messages <= 3, "{events:?}");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_knows_states_and_calls_nobody_offline() {
    let fleet = Fleet::start().await;
    fleet.head("calm", "/calm", (Mode::Pull, 3_000), 5).await;
    fleet.enrol("a", "calm", 1).await;
    fleet.enrol("never", "calm", 1).await;
    let replica = fleet.replica().await;
    let mut agent = fleet.agent("a").await;
    agent.revision = 5;
    agent.beat(Some(status(WireMode::Pull, 5, Some("broken")))).await;
    replica.stop().await;

    // Longer than offline_after: nobody was there to hear.
    tokio::time::sleep(Duration::from_millis(7_600)).await;
    let mut replica = fleet.replica().await;
    let seen = replica.get("a").await.unwrap();
    assert_eq!((seen.state(), seen.progress()), (PresenceState::Online, Progress::Failed));
    assert_eq!((seen.agent_version.as_str(), seen.items[0].reason.as_str()), ("1.2.3", "broken"));
    assert_eq!(replica.get("never").await.unwrap().state(), PresenceState::NeverSeen);
    let reply = agent.beat(None).await;
    assert!(!reply.want_status, "its status was kept: {reply:?}");
    assert_eq!(fleet.events("a").await, [(NEVER_SEEN, ONLINE)]);
    replica.sees_state("a", PresenceState::Offline).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_makes_nobody_offline() {
    let fleet = Fleet::start().await;
    fleet.enrol("a", "web", 1).await;
    let mut replica = fleet.replica().await;
    let mut agent = fleet.agent("a").await;
    agent.beat(None).await;
    fleet.server.pause().unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(replica.get("a").await.unwrap().state(), PresenceState::Online, "it cannot be known");
    fleet.server.resume().unwrap();
    for _ in 0..4 {
        agent.beat(None).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(fleet.events("a").await, [(NEVER_SEEN, ONLINE)]);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_makes_nobody_offline() {
    let mut fleet = Fleet::start().await;
    fleet.enrol("a", "web", 1).await;
    let mut replica = fleet.replica().await;
    let mut agent = fleet.agent("a").await;
    agent.beat(None).await;
    let told = async { while fleet.events("a").await.is_empty() {} };
    tokio::time::timeout(PATIENCE, told).await.expect("that it is online is told");
    fleet.server.kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    fleet.server.start_again().await.unwrap();
    // An agent comes back in its own time; this one is quick, so that only presence is put to the test.
    let mut agent = fleet.agent("a").await;
    let again = async { while agent.try_beat(None).await.is_none() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("heartbeats are answered again");
    assert_eq!(fleet.events("a").await, [(NEVER_SEEN, ONLINE)]);
    replica.sees_state("a", PresenceState::Offline).await;
    replica.stop().await;
}
