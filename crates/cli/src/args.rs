//! The command line: what all commands share.

use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

use crate::command::Command;

/// Where a server is looked for when nothing else is said.
pub const DEFAULT_SERVER: &str = "https://127.0.0.1:7400";

/// Where `musterd all` keeps its data when nothing else is said.
pub(crate) const DEFAULT_DATA_DIR: &str = "muster-data";

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed for a reason that has no code of its own
    2  the command line is wrong
    3  refused: bad input, a lock, or not possible in the state the fleet is in
    4  there is no such thing
    5  the server cannot be reached, or did not answer in time
    6  `wait` ran out of time
    7  `wait` ended because an agent failed
  130  stopped by Ctrl-C

The server is the one that was named, else that of the context of `muster login`, else the one
that runs with the data directory, else https://127.0.0.1:7400. A data directory that was named
comes before the current context. Its server is known by its own CA.

Push and pull are the two ways in which agents learn of changes.
  push: the agent holds a connection and is told at once
  pull: it asks at each heartbeat

Try:
  muster apply -f examples/
  muster status
  muster policy explain --group /servers/web";

/// One line that says what push and pull are; every help text that names them ends with it.
pub(crate) const MODES: &str =
    "push: the agent holds a connection and is told at once; pull: it asks at each heartbeat";

/// Tells a fleet of agents what to run and shows which of them is there.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    max_term_width = 100,
    after_long_help = EXIT_CODES,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes. Flags win over the environment, that over the configuration file.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// Address of the server [env: MUSTER_SERVER] [default: see --context and --data-dir]
    #[arg(long, global = true, env = "MUSTER_SERVER", value_name = "URL", hide_env = true)]
    pub(crate) server: Option<String>,
    /// PEM file with the CA of the server [env: MUSTER_CA_FILE] [default: those of this machine]
    #[arg(long, global = true, env = "MUSTER_CA_FILE", value_name = "FILE", hide_env = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Where `musterd all` of this machine is found [env: MUSTER_DATA_DIR] [default: muster-data]
    #[arg(long, global = true, env = "MUSTER_DATA_DIR", value_name = "DIR", hide_env = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// File of the API token to show the server; the token itself may be in MUSTER_TOKEN
    /// [env: MUSTER_TOKEN_FILE]
    #[arg(long, global = true, env = "MUSTER_TOKEN_FILE", value_name = "FILE", hide_env = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// A context of `muster login` instead of the current one [env: MUSTER_CONTEXT]
    #[arg(long, global = true, env = "MUSTER_CONTEXT", value_name = "NAME", hide_env = true)]
    pub(crate) context: Option<String>,
    /// Print a table, or the API's message as json or yaml [env: MUSTER_OUTPUT] [default: table]
    #[arg(
        long,
        short,
        global = true,
        env = "MUSTER_OUTPUT",
        value_name = "FORMAT",
        hide_env = true,
        hide_possible_values = true
    )]
    pub(crate) output: Option<Format>,
    /// TOML file with the long names of these [env: MUSTER_CONFIG] [default: none]
    #[arg(long, global = true, env = "MUSTER_CONFIG", value_name = "FILE", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// The JSON form of the API's message.
    Json,
    /// The same as YAML.
    Yaml,
}

/// What every change takes.
#[derive(Debug, Default, Args)]
pub(crate) struct Change {
    /// Show what would happen and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why; kept in the history
    #[arg(long, short, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) message: String,
}

/// What every deletion takes beside that.
#[derive(Debug, Args)]
pub(crate) struct Consent {
    /// Do not ask; needed where nobody can answer
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Whether to change what somebody else keeps in order.
#[derive(Debug, Args)]
pub(crate) struct TakeOver {
    /// Do it also where an object is managed elsewhere, such as in Kubernetes. What manages it may undo that
    #[arg(long)]
    pub(crate) take_over: bool,
}

/// How much of a list to show.
#[derive(Debug, Args)]
pub(crate) struct Limit {
    /// Show at most this many [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}
