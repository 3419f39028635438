//! The allowance for full downloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use domain::Mode;
use tokio::time::{Instant, sleep, timeout_at};
use wire::agent::v1::{DownloadWish, HeartbeatReply};

use crate::fleet::{Agent, Fleet, PATIENCE, config};

/// Longest that a waiting agent at the head of the queue is told to stay away.
const SOON: u64 = 5_000;

async fn enrolled(fleet: &Fleet, name: &str) -> Agent {
    fleet.enrol(name, "slow", 1).await;
    fleet.agent(name).await
}

async fn ask(agent: &mut Agent, wish: DownloadWish) -> HeartbeatReply {
    agent.wish = wish;
    agent.beat(None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_downloads_wait_for_their_turn_and_a_restart_lets_them_go_on() {
    let fleet = Fleet::start().await;
    fleet.head("slow", "/slow", (Mode::Pull, 3_600_000), 0).await;
    let one = presence::Config { max_full_downloads: 1, ..config() };
    let replica = fleet.replica_of(one.clone()).await;
    let (mut a, mut b, mut c) =
        (enrolled(&fleet, "a").await, enrolled(&fleet, "b").await, enrolled(&fleet, "c").await);
    let calm = ask(&mut a, DownloadWish::Unspecified).await;
    assert!(calm.download_granted_ms == 0 && calm.next_heartbeat_ms >= 1_800_000, "{calm:?}");
    let granted = ask(&mut a, DownloadWish::Wanted).await;
    assert_eq!((granted.download_granted_ms, granted.next_heartbeat_ms), (60_000, 30_000));
    for agent in [&mut b, &mut c] {
        let refused = ask(agent, DownloadWish::Wanted).await;
        assert!(refused.download_granted_ms == 0 && refused.next_heartbeat_ms <= SOON, "{refused:?}");
    }
    ask(&mut a, DownloadWish::Done).await;
    assert_eq!(ask(&mut c, DownloadWish::Wanted).await.download_granted_ms, 0, "b was there before");
    assert_eq!(ask(&mut b, DownloadWish::Wanted).await.download_granted_ms, 60_000);
    replica.stop().await;

    // The next process does not know who holds what: it lets go on and grants nothing new.
    let replica = fleet.replica_of(one).await;
    assert_eq!(ask(&mut c, DownloadWish::Wanted).await.download_granted_ms, 0);
    assert_eq!(ask(&mut b, DownloadWish::Held).await.download_granted_ms, 60_000);
    assert_eq!(ask(&mut c, DownloadWish::Held).await.download_granted_ms, 0, "there is only one");
    replica.stop().await;

    let replica = fleet.replica_of(presence::Config { max_full_downloads: 0, ..config() }).await;
    for agent in [&mut a, &mut b, &mut c] {
        assert_eq!(ask(agent, DownloadWish::Wanted).await.download_granted_ms, 60_000, "no limit");
    }
    replica.stop().await;
}

/// Downloads that run, and that are over.
#[derive(Default)]
struct Running {
    now: AtomicU32,
    most: AtomicU32,
    done: AtomicUsize,
}

impl Running {
    /// Downloads for as long as a grant lasts, at most `work`. Returns what of the work is left.
    async fn under_a_slot(&self, agent: &mut Agent, granted_ms: u64, work: Duration) -> Duration {
        let most = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(most, Ordering::SeqCst);
        let end = Instant::now() + work;
        let mut until = Instant::now() + Duration::from_millis(granted_ms);
        agent.wish = DownloadWish::Held;
        while Instant::now() < end.min(until) {
            let renewal = until - Duration::from_millis(granted_ms / 2);
            tokio::time::sleep_until(renewal.min(end)).await;
            if Instant::now() < end {
                let reply = timeout_at(until, agent.try_beat(None)).await.ok().flatten();
                let granted = reply.map_or(0, |reply| reply.download_granted_ms);
                until = until.max(Instant::now() + Duration::from_millis(granted));
            }
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        end.saturating_duration_since(Instant::now())
    }

    /// Waits for its turn, downloads, says that it is done.
    async fn download(self: Arc<Self>, mut agent: Agent, mut work: Duration) {
        while !work.is_zero() {
            agent.wish = DownloadWish::Wanted;
            // A request that was on its way to a replica that was killed is not answered.
            let Some(reply) = agent.try_beat(None).await else { continue };
            if reply.download_granted_ms > 0 {
                work = self.under_a_slot(&mut agent, reply.download_granted_ms, work).await;
            } else {
                sleep(Duration::from_millis(reply.next_heartbeat_ms)).await;
            }
        }
        agent.wish = DownloadWish::Done;
        while agent.try_beat(None).await.is_none() {}
        self.done.fetch_add(1, Ordering::SeqCst);
    }

    async fn until_done(&self, wanted: usize) {
        let wait = async {
            while self.done.load(Ordering::SeqCst) < wanted {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let done = tokio::time::timeout(3 * PATIENCE, wait).await;
        assert!(done.is_ok(), "{} instead of {wanted} are done", self.done.load(Ordering::SeqCst));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_allowance_holds_with_two_replicas_and_with_one_killed() {
    const AGENTS: usize = 48;
    const CAP: u32 = 6;
    let fleet = Fleet::start().await;
    fleet.head("slow", "/slow", (Mode::Pull, 3_600_000), 0).await;
    let grant = Duration::from_secs(2);
    let options = presence::Config { max_full_downloads: CAP, download_grant: grant, ..config() };
    let mut staying = fleet.replica_of(options.clone()).await;
    let running = Arc::new(Running::default());
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        let agent = enrolled(&fleet, &format!("agent-{n:02}")).await;
        staying.sees_state(agent.id.as_str(), wire::api::v1::PresenceState::NeverSeen).await;
        agents.push(agent);
    }
    let mortal = fleet.mortal_replica(options).await;
    let downloads: Vec<_> = agents
        .into_iter()
        .map(|agent| tokio::spawn(Arc::clone(&running).download(agent, Duration::from_millis(2_500))))
        .collect();
    // By then the second replica grants its share.
    running.until_done(AGENTS / 2).await;
    drop(mortal);
    running.until_done(AGENTS).await;
    for download in downloads {
        download.await.unwrap();
    }
    assert_eq!(running.most.load(Ordering::SeqCst), CAP, "all slots were used and no more");
    staying.stop().await;
}
