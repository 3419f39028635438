//! What the works spend their time in, each alone on one core.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use domain::Timestamp;

use crate::stats::{Series, float, number};
use crate::{Bench, page, sample, say};

/// Sizes of the policy in the snapshots.
pub const POLICY_BYTES: [usize; 2] = [4 * 1024, 64 * 1024];
/// Snapshots opened in one run.
const OPENED: u32 = 2_000;
/// Agents of the fleet whose heartbeats are handled.
const AGENTS: u64 = 1_000_000;
/// Heartbeats in one run: each agent twice.
const BEATS: u64 = 2 * AGENTS;

/// Measures the parts and gives their section.
///
/// # Errors
/// When a sample is not as it should be.
pub fn section(bench: &Bench) -> Result<String> {
    let mut rows = Vec::new();
    for bytes in POLICY_BYTES {
        let micros = open_micros(bytes, bench.runs())?;
        say(&format!("micro: open a snapshot of {bytes} bytes: {micros} µs"));
        let name = format!("verify and decode a snapshot with a policy of {} KiB", bytes / 1024);
        rows.push(vec![name, micros.to_string(), number(1e6 / micros.median()), String::new()]);
    }
    let rate = heartbeats(bench)?;
    say(&format!("micro: heartbeats a second: {rate}"));
    rows.push(vec![
        "presence: one heartbeat, nothing changed, 1,000,000 agents".to_owned(),
        number(1e6 / rate.median()),
        rate.to_string(),
        ">= 500,000 a second".to_owned(),
    ]);
    Ok(format!(
        "## Parts\n\n{}\n\nOne core, no I/O. The snapshot costs Ed25519 `verify_strict`, a SHA-512 over the whole payload, \
         protobuf, and a SHA-256 over each\ndocument. A heartbeat finds its agent by id in a cold record of a million (every beat \
         another one), notes it, and makes the answer;\nlimit: three cache misses.\n\n{}",
        bench.machine.line(),
        page::table(&["part", "µs", "a second", "goal"], &rows)
    ))
}

/// Time to verify and decode one snapshot, in microseconds of one core.
///
/// # Errors
/// When the sample does not open.
pub fn open_micros(bytes: usize, runs: usize) -> Result<Series> {
    let (sealed, key) = sample::sealed(bytes)?;
    let mut series = Series::default();
    for _ in 0..runs {
        let begin = Instant::now();
        for _ in 0..OPENED {
            black_box(sample::open(black_box(&sealed), key)?);
        }
        series.push(begin.elapsed().as_secs_f64() * 1e6 / f64::from(OPENED));
    }
    Ok(series)
}

/// Time that `count` agents' checks of one snapshot take when all cores of this machine do nothing else, in
/// milliseconds.
///
/// # Errors
/// When the sample does not open, or no thread can be had.
pub fn checks_ms(bytes: usize, count: usize, bench: &Bench) -> Result<Series> {
    let (sealed, key) = sample::sealed(bytes)?;
    let each = count.div_ceil(bench.machine.cores);
    let mut series = Series::default();
    for _ in 0..bench.runs() {
        let begin = Instant::now();
        let opened = std::thread::scope(|scope| {
            let open = || (0..each).try_for_each(|_| sample::open(black_box(&sealed), key).map(drop));
            let threads: Vec<_> = (0..bench.machine.cores).map(|_| scope.spawn(open)).collect();
            threads.into_iter().all(|thread| thread.join().is_ok_and(|opened| opened.is_ok()))
        });
        ensure!(opened, "a snapshot did not open");
        series.push_ms(begin.elapsed());
    }
    Ok(series)
}

fn heartbeats(bench: &Bench) -> Result<Series> {
    let agents = if bench.args.quick { AGENTS / 10 } else { AGENTS };
    let mut fleet = sample::fleet(agents)?;
    let ids: Vec<String> = (0..agents).map(sample::agent_id).collect();
    let mut series = Series::default();
    let mut sent = 0_u64;
    for _ in 0..bench.runs() {
        let begin = Instant::now();
        for _ in 0..BEATS {
            // A stride that has no factor in common with the fleet's size: every beat finds another record.
            let n = sent.wrapping_mul(617_161) % agents;
            let (now, sequence) = (Timestamp(sample::START.0 + 20_000 + sent / 64), 2 + sent / agents);
            let answer = fleet.heartbeat(now, &ids[usize::try_from(n)?], sample::beat(n, sequence, None));
            black_box(answer);
            sent += 1;
            if sent.is_multiple_of(4096) {
                fleet.tick(now);
                fleet.take_effects().for_each(drop);
            }
        }
        series.push(float(BEATS) / begin.elapsed().as_secs_f64());
    }
    ensure!(fleet.counters().unknown == 0, "heartbeats of unknown agents");
    Ok(series)
}
