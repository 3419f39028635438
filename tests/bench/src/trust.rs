//! What trust costs: joins, renewals of claims, and what agents notice of one that floods the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent::Enrolment;
use agent::join::About;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::TryStreamExt as _;
use nkeys::KeyPair;
use prost::Message as _;
use runtime::nats::{Connection, Headers, Nats};
use runtime::tls::BrokerTls;
use wire::agent::v1::join_reply::Outcome;
use wire::agent::v1::{Heartbeat, RenewRequest};
use wire::join::JoinToken;

use crate::control::{Control, Setup};
use crate::load;
use crate::stats::{Series, float, number};
use crate::w2::OurSide;
use crate::{Bench, agents, clients, micro, page, say};

/// Agents that join in one run, and whose claims are renewed once.
const AGENTS: usize = 1_000;
/// The same with `--quick`.
const FEW: usize = 100;
/// Agents that are served at the same time.
const AT_ONCE: usize = 16;
/// How long an answer to a join or a renewal may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Agents of the fleet that is reckoned on paper.
const ON_PAPER: f64 = 100_000.0;
/// Renewals of one agent in a day: claims are good for a day and renewed at half of it.
const RENEWALS_A_DAY: f64 = 2.0;

/// How long the agents beat alone.
const ALONE: Duration = Duration::from_secs(5);
/// How long they beat beside an agent that floods whenever it is let in: as long as it is shut out the first time.
const BESIDE: Duration = Duration::from_secs(60);
/// The same with `--quick`.
const BESIDE_QUICK: Duration = Duration::from_secs(10);
/// How often each beats: half of its quota.
const EVERY: Duration = Duration::from_millis(100);
/// Heartbeats a second that each agent may send: what `musterd` does by itself.
const QUOTA: u32 = 20;
/// Messages that the flood sends before it looks whether to stop.
const GUSH: usize = 256;
/// Pause of the flood after it was not let in.
const AGAIN: Duration = Duration::from_millis(100);
/// How long what the flood sent may be on its way, before it tries with another connection.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// What one kind of request reached.
#[derive(Default)]
struct Figures {
    rate: Series,
    /// Processor time for one, in milliseconds: of `musterd` and of the broker.
    musterd: Series,
    broker: Series,
}

/// Measures and gives the section.
///
/// # Errors
/// When anything fails on the way.
pub async fn section(bench: &Bench) -> Result<String> {
    let (joins, renewals) = entries(bench).await?;
    let rows: Vec<Vec<String>> =
        [("join, over an open connection", &joins), ("renewal, with its own connection", &renewals)]
            .map(|(name, it)| {
                vec![name.to_owned(), it.rate.to_string(), it.musterd.to_string(), it.broker.to_string()]
            })
            .into();
    // Of the milliseconds of a second.
    let percent =
        ON_PAPER * RENEWALS_A_DAY / 86_400.0 * (renewals.musterd.median() + renewals.broker.median()) / 10.0;
    let all_at_once = ON_PAPER / renewals.rate.median();
    let (flooded, poured) = floods(bench).await?;
    Ok(format!(
        "## Trust: joins, renewals, a flood\n\n{}\n\n{WHAT}\n\n{}\nOn paper, {} agents whose claims are good for a day renew {} \
         times a second, which takes {} % of one core. If all of them came at\nonce, after an outage of more than a day, it would take {} \
         s at the rate above.\n\n{FLOOD} It\nwas shut out after {} ms, in which it sent {} messages.\n\n{}",
        bench.machine.line(),
        page::table(&["", "a second", "musterd, ms of a core each", "broker, ms of a core each"], &rows),
        number(ON_PAPER),
        number(ON_PAPER * RENEWALS_A_DAY / 86_400.0),
        number(percent),
        number(all_at_once),
        poured.time,
        number(poured.messages.median()),
        page::table(&["64 agents", "half within, ms", "99 % within, ms", "99 %, against alone"], &flooded),
    ))
}

const WHAT: &str = "`musterd all` with TLS, accounts and its own broker, 16 agents at a time. A join verifies the request, consumes a \
use of the token by\ncompare-and-set, writes the agent into the registry and its assignment to the broker (all three synced to disk), \
and signs the\nassignment and the claims; the agent's own connection is not in it. A renewal is what an agent does at half of its \
claims' time:\na TLS connection through the door, a signed request, new claims; nothing is stored.";

