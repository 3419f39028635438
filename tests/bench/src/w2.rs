//! W2: heartbeats with nothing changed, in a closed loop.

use std::time::Duration;

use agent::Access;
use anyhow::{Context as _, Result, ensure};
use async_nats::ConnectOptions;
use bytes::Bytes;
use domain::AgentId;
use futures::StreamExt as _;
use prost::Message as _;
use runtime::nats::{Connection, DESIRED, EVENTS, IDENTITY, Login, Nats, POLICY};
use runtime::tls::BrokerTls;
use wire::access::{Account, Permissions, Role, permissions};
use wire::agent::v1::{Heartbeat, HeartbeatReply, Standing, StatusReport};

use crate::agents::Fleet;
use crate::broker::Broker;
use crate::control::{Control, Setup};
use crate::load::{self, Asker, CONNECTIONS, Load};
use crate::micro::POLICY_BYTES;
use crate::stats::{Series, float, number};
use crate::w1::until_current;
use crate::wiretap::Wiretap;
use crate::{Bench, clients, page, responder, say};

/// How long each run lasts.
const RUN: Duration = Duration::from_secs(3);
/// Sizes of request and reply that the peers were measured with.
const USUAL: (usize, usize) = (200, 150);
/// Heartbeats whose bytes are counted, at one a second.
const COUNTED: u64 = 10;
/// How long what belongs to a heartbeat may still be on its way when the heartbeat is seen.
const SETTLED: Duration = Duration::from_millis(300);
/// How long an agent may take to its next heartbeat.
const NEXT_BEAT: Duration = Duration::from_secs(90);

/// Rate and latency of one kind of request over all runs.
#[derive(Default)]
struct Figures {
    rate: Series,
    p50: Series,
    p99: Series,
}

/// What a heartbeat takes on one agent's connection.
pub(crate) struct Wire {
    request: usize,
    reply: usize,
    up: f64,
    down: f64,
}

/// Measures W2 and gives its section.
///
/// # Errors
/// When anything fails on the way.
pub async fn section(bench: &Bench) -> Result<String> {
    let ids: Vec<String> = (0..CONNECTIONS).map(|n| format!("host-{n:05}-00000000")).collect();
    if bench.args.floors_only {
        let mut floor = RawSide::start(bench, &ids, USUAL).await?;
        for _ in 0..bench.runs() {
            floor.run().await?;
        }
        say(&format!("W2 floor: {} a second, p99 {} ms", floor.figures.rate, floor.figures.p99));
        close(floor.askers).await?;
        return Ok(String::new());
    }
    let mut ours = OurSide::start(bench, Setup::default()).await?;
    let wire = ours.wire().await?;
    say(&format!("W2 a heartbeat has {:.0} bytes up, {:.0} down", wire.up, wire.down));
    let mut usual = RawSide::start(bench, &ids, USUAL).await?;
    let mut same = RawSide::start(bench, &ids, (wire.request, wire.reply)).await?;
    let stored = ours.stored().await?;
    // One after the other in each run, so that what else the machine does falls on all of them. The first
    // run finds cold caches; it is not counted.
    for run in 0..=bench.runs() {
        for side in [&mut usual, &mut same] {
            side.run().await?;
        }
        let _load = ours.run().await?;
        if run == 0 {
            (usual.figures, same.figures, ours.figures) = Default::default();
        }
    }
    let stored_after = ours.stored().await?;
    for askers in [&mut usual.askers, &mut same.askers, &mut ours.askers] {
        close(std::mem::take(askers)).await?;
    }
    ours.nats.close().await;
    let rows = [
        (format!("raw NATS, {} / {} bytes", USUAL.0, USUAL.1), &usual.figures),
        (format!("raw NATS, {} / {} bytes as in a heartbeat", wire.request, wire.reply), &same.figures),
        ("Muster".to_owned(), &ours.figures),
    ];
    let rows: Vec<Vec<String>> =
        rows.iter().map(|(name, figures)| row(name, figures, &usual.figures)).collect();
    for row in &rows {
        say(&format!("W2 {}", row.join(" | ")));
    }
    let writes: Vec<String> =
        stored.iter().zip(&stored_after).map(|(a, b)| format!("{} {}", a.0, b.1 - a.1)).collect();
    say(&format!("W2 messages stored during {} heartbeats: {}", ours.answers, writes.join(", ")));
    Ok(text(bench, &rows, &wire, (ours.answers, writes.join(", "))))
}

