//! W3: content: bytes beside the tools that the field uses, time beside a web server, memory, and whether
//! policies still arrive meanwhile.

pub mod data;
pub mod delivery;
pub mod peers;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::agents::Fleet as PolicyAgents;
use crate::control::Operator;
use crate::stats::{float, number, percentile};
use crate::{Bench, page, say};
use data::Pair;
use delivery::{Delivery, Fleet, Sent, Share};
use peers::Made;

/// Agents that fetch at once.
const AGENTS: usize = 50;
/// Length of the content that shows what memory is needed.
const LARGE_BYTES: usize = 1 << 30;
/// Push agents whose policies arrive beside a delivery.
const POLICY_AGENTS: usize = 1_000;
/// Changes of their policy, each alone and beside a delivery.
const CHANGES: usize = 20;
/// Their policy.
const POLICY_BYTES: usize = 4096;
/// How long one change may take to reach all of them.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before each change: one right after the other would leave the processor to nobody else.
const BETWEEN_CHANGES: Duration = Duration::from_millis(500);
/// How often it is looked at whether all have it.
const POLL: Duration = Duration::from_millis(2);
/// Share of the agents' times that is told.
const P99: f64 = 0.99;

/// Measures the bytes of W3 and gives their section. They do not depend on how busy the machine is.
///
/// # Errors
/// When a part of Muster fails; peers that are not there leave their cells empty.
pub async fn section(bench: &Bench) -> Result<String> {
    let dir = tempfile::Builder::new().prefix("muster-bench-content-").tempdir()?;
    let mut pairs = vec![data::made(dir.path(), made_bytes(bench))?];
    if !bench.args.quick {
        pairs.extend(data::real(&cache()?));
    }
    let mut bytes = Vec::new();
    for pair in &pairs {
        bytes.push(bytes_row(bench, pair).await?);
    }
    Ok(format!("## W3: bytes of content\n\n{}\n\n{}", bench.machine.line(), bytes_table(&bytes)))
}

/// Measures what a delivery takes of time and memory, and gives that section.
///
/// # Errors
/// When a part of Muster fails; peers that are not there leave their cells empty.
pub async fn delivery_section(bench: &Bench) -> Result<String> {
    let dir = tempfile::Builder::new().prefix("muster-bench-content-").tempdir()?;
    let made = data::made(dir.path(), made_bytes(bench))?;
    let delivery = deliveries(bench, &made).await?;
    let memory = memory(bench, if bench.args.quick { LARGE_BYTES / 16 } else { LARGE_BYTES }).await?;
    let machine = bench.machine.line();
    Ok(format!("## W3: delivery of content\n\n{machine}\n\n{delivery}\n{memory}"))
}

/// Measures how fast policies arrive while content is delivered, and gives that section.
///
/// # Errors
/// When a part of Muster fails.
pub async fn beside_section(bench: &Bench) -> Result<String> {
    let dir = tempfile::Builder::new().prefix("muster-bench-content-").tempdir()?;
    let made = data::made(dir.path(), made_bytes(bench))?;
    let beside = beside(bench, &made).await?;
    Ok(format!("## W3: policies beside a delivery of content\n\n{}\n\n{beside}", bench.machine.line()))
}

fn made_bytes(bench: &Bench) -> usize {
    if bench.args.quick { data::MADE_BYTES / 16 } else { data::MADE_BYTES }
}

/// Where fetched releases are kept between runs.
fn cache() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set")?;
    let cache = home.join(".cache/muster/bench");
    std::fs::create_dir_all(&cache)?;
    Ok(cache)
}

fn bytes_table(rows: &[Vec<String>]) -> String {
    let head = [
        "content",
        "bytes",
        "whole",
        "`zstd -19 --long`",
        "ratio",
        "patch",
        "`zstd --patch-from -19`",
        "ratio",
        "`xdelta3 -9`",
        "`bsdiff`",
        "missing chunks",
        "patch / whole",
    ];
    format!(
        "Bytes that travel, as the running service made them, beside the tools. Goals: whole at most 1.1 times, patch at most 1.2 \
         times what zstd makes;\nthirty releases behind less than 25 % of the whole. Each row is two revisions of one channel. An agent \
         gets the patch if it was made:\nfrom the revisions that most agents hold (32 by default), however far back. zstd finds what moved \
         across 64 MiB only with\na window of the whole old content; then *made* takes it 248,879 bytes (decision 0008), and the ratio is \
         1.09.\n\n{}",
        page::table(&head, rows)
    )
}

