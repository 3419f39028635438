//! The binary `muster-agent`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use domain::AgentId;
use domain::agent::Timing;
use domain::catalog::GroupRef;
use runtime::Shutdown;
use runtime::log::LogConfig;
use runtime::telemetry::TelemetryArgs;
use runtime::tls::BrokerTlsArgs;
use wire::join::JoinToken;

use crate::agent::{Agent, Enrolment, Parts};
use crate::command::CommandHandler;
use crate::content::{self, ContentOptions};
use crate::disk::{DiskStorage, Shown};
use crate::identity::{IdentityError, StateDir, save_claims};
use crate::transport::NatsTransport;
use crate::{join, offline, renew};

/// Tables of the configuration file that flags cannot express.
pub const TABLES: &[&str] = &["handlers", "content"];
/// Largest file with a join token.
const MAX_TOKEN_FILE_BYTES: usize = 16 * 1024;

/// Muster's agent: applies what its group should have, and says how that went.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the agent can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent until SIGTERM or SIGINT. The first time it joins the fleet of its join token.
    Run(Box<RunArgs>),
    /// Join the fleet of a join token, and end. What `run` would do the first time, and nothing else.
    Join(Box<JoinArgs>),
    /// Write a request to join, for a machine that cannot reach its fleet yet. Somebody carries it to where `muster agent
    /// enrol` makes a bundle of it for `muster-agent join --bundle`. The private key stays here.
    Request(Box<RequestArgs>),
    /// Show how the agent on this machine fares, from its state directory.
    Status(StatusArgs),
}

/// How to join, and where to keep what came of it.
#[derive(Debug, Args)]
pub struct JoinOptions {
    /// Join token from `muster token create`. Needed the first time only.
    #[arg(long, env = "MUSTER_JOIN", value_name = "TOKEN", hide_env_values = true)]
    pub join: Option<String>,

    /// File that holds the join token.
    #[arg(long, env = "MUSTER_JOIN_FILE", value_name = "FILE", conflicts_with = "join")]
    pub join_file: Option<PathBuf>,

    /// Directory for the agent's identity and what it applied. One agent each.
    #[arg(long, env = "MUSTER_STATE_DIR", value_name = "DIR", default_value = "/var/lib/muster-agent")]
    pub state_dir: PathBuf,

    /// Id to ask for when joining: [a-z0-9_-], at most 64 characters. Default: host name and part of the key.
    #[arg(long, env = "MUSTER_AGENT_ID", value_name = "ID")]
    pub id: Option<AgentId>,

    /// Host name to report, where that of the system is another, as in a container. Default: that of the system.
    #[arg(long, env = "MUSTER_HOSTNAME", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub hostname: Option<String>,

    /// Label to join with. May be given several times.
    #[arg(long = "label", env = "MUSTER_LABELS", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,

    /// Group to join, by path or name, within what the join token allows: its group, what is below, and the groups of
    /// its rules. Default: the one that the token gives. An agent that has joined stays where it is.
    #[arg(long, env = "MUSTER_AGENT_GROUP", value_name = "GROUP")]
    pub group: Option<GroupRef>,

    /// How to log.
    #[command(flatten)]
    pub log: LogConfig,
}

/// Options of `join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// How to join.
    #[command(flatten)]
    pub joining: JoinOptions,

    /// Join with this bundle from `muster agent enrol`, without asking anybody. It is held against what the request was
    /// made with.
    #[arg(long, env = "MUSTER_JOIN_BUNDLE", value_name = "FILE")]
    pub bundle: Option<PathBuf>,

    /// TLS towards NATS servers, where it is to be another than the join token says.
    #[command(flatten)]
    pub nats_tls: BrokerTlsArgs,
}