fn row(name: &str, figures: &Figures, floor: &Figures) -> Vec<String> {
    let ratio = figures.rate.median() / floor.rate.median();
    vec![
        name.to_owned(),
        figures.rate.to_string(),
        figures.p50.to_string(),
        figures.p99.to_string(),
        number(ratio),
    ]
}

/// Raw request and reply: a broker, a responder in its own process, 64 connections.
struct RawSide {
    askers: Vec<Asker>,
    figures: Figures,
    _responder: crate::children::Running,
    _broker: Broker,
}

impl RawSide {
    async fn start(bench: &Bench, ids: &[String], (request, reply): (usize, usize)) -> Result<Self> {
        let broker = Broker::start(&bench.nats_server).await?;
        let responder = responder::start(broker.url(), reply)?;
        let askers = clients::paced(ids.len(), |n| {
            let (url, id) = (broker.url().to_owned(), ids[n].clone());
            async move {
                let client = clients::connect(&url, &id).await?;
                let payload = Bytes::from(vec![b'q'; request]);
                let subject = format!("{}.{id}", responder::SUBJECT);
                let mut asker = Asker::new(client, subject, inbox(&id), move || payload.clone()).await?;
                asker.until_answered().await?;
                Ok(asker)
            }
        });
        let askers = askers.await?;
        Ok(Self { askers, figures: Figures::default(), _responder: responder, _broker: broker })
    }

    async fn run(&mut self) -> Result<()> {
        let load;
        (self.askers, load) = load::closed_loop(std::mem::take(&mut self.askers), RUN).await?;
        self.figures.add(&load);
        Ok(())
    }
}

/// Heartbeats of 64 enrolled agents that run their head.
pub(crate) struct OurSide {
    pub(crate) control: Control,
    fleet: Fleet,
    pub(crate) url: String,
    tls: BrokerTls,
    /// Of one that may send and hear the heartbeats of all agents.
    creds: String,
    spy: Nats,
    nats: Nats,
    pub(crate) askers: Vec<Asker>,
    figures: Figures,
    answers: u64,
}

impl OurSide {
    /// Starts everything.
    pub(crate) async fn start(bench: &Bench, setup: Setup<'_>) -> Result<Self> {
        let mut control = Control::start_as(bench, setup).await?;
        control.prepare(POLICY_BYTES[0]).await?;
        let token = control.token(CONNECTIONS).await?;
        let mut fleet = Fleet::join(&token, CONNECTIONS).await?;
        // The real agents report their status in full; the load goes on from there in their place.
        fleet.start(0..CONNECTIONS, 1).await?;
        until_current(&mut control, CONNECTIONS, 1).await?;
        let (servers, tls) = fleet.servers()?;
        let (url, tls) = (servers.first().context("no server")?.clone(), tls.clone());
        let creds = control.mint(Account::Agents, permissions(Role::Bench, Account::Agents))?;
        let spy = connect(&url, &tls, &creds).await?;
        let look = Permissions { publish: vec!["$JS.API.STREAM.INFO.*".to_owned()], ..inboxes() };
        let nats = connect(&url, &tls, &control.mint(Account::Fleet, look)?).await?;
        let (askers, figures) = (Vec::new(), Figures::default());
        Ok(Self { control, fleet, url, tls, creds, spy, nats, askers, figures, answers: 0 })
    }

