//! W1: one policy change reaches N push agents.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;

use crate::agents::Fleet;
use crate::control::Control;
use crate::fanout::{Fanout, PLAIN, Round, SIGNED};
use crate::machine::processor_ms;
use crate::micro::{POLICY_BYTES, checks_ms};
use crate::stats::{Series, float, number, percentile};
use crate::{Bench, page, sample, say};

/// Numbers of agents. A process here may open 20,000 files, and each agent is a connection.
const AGENTS: [usize; 3] = [100, 1_000, 10_000];
/// How often presence is asked whether all agents are current: also the precision of the figure.
const POLL: Duration = Duration::from_millis(5);
/// How long one change may take before it counts as failed.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);

/// What raw NATS needs, for one number of agents and one size of the policy.
#[derive(Debug, Default)]
struct Floor {
    /// Stored, republished, answered: until the last answer is counted.
    last: Series,
    /// Until half of them are.
    half: Series,
    /// The same with a signed snapshot that each connection checks first.
    checked: Series,
    /// With a durable consumer each: until the last answer is counted.
    durable: Series,
    /// Processor time of one round.
    cost: Cost,
}

/// Processor time of one round, in milliseconds of one core.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    /// This process: all agents, or all connections of the floor.
    agents: f64,
    broker: f64,
    musterd: f64,
}

impl Cost {
    /// What was used from `before` to now, for each of `rounds`.
    fn each(self, before: Self, rounds: usize) -> Self {
        let each = |now: f64, before: f64| (now - before) / float(rounds as u64);
        Self {
            agents: each(self.agents, before.agents),
            broker: each(self.broker, before.broker),
            musterd: each(self.musterd, before.musterd),
        }
    }

    fn of_floor(fanout: &Fanout) -> Self {
        Self { agents: processor_ms("self"), broker: fanout.broker_ms(), musterd: 0.0 }
    }

    fn of_ours(control: &Control) -> Self {
        let (musterd, broker) = control.processor_ms();
        Self { agents: processor_ms("self"), broker, musterd }
    }
}

/// What Muster needs, all from the moment the API is called.
#[derive(Debug, Default)]
struct Ours {
    /// Until the call is answered.
    answered: Series,
    /// Until half of the agents, 99 % of them, the last one has applied the change.
    half: Series,
    most: Series,
    last: Series,
    /// Until presence says that all are current.
    known: Series,
    /// Processor time of one round.
    cost: Cost,
}

/// All figures for one number of agents and one size of the policy.
struct Case {
    agents: usize,
    bytes: usize,
    floor: Floor,
    ours: Ours,
    /// Time of the signature checks of all agents on all cores of this machine.
    checks: Series,
}

/// Memory for one more agent, in bytes.
struct Memory {
    agents: usize,
    floor: u64,
    broker: u64,
    musterd: u64,
}

/// Measures W1 and gives its section.
///
/// # Errors
/// When anything fails on the way.
pub async fn section(bench: &Bench) -> Result<String> {
    let (mut cases, mut memory) = (Vec::new(), Vec::new());
    for agents in counts(bench) {
        let (floors, floor) = match bench.args.no_floors {
            true => (POLICY_BYTES.iter().map(|_| Floor::default()).collect(), 0),
            false => floors(bench, agents).await?,
        };
        if bench.args.floors_only {
            continue;
        }
        let (ours, broker, musterd) = muster(bench, agents).await?;
        memory.push(Memory { agents, floor, broker, musterd });
        for ((floor, ours), bytes) in floors.into_iter().zip(ours).zip(POLICY_BYTES) {
            let checks = checks_ms(bytes, agents, bench)?;
            say(&format!(
                "W1 {agents} checks of {bytes} bytes on {} cores: {checks} ms",
                bench.machine.cores
            ));
            cases.push(Case { agents, bytes, floor, ours, checks });
        }
    }
    Ok(text(bench, &cases, &memory))
}

