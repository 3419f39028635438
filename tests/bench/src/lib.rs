//! Measures Muster beside raw NATS doing only the transport of the same work, on the same machine in the
//! same run, and writes `docs/benchmarks.md`.
//!
//! Each work has a module that gives its section of the page. What raw NATS does stands in [`fanout`] (one
//! message to many) and [`load`] with [`responder`] (request and reply).

pub mod agents;
pub mod broker;
pub mod children;
pub mod clients;
pub mod control;
pub mod fanout;
pub mod load;
pub mod machine;
pub mod memory;
pub mod micro;
pub mod page;
pub mod responder;
pub mod sample;
pub mod sink;
pub mod stats;
pub mod telemetry;
pub mod trust;
pub mod w1;
pub mod w1b;
pub mod w2;
pub mod w3;
pub mod w5;
pub mod w7;
pub mod wiretap;

mod args;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

pub use args::{Args, Role, Work};
use machine::Machine;
use runtime::log::{self, LogConfig, LogFormat};
use tokio::signal::unix::{SignalKind, signal};

/// How long the tasks of thousands of connections may take to end.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// A run of the benchmark.
pub struct Bench {
    /// What was asked for.
    pub args: Args,
    /// What it runs on.
    pub machine: Machine,
    /// The broker's binary.
    pub nats_server: PathBuf,
}

impl Bench {
    /// Runs behind each median.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.args.runs()
    }

    /// The server under test.
    ///
    /// # Errors
    /// When it is not there.
    pub fn musterd(&self) -> Result<PathBuf> {
        control::find_musterd(self.args.musterd.as_deref())
    }
}

/// Tells the terminal.
#[allow(clippy::print_stdout, reason = "a benchmark reports to its terminal")]
pub fn say(text: &str) {
    println!("{text}");
}

/// Measures what `args` ask for and writes the page; or does a child's part.
///
/// # Errors
/// When something cannot be measured: no figure is better than a wrong one.
pub fn run(args: Args) -> Result<()> {
    log::init(&LogConfig { log_format: LogFormat::Auto, log_level: args.log_level.clone() })?;
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let is_child = args.role.is_some();
    let end = tokio.block_on(async {
        tokio::select! {
            end = act(args) => end,
            // Dropping the measurement ends all children.
            signal = interrupted() => if is_child { Ok(()) } else { bail!("ended by {}", signal?) },
        }
    });
    tokio.shutdown_timeout(LAST_TASKS);
    end
}

async fn interrupted() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

async fn act(args: Args) -> Result<()> {
    match args.role {
        Some(Role::Responder) => responder::serve(&args.url, args.size).await,
        Some(Role::Memory) => {
            say(&w5::grow(u64::try_from(args.size)?)?.to_string());
            Ok(())
        }
        None => measure(args).await,
    }
}

async fn measure(args: Args) -> Result<()> {
    let nats_server = runtime::nats_server::find(args.nats_server.as_deref()).await?;
    let machine = Machine::look(&nats_server);
    say(&machine.line());
    let bench = Bench { args, machine, nats_server };
    for work in bench.args.wanted() {
        let section = match work {
            Work::W1 => w1::section(&bench).await,
            Work::W1b if bench.args.floors_only => continue,
            Work::W1b => w1b::section(&bench).await,
            Work::W2 => w2::section(&bench).await,
            Work::W3 | Work::W3b | Work::W3c | Work::Trust | Work::Telemetry if bench.args.floors_only => {
                continue;
            }
            Work::W3 => w3::section(&bench).await,
            Work::W3b => w3::delivery_section(&bench).await,
            Work::W3c => w3::beside_section(&bench).await,
            Work::W5 => w5::section(&bench),
            Work::W7 => w7::section(&bench).await,
            Work::Trust => trust::section(&bench).await,
            Work::Telemetry => telemetry::section(&bench).await,
            Work::Micro => micro::section(&bench),
        };
        let section = section.with_context(|| format!("cannot measure {work:?}"))?;
        if bench.args.no_floors || bench.args.floors_only {
            continue;
        }
        page::write(&bench.args.out, work, &section)?;
        say(&format!("{} has the new section of {work:?}", bench.args.out.display()));
    }
    Ok(())
}
