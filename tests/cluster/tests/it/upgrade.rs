//! A rolling upgrade on the host, and what agents notice of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::join::{About, join};
use agent::{Agent, Enrolment, Event, MemoryStorage, NatsTransport, Parts, StateDir, Transport};
use bytes::Bytes;
use cluster::{Chart, Pod, have};
use domain::{AgentId, GroupId};
use live::{AgentProcess, eventually, until};
use runtime::{Shutdown, Tasks};
use serde_json::json;
use wire::join::JoinToken;

use super::bootstrap::PROGRAMS;
use super::pods::{manifests, round};
use super::release::{IDENTITY, POLICY, PRESENCE, Release, loopback, service};

/// Agents in each mode. Each beats every second.
const AGENTS: usize = 50;

/// Heartbeats of an agent that wanted an answer.
#[derive(Default)]
struct Count {
    /// When each was sent, by its number; taken out when the answer is there.
    open: BTreeMap<u64, Instant>,
    answered: u64,
    /// Those of which the broker said that nobody listens.
    unheard: u64,
    connections: u64,
}

/// A transport that counts.
struct Counted {
    inner: NatsTransport,
    count: Arc<Mutex<Count>>,
}

impl Transport for Counted {
    fn connect(&mut self) {
        self.inner.connect();
    }

    fn disconnect(&mut self) {
        self.inner.disconnect();
    }

    async fn reconnect(&mut self) {
        self.inner.reconnect().await;
    }

    async fn subscribe(&mut self, group: &GroupId) {
        self.inner.subscribe(group).await;
    }

    async fn unsubscribe(&mut self) {
        self.inner.unsubscribe().await;
    }

    async fn fetch(&mut self, group: &GroupId, fetch: u64) {
        self.inner.fetch(group, fetch).await;
    }

    async fn fetch_root(&mut self, version: u64) {
        self.inner.fetch_root(version).await;
    }

    async fn send_heartbeat(&mut self, beat: u64, payload: Bytes) {
        if beat != 0 {
            self.count.lock().unwrap().open.insert(beat, Instant::now());
        }
        self.inner.send_heartbeat(beat, payload).await;
    }

    async fn next(&mut self) -> Event {
        let event = self.inner.next().await;
        let mut count = self.count.lock().unwrap();
        match &event {
            Event::Beat(beat, Some(_)) => {
                count.answered += u64::from(count.open.remove(beat).is_some());
            }
            Event::Beat(_, None) => count.unheard += 1,
            Event::Up => count.connections += 1,
            Event::Down { .. }
            | Event::LameDuck
            | Event::Missed
            | Event::Group(_)
            | Event::Assignment(_)
            | Event::Fetched(..)
            | Event::Root(..) => {}
        }
        event
    }

    async fn close(&mut self) {
        self.inner.close().await;
    }
}

/// An agent that has joined; what it learnt of the broker lies in `dir`.
async fn enrolled(dir: &Path, token: &JoinToken, id: &str) -> Enrolment {
    let state = StateDir::lock(&dir.join(format!("counted-{id}"))).unwrap();
    let tls = state.keep_broker(&token.broker).unwrap();
    let about = About { id: Some(AgentId::new(id).unwrap()), ..About::default() };
    let joined = join((token, &tls), &state.key().unwrap(), &about, &Shutdown::new()).await.unwrap();
    Enrolment { tls: state.keep_broker(&joined.broker.trust).unwrap(), ..joined.enrolment }
}

/// Agents that run in this process.
struct Fleet {
    tasks: Tasks,
    counts: Vec<(String, Arc<Mutex<Count>>)>,
}

impl Fleet {
    async fn start(release: &Release) -> Self {
        let mut fleet = Self { tasks: Tasks::new(Shutdown::new()), counts: Vec::new() };
        for mode in ["push", "pull"] {
            let made =
                release.cli(IDENTITY).json(&format!("token create --group /{mode} --uses {AGENTS}")).await;
            let token = JoinToken::decode(made["token"].as_str().unwrap()).unwrap();
            let ids: Vec<String> = (0..AGENTS).map(|number| format!("{mode}-{number}")).collect();
            let joining = ids.iter().map(|id| enrolled(&release.dir, &token, id));
            let joined = futures::future::join_all(joining).await;
            for (id, enrolment) in ids.into_iter().zip(joined) {
                fleet.spawn(id, enrolment);
            }
        }
        fleet
    }

    fn spawn(&mut self, id: String, enrolment: Enrolment) {
        let (count, session) = (Arc::new(Mutex::new(Count::default())), runtime::ids::random_u64());
        let inner = NatsTransport::new(enrolment.servers.clone(), &enrolment.agent, session)
            .with_tls(enrolment.tls.clone())
            .with_access(enrolment.access.clone());
        let parts = Parts {
            transport: Counted { inner, count: Arc::clone(&count) },
            storage: Arc::new(MemoryStorage::default()),
            handler: Arc::new(()),
            loaded: Default::default(),
            timing: Default::default(),
            hostname: id.clone(),
            session,
            observer: None,
            content: None,
        };
        let (agent, stop) = (Agent::new(enrolment, parts), self.tasks.shutdown().clone());
        self.tasks.spawn("agent", async move {
            agent.run(stop).await;
            Ok::<(), std::convert::Infallible>(())
        });
        self.counts.push((id, count));
    }