async fn bytes_row(bench: &Bench, pair: &Pair) -> Result<Vec<String>> {
    let size = std::fs::metadata(&pair.new)?.len();
    let (mut fleet, _) = Fleet::start(bench, &pair.old, (0, Share::Fair)).await?;
    fleet.push(&pair.new).await?;
    let ours = fleet.prepared().await?;
    let patch = ours.patches.iter().find(|patch| patch.from == 1).map(|patch| patch.bytes);
    let chunks = fleet.control().missing_chunk_bytes(delivery::CHANNEL, 1, 2).await?;
    drop(fleet);
    let whole = peers::zstd(&pair.new, 19)?;
    let [zstd, xdelta, bsdiff] = peers::patches(&pair.old, &pair.new)?;
    let ratio = |ours: Option<u64>, peer: Option<Made>| match (ours, peer) {
        (Some(ours), Some(peer)) => number(float(ours) / float(peer.bytes)),
        (None, _) | (_, None) => "-".to_owned(),
    };
    let cell = |made: Option<Made>| made.map_or("-".to_owned(), |made| number(float(made.bytes)));
    let row = vec![
        pair.name.clone(),
        number(float(size)),
        number(float(ours.full_bytes)),
        cell(whole),
        ratio(Some(ours.full_bytes), whole),
        patch.map_or("-".to_owned(), |patch| number(float(patch))),
        cell(zstd),
        ratio(patch, zstd),
        cell(xdelta),
        cell(bsdiff),
        number(float(chunks)),
        patch.map_or("-".to_owned(), |patch| {
            format!("{} %", number(100.0 * float(patch) / float(ours.full_bytes)))
        }),
    ];
    say(&format!("W3 bytes: {}", row.join(" | ")));
    Ok(row)
}

/// Fifty agents get the whole, then the patch; a web server sends as many bytes.
async fn deliveries(bench: &Bench, made: &Pair) -> Result<String> {
    let agents = if bench.args.quick { 5 } else { AGENTS };
    let (mut fleet, pushed) = Fleet::start(bench, &made.old, (agents, Share::Fair)).await?;
    let whole = fleet.prepared().await?;
    let first = fleet.deliver().await?;
    let again = fleet.push(&made.new).await?;
    let patched = fleet.prepared().await?;
    let second = fleet.deliver().await?;
    let agent_peak = fleet.agent_peak_bytes();
    drop(fleet);
    let sent = delivery::nginx(whole.full_bytes, agents).await?;
    let zstd = peers::zstd(&made.old, u32::try_from(codec::frame::LEVEL)?)?;
    let size = std::fs::metadata(&made.old)?.len();
    let each = |bytes: u64| bytes * u64::try_from(agents).unwrap_or_default();
    let mut rows = vec![
        delivery_row("whole", &first, each(whole.full_bytes)),
        delivery_row("patch", &second, each(patched.patches.first().map_or(0, |patch| patch.bytes))),
    ];
    rows.extend(sent.map(|sent| nginx_row(&sent)));
    let head = [
        "to all agents",
        "seconds",
        "bytes fetched",
        "over the planned",
        "MB/s",
        "server CPU, s",
        "server CPU, s a GB",
        "agents' CPU, s",
    ];
    let rate = |time: Duration| number(float(size) / 1e6 / time.as_secs_f64());
    Ok(format!(
        "{agents} agents, a process each, get {} at once: from the promote until presence knows of the last one that it is in force. \
         Server is\n`musterd` with its broker. nginx sends as many bytes with `sendfile` to clients that throw them away; agents decode, \
         verify, write,\nread back, sync and switch. Most memory of an agent: {} MiB.\n\n{}\n\
         Taking in: `muster content push` of {} (cut, hash, compress, send, verify, store): {} MB/s; the next revision {} MB/s; \
         `zstd -{}` of the\nsame file on one core: {} MB/s.\n",
        made.name,
        number(float(agent_peak) / f64::from(1 << 20)),
        page::table(&head, &rows),
        made.name,
        rate(pushed),
        rate(again),
        codec::frame::LEVEL,
        zstd.map_or("-".to_owned(), |made| rate(made.time)),
    ))
}

fn delivery_row(name: &str, delivery: &Delivery, planned: u64) -> Vec<String> {
    let seconds = delivery.time.as_secs_f64();
    let server = (delivery.musterd_ms + delivery.broker_ms) / 1e3;
    let gigabytes = float(delivery.fetched) / 1e9;
    vec![
        name.to_owned(),
        number(seconds),
        number(float(delivery.fetched)),
        number(float(delivery.fetched.saturating_sub(planned))),
        number(gigabytes * 1e3 / seconds),
        number(server),
        number(server / gigabytes),
        number(delivery.agents_ms / 1e3),
    ]
}

