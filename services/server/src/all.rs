//! `musterd all`: every service in one process, with a nats-server child.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use domain::FleetId;
use runtime::access::{AccessArgs, FirstTokenError, first_token, first_token_name};
use runtime::keys::{self, KeyError};
use runtime::nats_server::{FindError, NatsServer, ServerError, Setup, find, supervise};
use runtime::{
    ContentKeyArgs, Listener, ServeError, ServiceArgs, ServiceContext, ServiceError, Shutdown, Tasks,
    TasksError,
};
use tonic::service::RoutesBuilder;

use crate::data_dir::{Addresses, DataDir, DataDirError};

/// Options of `musterd all`.
#[derive(Debug, Clone, Args)]
pub struct AllArgs {
    /// Where everything is kept: the JetStream store, the keys, the administrator's API token (admin.token). Made if it is not there.
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR", default_value = "muster-data")]
    pub data_dir: PathBuf,

    /// Address for gRPC, reflection, health and the probes /healthz and /readyz; loopback only. Port 0 takes a
    /// free one; addresses.json in the data directory tells which.
    #[arg(long, env = "MUSTER_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,

    /// Port of the supervised nats-server on 127.0.0.1. Without it: a free one at the first start, and the same
    /// at later ones, because agents know it.
    #[arg(long, env = "MUSTER_NATS_PORT", value_name = "PORT", conflicts_with = "nats_url")]
    pub nats_port: Option<u16>,

    /// NATS servers to use instead of supervising one, separated by commas.
    #[arg(long, env = "MUSTER_NATS_URL", value_name = "URL", value_delimiter = ',')]
    pub nats_url: Vec<String>,

    /// The nats-server to run. Without it: $MUSTER_NATS_SERVER, .tools/bin, beside musterd, on PATH.
    #[arg(long, value_name = "FILE")]
    pub nats_server_bin: Option<PathBuf>,

    /// NATS servers that join tokens name, separated by commas, where agents need other addresses than this
    /// process does.
    #[arg(long, env = "MUSTER_AGENT_SERVERS", value_name = "URL", value_delimiter = ',')]
    pub agent_servers: Vec<String>,

    /// The fleet this control plane serves.
    #[arg(long, env = "MUSTER_FLEET", value_name = "ID", default_value = "default")]
    pub fleet: FleetId,

    /// File of the key that signs what agents obey. Without it: director.key in the data directory, made at the
    /// first start.
    #[arg(long, env = "MUSTER_DIRECTOR_KEY", value_name = "FILE")]
    pub director_key: Option<PathBuf>,

    /// Keys of content. Without a file: content.key in the data directory, made at the first start.
    #[command(flatten)]
    pub content_keys: ContentKeyArgs,

    /// How callers are known.
    #[command(flatten)]
    pub access: AccessArgs,

    /// Options of policy.
    #[command(flatten)]
    pub policy: policy::Config,
    /// Options of content.
    #[command(flatten)]
    pub content: content::Config,
    /// Options of presence.
    #[command(flatten)]
    pub presence: presence::Config,
    /// Options of identity.
    #[command(flatten)]
    pub identity: identity::Config,
}

