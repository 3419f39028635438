//! `make bench`: measures Muster beside raw NATS and writes docs/benchmarks.md.

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;

/// Thousands of agents share this process, which in the field have a process each: on the system's heap their
/// threads would wait for each other's locks, and that would count against the agents and against the floor.
#[global_allocator]
static HEAP: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match bench::run(bench::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            bench::say(&format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
