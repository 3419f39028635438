//! The commands: each knows its arguments and what it asks of the server.

mod agent;
mod api_token;
mod apply;
mod audit;
mod content;
mod group;
mod key;
mod kind;
mod login;
mod policy;
mod settings;
mod status;
mod token;
mod trace;
mod wait;
mod watch;
mod whoami;

use clap::{CommandFactory as _, Subcommand, ValueEnum};
use clap_complete::Shell;
use domain::Span;
use wire::api::v1::Mode;
use wire::{manifest::duration, size};

use crate::args::{Cli, Format};
use crate::client::Client;
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::session::{Session, yaml};
use crate::sign_in;
use crate::terminal::Terminal;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Apply(apply::Apply),
    #[command(subcommand)]
    Group(group::Group),
    #[command(subcommand)]
    Kind(kind::Kind),
    #[command(subcommand)]
    Policy(policy::Policy),
    #[command(subcommand)]
    Content(content::Content),
    #[command(subcommand)]
    Settings(settings::Settings),
    #[command(subcommand)]
    Agent(agent::Agent),
    #[command(subcommand)]
    Token(token::Token),
    #[command(subcommand)]
    ApiToken(api_token::ApiToken),
    Whoami(whoami::Whoami),
    #[command(subcommand)]
    Key(key::Key),
    Login(login::Login),
    Logout(login::Logout),
    #[command(subcommand)]
    Context(login::ContextCommand),
    #[command(subcommand)]
    Audit(audit::Audit),
    Status(status::Status),
    Trace(trace::Trace),
    Wait(wait::Wait),
    Watch(watch::Watch),
    /// Print a completion script for a shell
    #[command(
        after_long_help = "Examples:\n  muster completion bash > /etc/bash_completion.d/muster\n  muster completion zsh > ~/.zfunc/_muster"
    )]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the version of this program
    #[command(after_long_help = "Examples:\n  muster version\n  muster version -o json")]
    Version,
}

impl Command {
    /// Whether it asks nobody: shells run such commands often, and there is nothing to tell of them.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Completion { .. } | Self::Version | Self::Logout(_) | Self::Context(_))
    }

    /// Whether it ends by itself when it is interrupted.
    pub(crate) fn minds_signals(&self) -> bool {
        matches!(self, Self::Content(_))
    }
}

/// Runs a command that was parsed.
pub(crate) async fn run(cli: Cli, terminal: &mut Terminal) -> Result<(), Failure> {
    let config = config::resolve(cli.global)?;
    match cli.command {
        Command::Completion { shell } => completion(shell, terminal),
        Command::Version => version(config.output, terminal),
        Command::Login(login) => Box::pin(login.run(config, terminal)).await,
        Command::Logout(logout) => logout.run(terminal),
        Command::Context(context) => context.run(terminal),
        Command::Apply(apply) => {
            let manifests = apply.read(terminal)?;
            Box::pin(apply.run(manifests, &mut connect(config, terminal).await?)).await
        }
        Command::Group(group) => Box::pin(group.run(&mut connect(config, terminal).await?)).await,
        Command::Kind(kind) => Box::pin(kind.run(&mut connect(config, terminal).await?)).await,
        Command::Policy(policy) => Box::pin(policy.run(&mut connect(config, terminal).await?)).await,
        Command::Content(content) => Box::pin(content.run(&mut connect(config, terminal).await?)).await,
        Command::Settings(settings) => Box::pin(settings.run(&mut connect(config, terminal).await?)).await,
        Command::Agent(agent) => Box::pin(agent.run(&mut connect(config, terminal).await?)).await,
        Command::Token(token) => Box::pin(token.run(&mut connect(config, terminal).await?)).await,
        Command::ApiToken(token) => Box::pin(token.run(&mut connect(config, terminal).await?)).await,
        Command::Audit(audit) => Box::pin(audit.run(&mut connect(config, terminal).await?)).await,
        Command::Whoami(whoami) => Box::pin(whoami.run(&mut connect(config, terminal).await?)).await,
        Command::Key(key) => Box::pin(key.run(config, terminal)).await,
        Command::Status(status) => Box::pin(status.run(&mut connect(config, terminal).await?)).await,
        Command::Trace(trace) => {
            let url = config.trace_url.clone();
            Box::pin(trace.run(&mut connect(config, terminal).await?, url)).await
        }
        Command::Wait(wait) => Box::pin(wait.run(&mut connect(config, terminal).await?)).await,
        Command::Watch(watch) => Box::pin(watch.run(&mut connect(config, terminal).await?)).await,
    }
}

async fn connect(config: Config, terminal: &mut Terminal) -> Result<Session<'_>, Failure> {
    let config = Box::pin(sign_in::renewed(config)).await?;
    let client = Client::connect(&config.server, config.credential).await?;
    Ok(Session { client, terminal, format: config.output })
}

fn completion(shell: Shell, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
    terminal.data(&String::from_utf8_lossy(&script))
}

fn version(format: Format, terminal: &mut Terminal) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let json = serde_json::json!({ "version": version });
    terminal.data(&match format {
        Format::Table => format!("muster {version}\n"),
        Format::Json => format!("{json:#}\n"),
        Format::Yaml => yaml(&json)?,
    })
}

/// Push or pull, as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ModeName {
    /// The agent holds a connection and is told at once
    Push,
    /// The agent asks at each heartbeat
    Pull,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Push => Self::Push,
            ModeName::Pull => Self::Pull,
        }
    }
}

/// A duration, as an argument.
fn parse_duration(text: &str) -> Result<Span, duration::DurationError> {
    duration::parse(text)
}

/// Bytes in a second, as an argument; "none" for no limit.
fn parse_rate(text: &str) -> Result<u64, String> {
    let problem = |error: size::SizeError| format!("{error}, or \"none\"");
    if text == "none" { Ok(0) } else { size::parse_rate(text).map_err(problem) }
}

/// `key=value`, as an argument.
fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("must be KEY=VALUE".to_owned()),
    }
}
