//! What telemetry costs: the work of W1 and of W2, by a `musterd` that tells nobody and by one that tells a collector; and
//! what a collector that does not do its own work makes of W1.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use tokio::net::TcpListener;

use crate::agents::Fleet;
use crate::control::{Control, Setup};
use crate::micro::POLICY_BYTES;
use crate::sink::{Heard, Manner, Sink};
use crate::stats::{Series, float, number};
use crate::w1::until_current;
use crate::w2::OurSide;
use crate::{Bench, page, say};

/// Agents that a change reaches, unless others are named, and in a quick run.
const AGENTS: usize = 1_000;
const FEW: usize = 100;
/// Changes in each run: the clock that counts processor time is no finer than ten milliseconds.
const CHANGES: u64 = 10;
/// How long a slow collector takes for an answer.
const LATE: Duration = Duration::from_secs(2);

/// A `musterd` at work, and what was measured of it.
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
    let sink = Sink::start(Manner::Takes).await?;
    let agents = match (bench.args.agents.first(), bench.args.quick) {
        (Some(agents), _) => *agents,
        (None, true) => FEW,
        (None, false) => AGENTS,
    };
    let told = changes(bench, [None, Some(sink.endpoint())], agents).await?;
    let beats = beats(bench, &sink).await?;
    let heard = sink.heard();
    let Heard { spans, metrics, logs } = heard;
    ensure!(spans > 0 && metrics > 0 && logs > 0, "the collector did not hear everything: {heard:?}");
    let rows = [
        row(&format!("a change for {agents} agents, ms"), &told, |figures| &figures.speed),
        row("musterd's processor time for a change, µs", &told, |figures| &figures.cost),
        row("heartbeats a second", &beats, |figures| &figures.speed),
        row("99 % of them answered within, ms", &beats, |figures| &figures.p99),
        row("musterd's processor time for a heartbeat, µs", &beats, |figures| &figures.cost),
    ];
    for row in &rows {
        say(&format!("Telemetry {}", row.join(" | ")));
    }
    let memory = [&told, &beats].map(|[off, on]| format!("{} and {}", number(off.memory), number(on.memory)));
    let bad = beside_bad_ones(bench, agents).await?;
    for row in &bad {
        say(&format!("Telemetry {}", row.join(" | ")));
    }
    Ok(format!(
        "## Telemetry: the same work, told and not told\n\n{}\n\n{WHAT}\n\n{}\nThe collector heard {} spans, {} metrics (each \
         export of one counted) and {} lines of logs. `musterd` then had {} MiB after the changes,\n{} MiB after the heartbeats \
         (silent, telling).\n\n{BAD}\n\n{}",
        bench.machine.line(),
        page::table(&["work", "silent", "telling", "telling / silent"], &rows),
        spans,
        metrics,
        logs,
        memory[0],
        memory[1],
        page::table(
            &["collector", "a change, ms", "against none", "processor time, µs", "against none"],
            &bad
        ),
    ))
}

/// W1 with collectors that do not do their work: rows of a table.
async fn beside_bad_ones(bench: &Bench, agents: usize) -> Result<Vec<Vec<String>>> {
    let address = |listener: &TcpListener| anyhow::Ok(format!("http://{}", listener.local_addr()?));
    // Connections to it are made and nobody reads of them.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let down = address(&TcpListener::bind("127.0.0.1:0").await?)?;
    let (late, refuses) = (Sink::start(Manner::Late(LATE)).await?, Sink::start(Manner::Refuses).await?);
    let collectors =
        [None, Some(&*down), Some(&*address(&silent)?), Some(late.endpoint()), Some(refuses.endpoint())];
    let figures = changes(bench, collectors, agents).await?;
    let none = &figures[0];
    ensure!(late.heard().spans > 0, "nobody told the slow collector anything");
    let against = |series: &Series, none: &Series| number(series.median() / none.median());
    let row = |(name, figures): (&str, &Figures)| {
        let Figures { speed, cost, .. } = figures;
        let [speed_ratio, cost_ratio] = [against(speed, &none.speed), against(cost, &none.cost)];
        vec![name.to_owned(), speed.to_string(), speed_ratio, cost.to_string(), cost_ratio]
    };
    let names = ["none", "down", "takes connections and says nothing", "answers after 2 s", "refuses all"];
    Ok(names.into_iter().zip(&figures).map(row).collect())
}

fn row(name: &str, [off, on]: &[Figures; 2], of: impl Fn(&Figures) -> &Series) -> Vec<String> {
    let (off, on) = (of(off), of(on));
    vec![name.to_owned(), off.to_string(), on.to_string(), number(on.median() / off.median())]
}

/// Runs all sides in turns, in the other order each time, so that what else the machine does falls on all of them. The
/// first run finds cold caches; it is not counted.
async fn in_turns<T>(
    bench: &Bench,
    mut sides: Vec<Side<T>>,
    mut run: impl AsyncFnMut(&mut T, &mut Figures) -> Result<()>,
) -> Result<Vec<Side<T>>> {
    for number in 0..=bench.runs() {
        for Side { work, figures } in &mut sides {
            run(work, figures).await?;
        }
        sides.reverse();
        if number == 0 {
            sides.iter_mut().for_each(|side| side.figures = Figures::default());
        }
    }
    if bench.runs().is_multiple_of(2) {
        sides.reverse();
    }
    Ok(sides)
}

/// Those of `N` sides.
fn of_all<const N: usize>(figures: Vec<Figures>) -> Result<[Figures; N]> {
    figures.try_into().map_err(|_| anyhow!("a side is missing"))
}

/// W1: a change reaches push agents, which tell nobody themselves; beside each of these collectors.
async fn changes<const N: usize>(
    bench: &Bench,
    collectors: [Option<&str>; N],
    agents: usize,
) -> Result<[Figures; N]> {
    let mut sides = Vec::new();
    for collector in collectors {
        let mut control = Control::start_as(bench, Setup { collector, ..Setup::default() }).await?;
        control.prepare(POLICY_BYTES[0]).await?;
        let mut fleet = Fleet::join(&control.token(agents).await?, agents).await?;
        fleet.start(0..agents, 1).await?;
        until_current(&mut control, agents, 1).await?;
        sides.push(Side { work: (control, fleet, 0_u64), figures: Figures::default() });
    }
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
    of_all(all)
}

/// W2: heartbeats with nothing changed.
async fn beats(bench: &Bench, sink: &Sink) -> Result<[Figures; 2]> {
    let mut sides = Vec::new();
    for collector in [None, Some(sink.endpoint())] {
        let mut work = OurSide::start(bench, Setup { collector, ..Setup::default() }).await?;
        work.wire().await?;
        sides.push(Side { work, figures: Figures::default() });
    }
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
    of_all(all)
}

fn memory(control: &Control) -> f64 {
    float(control.resident_bytes().0) / float(1 << 20)
}

const WHAT: &str = "*Telling*: `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector, all else is as by default: every call is traced, 1 % \
of the agents' reports become\nspans, metrics are counted and told once a minute. The collector reads and counts what it hears, in the \
process of the agents and clients, so that\nits time comes from the same cores. *Silent*: nobody is named. Both are there all the time and \
take turns, in the other order each time. Agents\nshare the benchmark's process and tell nobody themselves. A change has 4 KiB and is timed \
from the call until presence knows that all agents\nrun it; heartbeats are those of W2, in runs of 3 s.";

const BAD: &str = "The same change beside collectors that do not do their work, all in one run and in turns as above: what is told \
waits in a queue\nthat has an end, and is dropped there. Goal: unchanged.";
