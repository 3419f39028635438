//! How many heartbeats a second presence answers, beside a responder that does nothing but answer.
//!
//! `cargo run --release -p presence --example heartbeats` starts a nats-server, then in turn a raw async-nats
//! responder and the service, each in a process of its own, and loads each of them over 64 connections with one
//! heartbeat at a time in which nothing changed. It prints rates, latencies and bytes on the wire.

#![allow(clippy::print_stdout, reason = "it reports to its terminal")]
#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use domain::registry::{AgentKey, Newcomer};
use domain::{AgentId, Epoch, FleetId, GroupId, Timestamp, TokenId};
use futures::StreamExt as _;
use runtime::nats::{Connection, Expect, Headers, Nats};
use runtime::nats_server::{NatsServer, Setup};
use runtime::{ServiceArgs, Shutdown};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use wire::agent::v1::{Heartbeat, HeartbeatReply, ItemState, ItemStatus, Mode, Standing, StatusReport};
use wire::subject::{self, STREAM_DESIRED, STREAM_IDENTITY, header};

const CONNECTIONS: usize = 64;
const AGENTS_EACH: usize = 16;
const PASSES: usize = 5;
const PASS: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(500);

#[tokio::main(worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("raw") => raw(&args[2]).await,
        Some("service") => service(&args[2]).await,
        _ => measure().await,
    }
}

fn agent(n: usize) -> AgentId {
    AgentId::new(format!("bench-host-{n:05}-{:08x}", n.wrapping_mul(0x9e37_79b9) & 0xffff_ffff)).unwrap()
}

/// Answers every heartbeat with the same bytes: only the transport.
async fn raw(url: &str) {
    let nats = Nats::connect(&Connection::service(vec![url.to_owned()], "raw")).await.unwrap();
    let reply = wire::encode(&HeartbeatReply {
        server_time_ms: 1_700_000_000_000,
        next_heartbeat_ms: 300_000,
        head_epoch: 1,
        head_revision: 1,
        standing: Standing::Ok.into(),
        ..HeartbeatReply::default()
    });
    let mut requests = nats.client().queue_subscribe("svc.heartbeat.*", "presence".into()).await.unwrap();
    while let Some(request) = requests.next().await {
        nats.client().publish(request.reply.unwrap(), reply.clone()).await.unwrap();
    }
}

async fn service(url: &str) {
    let args = ServiceArgs {
        listen: "127.0.0.1:0".parse().unwrap(),
        nats_url: vec![url.to_owned()],
        agent_servers: vec![],
        fleet: FleetId::new("bench").unwrap(),
        director_key: None,
        stream_replicas: 1,
    };
    let config = presence::Config { checkpoint_interval: Duration::from_secs(60), snapshot_cache_mib: 64 };
    presence::run(&args, &config, Shutdown::new()).await.unwrap();
}

async fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let binary = runtime::nats_server::find(None).await.unwrap();
    let setup = Setup { sync_always: false, ..Setup::new(binary, dir.path().join("nats")) };
    let server = NatsServer::start(setup).await.unwrap();
    enrol(&server.url()).await;
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for pass in 1..=PASSES {
        for (role, results) in [("raw", &mut floor), ("service", &mut ours)] {
            let result = load(&server, role).await;
            println!("pass {pass} {role}: {result}");
            results.push(result);
        }
    }
    let (floor, ours) = (median(floor), median(ours));
    println!("raw responder (floor): {floor}\npresence:              {ours}");
    println!("presence / floor = {:.2}", ours.rate / floor.rate);
}

fn median(mut results: Vec<Outcome>) -> Outcome {
    results.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    results[PASSES / 2]
}

#[derive(Clone, Copy)]
struct Outcome {
    rate: f64,
    p50: Duration,
    p99: Duration,
    up: f64,
    down: f64,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rate, p50, p99, up, down } = self;
        write!(f, "{rate:>7.0}/s, p50 {p50:.2?}, p99 {p99:.2?}, {up:.0} bytes up, {down:.0} down")
    }
}

/// Writes a group's head and the records of all agents, as policy and identity do.
async fn enrol(url: &str) {
    let nats = Nats::connect(&Connection::service(vec![url.to_owned()], "setup")).await.unwrap();
    for spec in
        [runtime::nats::POLICY, runtime::nats::IDENTITY, runtime::nats::DESIRED, runtime::nats::EVENTS]
    {
        nats.ensure_stream(&spec, 1).await.unwrap();
    }
    let group = GroupId::new("bench").unwrap();
    let mut headers =
        Headers::new().text(header::MODE, "pull").unwrap().text(header::GROUP_PATH, "/bench").unwrap();
    for (name, value) in [
        (header::EPOCH, 1),
        (header::REVISION, 1),
        (header::HEARTBEAT_INTERVAL, 300_000),
        (header::OFFLINE_AFTER, 750_000),
    ] {
        headers = headers.number(name, value);
    }
    let message = (headers, bytes::Bytes::from_static(b"head"));
    nats.publish_cas(STREAM_DESIRED, &subject::desired_group(&group), message, Expect::Any).await.unwrap();
    for n in 0..CONNECTIONS * AGENTS_EACH {
        let newcomer = Newcomer {
            key: AgentKey::new(format!("U{}", "A".repeat(55))).unwrap(),
            labels: Default::default(),
            hostname: format!("bench-host-{n:05}"),
            token: TokenId::new("bench").unwrap(),
        };
        let record = newcomer.registration(group.clone(), Epoch(1), Timestamp(1));
        let bytes = wire::registry::encode_agent(&record, wire::agent::v1::Envelope::default());
        let subject = subject::identity_agent(&agent(n));
        nats.publish_cas(STREAM_IDENTITY, &subject, (Headers::new(), bytes.into()), Expect::Any)
            .await
            .unwrap();
    }
}