    /// Counts the bytes of one real agent's connection while it beats once a second, then stops all agents
    /// and takes over their heartbeats.
    pub(crate) async fn wire(&mut self) -> Result<Wire> {
        let tap = Wiretap::start(&self.url, self.tls.ca.as_deref().context("a broker without TLS")?).await?;
        self.fleet.stop(0..CONNECTIONS).await?;
        self.control.beat_every(Duration::from_secs(1)).await?;
        let agent = self.fleet.ids().next().context("no agent")?.clone();
        let subject = wire::subject::heartbeat(&agent);
        let mut beats = self.spy.subscribe(subject.as_str()).await?;
        let answers = format!("{}.>", wire::subject::inbox_prefix(&agent));
        let mut replies = self.spy.subscribe(&answers).await?;
        self.fleet.start_through(0, vec![tap.url.clone()], tap.tls.clone());
        let (mut last, mut status) = (None, None);
        // The first heartbeats carry the status and prove the new interval.
        for _ in 0..4 {
            let beat = next(&mut beats).await?;
            status = wire::heartbeat::read(&beat)?.status.or(status);
            last = Some(beat);
        }
        tokio::time::sleep(SETTLED).await;
        let before = tap.counted.bytes();
        for _ in 0..COUNTED {
            last = Some(next(&mut beats).await?);
        }
        tokio::time::sleep(SETTLED).await;
        let after = tap.counted.bytes();
        let request = last.context("no heartbeat")?;
        let heartbeat = wire::heartbeat::read(&request)?;
        ensure!(heartbeat.status.is_none(), "the agent still reports its status");
        let mut reply = Bytes::new();
        while let Ok(Some(message)) = tokio::time::timeout(SETTLED, replies.next()).await {
            reply = message.payload;
        }
        let each = |after: u64, before: u64| float(after - before) / float(COUNTED);
        let (up, down) = (each(after.0, before.0), each(after.1, before.1));
        self.fleet.stop(0..1).await?;
        self.control.beat_every(Duration::from_secs(60)).await?;
        self.take_over(&heartbeat, status.context("the agent never reported its status")?).await?;
        Ok(Wire { request: request.len(), reply: reply.len(), up, down })
    }

    /// Connects 64 clients that beat as the agents did, with a session of their own and nothing changed.
    async fn take_over(&mut self, like: &Heartbeat, status: StatusReport) -> Result<()> {
        let head = self.control.head().await?;
        let ids: Vec<AgentId> = self.fleet.ids().cloned().collect();
        let url = self.url.clone();
        let askers = clients::paced(ids.len(), |n| {
            let (url, id, like, status) = (url.clone(), ids[n].clone(), like.clone(), status.clone());
            let options = options(&self.creds, &self.tls);
            async move {
                let client = clients::connect_as(options?, &url, id.as_str()).await?;
                let mut beat =
                    Heartbeat { session: u64::MAX - n as u64, sequence: 0, revision: head, ..like };
                let next = move || {
                    beat.sequence += 1;
                    // A new session is asked for its status once, and gives it.
                    beat.status = (beat.sequence == 1).then(|| status.clone());
                    Bytes::from(beat.encode_to_vec())
                };
                let subject = wire::subject::heartbeat(&id).to_string();
                let mut asker = Asker::new(client, subject, inbox(id.as_str()), next).await?;
                asker.until_answered().await?;
                let reply = wire::heartbeat::read_reply(&asker.ask().await?)?;
                check(&reply, head)?;
                Ok(asker)
            }
        });
        self.askers = askers.await?;
        Ok(())
    }

    /// What they reach in one run.
    pub(crate) async fn run(&mut self) -> Result<Load> {
        let load;
        (self.askers, load) = load::closed_loop(std::mem::take(&mut self.askers), RUN).await?;
        self.figures.add(&load);
        self.answers += load.answers;
        Ok(load)
    }

    /// How one of the agents connects, with its own claims, and who it is. It tries once.
    pub(crate) fn agent(&self, at: usize) -> Result<(Connection, AgentId)> {
        let enrolment = self.fleet.enrolments().nth(at).context("no such agent")?;
        let connection = Connection {
            login: enrolment.access.as_ref().map(Access::login),
            tls: self.tls.clone(),
            patience: Duration::ZERO,
            ..Connection::agent(vec![self.url.clone()], &enrolment.agent)
        };
        Ok((connection, enrolment.agent.clone()))
    }

    /// Closes all connections.
    pub(crate) async fn close(mut self) -> Result<()> {
        close(std::mem::take(&mut self.askers)).await?;
        self.nats.close().await;
        Ok(())
    }

    /// Messages ever stored in each stream.
    async fn stored(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut stored = Vec::new();
        for stream in [POLICY, IDENTITY, DESIRED, EVENTS] {
            let state = self.nats.stream_state(stream.name).await?.context("a stream is missing")?;
            stored.push((stream.name, state.last_sequence));
        }
        Ok(stored)
    }
}

async fn close(askers: Vec<Asker>) -> Result<()> {
    clients::close(askers.into_iter().map(Asker::into_client).collect()).await
}