/// Why `musterd all` does not run.
#[derive(Debug, thiserror::Error)]
pub enum AllError {
    /// The data directory cannot be used.
    #[error("the data directory cannot be used")]
    DataDir(#[from] DataDirError),
    /// There is no nats-server to run.
    #[error("nats-server cannot be supervised")]
    Find(#[from] FindError),
    /// nats-server does not run.
    #[error("nats-server does not run")]
    NatsServer(#[from] ServerError),
    /// The director key or the content key cannot be used.
    #[error("a key cannot be used")]
    Key(#[from] KeyError),
    /// There is no API token for the administrator.
    #[error("the administrator has no API token")]
    FirstToken(#[from] FirstTokenError),
    /// The API cannot be served.
    #[error("the API cannot be served")]
    Serve(#[from] ServeError),
    /// A service failed.
    #[error("the services do not run")]
    Service(#[from] ServiceError),
    /// A task failed or did not stop.
    #[error("the process stopped")]
    Tasks(#[from] TasksError),
}

/// The supervised server was stopped although the services run.
#[derive(Debug, thiserror::Error)]
#[error("the supervision of nats-server ended")]
struct Unsupervised;

/// Runs all services until `shutdown`. They stop first, nats-server last.
///
/// # Errors
/// [`AllError`] if anything cannot start or ends early.
pub async fn run(args: &AllArgs, shutdown: Shutdown) -> Result<(), AllError> {
    let dir = DataDir::open(&args.data_dir)?;
    args.access.check(args.listen).map_err(ServiceError::from)?;
    let listener = Listener::bind(args.listen).await?;
    let server_tasks = Tasks::new(Shutdown::new());
    let nats_url = match args.nats_url.is_empty() {
        true => vec![start_server(args, &dir, &server_tasks).await?],
        false => args.nats_url.clone(),
    };
    let ended = run_services(args, &dir, (listener, nats_url), (&server_tasks, shutdown)).await;
    let cleared = dir.clear_addresses();
    server_tasks.shutdown().request();
    let stopped = server_tasks.finish().await;
    ended?;
    stopped?;
    Ok(cleared?)
}

/// Starts the supervised server and returns its URL.
async fn start_server(args: &AllArgs, dir: &DataDir, tasks: &Tasks) -> Result<String, AllError> {
    let binary = find(args.nats_server_bin.as_deref()).await?;
    let mut setup = Setup::new(binary, dir.nats());
    setup.port = args.nats_port.or_else(|| dir.nats_port());
    let server = NatsServer::start(setup).await?;
    dir.keep_nats_port(server.port())?;
    let url = server.url();
    tasks.spawn("nats-server", supervise(server, tasks.shutdown().clone()));
    Ok(url)
}

async fn run_services(
    args: &AllArgs,
    dir: &DataDir,
    (listener, nats_url): (Listener, Vec<String>),
    (server_tasks, shutdown): (&Tasks, Shutdown),
) -> Result<(), AllError> {
    let director_key = key_file(args.director_key.as_deref(), dir.director_key())?;
    let content_key = key_file(args.content_keys.content_key.as_deref(), dir.content_key())?;
    let service_args = ServiceArgs {
        listen: listener.address(),
        nats_url,
        agent_servers: args.agent_servers.clone(),
        fleet: args.fleet.clone(),
        director_key: Some(director_key),
        content_keys: ContentKeyArgs { content_key: Some(content_key), ..args.content_keys.clone() },
        access: args.access.clone(),
        stream_replicas: 1,
    };
    let tasks = Tasks::new(shutdown);
    let (supervised, stop) = (server_tasks.shutdown().clone(), tasks.shutdown().clone());
    tasks.spawn("watch nats-server", async move {
        tokio::select! {
            () = stop.requested() => Ok(()),
            () = supervised.requested() => Err(Unsupervised),
        }
    });
    let context = ServiceContext::connect(&service_args, "musterd all", tasks).await?;
    let started = match first_token(&context.nats, &dir.admin_token(), &first_token_name()).await {
        Ok(()) => start_services(args, &context).await,
        Err(error) => Err(error.into()),
    };
    match started {
        Ok(routes) => {
            announce(dir, &service_args, &context, &listener)?;
            context.serve(listener, routes);
        }
        Err(error) => {
            context.shutdown().request();
            // The reason to stop is the one worth telling.
            drop(context.finish().await);
            return Err(error);
        }
    }
    Ok(context.finish().await?)
}

/// The file of a key: the one that was given, or the one in the data directory, which is made if it is not there.
fn key_file(given: Option<&Path>, own: PathBuf) -> Result<PathBuf, KeyError> {
    match given {
        Some(file) => Ok(file.to_owned()),
        None => keys::load_or_create(&own).map(|_| own),
    }
}

async fn start_services(args: &AllArgs, context: &ServiceContext) -> Result<RoutesBuilder, AllError> {
    let mut routes = RoutesBuilder::default();
    let failed = |name| move |source| ServiceError::Start { name, source };
    policy::start(&args.policy, context, &mut routes).await.map_err(|e| failed("policy")(e.into()))?;
    content::start(&args.content, context, &mut routes).await.map_err(|e| failed("content")(e.into()))?;
    presence::start(&args.presence, context, &mut routes).await.map_err(|e| failed("presence")(e.into()))?;
    identity::start(&args.identity, context, &mut routes).await.map_err(|e| failed("identity")(e.into()))?;
    Ok(routes)
}

/// Says where everything is reached, in the log and in the data directory.
fn announce(
    dir: &DataDir,
    args: &ServiceArgs,
    context: &ServiceContext,
    listener: &Listener,
) -> Result<(), DataDirError> {
    let addresses = Addresses {
        api: format!("http://{}", listener.address()),
        nats: args.nats_url.clone(),
        pid: std::process::id(),
    };
    dir.write_addresses(&addresses)?;
    tracing::info!(api = addresses.api, nats = addresses.nats.join(","), fleet = %args.fleet, "musterd is up");
    let (readiness, stop) = (context.readiness.clone(), context.shutdown().clone());
    context.tasks.spawn_finite("announce ready", async move {
        tokio::select! {
            () = readiness.ready() => tracing::info!("all services are ready"),
            () = stop.requested() => {}
        }
        Ok::<(), std::convert::Infallible>(())
    });
    Ok(())
}