const FLOOD: &str = "A flood: agents send ten heartbeats a second each, evenly spread, while another one sends heartbeats as fast as \
its connection takes\nthem, whenever the broker lets it in (quota: 20 a second; its thread gets the processor time that the others \
leave, for in the field it has a\nmachine of its own). Timed from when a heartbeat was due to its answer, for 5 s alone and for the \
minute from the begin of the flood, in\nturns, each time with another agent that floods. Goal: less than 2.";

/// Joins and renewals.
async fn entries(bench: &Bench) -> Result<(Figures, Figures)> {
    let count = if bench.args.quick { FEW } else { AGENTS };
    let mut control = Control::start(&bench.musterd()?, &bench.nats_server).await?;
    control.prepare(micro::POLICY_BYTES[0]).await?;
    let (mut joins, mut renewals) = (Figures::default(), Figures::default());
    let dir = tempfile::Builder::new().prefix("muster-bench-trust-").tempdir()?;
    for run in 0..=bench.runs() {
        let token = JoinToken::decode(&control.token(count).await?)?;
        let tls = agents::trust(dir.path(), &token)?;
        let joined = timed(&mut joins, &control, count, join(&token, &tls, count)).await?;
        timed(&mut renewals, &control, count, renew(&joined, &tls)).await?;
        if run == 0 {
            // The first finds cold caches; it is not counted.
            (joins, renewals) = Default::default();
        }
    }
    say(&format!("trust: joins a second {}, renewals a second {}", joins.rate, renewals.rate));
    Ok((joins, renewals))
}

async fn timed<T>(
    figures: &mut Figures,
    control: &Control,
    count: usize,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let (before, begin) = (control.processor_ms(), Instant::now());
    let done = work.await?;
    let (elapsed, after) = (begin.elapsed(), control.processor_ms());
    let count = float(u64::try_from(count)?);
    figures.rate.push(count / elapsed.as_secs_f64());
    figures.musterd.push((after.0 - before.0) / count);
    figures.broker.push((after.1 - before.1) / count);
    Ok(done)
}

/// An agent that joined.
struct Joined {
    key: KeyPair,
    enrolment: Enrolment,
}

async fn join(token: &JoinToken, tls: &BrokerTls, count: usize) -> Result<Vec<Joined>> {
    let each = count.div_ceil(AT_ONCE);
    let some = |which: std::ops::Range<usize>| async move {
        let nats = Nats::connect(&agent::join::connection(token, tls, &KeyPair::new_user())).await?;
        let mut joined = Vec::with_capacity(which.len());
        for n in which {
            let (key, about) =
                (KeyPair::new_user(), About { hostname: format!("host-{n:05}"), ..About::default() });
            let enrolment = agent::join::request(&nats, token, &key, &about).await?.enrolment;
            joined.push(Joined { key, enrolment });
        }
        nats.close().await;
        anyhow::Ok(joined)
    };
    let parts = (0..AT_ONCE).map(|at| some(at * each..count.min((at + 1) * each)));
    let parts: Vec<_> = futures::future::try_join_all(parts).await?;
    Ok(parts.into_iter().flatten().collect())
}

async fn renew(joined: &[Joined], tls: &BrokerTls) -> Result<()> {
    let agents = futures::stream::iter(joined.iter().map(anyhow::Ok));
    agents.try_for_each_concurrent(AT_ONCE, |joined| renew_one(joined, tls)).await
}

async fn renew_one(Joined { key, enrolment }: &Joined, tls: &BrokerTls) -> Result<()> {
    let access = enrolment.access.as_ref().context("the broker lets everyone in")?;
    let connection = Connection {
        inbox_prefix: wire::subject::join_inbox_prefix(access.public_key()).into(),
        login: Some(access.door()),
        tls: tls.clone(),
        ..Connection::agent(enrolment.servers.clone(), &enrolment.agent)
    };
    let request = RenewRequest {
        fleet: enrolment.trust.fleet().to_string(),
        agent: enrolment.agent.to_string(),
        public_key: access.public_key().to_string(),
        requested_at_ms: runtime::clock::now().0,
    };
    let payload = wire::join::seal_renewal(&request, key)?.encode_to_vec();
    let nats = Nats::connect(&connection).await?;
    let reply = nats.request(&wire::subject::enrol(), Headers::new(), payload.into(), ANSWER_WITHIN).await?;
    nats.close().await;
    let outcome = wire::join::read_reply(&reply.payload)?.outcome;
    ensure!(matches!(outcome, Some(Outcome::Bundle(_))), "no new claims: {outcome:?}");
    Ok(())
}