    /// Connections that were made so far, by all agents.
    fn connections(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count.lock().unwrap().connections).sum()
    }

    /// Waits until each agent has had this many answers more.
    async fn beat(&self, more: u64) {
        let before: Vec<u64> = self.counts.iter().map(|(_, count)| count.lock().unwrap().answered).collect();
        until(format!("each agent has {more} answers more"), || {
            for ((id, count), before) in self.counts.iter().zip(&before) {
                let answered = count.lock().unwrap().answered - before;
                if answered < more {
                    return Err(format!("{id} has {answered}"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Every heartbeat that was sent was answered, and none of them met a broker without presence.
    fn nothing_was_lost(&self, since: &str) {
        // One may be on its way at any moment.
        let late = Duration::from_secs(5);
        for (id, count) in &self.counts {
            let count = count.lock().unwrap();
            let lost: Vec<_> = count.open.iter().filter(|(_, sent)| sent.elapsed() > late).collect();
            assert!(
                lost.is_empty() && count.unheard == 0,
                "{since}: {id} had no answer to {lost:?}, {} were heard by nobody; {} were answered over {} connections",
                count.unheard,
                count.answered,
                count.connections
            );
        }
    }
}

/// Ends a Pod as a kubelet does: first what its template says, then SIGTERM, and in time.
async fn end(release: &Release, pod: &mut Pod) {
    let words = pod.before_end();
    if !words.is_empty() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let done = pod.exec(&release.host, &words).await;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let (begun, grace) = (Instant::now(), pod.grace());
    pod.terminate();
    until("it ends", || pod.ended().map(drop).ok_or_else(|| pod.log())).await;
    assert!(begun.elapsed() < grace, "{} took {:?} of {grace:?}", pod.name, begun.elapsed());
    assert!(pod.ended().is_some_and(|status| status.success()), "{}: {}", pod.name, pod.log());
}

/// Replaces both Pods of a service, as a Deployment with `maxUnavailable: 0` does: a new one is ready before an old one
/// goes. Gives the Pod that is in the place of `second`.
async fn replace(release: &mut Release, fleet: &Fleet, (name, at, mut second): (&str, usize, Pod)) -> Pod {
    let address = loopback();
    let new = service(&release.host, (name, &format!("{name}-c")), address, &release.ca).await;
    let (mut first, _) = std::mem::replace(&mut release.services[at], (new, address));
    end(release, &mut first).await;
    fleet.beat(2).await;
    let new = service(&release.host, (name, &format!("{name}-d")), loopback(), &release.ca).await;
    end(release, &mut second).await;
    fleet.beat(2).await;
    fleet.nothing_was_lost(name);
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_loses_no_heartbeat() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let chart = Chart::new().with(json!({ "nats": { "config": { "lameDuckDuration": "30s" } } }));
    let mut release = Release::start(&chart).await;
    release.first_token().await;
    // Two replicas of each, as rendered.
    let mut replicas = Vec::new();
    for (at, name) in [(PRESENCE, "presence"), (POLICY, "policy")] {
        let deployed = release.host.replicas(&format!("muster-{name}"));
        assert_eq!(deployed, 2, "{name}");
        let second = service(&release.host, (name, &format!("{name}-b")), loopback(), &release.ca).await;
        replicas.push((name, at, second));
    }
    release.cli(POLICY).apply(&manifests("1s")).await;
    let made = release.cli(IDENTITY).json("token create --group /push --uses 1").await;
    let mut agents = vec![AgentProcess::new(&release.dir, "process", made["token"].as_str().unwrap())];
    agents[0].start();
    let fleet = Fleet::start(&release).await;
    fleet.beat(3).await;
    round(&release.cli(POLICY), 1, &agents).await;
    fleet.nothing_was_lost("the start");

    let mut seconds = Vec::new();
    for (number, replica) in (2..).zip(replicas) {
        seconds.push(replace(&mut release, &fleet, replica).await);
        round(&release.cli(POLICY), number, &agents).await;
    }

    let mut node = release.broker.pods.remove(0);
    let before = fleet.connections();
    end(&release, &mut node).await;
    assert!(fleet.connections() > before, "nobody was connected to the server that went");
    fleet.nothing_was_lost("the lame duck");
    round(&release.cli(POLICY), 4, &agents).await;
    node.start(&release.host);
    release.broker.pods.insert(0, node);
    release.broker.ready(0).await;
    fleet.beat(3).await;
    fleet.nothing_was_lost("a NATS server that came back");
    let listed = eventually("presence shows all, online", async || {
        let listed = release.cli(PRESENCE).json("agent list").await;
        let online = listed["agents"].as_array().unwrap().iter().filter(|agent| agent["state"] == "ONLINE");
        if online.count() == 2 * AGENTS + 1 { Ok(listed) } else { Err(listed.to_string()) }
    })
    .await;
    assert_eq!(listed["agents"].as_array().unwrap().len(), 2 * AGENTS + 1);
    // The count would have noticed.
    release.services[PRESENCE].0.kill().await;
    seconds[0].kill().await;
    until("heartbeats are heard by nobody", || {
        let unheard = fleet.counts.iter().any(|(_, count)| count.lock().unwrap().unheard > 0);
        if unheard { Ok(()) } else { Err("all are answered".to_owned()) }
    })
    .await;
    fleet.tasks.shutdown().request();
    fleet.tasks.finish().await.unwrap();
}
