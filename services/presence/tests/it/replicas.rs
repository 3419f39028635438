//! Several replicas: each knows all, any may leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use domain::Mode;
use wire::agent::v1::Mode as WireMode;
use wire::api::v1::{PresenceState, Progress};

use crate::fleet::{Agent, Fleet, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_knows_the_whole_fleet() {
    let fleet = Fleet::start().await;
    fleet.head("slow", "/slow", (Mode::Pull, 60_000), 5).await;
    let (mut one, mut two) = (fleet.replica().await, fleet.replica().await);
    let names: Vec<String> = (0..20).map(|n| format!("agent-{n}")).collect();
    for name in &names {
        fleet.enrol(name, "slow", 1).await;
        one.sees_state(name, PresenceState::NeverSeen).await;
        two.sees_state(name, PresenceState::NeverSeen).await;
        let mut agent = fleet.agent(name).await;
        agent.revision = 5;
        agent.beat(Some(status(WireMode::Pull, 5, None))).await;
    }
    for replica in [&mut one, &mut two] {
        for name in &names {
            let seen = replica.sees_state(name, PresenceState::Online).await;
            assert_eq!((seen.progress(), seen.items.len()), (Progress::Current, 1));
        }
    }
    // Both saw it at the same time, and one transition is stored.
    for name in &names {
        assert_eq!(fleet.events(name).await, [(1, 2)], "{name}");
    }
    let times: Vec<_> =
        [one.get("agent-3").await, two.get("agent-3").await].map(|seen| seen.unwrap().last_heartbeat).into();
    assert_eq!(times[0], times[1]);
    one.stop().await;
    two.stop().await;
}

/// Beats without a pause until told to stop; returns how many were answered and how many were not.
async fn beat_on(mut agent: Agent, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>, pause: Duration) -> u64 {
    let mut lost = 0;
    while !stop.load(Ordering::Relaxed) {
        match agent.try_beat(None).await {
            Some(_) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            None => lost += 1,
        }
        tokio::time::sleep(pause).await;
    }
    lost
}

async fn check_leaving(agents: usize, pause: Duration, rounds: usize) {
    let fleet = Fleet::start().await;
    fleet.head("slow", "/slow", (Mode::Pull, 60_000), 0).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut staying = fleet.replica().await;
    let mut beating = Vec::new();
    for n in 0..agents {
        let name = format!("agent-{n}");
        fleet.enrol(&name, "slow", 1).await;
        staying.sees_state(&name, PresenceState::NeverSeen).await;
        let agent = fleet.agent(&name).await;
        beating.push(tokio::spawn(beat_on(agent, Arc::clone(&stop), Arc::clone(&answered), pause)));
    }
    for _ in 0..rounds {
        // Rolling: a new one comes, the old one goes, under load.
        let coming = fleet.replica().await;
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + agents as u64 {
            tokio::task::yield_now().await;
        }
        std::mem::replace(&mut staying, coming).stop().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut lost = 0;
    for agent in beating {
        lost += agent.await.unwrap();
    }
    let answered = answered.load(Ordering::Relaxed);
    assert_eq!(lost, 0, "of {answered} answered");
    assert!(answered > agents as u64 * rounds as u64);
    staying.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_heartbeat_is_lost_when_a_replica_leaves_under_load() {
    check_leaving(200, Duration::ZERO, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_heartbeat_is_lost_when_a_replica_leaves_a_quiet_fleet() {
    check_leaving(4, Duration::from_millis(40), 1).await;
}
