//! Structured logs on standard error: text for people, JSON for machines.

use std::error::Error;
use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How to log.
#[derive(Debug, Clone, Args)]
pub struct LogConfig {
    /// Form of the log: text for people, json for machines, auto: text on a terminal, else json.
    #[arg(long, env = "MUSTER_LOG_FORMAT", value_enum, default_value = "auto", global = true)]
    pub log_format: LogFormat,

    /// What to log: error, warn, info, debug, trace, or a filter such as "info,policy=debug".
    #[arg(long, env = "MUSTER_LOG", value_name = "FILTER", default_value = "info", global = true)]
    pub log_level: String,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("the log filter {filter:?} is not valid; try info, debug or info,policy=debug")]
    Filter {
        /// As configured.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was started before.
    #[error("logging is already set up in this process")]
    AlreadySet(#[source] Box<dyn Error + Send + Sync>),
}

/// Starts logging for the whole process, without telemetry: [`crate::telemetry::start`] brings both. Call once, before
/// anything else.
///
/// # Errors
/// [`LogError`] if the filter is not valid or logging was started before.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = config.filter()?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.is_text() {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init().map_err(LogError::AlreadySet)
    } else {
        builder.json().flatten_event(true).try_init().map_err(LogError::AlreadySet)
    }
}

impl LogConfig {
    /// What is logged.
    ///
    /// # Errors
    /// [`LogError::Filter`] if that is not valid.
    pub(crate) fn filter(&self) -> Result<EnvFilter, LogError> {
        filter(&self.log_level)
    }

    /// Whether people read it.
    pub(crate) fn is_text(&self) -> bool {
        match self.log_format {
            LogFormat::Auto => std::io::stderr().is_terminal(),
            LogFormat::Text => true,
            LogFormat::Json => false,
        }
    }
}

/// What is logged where nobody says.
pub(crate) fn usual_filter() -> Result<EnvFilter, LogError> {
    filter("info")
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(quiet_libraries(text))
        .map_err(|source| LogError::Filter { filter: text.to_owned(), source })
}

/// Libraries report each connection at INFO; that is DEBUG to us. What the operator names comes later in the
/// filter and wins.
fn quiet_libraries(filter: &str) -> String {
    if filter.contains("async_nats") { filter.to_owned() } else { format!("async_nats=warn,{filter}") }
}

/// The error and all its sources in one line, from what was tried to what went wrong:
/// `cannot start policy: cannot connect to nats://127.0.0.1:4222: connection refused`.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        // Libraries often repeat their source in their own message.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_names_every_source_once() {
        assert_eq!(chain(&Outer(std::io::Error::other("disk full"))), "cannot start: disk full");
    }

    #[test]
    fn an_invalid_filter_is_refused_with_a_way_out() {
        let config = LogConfig { log_format: LogFormat::Text, log_level: "policy=loud".to_owned() };
        let error = init(&config).unwrap_err().to_string();
        assert!(error.contains("policy=loud") && error.contains("try info"), "{error}");
    }
}
