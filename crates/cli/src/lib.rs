//! `muster`: what operators type.
//!
//! Data goes to standard output and nothing else does; notices, questions and progress go to standard
//! error. Each failure has a cause, a way out and an exit code of its own.

pub mod args;
mod client;
mod command;
mod config;
mod content;
mod contexts;
mod credential;
mod failure;
mod local;
mod manifests;
mod session;
mod sign_in;
pub mod terminal;
mod view;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::args::Cli;
pub use crate::failure::{Failure, exit};
use crate::terminal::Terminal;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os(), &mut Terminal::of_process()))
}

/// Runs one command line and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>, terminal: &mut Terminal) -> u8 {
    let parsed = Cli::command()
        .color(terminal.clap_colour())
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return terminal.clap_answer(&error),
    };
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
        .and_then(|runtime| {
            let outcome = runtime.block_on(command::run(cli, terminal));
            // A command that was stopped does not wait until the file it was reading has ended.
            runtime.shutdown_background();
            outcome
        });
    match outcome.and_then(|()| terminal.flush()) {
        Ok(()) => exit::OK,
        Err(failure) => {
            terminal.report(&failure);
            failure.exit_code()
        }
    }
}