/// What the floods came to.
#[derive(Default)]
struct Poured {
    /// Milliseconds from the first message until the broker had shut it out, over all the times it was let in.
    time: Series,
    messages: Series,
}

/// Heartbeats alone and beside a flood: rows of a table, and what the flood came to.
async fn floods(bench: &Bench) -> Result<(Vec<Vec<String>>, Poured)> {
    let mut ours = OurSide::start(bench, Setup { heartbeat_limit: QUOTA, ..Setup::default() }).await?;
    ours.wire().await?;
    // The first agents are those that flood, one in each run.
    let others = ours.askers.split_off(bench.runs() + 1);
    let culprits = std::mem::replace(&mut ours.askers, others);
    clients::close(culprits.into_iter().map(load::Asker::into_client).collect()).await?;
    ensure!(!ours.askers.is_empty(), "there are as many runs as agents");
    let beside_for = if bench.args.quick { BESIDE_QUICK } else { BESIDE };
    let (mut alone, mut beside, mut poured) = <(Latency, Latency, Poured)>::default();
    for run in 0..=bench.runs() {
        let mut load;
        (ours.askers, load) = load::paced(std::mem::take(&mut ours.askers), ALONE, EVERY).await?;
        alone.add(&load);
        let (connection, culprit) = ours.agent(run)?;
        let flood = Flood::start(connection, &wire::subject::heartbeat(&culprit).to_string());
        (ours.askers, load) = load::paced(std::mem::take(&mut ours.askers), beside_for, EVERY).await?;
        beside.add(&load);
        let (messages, time) = flood.stop()?;
        poured.messages.push(float(messages));
        poured.time.push(time.as_secs_f64() * 1e3);
        if run == 0 {
            (alone, beside, poured) = Default::default();
        }
    }
    let agents = ours.askers.len();
    ours.close().await?;
    say(&format!(
        "trust: 99 % alone within {} ms, beside a flood of {} messages in {} ms {} ms",
        alone.p99, poured.messages, poured.time, beside.p99
    ));
    let row = |name: &str, it: &Latency| {
        let ratio = number(it.p99.median() / alone.p99.median());
        vec![format!("{agents} agents {name}"), it.p50.to_string(), it.p99.to_string(), ratio]
    };
    Ok((vec![row("alone", &alone), row("beside the flood", &beside)], poured))
}

#[derive(Default)]
struct Latency {
    p50: Series,
    p99: Series,
}

impl Latency {
    fn add(&mut self, load: &load::Load) {
        self.p50.push(load.p50_ms);
        self.p99.push(load.p99_ms);
    }
}

/// An agent that sends heartbeats as fast as it can whenever it is let in, on a thread of its own.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(u64, Duration)>>,
}

impl Flood {
    fn start(connection: Connection, subject: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, subject) = (Arc::clone(&stop), subject.to_owned());
        let thread = std::thread::spawn(move || {
            // Of this thread alone; if it is refused, the flood only has more.
            let _ = rustix::process::nice(19);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(pour(&connection, &subject, &seen)))
        });
        Self { stop, thread }
    }

    /// How many messages it sent, and in what time.
    fn stop(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the flood panicked")?
    }
}

async fn pour(connection: &Connection, subject: &str, stop: &AtomicBool) -> (u64, Duration) {
    let heartbeat = Heartbeat { session: 1, sequence: 1, ..Heartbeat::default() };
    let payload = Bytes::from(heartbeat.encode_to_vec());
    let (mut sent, mut time) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let Ok(nats) = Nats::connect(connection).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let (begin, mut took) = (Instant::now(), Duration::ZERO);
        while !stop.load(Ordering::Relaxed) && nats.is_connected() {
            let gush = async {
                for _ in 0..GUSH {
                    nats.client().publish(subject.to_owned(), payload.clone()).await.ok()?;
                    sent += 1;
                }
                nats.client().flush().await.ok()
            };
            if !matches!(tokio::time::timeout(FLUSH_WITHIN, gush).await, Ok(Some(()))) {
                break;
            }
            took = begin.elapsed();
        }
        time += took;
        nats.close().await;
    }
    (sent, time)
}
