//! The binary `musterd`: `musterd policy | content | presence | identity` runs one service against a NATS that runs
//! elsewhere, `musterd operator` keeps a fleet as Kubernetes says, `musterd all` runs every service in one process beside a supervised `nats-server`, `musterd init` makes
//! what a broker needs to tell all of them apart.

mod admin_token;
mod all;
mod backup;
mod bootstrap;
mod data_dir;
mod further;
mod init;
mod selftest;
mod work;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use runtime::log::LogConfig;
use runtime::telemetry::{Command, TelemetryArgs};
use runtime::{ServiceArgs, Shutdown, telemetry};

use admin_token::AdminTokenArgs;
pub use all::{AllArgs, AllError, run as run_all};
pub use data_dir::{Addresses, DataDirError};

/// The services of Muster: one of them, or all in one process.
#[derive(Debug, Parser)]
#[command(name = "musterd", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    log: LogConfig,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    #[command(subcommand)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Target {
    /// Every service in one process, beside a nats-server of its own: for a laptop, a test, a single node
    All(Box<AllArgs>),
    /// The policy service: groups, kinds, policies, settings; compiles, signs and publishes
    Policy(One<policy::Config>),
    /// The content service: uploads, channels and their revisions, patches, garbage collection
    Content(One<content::Config>),
    /// The presence service: answers heartbeats, knows which agent is there and what it runs
    Presence(One<presence::Config>),
    /// The identity service: join tokens and the registry of agents
    Identity(One<identity::Config>),
    /// The operator: keeps a fleet as custom resources of Kubernetes say, and reports back
    Operator(Box<operator::Config>),
    /// Makes an API token for an administrator straight in the store: the first of a control plane whose services
    /// run one by one, or another when all are lost
    AdminToken(AdminTokenArgs),
    /// Takes a backup of a fleet into a folder or an object store, while everything runs
    Backup(Box<backup::BackupArgs>),
    /// Puts a backup back into a broker that has lost its streams, while all services are stopped
    Restore(Box<backup::RestoreArgs>),
    /// Makes the broker's operator and the accounts of a fleet, with the credentials of every service
    Init(init::InitArgs),
    /// Fills the Secrets of a control plane in Kubernetes, once: the chart runs it as a Job
    Bootstrap(Box<bootstrap::BootstrapArgs>),
    /// Tries whether a control plane does what it is for: two agents join, run a policy, and are seen; then all of it is
    /// taken away again. `helm test` runs it
    Selftest(Box<selftest::SelftestArgs>),
    /// Prints the completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Options of one service that runs alone.
#[derive(Debug, Args)]
struct One<C: Args> {
    #[command(flatten)]
    common: ServiceArgs,
    #[command(flatten)]
    own: C,
}

/// The command line, for documentation and completion.
#[must_use]
pub fn command() -> clap::Command {
    runtime::config::with_config_flag(Cli::command())
}

/// Parses the command line, runs what it says, and returns the exit code: 0 after an orderly stop, 1 after a
/// failure, 2 for a wrong command line or configuration.
#[must_use]
pub fn main() -> ExitCode {
    let cli: Cli = runtime::config::parse();
    if let Target::Completion { shell } = cli.target {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command(), "musterd", &mut script);
        // Whoever closes the pipe early has read enough.
        let _read = std::io::stdout().write_all(&script);
        return ExitCode::SUCCESS;
    }
    if let Target::Init(args) = &cli.target {
        return init::main(args);
    }
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            // There is no log yet, and nothing better is left to do if standard error is closed.
            let _written = writeln!(std::io::stderr(), "musterd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs with logs and telemetry.
///
/// # Errors
/// If those cannot be started: later failures are in the log.
fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let service = cli.target.service();
    let telemetry = match cli.target.command() {
        Some(_) => telemetry::start_command(Some(&cli.log), service)?,
        None => telemetry::start(&cli.log, &cli.telemetry, service)?,
    };
    // Two at least: what blocks one must not stop all.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    Ok(runtime.block_on(async {
        let shutdown = Shutdown::new();
        let command = cli.target.command().map(Command::begin);
        let ended = match (shutdown.request_on_signals(), &command) {
            (Ok(()), Some(command)) => command.within(run(cli.target, shutdown)).await,
            (Ok(()), None) => run(cli.target, shutdown).await,
            (Err(error), _) => Err(error.into()),
        };
        let (code, failure) = match ended {
            Ok(()) => {
                tracing::info!("stopped");
                (0, None)
            }
            Err(error) => {
                let tell = || tracing::error!(error = runtime::log::chain(error.as_ref()), "musterd stopped");
                command.as_ref().map_or_else(tell, |command| command.now(tell));
                (1, Some("failed"))
            }
        };
        if let Some(command) = command {
            command.ended(code, failure);
        }
        telemetry.stop().await;
        ExitCode::from(code)
    }))
}

impl Target {
    /// What a trace calls it, if it is started for one thing and ends.
    fn command(&self) -> Option<&'static str> {
        match self {
            Self::AdminToken(_) => Some("musterd admin-token"),
            Self::Backup(_) => Some("musterd backup"),
            Self::Restore(_) => Some("musterd restore"),
            Self::Bootstrap(_) => Some("musterd bootstrap"),
            Self::Selftest(_) => Some("musterd selftest"),
            Self::All(_)
            | Self::Policy(_)
            | Self::Content(_)
            | Self::Presence(_)
            | Self::Identity(_)
            | Self::Operator(_)
            | Self::Init(_)
            | Self::Completion { .. } => None,
        }
    }

    /// What traces, metrics and logs call this process.
    fn service(&self) -> &'static str {
        match self {
            Self::All(_) => "musterd",
            Self::Policy(_) => "musterd-policy",
            Self::Content(_) => "musterd-content",
            Self::Presence(_) => "musterd-presence",
            Self::Identity(_) => "musterd-identity",
            Self::Operator(_) => "musterd-operator",
            Self::AdminToken(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Init(_)
            | Self::Bootstrap(_)
            | Self::Selftest(_)
            | Self::Completion { .. } => "musterd-tool",
        }
    }
}

async fn run(target: Target, shutdown: Shutdown) -> anyhow::Result<()> {
    match target {
        Target::All(args) => Box::pin(all::run(&args, shutdown)).await?,
        Target::Policy(args) => Box::pin(policy::run(&args.common, &args.own, shutdown)).await?,
        Target::Content(args) => Box::pin(content::run(&args.common, &args.own, shutdown)).await?,
        Target::Presence(args) => Box::pin(presence::run(&args.common, &args.own, shutdown)).await?,
        Target::Identity(args) => Box::pin(identity::run(&args.common, &args.own, shutdown)).await?,
        Target::Operator(config) => Box::pin(operator::run(&config, shutdown)).await?,
        Target::AdminToken(args) => Box::pin(admin_token::run(&args, shutdown)).await?,
        Target::Backup(args) => Box::pin(backup::take(&args, shutdown)).await?,
        Target::Restore(args) => Box::pin(backup::restore(&args, shutdown)).await?,
        Target::Bootstrap(args) => Box::pin(bootstrap::run(&args, shutdown)).await?,
        Target::Selftest(args) => Box::pin(selftest::run(&args, shutdown)).await?,
        // Done before anything was started.
        Target::Init(_) | Target::Completion { .. } => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