/// Options of `request`.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// How to join. Of the join token, the request carries the id and not the secret.
    #[command(flatten)]
    pub joining: JoinOptions,

    /// File for the request; `-` is standard output.
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub out: PathBuf,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// How to join.
    #[command(flatten)]
    pub joining: JoinOptions,

    /// NATS servers to use instead of those learnt when joining, separated by commas: tls://HOST:PORT, or
    /// wss://HOST:PORT for a WebSocket.
    #[arg(long, env = "MUSTER_AGENT_NATS_URL", value_name = "URL", value_delimiter = ',')]
    pub nats_url: Vec<String>,

    /// TLS towards NATS servers, where it is to be another than learnt when joining.
    #[command(flatten)]
    pub nats_tls: BrokerTlsArgs,

    /// Longest random wait before the first connection, against a fleet that starts at one moment.
    #[arg(long, env = "MUSTER_START_SPREAD", value_name = "TIME", default_value = "2s", value_parser = runtime::config::duration)]
    pub start_spread: Duration,

    /// Time that new communication settings have to prove themselves by an answered heartbeat; else the agent
    /// returns to the previous ones.
    #[arg(long, env = "MUSTER_CONFIRM_WITHIN", value_name = "TIME", default_value = "5m", value_parser = runtime::config::duration)]
    pub confirm_within: Duration,

    /// Time between comparisons of the applied files with what was applied.
    #[arg(long, env = "MUSTER_DRIFT_EVERY", value_name = "TIME", default_value = "1m", value_parser = runtime::config::duration)]
    pub drift_every: Duration,

    /// Most bytes of the disk that content takes, what is being fetched and the cache included, such as 2GiB.
    /// Default: all that the disk has.
    #[arg(long, env = "MUSTER_CONTENT_QUOTA", value_name = "SIZE", value_parser = wire::size::parse)]
    pub content_quota: Option<u64>,

    /// Most bytes of chunks that are kept of content that was removed, so that they need not be fetched again.
    #[arg(long, env = "MUSTER_CONTENT_CACHE", value_name = "SIZE", default_value = "256MiB", value_parser = wire::size::parse)]
    pub content_cache: u64,

    /// Most bytes of content on their way at once, which is also what a cut costs; a longer piece travels alone.
    /// More is faster on lines that are fast and far.
    #[arg(long, env = "MUSTER_CONTENT_WINDOW", value_name = "SIZE", default_value = "256KiB", value_parser = wire::size::parse)]
    pub content_window: u64,

    /// What to tell of changes.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The agent's state directory.
    #[arg(long, env = "MUSTER_STATE_DIR", value_name = "DIR", default_value = "/var/lib/muster-agent")]
    pub state_dir: PathBuf,

    /// Form of the output.
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: Output,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    let limit = wire::join::MAX_LABEL_BYTES;
    if key.is_empty() || key.len() > limit || value.len() > limit {
        return Err(format!("key and value may have 1 to {limit} bytes"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Does what the command line says.
///
/// # Errors
/// For people, with the cause and, where there is one, the way out.
pub fn main(cli: Cli, tables: &toml::Table) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(args) => {
            let telemetry = runtime::telemetry::start(&args.joining.log, &args.telemetry, "muster-agent")?;
            block_on(async {
                let ended = run(&args, tables).await;
                telemetry.stop().await;
                ended
            })
        }
        Command::Join(args) => {
            let telemetry = runtime::telemetry::start_command(Some(&args.joining.log), "muster-agent")?;
            print(&block_on(async {
                let command = runtime::telemetry::Command::begin("muster-agent join");
                let joined = command.within(Box::pin(join_only(&args))).await;
                match &joined {
                    Ok(_) => command.ended(0, None),
                    Err(_) => command.ended(1, Some("failed")),
                }
                telemetry.stop_within(runtime::telemetry::COMMAND_TIMEOUT).await;
                joined
            })?)
        }
        Command::Request(args) => {
            runtime::log::init(&args.joining.log)?;
            request(&args)
        }
        Command::Status(args) => print(&status(&args)?),
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes()).context("cannot write what there is to say")
}

/// Joins and ends.
async fn join_only(args: &JoinArgs) -> anyhow::Result<String> {
    let tasks = runtime::Tasks::new(Shutdown::new());
    tasks.stop_on_signals().context("cannot listen to signals")?;
    let dir = StateDir::lock(&args.joining.state_dir)?;
    let enrolment = match (&args.bundle, dir.enrolment()?) {
        (Some(bundle), None) => accept(args, &dir, bundle)?,
        _ => enrol((&args.joining, &args.nats_tls), &dir, tasks.shutdown()).await?,
    };
    let (agent, fleet) = (&enrolment.agent, enrolment.trust.fleet());
    Ok(format!("agent {agent} is in the fleet {fleet}; `muster-agent run` starts it\n"))
}

/// Joins with a bundle.
fn accept(args: &JoinArgs, dir: &StateDir, bundle: &Path) -> anyhow::Result<Enrolment> {
    let token = read_token(&args.joining)?;
    let pinned = match &token {
        Some(token) => Some(join::Pinned::from(token)),
        None => dir.requested()?,
    };
    let Some(pinned) = pinned else {
        bail!("this machine has written no request: `muster-agent request` does, with a join token");
    };
    let text = read_text(bundle, wire::offline::MAX_BUNDLE_CHARS)
        .with_context(|| format!("cannot read the bundle from {}", bundle.display()))?;
    let mut joined = offline::accept(&text, &pinned, &dir.key()?, runtime::clock::now())?;
    keep(dir, &mut joined)?;
    tracing::info!(agent = %joined.enrolment.agent, fleet = %joined.enrolment.trust.fleet(), "joined with a bundle");
    Ok(joined.enrolment)
}

/// Keeps what came of a join.
fn keep(dir: &StateDir, joined: &mut join::Joined) -> anyhow::Result<()> {
    joined.enrolment.tls = dir.keep_broker(&joined.broker.trust)?;
    dir.save(&joined.enrolment)?;
    let _new = dir.keep_learnt(&joined.broker)?;
    Ok(())
}

/// Writes a request to join.
fn request(args: &RequestArgs) -> anyhow::Result<()> {
    let dir = StateDir::lock(&args.joining.state_dir)?;
    if let Some(known) = dir.enrolment()? {
        bail!("this machine is in already, as agent {} of the fleet {}", known.agent, known.trust.fleet());
    }
    let Some(token) = read_token(&args.joining)? else {
        bail!("a request is made with a join token: give --join, --join-file or MUSTER_JOIN");
    };
    let text = offline::request(&token, &dir.key()?, &about(&args.joining, None))?;
    // Before the request leaves: its bundle is held against this.
    dir.keep_requested(&join::Pinned::from(&token))?;
    if args.out.as_os_str() == "-" {
        return print(&format!("{text}\n"));
    }
    std::fs::write(&args.out, format!("{text}\n"))
        .with_context(|| format!("cannot write the request to {}", args.out.display()))
}

/// What this machine says of itself; with the id that it has, if it has one.
fn about(args: &JoinOptions, known: Option<&AgentId>) -> join::About {
    join::About {
        id: known.or(args.id.as_ref()).cloned(),
        hostname: hostname(args),
        labels: args.labels.iter().cloned().collect::<HashMap<_, _>>(),
        group: args.group.clone(),
    }
}

fn hostname(args: &JoinOptions) -> String {
    let of_system = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    args.hostname.clone().unwrap_or_else(of_system)
}

/// Runs the agent until a signal asks it to stop.
async fn run(args: &RunArgs, tables: &toml::Table) -> anyhow::Result<()> {
    let tasks = runtime::Tasks::new(Shutdown::new());
    tasks.stop_on_signals().context("cannot listen to signals")?;
    let dir = Arc::new(StateDir::lock(&args.joining.state_dir)?);
    let handler = CommandHandler::from_table(tables.get("handlers"), dir.root().to_owned())?
        .with_content(tables.get("content"))?;
    let hostname = hostname(&args.joining);
    let enrolment = match enrol((&args.joining, &args.nats_tls), &dir, tasks.shutdown()).await {
        Err(error) if tasks.shutdown().is_requested() => {
            tracing::info!(error = %format!("{error:#}"), "stopped");
            return Ok(());
        }
        other => over(args, other?),
    };
    let (storage, loaded) = DiskStorage::open(dir.root(), &enrolment.trust, handler.fingerprint())?;
    let handler = Arc::new(handler);
    let (content, link) = content::open(
        dir.root(),
        &enrolment,
        Arc::clone(&handler),
        ContentOptions {
            quota: args.content_quota,
            cache_bytes: args.content_cache,
            window_bytes: args.content_window,
            timing: content::Timing { drift_every: args.drift_every.max(Duration::from_secs(1)).into() },
            hooks: handler.content_fingerprint(),
            ..ContentOptions::default()
        },
    )
    .with_context(|| format!("cannot use the directory for content in {}", dir.root().display()))?;
    let session = runtime::ids::random_u64();
    tracing::info!(
        agent = %enrolment.agent, fleet = %enrolment.trust.fleet(), state_dir = %dir.root().display(),
        servers = runtime::nats::shown(&enrolment.servers), "agent starts"
    );
    let parts = Parts {
        transport: NatsTransport::new(enrolment.servers.clone(), &enrolment.agent, session)
            .with_tls(enrolment.tls.clone())
            .with_access(enrolment.access.clone()),
        storage: Arc::new(storage),
        handler,
        loaded,
        timing: Timing {
            first_spread: args.start_spread.into(),
            confirm_within: args.confirm_within.into(),
            drift_every: args.drift_every.max(Duration::from_secs(1)).into(),
            ..Timing::default()
        },
        hostname,
        session,
        observer: None,
        content: Some(link),
    };
    let keep = keeper(Arc::clone(&dir));
    spawn(&tasks, "claims", renew::run(enrolment.clone(), keep, tasks.shutdown().clone()));
    spawn(&tasks, "agent", Agent::new(enrolment, parts).run(tasks.shutdown().clone()));
    spawn(&tasks, "content", content.run(tasks.shutdown().clone()));
    tasks.finish().await?;
    tracing::info!("agent stopped");
    drop(dir);
    Ok(())
}

/// Keeps what a renewal of claims brings.
fn keeper(dir: Arc<StateDir>) -> renew::Keep {
    Box::new(move |claims, broker| {
        save_claims(dir.root(), claims)?;
        if let Some(broker) = broker
            && dir.keep_learnt(broker)?
        {
            let (servers, cas) = (runtime::nats::shown(&broker.servers), broker.trust.cas.len());
            tracing::info!(servers, cas, "learnt anew where the NATS servers are, and who vouches for them");
        }
        Ok(())
    })
}

/// What was learnt when joining, with what the options say of servers in its place.
fn over(args: &RunArgs, mut enrolment: Enrolment) -> Enrolment {
    if !args.nats_url.is_empty() {
        enrolment.servers.clone_from(&args.nats_url);
    }
    enrolment.tls = args.nats_tls.over(enrolment.tls);
    enrolment
}

/// Starts a part of the agent, which ends with the shutdown.
fn spawn(tasks: &runtime::Tasks, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(name, async move {
        part.await;
        Ok::<(), std::convert::Infallible>(())
    });
}

/// The identity from an earlier join, or a new one.
async fn enrol(
    (args, nats_tls): (&JoinOptions, &BrokerTlsArgs),
    dir: &StateDir,
    shutdown: &Shutdown,
) -> anyhow::Result<Enrolment> {
    let token = read_token(args)?;
    let known = match dir.enrolment() {
        Ok(Some(known)) => {
            if token.as_ref().is_some_and(|token| token.fleet != known.trust.fleet()) {
                bail!(
                    "this agent belongs to the fleet {}, the join token to another one; use another --state-dir to join that",
                    known.trust.fleet()
                );
            }
            // One that joined when the broker let everyone in gets its claims with a token, which loses no use of it.
            if known.access.is_some() || token.as_ref().is_none_or(|token| token.door.is_none()) {
                return Ok(known);
            }
            Some(known)
        }
        Ok(None) => None,
        Err(IdentityError::Damaged { path, problem }) if token.is_some() => {
            tracing::warn!(path = %path.display(), problem, "the identity is damaged: joining again with the same key");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let Some(token) = token else {
        bail!(
            "this agent has not joined a fleet: give it a join token with --join, --join-file or MUSTER_JOIN (an operator makes one with `muster token create --group PATH`)"
        );
    };
    let about = about(args, known.as_ref().map(|known| &known.agent));
    let tls = nats_tls.over(dir.keep_broker(&token.broker)?);
    let mut joined = join::join((&token, &tls), &dir.key()?, &about, shutdown).await?;
    if let Some(known) = known {
        // The root that it pinned when it joined first gives way to those that follow it, and to no other.
        joined.enrolment.trust = known.trust;
    }
    keep(dir, &mut joined)?;
    tracing::info!(agent = %joined.enrolment.agent, fleet = %joined.enrolment.trust.fleet(), "joined");
    Ok(joined.enrolment)
}

fn read_token(args: &JoinOptions) -> anyhow::Result<Option<JoinToken>> {
    let text = match (&args.join, &args.join_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(read_token_file(path)?),
        (None, None) => None,
    };
    text.map(|text| JoinToken::decode(&text).map_err(Into::into)).transpose()
}

fn read_token_file(path: &Path) -> anyhow::Result<String> {
    read_text(path, MAX_TOKEN_FILE_BYTES)
        .with_context(|| format!("cannot read the join token from {}", path.display()))
}

fn read_text(path: &Path, limit: usize) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let _read = std::fs::File::open(path)?.take(limit as u64 + 1024).read_to_string(&mut text)?;
    Ok(text)
}

/// What `muster-agent status` prints.
fn status(args: &StatusArgs) -> anyhow::Result<String> {
    let dir = &args.state_dir;
    let running = StateDir::is_locked(dir);
    let shown = Shown::read(dir).with_context(|| format!("cannot read the status in {}", dir.display()))?;
    let Some(shown) = shown else {
        bail!("no agent has run with the state directory {} yet", dir.display());
    };
    Ok(match args.output {
        Output::Json => {
            let mut json = serde_json::to_value(&shown)?;
            json["running"] = running.into();
            format!("{json:#}\n")
        }
        Output::Table => crate::table::render(&shown, running, runtime::clock::now()),
    })
}