/// Numbers of agents to measure with.
#[must_use]
pub fn counts(bench: &Bench) -> Vec<usize> {
    match (bench.args.agents.is_empty(), bench.args.quick) {
        (false, _) => bench.args.agents.clone(),
        (true, true) => vec![100, 500],
        (true, false) => AGENTS.to_vec(),
    }
}

async fn floors(bench: &Bench, agents: usize) -> Result<(Vec<Floor>, u64)> {
    let mut fanout = Fanout::start(&bench.nats_server, agents).await?;
    let (_, key) = sample::sealed(POLICY_BYTES[0])?;
    fanout.subscribe_to_republished(key).await?;
    let memory = fanout.broker_bytes_each();
    let mut floors: Vec<Floor> = POLICY_BYTES.iter().map(|_| Floor::default()).collect();
    for (floor, bytes) in floors.iter_mut().zip(POLICY_BYTES) {
        let (signed, _) = sample::sealed(bytes)?;
        let plain = Bytes::from(vec![b'x'; bytes]);
        let before = Cost::of_floor(&fanout);
        // The first round finds cold buffers; it is not counted.
        for run in 0..=bench.runs() {
            let Round { half, last } = fanout.round(format!("desired.{PLAIN}"), plain.clone()).await?;
            if run > 0 {
                floor.half.push_ms(half);
                floor.last.push_ms(last);
            }
        }
        floor.cost = Cost::of_floor(&fanout).each(before, bench.runs() + 1);
        for run in 0..=bench.runs() {
            let round = fanout.round(format!("desired.{SIGNED}"), signed.clone()).await?;
            if run > 0 {
                floor.checked.push_ms(round.last);
            }
        }
        say(&format!(
            "W1 floor, {agents} agents, {bytes} bytes: {}, with checks {} ms",
            floor.last, floor.checked
        ));
    }
    fanout.subscribe_to_consumers().await?;
    for (floor, bytes) in floors.iter_mut().zip(POLICY_BYTES) {
        let plain = Bytes::from(vec![b'x'; bytes]);
        for run in 0..=bench.runs() {
            let round = fanout.round(format!("durable.{PLAIN}"), plain.clone()).await?;
            if run > 0 {
                floor.durable.push_ms(round.last);
            }
        }
        say(&format!("W1 durable consumers, {agents} agents, {bytes} bytes: {} ms", floor.durable));
    }
    fanout.stop().await?;
    Ok((floors, memory))
}

async fn muster(bench: &Bench, agents: usize) -> Result<(Vec<Ours>, u64, u64)> {
    let mut control = Control::start(&bench.musterd()?, &bench.nats_server).await?;
    control.prepare(POLICY_BYTES[0]).await?;
    let token = control.token(agents).await?;
    let begin = Instant::now();
    let mut fleet = Fleet::join(&token, agents).await?;
    say(&format!("W1 {agents} agents joined in {:.1?}", begin.elapsed()));
    let (musterd_before, broker_before) = control.resident_bytes();
    let begin = Instant::now();
    fleet.start(0..agents, 1).await?;
    until_current(&mut control, agents, 1).await?;
    say(&format!("W1 {agents} agents connected and current in {:.1?}", begin.elapsed()));
    let (musterd, broker) = control.resident_bytes();
    let each = |now: u64, before: u64| now.saturating_sub(before) / agents.max(1) as u64;
    let (broker, musterd) = (each(broker, broker_before), each(musterd, musterd_before));
    let mut all = Vec::new();
    let mut salt = 0;
    for bytes in POLICY_BYTES {
        let mut ours = Ours::default();
        let before = Cost::of_ours(&control);
        for run in 0..=bench.runs() {
            salt += 1;
            let mut one = Ours::default();
            round(&mut control, &fleet, (bytes, salt), &mut one).await?;
            if run > 0 {
                ours.add(&one);
            }
        }
        ours.cost = Cost::of_ours(&control).each(before, bench.runs() + 1);
        say(&format!("W1 Muster, {agents} agents, {bytes} bytes: known {} ms", ours.known));
        say(&format!("   answered {}, half {}, last {} ms", ours.answered, ours.half, ours.last));
        all.push(ours);
    }
    fleet.stop(0..agents).await?;
    Ok((all, broker, musterd))
}

