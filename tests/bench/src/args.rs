//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// One work of `docs/benchmarks.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Work {
    /// One policy change reaches N push agents.
    W1,
    /// A tenth of the agents is away while policies change.
    W1b,
    /// Heartbeats with nothing changed.
    W2,
    /// Content: bytes beside those of other tools.
    W3,
    /// Content: time and memory of its delivery.
    W3b,
    /// Policies beside a delivery of content.
    W3c,
    /// Memory of presence for each agent.
    W5,
    /// One change at the root of ten thousand groups is compiled.
    W7,
    /// Joins, renewals of claims, and agents beside one that floods the broker.
    Trust,
    /// W1 and W2 with and without a collector that hears of them.
    Telemetry,
    /// What the others spend their time in: signatures, decoding, heartbeat handling.
    Micro,
}

/// What a process that the benchmark started of itself does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Answers raw requests until its standard input closes.
    Responder,
    /// Fills presence with agents and prints what memory that took.
    Memory,
}

/// Measures Muster beside raw NATS on the same machine in the same run.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench")]
pub struct Args {
    /// What to measure; all if none is named.
    pub works: Vec<Work>,
    /// Fewer agents and fewer runs: shows that everything works, not what it is worth.
    #[arg(long)]
    pub quick: bool,
    /// Page to write; sections of works that were not measured stay as they are.
    #[arg(long, default_value = "docs/benchmarks.md")]
    pub out: PathBuf,
    /// Measure the floors only.
    #[arg(long)]
    pub floors_only: bool,
    /// Measure Muster only, for work on it. Writes no page.
    #[arg(long, conflicts_with = "floors_only")]
    pub no_floors: bool,
    /// Runs behind each median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Numbers of agents for W1, W1b; the first of them for telemetry.
    #[arg(long, value_delimiter = ',')]
    pub agents: Vec<usize>,
    /// The broker; by default what `make tools` installs, or the one on PATH.
    #[arg(long)]
    pub nats_server: Option<PathBuf>,
    /// The server under test; by default the `musterd` beside this program.
    #[arg(long)]
    pub musterd: Option<PathBuf>,
    /// What the agents in this process log, as `musterd --log-level`.
    #[arg(long, default_value = "error")]
    pub log_level: String,
    /// What to do as a child of another `bench`.
    #[arg(long, hide = true, value_enum)]
    pub role: Option<Role>,
    /// Broker that a child connects to.
    #[arg(long, hide = true, default_value = "")]
    pub url: String,
    /// How many agents a child makes, or how many bytes its answers have.
    #[arg(long, hide = true, default_value_t = 0)]
    pub size: usize,
}

impl Args {
    /// What is to be measured, in order.
    #[must_use]
    pub fn wanted(&self) -> Vec<Work> {
        if self.works.is_empty() { Work::value_variants().to_vec() } else { self.works.clone() }
    }

    /// Runs behind each median.
    #[must_use]
    pub fn runs(&self) -> usize {
        if self.quick { 2 } else { usize::try_from(self.runs).unwrap_or(usize::MAX) }
    }
}
