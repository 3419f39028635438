//! Presence at a million agents: heartbeats handled a second on one core, and memory for each agent.
//!
//! `cargo bench -p domain --bench presence` prints both. Memory is the growth of the resident set while the
//! fleet enrols and beats, so allocator overhead and half-full pages count.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use domain::agent::ItemState;
use domain::content::{ChannelName, ContentRevision, ContentStatus, SourceBytes};
use domain::presence::{Beat, Enrolment, GroupHead, ItemReport, Labels, Presence, Report, Status};
use domain::{AgentId, Cursor, GroupId, GroupPath, KindName, Mode, Revision, SettingsOverlay, Timestamp};

const AGENTS: u64 = 1_000_000;
const GROUPS: u64 = 1_000;
const START: Timestamp = Timestamp(1_700_000_000_000);
/// Heartbeats in one measured batch.
const BATCH: u64 = 100_000;

fn id(n: u64) -> String {
    format!("host-{n:07}-{:08x}", n.wrapping_mul(0x9e37_79b9) & 0xffff_ffff)
}

fn group(n: u64) -> GroupId {
    GroupId::new(format!("group-{}", n % GROUPS)).expect("a valid id")
}

fn report() -> Report {
    let kinds = ["antivirus", "firewall", "logging", "updates"];
    let items = kinds.map(|kind| ItemReport {
        kind: KindName::new(kind).expect("a valid name"),
        state: ItemState::Healthy,
        revision: Revision(9),
        reason: "".into(),
    });
    let status = Status { seen: Cursor::new(1, 9), items: items.into(), ..Status::default() };
    let content = content(90);
    Report { version: "1.0.0".into(), mode: Some(Mode::Pull), hostname: "".into(), status, content }
}

/// Four channels at their newest revisions, fetched as patches of so many bytes.
fn content(patch: u64) -> Vec<ContentStatus> {
    let channels = ["definitions/av", "definitions/ips", "models/large", "rules"];
    let status = |channel| ContentStatus {
        channel: ChannelName::new(channel).expect("a valid name"),
        active: ContentRevision(30),
        wanted: ContentRevision(30),
        revision: Revision(9),
        state: ItemState::Healthy,
        percent: 100,
        bytes: SourceBytes { patch, ..SourceBytes::default() },
        reason: "".into(),
    };
    channels.map(status).into()
}

fn beat(n: u64, sequence: u64, report: Option<Report>) -> Beat {
    Beat { session: n, sequence, cursor: Cursor::new(1, 9), assignment: Cursor::new(1, 1), report }
}

/// A million agents, all heard once with their status.
fn fleet() -> Presence {
    let mut fleet = Presence::new(START);
    let settings = SettingsOverlay::default().effective().expect("the defaults are in bounds");
    for n in 0..GROUPS {
        let path = GroupPath::new(format!("/site-{}/group-{n}", n % 10)).expect("a valid path");
        fleet.group_changed(START, GroupHead { group: group(n), path, settings, cursor: Cursor::new(1, 9) });
    }
    let labels: Labels = [("os".into(), "linux".into())].into();
    for n in 0..AGENTS {
        let agent = AgentId::new(id(n)).expect("a valid id");
        let hostname = format!("host-{n:07}").into_boxed_str();
        let enrolment = Enrolment {
            agent,
            group: group(n),
            assignment: Cursor::new(1, 1),
            hostname,
            labels: labels.clone(),
        };
        fleet.enrolled(START, &enrolment);
        let report = Report { hostname: enrolment.hostname, ..report() };
        fleet.heartbeat(Timestamp(START.0 + n / 4), enrolment.agent.as_str(), beat(n, 1, Some(report)));
        fleet.take_effects().for_each(drop);
    }
    fleet
}

/// Resident set of this process, in bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn heartbeats(criterion: &mut Criterion) {
    let before = resident_bytes();
    let mut fleet = fleet();
    let bytes = resident_bytes().saturating_sub(before);
    criterion_report(bytes);
    let ids: Vec<String> = (0..AGENTS).map(id).collect();
    let mut sent = 0_u64;
    let mut bench = criterion.benchmark_group("presence");
    bench.throughput(Throughput::Elements(BATCH)).sample_size(20);
    bench.bench_function("heartbeat, nothing changed, 1,000,000 agents", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                // A stride that is coprime to the fleet's size: every beat finds a cold record.
                let n = sent.wrapping_mul(617_161) % AGENTS;
                let (now, sequence) = (Timestamp(START.0 + 250_000 + sent / 4), 2 + sent / AGENTS);
                let name = &ids[usize::try_from(n).expect("a small number")];
                std::hint::black_box(fleet.heartbeat(now, name, beat(n, sequence, None)));
                sent += 1;
            }
            fleet.tick(Timestamp(START.0 + 250_000 + sent / 4));
        });
    });
    bench.bench_function("status report, 1,000,000 agents", |bencher| {
        bencher.iter_batched(
            || (0..BATCH).map(|_| report()).collect(),
            |reports| take(&mut fleet, &ids, &mut sent, reports),
            BatchSize::PerIteration,
        );
    });
    // Each time a report says something else of a channel than the agent's last one.
    let mut round = 0;
    bench.bench_function("report of content that changed, 1,000,000 agents", |bencher| {
        bencher.iter_batched(
            || {
                round += 1;
                (0..BATCH).map(|n| Report { content: content(round * 100 + n % 90), ..report() }).collect()
            },
            |reports| take(&mut fleet, &ids, &mut sent, reports),
            BatchSize::PerIteration,
        );
    });
    bench.finish();
}

/// Reports that come in, one of each of the next agents.
fn take(fleet: &mut Presence, ids: &[String], sent: &mut u64, reports: Vec<Report>) {
    for report in reports {
        let n = sent.wrapping_mul(617_161) % AGENTS;
        let (now, sequence) = (Timestamp(START.0 + 250_000 + *sent / 4), 2 + *sent / AGENTS);
        let name = &ids[usize::try_from(n).expect("a small number")];
        fleet.observe(now, name, beat(n, sequence, Some(report)));
        *sent += 1;
    }
    fleet.take_effects().for_each(drop);
}

#[allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]
fn criterion_report(bytes: u64) {
    println!("presence/memory: {} bytes an agent at {AGENTS} agents", bytes / AGENTS);
}

criterion_group!(benches, heartbeats);
criterion_main!(benches);