impl Ours {
    fn add(&mut self, other: &Self) {
        self.answered.push(other.answered.median());
        self.half.push(other.half.median());
        self.most.push(other.most.median());
        self.last.push(other.last.median());
        self.known.push(other.known.median());
    }
}

/// One change: from the call until presence knows that the last agent has it.
async fn round(control: &mut Control, fleet: &Fleet, what: (usize, u64), ours: &mut Ours) -> Result<()> {
    let begin = Instant::now();
    let revision = control.change(what.0, what.1).await?;
    ours.answered.push_ms(begin.elapsed());
    until_current(control, fleet.len(), revision).await?;
    ours.known.push_ms(begin.elapsed());
    let times = fleet.times(revision, begin)?;
    for (series, share) in [(&mut ours.half, 0.5), (&mut ours.most, 0.99), (&mut ours.last, 1.0)] {
        series.push_ms(percentile(&times, share).context("no agents")?);
    }
    Ok(())
}

/// Waits until presence knows the heads of a revision and that `agents` agents of the group are current.
///
/// # Errors
/// When that takes longer than a minute, or agents failed.
pub async fn until_current(control: &mut Control, agents: usize, revision: u64) -> Result<()> {
    let wanted = u64::try_from(agents)?;
    let begin = Instant::now();
    loop {
        let counts = control.status(revision).await?.all.unwrap_or_default();
        ensure!(counts.failed == 0, "{} agents failed", counts.failed);
        if counts.current >= wanted {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < ROUND_TIMEOUT,
            "{} of {wanted} agents are current after a minute",
            counts.current
        );
        tokio::time::sleep(POLL).await;
    }
}

fn text(bench: &Bench, cases: &[Case], memory: &[Memory]) -> String {
    let head = [
        "agents",
        "policy",
        "Muster, ms",
        "of it signature checks, ms",
        "floor, ms",
        "(Muster − checks) / floor",
        "floor with checks, ms",
        "Muster / floor with checks",
        "durable consumer each, ms",
        "times faster than it",
        "agents a second",
    ];
    let rows: Vec<Vec<String>> = cases.iter().map(row).collect();
    let detail_head = [
        "agents",
        "policy",
        "API answered, ms",
        "half applied, ms",
        "99 % applied, ms",
        "last applied, ms",
        "last / half",
    ];
    let details: Vec<Vec<String>> = cases.iter().map(detail).collect();
    let costs: Vec<Vec<String>> = cases.iter().map(cost_row).collect();
    let cost_head =
        ["agents", "policy", "agents", "broker", "musterd", "floor: connections", "floor: broker"];
    let memory: Vec<Vec<String>> = memory.iter().map(memory_row).collect();
    let memory_head = ["agents", "broker, KiB an agent", "broker in the floor, KiB", "musterd, KiB an agent"];
    format!(
        "## W1: a policy change reaches N push agents\n\n{}\nStreams on one replica with `sync_interval: always`; {} runs after one \
         that is not counted.\n\n{}\n\n{}\n{}\n\n{}\n{}\n\n{}\n{}\n\n{}\n{}",
        bench.machine.line(),
        bench.runs(),
        WHAT,
        page::table(&head, &rows),
        DETAIL,
        page::table(&detail_head, &details),
        COST,
        page::table(&cost_head, &costs),
        MEMORY,
        page::table(&memory_head, &memory),
        PEERS
    )
}