/// Runs a responder and loads it.
async fn load(server: &NatsServer, role: &str) -> Outcome {
    let program = std::env::current_exe().unwrap();
    let mut responder = tokio::process::Command::new(program)
        .args([role, &server.url()])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let stop_at = Instant::now() + Duration::from_secs(30);
    let mut connections = Vec::new();
    for n in 0..CONNECTIONS {
        connections.push(Client::connect(server.port(), n).await);
    }
    // The first answers show that the responder is there; they carry the status.
    for client in &mut connections {
        for at in 0..AGENTS_EACH {
            while !client.beat(at, true).await {
                assert!(Instant::now() < stop_at, "{role} does not answer");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let start = Instant::now() + WARM_UP;
    let tasks: Vec<_> =
        connections.into_iter().map(|client| tokio::spawn(client.run(start, start + PASS))).collect();
    let mut latencies = Vec::new();
    let (mut up, mut down) = (0, 0);
    for task in tasks {
        let client = task.await.unwrap();
        latencies.extend(client.latencies);
        up += client.up;
        down += client.down;
    }
    responder.kill().await.unwrap();
    latencies.sort_unstable();
    let count = latencies.len();
    let share = |bytes: usize| f64::from(u32::try_from(bytes / count).unwrap());
    Outcome {
        rate: f64::from(u32::try_from(count).unwrap()) / PASS.as_secs_f64(),
        p50: latencies[count / 2],
        p99: latencies[count * 99 / 100],
        up: share(up),
        down: share(down),
    }
}

/// One connection that speaks just enough of the protocol: the load must cost less than what it measures.
struct Client {
    stream: BufReader<TcpStream>,
    agents: Vec<(AgentId, u64)>,
    session: u64,
    line: Vec<u8>,
    out: Vec<u8>,
    body: Vec<u8>,
    latencies: Vec<Duration>,
    up: usize,
    down: usize,
}

impl Client {
    async fn connect(port: u16, n: usize) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let agents: Vec<_> = (0..AGENTS_EACH).map(|at| (agent(n * AGENTS_EACH + at), 0)).collect();
        let mut hello =
            "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n"
                .to_owned();
        for (sid, (agent, _)) in agents.iter().enumerate() {
            hello += &format!("SUB {}.* {sid}\r\n", subject::inbox_prefix(agent));
        }
        let mut stream = BufReader::new(stream);
        stream.write_all(hello.as_bytes()).await.unwrap();
        let session = runtime::ids::random_u64();
        let (line, out, body, latencies) = Default::default();
        Self { stream, agents, session, line, out, body, latencies, up: 0, down: 0 }
    }

    async fn run(mut self, start: Instant, end: Instant) -> Self {
        let mut at = 0;
        loop {
            let sent = Instant::now();
            if sent >= end {
                return self;
            }
            if sent < start {
                (self.up, self.down) = (0, 0);
            }
            at = (at + 1) % AGENTS_EACH;
            assert!(self.beat(at, false).await, "the responder answers");
            if sent >= start {
                self.latencies.push(sent.elapsed());
            }
        }
    }

    /// One heartbeat and its answer. False if nobody listens.
    async fn beat(&mut self, at: usize, with_status: bool) -> bool {
        let (agent, sequence) = &mut self.agents[at];
        *sequence += 1;
        let heartbeat = Heartbeat {
            session: self.session,
            sequence: *sequence,
            epoch: 1,
            revision: 1,
            assignment_epoch: 1,
            assignment_revision: 1,
            status: with_status.then(status),
        };
        let payload = wire::encode(&heartbeat);
        self.out.clear();
        let head = format!("PUB svc.heartbeat.{agent} _INBOX_{agent}.{sequence} {}\r\n", payload.len());
        self.out.extend_from_slice(head.as_bytes());
        self.out.extend_from_slice(&payload);
        self.out.extend_from_slice(b"\r\n");
        self.stream.write_all(&self.out).await.unwrap();
        self.up += self.out.len();
        loop {
            self.line.clear();
            self.stream.read_until(b'\n', &mut self.line).await.unwrap();
            if self.line.starts_with(b"PING") {
                self.stream.write_all(b"PONG\r\n").await.unwrap();
            } else if self.line.starts_with(b"MSG") || self.line.starts_with(b"HMSG") {
                let text = std::str::from_utf8(&self.line).unwrap();
                let size: usize = text.split_whitespace().next_back().unwrap().parse().unwrap();
                self.body.resize(size + 2, 0);
                self.stream.read_exact(&mut self.body).await.unwrap();
                self.down += self.line.len() + self.body.len();
                return self.line.starts_with(b"MSG");
            }
        }
    }
}

fn status() -> StatusReport {
    let item = |kind: &str| ItemStatus {
        kind: kind.into(),
        state: ItemState::Healthy.into(),
        revision: 1,
        reason: String::new(),
    };
    StatusReport {
        agent_version: "0.1.0".into(),
        mode: Mode::Pull.into(),
        items: vec![item("firewall"), item("logging")],
        seen_epoch: 1,
        seen_revision: 1,
        hostname: "bench-host".into(),
        ..StatusReport::default()
    }
}