impl Figures {
    fn add(&mut self, load: &Load) {
        self.rate.push(load.rate);
        self.p50.push(load.p50_ms);
        self.p99.push(load.p99_ms);
    }
}

/// The reply of "nothing changed".
fn check(reply: &HeartbeatReply, head: u64) -> Result<()> {
    let settled = reply.snapshot.is_none() && reply.assignment.is_none() && !reply.want_status;
    ensure!(
        settled && reply.head_revision == head && reply.standing() == Standing::Ok,
        "something changed: {reply:?}"
    );
    Ok(())
}

/// What a client of ours needs to hear answers.
fn inboxes() -> Permissions {
    Permissions { publish: Vec::new(), subscribe: vec!["_INBOX_agent.*.>".to_owned()] }
}

/// Options of a client with these credentials that verifies the broker.
fn options(creds: &str, tls: &BrokerTls) -> Result<ConnectOptions> {
    let options = ConnectOptions::with_credentials(creds)?;
    let options = match &tls.ca {
        Some(ca) => options.add_root_certificates(ca.clone()),
        None => options,
    };
    Ok(if tls.first { options.tls_first() } else { options })
}

/// Connects with a credentials file.
async fn connect(url: &str, tls: &BrokerTls, creds: &str) -> Result<Nats> {
    let connection = Connection::service(vec![url.to_owned()], "bench");
    let login = Some(Login::read(creds).context("no credentials file")?);
    let inbox_prefix = "_INBOX_agent.bench".to_owned();
    Ok(Nats::connect(&Connection { login, inbox_prefix, tls: tls.clone(), ..connection }).await?)
}

/// Where an agent is answered: as long as its real reply subjects.
fn inbox(id: &str) -> String {
    format!("_INBOX_agent.{id}.{:x}.h12345", u64::MAX)
}

async fn next(messages: &mut async_nats::Subscriber) -> Result<Bytes> {
    let message = tokio::time::timeout(NEXT_BEAT, messages.next()).await.context("no heartbeat in time")?;
    Ok(message.context("the connection is closed")?.payload)
}

fn text(bench: &Bench, rows: &[Vec<String>], wire: &Wire, stored: (u64, String)) -> String {
    let head = ["64 connections", "a second", "half within, ms", "99 % within, ms", "of the floor"];
    format!(
        "## W2: heartbeats with nothing changed\n\n{}\n\n{WHAT}\n\n{}\n{}\n{}",
        bench.machine.line(),
        page::table(&head, rows),
        format_args!(
            "A heartbeat and its reply take {:.0} bytes to the broker and {:.0} from it, {:.0} together (goal: at most 400): all \
             bytes of a real agent's\nconnection over {COUNTED} heartbeats, protocol lines and pings included, counted by a relay \
             between the two. Their payloads are {} and {} bytes.\nMessages stored during the {} heartbeats above, by stream: {} \
             (goal: 0 for heartbeats; checkpoints of presence are written by the\nclock, whatever the rate).\n",
            wire.up,
            wire.down,
            wire.up + wire.down,
            wire.request,
            wire.reply,
            number(float(stored.0)),
            stored.1
        ),
        PEERS
    )
}

const WHAT: &str = "64 connections, each with one agent that sends its next heartbeat when the last was answered. Muster: `musterd \
all` and its broker; each\nheartbeat is read, checked, entered into presence and answered with the next slot. Floor: the same broker \
and the same clients, but a\nprocess that answers a constant. They take turns within each run of 3 s. Goal: at least 0.8 times the \
floor's rate. Limit: the broker\nand the clients, which share the cores with presence; presence itself handles more than 500,000 a \
second (see Parts).";

const PEERS: &str = "
Peers on the same work, measured earlier on two shared cores (not in this run; the floor reached 56,000–65,000 a second there):

| | a second | 99 % within, ms | bytes up / down |
| --- | --- | --- | --- |
| OpAMP HTTP poll, client's own headers / without gzip | 22,000–30,000 / 42,000–49,000 | 8 / 6 | 245 / 175, 222 / 134 |
| OpAMP WebSocket heartbeat | 119,000–167,000 | 4 | 31 / 21 |
| mosquitto QoS 0 request and reply / QoS 1 | 38,000–48,000 / 24,000 | 4 / 6 | 214 / 161 |
| etcd lease keep-alive / get | 26,000 / 17,000–21,000 | 8 / 11 | 110 / 112 |
";