fn row(case: &Case) -> Vec<String> {
    let (known, floor) = (case.ours.known.median(), case.floor.last.median());
    let agents = float(case.agents as u64);
    vec![
        number(agents),
        format!("{} KiB", case.bytes / 1024),
        case.ours.known.to_string(),
        case.checks.to_string(),
        case.floor.last.to_string(),
        number((known - case.checks.median()) / floor),
        case.floor.checked.to_string(),
        number(known / case.floor.checked.median()),
        case.floor.durable.to_string(),
        number(case.floor.durable.median() / known),
        number(agents / known * 1e3),
    ]
}

fn detail(case: &Case) -> Vec<String> {
    vec![
        number(float(case.agents as u64)),
        format!("{} KiB", case.bytes / 1024),
        case.ours.answered.to_string(),
        case.ours.half.to_string(),
        case.ours.most.to_string(),
        case.ours.last.to_string(),
        number(case.ours.last.median() / case.ours.half.median()),
    ]
}

fn cost_row(case: &Case) -> Vec<String> {
    let (ours, floor) = (case.ours.cost, case.floor.cost);
    let times = [ours.agents, ours.broker, ours.musterd, floor.agents, floor.broker].map(number);
    [number(float(case.agents as u64)), format!("{} KiB", case.bytes / 1024)]
        .into_iter()
        .chain(times)
        .collect()
}

fn memory_row(memory: &Memory) -> Vec<String> {
    let kib = |bytes: u64| number(float(bytes) / 1024.0);
    vec![number(float(memory.agents as u64)), kib(memory.broker), kib(memory.floor), kib(memory.musterd)]
}

const WHAT: &str = "*Muster*: from the call of `PolicyService.Apply` until `PresenceService.GetStatus` says that all agents run \
the new head. `musterd all` and its\nbroker are processes of their own; the agents are the real shell and machine with storage in \
memory and one connection each, in one process.\nThe change is validated, stored in the log, compiled, signed, stored again and \
republished; each agent verifies, applies and reports.\n*Signature checks*: verifying and decoding the snapshot once for each agent, \
on all cores of this machine at once and nothing else running.\nIn the field N machines do that at the same time; here the cores that \
also carry the broker do it.\n*Floor*: raw NATS stores one message of that size and republishes it to N connections, each of which \
publishes 64 bytes that one more\nconnection counts. *Floor with checks*: the message is a signed snapshot, and each connection checks \
it before it answers: what no signed\ndelivery can be faster than on these cores. *Durable*: as the floor, with a durable consumer and \
an explicit acknowledgement each.\nGoals at 10,000: at most 1.5 times the floor apart from the checks; at least 3 times faster than \
durable consumers; more than 4,000\nagents a second.";

const DETAIL: &str = "When the agents had applied it, from the call on, and when the call was answered (the change is in the log \
by then; the heads follow).\nGoal: last / half below 2.\n";

const COST: &str = "Processor time of one change, in milliseconds of one core: what limits the figures, since all of it comes from the \
same cores. The agents'\ntime holds their signature checks; divided by the number of agents it is what one machine of the field \
spends on a change.\n";

const MEMORY: &str = "Growth of resident memory while the agents connect.\n";

const PEERS: &str = "\nPeers on the same work, measured earlier with 4 KiB on two shared cores over loopback, each with its official \
server and client (medians of 5;\nnot in this run, so compare them through the floor, which took 25–39, 113–120 and 212–259 ms \
there):\n
| | 1,000 agents, ms | 5,000, ms | 9,000, ms | what it promises |
| --- | --- | --- | --- | --- |
| OpAMP (opamp-go 0.23, WebSocket) | 47–49 | 235–239 | 388–496 | nothing stored, no signature |
| mosquitto 2.0.11 (QoS 1, persistent sessions) | 46–56 | 271–292 | 583–638 | lost at SIGKILL |
| etcd 3.6 (watch, status by put) | 140–149 | 687–896 | 1,800–1,900 | a quorum write for each status |
| Salt 3008 (state.apply) | 40 minions: 10,500 | | | |
";
