//! `make bench`: measures Muster beside raw NATS and writes docs/benchmarks.md.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match bench::run(bench::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            bench::say(&format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
