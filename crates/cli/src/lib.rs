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
mod told;
mod view;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::args::Cli;
use crate::command::Command;
pub use crate::failure::{Failure, exit};
use crate::terminal::Terminal;
use crate::told::Told;

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
        .and_then(|matches| Ok((told::name(&matches), Cli::from_arg_matches(&matches)?)));
    let (name, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return terminal.clap_answer(&error),
    };
    let told = tell(name, &cli.command, terminal);
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
        .and_then(|runtime| {
            let outcome = runtime.block_on(told.within(command::run(cli, terminal)));
            // A command that was stopped does not wait until the file it was reading has ended.
            runtime.shutdown_background();
            outcome
        });
    let (code, failure) = match outcome.and_then(|()| terminal.flush()) {
        Ok(()) => (exit::OK, None),
        Err(failure) => {
            terminal.report(&failure);
            let code = failure.exit_code();
            (code, (code != exit::OK).then(|| failure.kind()))
        }
    };
    told.end(code, failure);
    code
}

/// Begins to tell a collector of a command. One that cannot be told of runs all the same.
fn tell(name: String, command: &Command, terminal: &mut Terminal) -> Told {
    if command.is_local() {
        return Told::nothing();
    }
    Told::begin(name, command.minds_signals()).unwrap_or_else(|error| {
        // If it cannot be said, what the command says will fail as well.
        let _said = terminal.notice(&format!("note: {}", runtime::log::chain(&error)));
        Told::nothing()
    })
}