fn nginx_row(sent: &Sent) -> Vec<String> {
    let (seconds, gigabytes) = (sent.time.as_secs_f64(), float(sent.bytes) / 1e9);
    vec![
        "nginx, the same bytes".to_owned(),
        number(seconds),
        number(float(sent.bytes)),
        "-".to_owned(),
        number(gigabytes * 1e3 / seconds),
        number(sent.server_ms / 1e3),
        number(sent.server_ms / 1e3 / gigabytes),
        "-".to_owned(),
    ]
}

/// What memory a large content takes at the server and at an agent.
async fn memory(bench: &Bench, bytes: usize) -> Result<String> {
    let dir = tempfile::Builder::new().prefix("muster-bench-content-").tempdir()?;
    let large = data::made(dir.path(), bytes)?;
    say(&format!("W3 takes in {bytes} bytes"));
    let (mut fleet, pushed) = Fleet::start(bench, &large.old, (1, Share::Fair)).await?;
    let server = fleet.musterd_peak_bytes();
    let delivery = fleet.deliver().await?;
    let mib = |bytes: u64| number(float(bytes) / f64::from(1 << 20));
    Ok(format!(
        "Memory with a content of {} MiB: all services of `musterd` at most {} MiB while they take it in (goal 256; {} s), the agent at \
         most {} MiB\nwhile it fetches and applies it (goal 64; {} s by chunks).\n",
        bytes >> 20,
        mib(server),
        number(pushed.as_secs_f64()),
        mib(fleet.agent_peak_bytes()),
        number(delivery.time.as_secs_f64()),
    ))
}

/// How fast policies arrive while content is delivered.
async fn beside(bench: &Bench, made: &Pair) -> Result<String> {
    let (agents, holders) = if bench.args.quick { (100, 5) } else { (POLICY_AGENTS, AGENTS) };
    let (mut fleet, _) = Fleet::start(bench, &made.old, (holders, Share::Rest)).await?;
    fleet.prepared().await?;
    let token = fleet.control().token(agents).await?;
    let mut policies = PolicyAgents::join(&token, agents).await?;
    policies.start(0..agents, 1).await?;
    let mut operator = fleet.control().operator();
    say(&format!("W3 changes the policy of {agents} agents"));
    // The first is slower than all others.
    let _warm_up = changes(&mut operator, &policies, 1).await?;
    let alone = changes(&mut operator, &policies, CHANGES).await?;
    let (meanwhile, delivery) = {
        let deliver = fleet.deliver();
        let mut deliver = std::pin::pin!(deliver);
        let mut times = Vec::new();
        let delivery = loop {
            tokio::select! {
                done = &mut deliver => break done?,
                one = changes(&mut operator, &policies, 1) => times.extend(one?),
            }
        };
        (times, delivery)
    };
    policies.stop(0..agents).await?;
    let p99 = |mut times: Vec<Duration>| {
        times.sort_unstable();
        percentile(&times, P99).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    };
    let (samples, alone, meanwhile) = (meanwhile.len() / agents, p99(alone), p99(meanwhile));
    say(&format!("W3 beside W1: alone {alone} ms, meanwhile {meanwhile} ms over {samples} changes"));
    Ok(format!(
        "A 4 KiB policy reaches {agents} push agents (W1) while {holders} others fetch the whole content: p99 over agents and changes \
         {} ms alone,\n{} ms meanwhile ({samples} changes in {} s), {} times as long. Goal: less than twice. Agents that fetch get \
         of the processor what\nothers leave (`SCHED_IDLE`) and write to memory, because in the field they have machines of their own.\n",
        number(alone),
        number(meanwhile),
        number(delivery.time.as_secs_f64()),
        number(meanwhile / alone),
    ))
}

/// Time from each change to each agent that applied it.
async fn changes(operator: &mut Operator, agents: &PolicyAgents, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..count {
        tokio::time::sleep(BETWEEN_CHANGES).await;
        let begin = Instant::now();
        let revision = operator.change(POLICY_BYTES, runtime::ids::random_u64()).await?;
        loop {
            match agents.times(revision, begin) {
                Ok(all) => break times.extend(all),
                Err(error) if begin.elapsed() > CHANGE_TIMEOUT => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
    Ok(times)
}
