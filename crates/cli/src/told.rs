//! What a command tells an OpenTelemetry collector, where the `OTEL_*` variables name one: a span of its own, with one for
//! each call below it, and a line of a log when it fails. Of arguments nothing is told, and of the telemetry nothing is
//! said on the terminal.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ArgMatches;
use runtime::telemetry::{self, COMMAND_TIMEOUT, Telemetry, TelemetryError};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::{Failure, STOPPED, exit};

/// How long a command may take to hear of a signal. One that waits for the person at the terminal does not.
const HEARD_WITHIN: Duration = Duration::from_millis(100);

/// What is told of the command that runs; nothing where nobody listens.
pub(crate) struct Told(Option<Arc<Telling>>);

struct Telling {
    name: String,
    span: telemetry::Command,
    /// Until the command has ended.
    telemetry: Mutex<Option<Telemetry>>,
    runtime: Handle,
    /// The exit code that a signal asks for.
    signal: watch::Sender<Option<u8>>,
}

/// The words of a command line that say what to do, as in `muster content push`.
pub(crate) fn name(matches: &ArgMatches) -> String {
    let (mut name, mut matches) = ("muster".to_owned(), matches);
    while let Some((word, below)) = matches.subcommand() {
        name = format!("{name} {word}");
        matches = below;
    }
    name
}

impl Told {
    /// Nothing is told.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    /// Begins to tell of a command. Signals end it in an orderly way, unless it sees to that by itself.
    pub(crate) fn begin(name: String, minds_signals: bool) -> Result<Self, TelemetryError> {
        let telemetry = telemetry::start_command(None, "muster")?;
        let Some(runtime) = telemetry.runtime().cloned() else { return Ok(Self::nothing()) };
        let telling = Arc::new(Telling {
            span: telemetry::Command::begin(&name[..]),
            name,
            telemetry: Mutex::new(Some(telemetry)),
            runtime,
            signal: watch::Sender::new(None),
        });
        if !minds_signals {
            telling.runtime.spawn(Arc::clone(&telling).end_on_signals());
        }
        Ok(Self(Some(telling)))
    }

    /// Does what the command is for, until a signal asks for its end.
    pub(crate) async fn within(
        &self,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let Some(telling) = &self.0 else { return work.await };
        let mut signal = telling.signal.subscribe();
        tokio::select! {
            biased;
            outcome = telling.span.within(work) => outcome,
            code = signal.wait_for(Option::is_some) => {
                let code = code.ok().and_then(|code| *code);
                Err(Failure::Interrupted(code.unwrap_or(exit::STOPPED)))
            }
        }
    }

    /// Tells how it ended, at most [`COMMAND_TIMEOUT`] long.
    pub(crate) fn end(self, code: u8, failure: Option<&'static str>) {
        if let Some(telling) = self.0
            && let Some(telemetry) = telling.ended(code, failure)
        {
            telling.runtime.block_on(telemetry.stop_within(COMMAND_TIMEOUT));
        }
    }
}

impl Telling {
    /// It has ended. Whoever says so first gets what is to be stopped.
    fn ended(&self, code: u8, failure: Option<&'static str>) -> Option<Telemetry> {
        let telemetry = self.telemetry.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        if let Some(kind) = failure.filter(|kind| *kind != STOPPED) {
            let line = || tracing::error!(command = self.name, exit_code = code, kind, "the command failed");
            self.span.now(line);
        }
        self.span.ended(code, failure);
        Some(telemetry)
    }

    /// Ends the command on the first signal, and the process, if the command does not hear of it.
    async fn end_on_signals(self: Arc<Self>) {
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
        let code = tokio::select! {
            _ = interrupt.recv() => exit::STOPPED,
            _ = terminate.recv() => exit::TERMINATED,
        };
        self.signal.send_replace(Some(code));
        tokio::time::sleep(HEARD_WITHIN).await;
        if let Some(telemetry) = self.ended(code, Some(STOPPED)) {
            telemetry.stop_within(COMMAND_TIMEOUT).await;
            std::process::exit(code.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_command_is_named_without_its_arguments() {
        let check = |line: &str, expected: &str| {
            let matches = Cli::command().try_get_matches_from(line.split(' ')).unwrap();
            assert_eq!(name(&matches), expected);
        };
        check("muster apply -f secret.yaml --server https://u:p@h:1", "muster apply");
        check("muster --token-file t content push a/b folder", "muster content push");
        check("muster agent show canary", "muster agent show");
    }
}
