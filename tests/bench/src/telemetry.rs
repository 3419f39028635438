//! What telemetry costs: the work of W1 and of W2, by a `musterd` that tells nobody and by one that tells a collector.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::agents::Fleet;
use crate::control::{Control, Setup};
use crate::micro::POLICY_BYTES;
use crate::sink::{Heard, Sink};
use crate::stats::{Series, float, number};
use crate::w1::until_current;
use crate::w2::OurSide;
use crate::{Bench, page, say};

/// Agents that a change reaches, unless others are named, and in a quick run.
const AGENTS: usize = 1_000;
const FEW: usize = 100;
/// Changes in each run: the clock that counts processor time is no finer than ten milliseconds.
const CHANGES: u64 = 10;

/// One of the two: silent, or telling.
struct Side<T> {
    work: T,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    /// Of W1: milliseconds until a change was known to be everywhere. Of W2: heartbeats a second.
    speed: Series,
    /// Of W2: milliseconds that 99 % kept.
    p99: Series,
    /// Processor time of `musterd` for one of them, in microseconds of one core.
    cost: Series,
    /// Resident memory of `musterd` at the end, in MiB.
    memory: f64,
}

/// Measures both and gives the section.
///
/// # Errors
/// When anything fails on the way, or the collector did not hear everything that there is to be heard.
pub async fn section(bench: &Bench) -> Result<String> {
    let sink = Sink::start().await?;
    let agents = match (bench.args.agents.first(), bench.args.quick) {
        (Some(agents), _) => *agents,
        (None, true) => FEW,
        (None, false) => AGENTS,
    };
    let changes = changes(bench, &sink, agents).await?;
    let beats = beats(bench, &sink).await?;
    let heard = sink.heard();
    let Heard { spans, metrics, logs } = heard;
    ensure!(spans > 0 && metrics > 0 && logs > 0, "the collector did not hear everything: {heard:?}");
    let rows = [
        row(&format!("a change for {agents} agents, ms"), &changes, |figures| &figures.speed),
        row("musterd's processor time for a change, µs", &changes, |figures| &figures.cost),
        row("heartbeats a second", &beats, |figures| &figures.speed),
        row("99 % of them answered within, ms", &beats, |figures| &figures.p99),
        row("musterd's processor time for a heartbeat, µs", &beats, |figures| &figures.cost),
    ];
    for row in &rows {
        say(&format!("Telemetry {}", row.join(" | ")));
    }
    let memory =
        [&changes, &beats].map(|[off, on]| format!("{} and {}", number(off.memory), number(on.memory)));
    Ok(format!(
        "## Telemetry: the same work, told and not told\n\n{}\n\n{WHAT}\n\n{}\nThe collector heard {} spans, {} metrics (each \
         export of one counted) and {} lines of logs. `musterd` then had {} MiB after the changes,\n{} MiB after the heartbeats \
         (silent, telling).\n",
        bench.machine.line(),
        page::table(&["work", "silent", "telling", "telling / silent"], &rows),
        spans,
        metrics,
        logs,
        memory[0],
        memory[1],
    ))
}

fn row(name: &str, [off, on]: &[Figures; 2], of: impl Fn(&Figures) -> &Series) -> Vec<String> {
    let (off, on) = (of(off), of(on));
    vec![name.to_owned(), off.to_string(), on.to_string(), number(on.median() / off.median())]
}

/// Runs both sides in turns, in the other order each time, so that what else the machine does falls on both. The first run
/// finds cold caches; it is not counted.
async fn in_turns<T>(
    bench: &Bench,
    mut sides: [Side<T>; 2],
    mut run: impl AsyncFnMut(&mut T, &mut Figures) -> Result<()>,
) -> Result<[Side<T>; 2]> {
    for number in 0..=bench.runs() {
        let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            let Side { work, figures } = &mut sides[at];
            run(work, figures).await?;
        }
        if number == 0 {
            sides.iter_mut().for_each(|side| side.figures = Figures::default());
        }
    }
    Ok(sides)
}

/// W1: a change reaches push agents, which tell nobody themselves.
async fn changes(bench: &Bench, sink: &Sink, agents: usize) -> Result<[Figures; 2]> {
    let side = async |collector: Option<&str>| {
        let mut control = Control::start_as(bench, Setup { collector, ..Setup::default() }).await?;
        control.prepare(POLICY_BYTES[0]).await?;
        let mut fleet = Fleet::join(&control.token(agents).await?, agents).await?;
        fleet.start(0..agents, 1).await?;
        until_current(&mut control, agents, 1).await?;
        anyhow::Ok(Side { work: (control, fleet, 0_u64), figures: Figures::default() })
    };
    let sides = [side(None).await?, side(Some(sink.endpoint())).await?];
    let sides = in_turns(bench, sides, async |(control, _, salt), figures| {
        let before = control.processor_ms().0;
        for _ in 0..CHANGES {
            *salt += 1;
            let begin = Instant::now();
            let revision = control.change(POLICY_BYTES[0], *salt).await?;
            until_current(control, agents, revision).await?;
            figures.speed.push_ms(begin.elapsed());
        }
        figures.cost.push((control.processor_ms().0 - before) * 1e3 / float(CHANGES));
        Ok(())
    })
    .await?;
    let mut all = Vec::new();
    for Side { work: (control, mut fleet, _), mut figures } in sides {
        figures.memory = memory(&control);
        fleet.stop(0..agents).await?;
        all.push(figures);
    }
    Ok(all.try_into().unwrap_or_default())
}

/// W2: heartbeats with nothing changed.
async fn beats(bench: &Bench, sink: &Sink) -> Result<[Figures; 2]> {
    let side = async |collector: Option<&str>| {
        let mut ours = OurSide::start(bench, Setup { collector, ..Setup::default() }).await?;
        ours.wire().await?;
        anyhow::Ok(Side { work: ours, figures: Figures::default() })
    };
    let sides = [side(None).await?, side(Some(sink.endpoint())).await?];
    let sides = in_turns(bench, sides, async |ours, figures| {
        let before = ours.control.processor_ms().0;
        let load = ours.run().await?;
        figures.speed.push(load.rate);
        figures.p99.push(load.p99_ms);
        figures.cost.push((ours.control.processor_ms().0 - before) * 1e3 / float(load.answers));
        Ok(())
    })
    .await?;
    let mut all = Vec::new();
    for Side { work, mut figures } in sides {
        figures.memory = memory(&work.control);
        work.close().await?;
        all.push(figures);
    }
    Ok(all.try_into().unwrap_or_default())
}

fn memory(control: &Control) -> f64 {
    float(control.resident_bytes().0) / float(1 << 20)
}

const WHAT: &str = "*Telling*: `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector, all else is as by default: every call is traced, 1 % \
of the agents' reports become\nspans, metrics are counted and told once a minute. The collector reads and counts what it hears, in the \
process of the agents and clients, so that\nits time comes from the same cores. *Silent*: nobody is named. Both are there all the time and \
take turns, in the other order each time. Agents\nshare the benchmark's process and tell nobody themselves. A change has 4 KiB and is timed \
from the call until presence knows that all agents\nrun it; heartbeats are those of W2, in runs of 3 s.";
