//! Push agents in this process: the real shell and machine, each with a connection of its own, keeping what
//! it applies in memory.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent::{Agent, Enrolment, NatsTransport, Parts};
use anyhow::{Context as _, Result, bail, ensure};
use domain::agent::{Note, Timing};
use domain::{AgentId, Cursor, Span};
use futures::{StreamExt as _, TryStreamExt as _};
use nkeys::KeyPair;
use runtime::Shutdown;
use runtime::nats::Nats;
use runtime::tls::BrokerTls;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wire::join::JoinToken;

use crate::memory::Kept;

/// Connections over which all agents join, one after the other on each.
const JOINERS: usize = 16;
/// Agents that may start at once: the broker's accept queue is short, and what is measured begins after all
/// are there.
const STARTING: usize = 64;
/// How long an agent may take from its start to its first policy.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long all agents may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// One agent, running or not.
struct Member {
    enrolment: Enrolment,
    kept: Arc<Kept>,
    applied: Arc<Mutex<Vec<(Cursor, Instant)>>>,
    shutdown: Shutdown,
}

/// All agents.
pub struct Fleet {
    members: Vec<Member>,
    running: JoinSet<()>,
    /// Holds the CA of the broker.
    _dir: TempDir,
}

impl Fleet {
    /// Lets `count` agents join with a token; none is started.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn join(token: &str, count: usize) -> Result<Self> {
        let token = JoinToken::decode(token)?;
        let each = count.div_ceil(JOINERS);
        let dir = tempfile::Builder::new().prefix("muster-bench-agents-").tempdir()?;
        let tls = trust(dir.path(), &token)?;
        let batches = (0..JOINERS).map(|at| join_some(&token, &tls, at * each..count.min((at + 1) * each)));
        let batches = futures::stream::iter(batches).buffered(JOINERS).try_collect::<Vec<_>>().await?;
        let members = batches.into_iter().flatten().map(|enrolment| Member {
            enrolment,
            kept: Arc::default(),
            applied: Arc::default(),
            shutdown: Shutdown::new(),
        });
        Ok(Self { members: members.collect(), running: JoinSet::new(), _dir: dir })
    }

    /// Starts agents and waits until each has applied the revision, paced.
    ///
    /// # Errors
    /// When one does not get there in time.
    pub async fn start(&mut self, which: std::ops::Range<usize>, revision: u64) -> Result<()> {
        let starting = Arc::new(Semaphore::new(STARTING));
        for at in which.clone() {
            let permit = tokio::time::timeout(START_TIMEOUT, Arc::clone(&starting).acquire_owned()).await;
            let permit = permit.context("agents start, but none of them gets its policy")??;
            let permit = Mutex::new(Some(permit));
            self.start_one(at, move |cursor| {
                if cursor.revision.0 >= revision {
                    permit.lock().unwrap_or_else(PoisonError::into_inner).take();
                }
            });
        }
        let all = starting.acquire_many(u32::try_from(STARTING)?);
        if let Ok(Ok(_permits)) = tokio::time::timeout(START_TIMEOUT, all).await {
            return Ok(());
        }
        let lacking: Vec<String> = self.members[which]
            .iter()
            .filter(|member| member.kept.revision().is_none_or(|there| there < revision))
            .map(|member| member.enrolment.agent.to_string())
            .collect();
        bail!("{} agents did not get their policy, the first is {:?}", lacking.len(), lacking.first())
    }

    /// Starts agents all at once and waits for nothing.
    pub fn start_at_once(&mut self, which: std::ops::Range<usize>) {
        for at in which {
            self.start_one(at, |_| {});
        }
    }

    /// Starts one agent that uses other servers than it learnt, from now on.
    pub fn start_through(&mut self, at: usize, servers: Vec<String>, tls: BrokerTls) {
        self.members[at].enrolment.servers = servers;
        self.members[at].enrolment.tls = tls;
        self.start_one(at, |_| {});
    }

    fn start_one(&mut self, at: usize, on_applied: impl Fn(Cursor) + Send + Sync + 'static) {
        let member = &mut self.members[at];
        member.shutdown = Shutdown::new();
        let session = runtime::ids::random_u64();
        let applied = Arc::clone(&member.applied);
        let observer = move |_: &AgentId, note: &Note| {
            if let Note::Applied(generation) = note {
                locked(&applied).push((generation.cursor, Instant::now()));
                on_applied(generation.cursor);
            }
        };
        let parts = Parts {
            transport: NatsTransport::new(member.enrolment.servers.clone(), &member.enrolment.agent, session)
                .with_tls(member.enrolment.tls.clone())
                .with_access(member.enrolment.access.clone()),
            storage: Arc::clone(&member.kept),
            handler: Arc::new(()),
            loaded: member.kept.load(),
            timing: Timing { first_spread: Span(0), ..Timing::default() },
            hostname: format!("host-{at:05}"),
            session,
            observer: Some(Arc::new(observer)),
            content: None,
        };
        self.running.spawn(Agent::new(member.enrolment.clone(), parts).run(member.shutdown.clone()));
    }

    /// Stops agents in order and waits for them.
    ///
    /// # Errors
    /// When they do not stop in time, or one of them panicked.
    pub async fn stop(&mut self, which: std::ops::Range<usize>) -> Result<()> {
        let stay = self.running.len() - which.len();
        for member in &self.members[which] {
            member.shutdown.request();
        }
        let stopping = async {
            while self.running.len() > stay {
                self.running.join_next().await.context("an agent ended by itself")??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(STOP_TIMEOUT, stopping).await.context("agents do not stop")?
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Time from `begin` until each agent had applied the revision or a newer one, sorted.
    ///
    /// # Errors
    /// When one has not.
    pub fn times(&self, revision: u64, begin: Instant) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let applied = locked(&member.applied);
            let there = applied.iter().find(|(cursor, _)| cursor.revision.0 >= revision);
            let (_, at) =
                there.with_context(|| format!("{} never applied {revision}", member.enrolment.agent))?;
            times.push(at.saturating_duration_since(begin));
        }
        times.sort_unstable();
        Ok(times)
    }

    /// Agents that do not have this revision switched on, and switches of snapshots that were one too many.
    #[must_use]
    pub fn missed_and_repeated(&self, revision: u64) -> (usize, usize) {
        let missed = self.members.iter().filter(|m| m.kept.revision() != Some(revision)).count();
        (missed, self.members.iter().map(|member| member.kept.repeated()).sum())
    }

    /// Snapshots of these revisions that these agents never applied.
    #[must_use]
    pub fn missing(&self, which: std::ops::Range<usize>, revisions: &[u64]) -> usize {
        let lacks = |member: &Member| {
            let applied: BTreeSet<u64> = locked(&member.applied).iter().map(|(c, _)| c.revision.0).collect();
            revisions.iter().filter(|revision| !applied.contains(revision)).count()
        };
        self.members[which].iter().map(lacks).sum()
    }

    /// What the agents learnt when they joined.
    pub fn enrolments(&self) -> impl Iterator<Item = &Enrolment> {
        self.members.iter().map(|member| &member.enrolment)
    }

    /// Ids of the agents.
    pub fn ids(&self) -> impl Iterator<Item = &AgentId> {
        self.enrolments().map(|enrolment| &enrolment.agent)
    }

    /// URLs that the agents use, and how they verify those.
    ///
    /// # Errors
    /// When there is no agent.
    pub fn servers(&self) -> Result<(&[String], &BrokerTls)> {
        let enrolment = &self.members.first().context("no agent")?.enrolment;
        Ok((&enrolment.servers, &enrolment.tls))
    }
}

/// How to verify the broker that a token leads to, kept as agents keep it.
pub(crate) fn trust(dir: &Path, token: &JoinToken) -> Result<BrokerTls> {
    let ca = dir.join("broker-ca.pem");
    std::fs::write(&ca, runtime::tls::pem_of(&token.broker.cas))?;
    Ok(BrokerTls { ca: Some(ca), identity: None, first: token.broker.tls_first })
}

async fn join_some(
    token: &JoinToken,
    tls: &BrokerTls,
    which: std::ops::Range<usize>,
) -> Result<Vec<Enrolment>> {
    let connection = agent::join::connection(token, tls, &KeyPair::new_user());
    let nats = Nats::connect(&connection).await?;
    let mut joined = Vec::with_capacity(which.len());
    for n in which {
        let about = agent::join::About { hostname: format!("host-{n:05}"), ..agent::join::About::default() };
        let one = agent::join::request(&nats, token, &KeyPair::new_user(), &about).await?;
        joined.push(Enrolment { tls: tls.clone(), ..one.enrolment });
    }
    nats.close().await;
    ensure!(!joined.iter().any(|enrolment| enrolment.servers.is_empty()), "an agent learnt no servers");
    Ok(joined)
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
