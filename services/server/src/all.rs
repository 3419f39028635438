//! `musterd all`: every service in one process, with a nats-server child.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use domain::FleetId;
use runtime::access::{AccessArgs, FirstTokenError, first_token, first_token_name};
use runtime::broker::{self, InitError};
use runtime::keys::{self, KeyError};
use runtime::nats_server::{FindError, NatsServer, Reload, ServerError, Setup, find, supervise};
use runtime::tls::{ListenerTls, ListenerTlsError, LocalCa, LocalCaError, ServerTls, TlsFiles};
use runtime::{
    BrokerTlsArgs, ContentKeyArgs, Listener, ListenerTlsArgs, Security, ServeError, ServiceArgs,
    ServiceContext, ServiceError, Shutdown, Tasks, TasksError, TrustArgs,
};
use tonic::service::RoutesBuilder;
use wire::access::Role;

use crate::data_dir::{Addresses, DataDir, DataDirError};

/// How often it is looked whether a certificate has to be renewed. It then still holds for a month.
const RENEWAL_LOOK: Duration = Duration::from_hours(1);

/// Options of `musterd all`.
#[derive(Debug, Clone, Args)]
pub struct AllArgs {
    /// Where everything is kept: the JetStream store, the keys, the administrator's API token (admin.token). Made if it is not there.
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR", default_value = "muster-data")]
    pub data_dir: PathBuf,

    /// Address for gRPC, reflection, health and the probes /healthz and /readyz. Port 0 takes a
    /// free one; addresses.json in the data directory tells which.
    #[arg(long, env = "MUSTER_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,

    /// TLS of the listener. Without files: a certificate from a CA in the data directory, tls/ca.pem, both made at
    /// the first start.
    #[command(flatten)]
    pub tls: ListenerTlsArgs,

    /// Further names and addresses in the certificate that is made, separated by commas, beside localhost,
    /// 127.0.0.1 and ::1.
    #[arg(
        long,
        env = "MUSTER_TLS_NAMES",
        value_name = "NAME",
        value_delimiter = ',',
        conflicts_with = "tls_cert"
    )]
    pub tls_name: Vec<String>,

    /// Port of the supervised nats-server on 127.0.0.1. Without it: a free one at the first start, and the same
    /// at later ones, because agents know it.
    #[arg(long, env = "MUSTER_NATS_PORT", value_name = "PORT", conflicts_with = "nats_url")]
    pub nats_port: Option<u16>,

    /// NATS servers to use instead of supervising one, separated by commas.
    #[arg(long, env = "MUSTER_NATS_URL", value_name = "URL", value_delimiter = ',')]
    pub nats_url: Vec<String>,

    /// TLS towards those.
    #[command(flatten)]
    pub nats_tls: BrokerTlsArgs,

    /// Folder of the fleet that `musterd init` made, with the credentials of every service, for the servers of
    /// --nats-url. The supervised server has its own, in the data directory.
    #[arg(long, env = "MUSTER_NATS_CREDS", value_name = "DIR")]
    pub nats_creds: Option<PathBuf>,

    /// The nats-server to run. Without it: $MUSTER_NATS_SERVER, .tools/bin, beside musterd, on PATH.
    #[arg(long, value_name = "FILE")]
    pub nats_server_bin: Option<PathBuf>,

    /// NATS servers that join tokens name, separated by commas, where agents need other addresses than this
    /// process does.
    #[arg(long, env = "MUSTER_AGENT_SERVERS", value_name = "URL", value_delimiter = ',')]
    pub agent_servers: Vec<String>,

    /// PEM file with the CAs that join tokens name, where agents need others than this process does.
    #[arg(long, env = "MUSTER_AGENT_CA_FILE", value_name = "FILE")]
    pub agent_ca_file: Option<PathBuf>,

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

    /// Trust roots. Without a file: root.key in the data directory, made at the first start, unless --trust-root
    /// begins the fleet with roots that were made elsewhere.
    #[command(flatten)]
    pub trust: TrustArgs,

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
    /// The operator of the supervised nats-server cannot be made or used.
    #[error("the broker's operator cannot be used")]
    Init(#[from] InitError),
    /// nats-server does not run.
    #[error("nats-server does not run")]
    NatsServer(#[from] ServerError),
    /// The root key, the director key or the content key cannot be used.
    #[error("a key cannot be used")]
    Key(#[from] KeyError),
    /// There is no API token for the administrator.
    #[error("the administrator has no API token")]
    FirstToken(#[from] FirstTokenError),
    /// The API cannot be served.
    #[error("the API cannot be served")]
    Serve(#[from] ServeError),
    /// The listener has no certificate.
    #[error("the API cannot be served with TLS")]
    Tls(#[from] ListenerTlsError),
    /// The CA in the data directory cannot be used.
    #[error("the local CA cannot be used")]
    LocalCa(#[from] LocalCaError),
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
    let ca = LocalCa::open(dir.tls(), &names(args))?;
    let listener = Listener::bind(args.listen, security(&args.tls, &ca)?).await?;
    let server_tasks = Tasks::new(Shutdown::new());
    let broker = match args.nats_url.is_empty() {
        true => start_server(args, &dir, ca, &server_tasks).await?,
        false => {
            server_tasks.spawn("renew certificates", renew(ca, None, server_tasks.shutdown().clone()));
            let (creds, tls) = (args.nats_creds.clone(), args.nats_tls.clone());
            Broker { urls: args.nats_url.clone(), creds, tls }
        }
    };
    let ended = run_services(args, &dir, (listener, broker), (&server_tasks, shutdown)).await;
    let cleared = dir.clear_addresses();
    server_tasks.shutdown().request();
    let stopped = server_tasks.finish().await;
    ended?;
    stopped?;
    Ok(cleared?)
}

/// Names of this machine in the certificate that is made: those that were given, and the address it listens on.
fn names(args: &AllArgs) -> Vec<String> {
    let ip = args.listen.ip();
    let own = (!ip.is_loopback() && !ip.is_unspecified()).then(|| ip.to_string());
    args.tls_name.iter().cloned().chain(own).collect()
}

/// What the options say of TLS, and with nothing said the certificate from the local CA.
fn security(args: &ListenerTlsArgs, ca: &LocalCa) -> Result<Security, ListenerTlsError> {
    match args.files() {
        None if args.insecure_plaintext => Ok(Security::Plaintext),
        given => ListenerTls::load(given.unwrap_or_else(|| ca.files())).map(Security::Tls),
    }
}

/// Where the broker is, how to verify it, and what services show it.
struct Broker {
    urls: Vec<String>,
    creds: Option<PathBuf>,
    tls: BrokerTlsArgs,
}

/// Starts the supervised server, with an operator that is made at the first start. Its certificate is from the local CA.
async fn start_server(args: &AllArgs, dir: &DataDir, ca: LocalCa, tasks: &Tasks) -> Result<Broker, AllError> {
    let binary = find(args.nats_server_bin.as_deref()).await?;
    broker::init(&dir.broker(), &args.fleet)?;
    let mut setup = Setup::new(binary, dir.nats()).with_operator(&dir.broker())?;
    setup.port = args.nats_port.or_else(|| dir.nats_port());
    let TlsFiles { cert, key, .. } = ca.files();
    setup.tls = Some(ServerTls { cert, key, ca: ca.ca(), client_ca: None, first: true });
    let server = NatsServer::start(setup).await?;
    dir.keep_nats_port(server.port())?;
    let tls = BrokerTlsArgs { nats_ca_file: Some(ca.ca()), nats_tls_first: true, ..BrokerTlsArgs::default() };
    let urls = vec![server.url()];
    tasks.spawn("renew certificates", renew(ca, Some(server.reloads()), tasks.shutdown().clone()));
    tasks.spawn("nats-server", supervise(server, tasks.shutdown().clone()));
    Ok(Broker { urls, creds: Some(broker::fleet_dir(&dir.broker(), &args.fleet)), tls })
}

/// Renews the certificate from the local CA in time. The listener sees the new one by itself.
async fn renew(ca: LocalCa, broker: Option<Reload>, shutdown: Shutdown) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEWAL_LOOK) => {}
            () = shutdown.requested() => return Ok(()),
        }
        match (ca.renew_if_due(), &broker) {
            (Ok(true), Some(broker)) => broker.request(),
            (Ok(_), _) => {}
            // The one that is there holds for weeks, and the next look may find the cause gone.
            (Err(error), _) => {
                tracing::error!(error = %runtime::log::chain(&error), "a certificate cannot be renewed");
            }
        }
    }
}

async fn run_services(
    args: &AllArgs,
    dir: &DataDir,
    (listener, broker): (Listener, Broker),
    (server_tasks, shutdown): (&Tasks, Shutdown),
) -> Result<(), AllError> {
    let director_key = key_file(args.director_key.as_deref(), dir.director_key())?;
    let content_key = key_file(args.content_keys.content_key.as_deref(), dir.content_key())?;
    let root_key = match &args.trust {
        TrustArgs { root_key: None, trust_root: Some(_), .. } => None,
        trust => Some(key_file(trust.root_key.as_deref(), dir.root_key())?),
    };
    let service_args = ServiceArgs {
        listen: listener.address(),
        tls: args.tls.clone(),
        nats_url: broker.urls,
        nats_tls: broker.tls,
        nats_creds: broker.creds,
        agent_servers: args.agent_servers.clone(),
        agent_ca_file: args.agent_ca_file.clone(),
        fleet: args.fleet.clone(),
        director_key: Some(director_key),
        content_keys: ContentKeyArgs { content_key: Some(content_key), ..args.content_keys.clone() },
        access: args.access.clone(),
        trust: TrustArgs { root_key, ..args.trust.clone() },
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
    let contexts = ServiceContext::connect_all(&service_args, SERVICES, &tasks).await?;
    let [first, ..] = &contexts;
    let started = match start_services(args, dir, &contexts).await {
        Ok(routes) => announce(dir, &service_args, first, &listener).map(|()| routes).map_err(AllError::from),
        Err(error) => Err(error),
    };
    let failed = match started {
        Ok(routes) => {
            first.serve(listener, routes);
            None
        }
        Err(error) => {
            tasks.shutdown().request();
            Some(error)
        }
    };
    let ended = tasks.finish().await;
    for context in &contexts {
        context.close().await;
    }
    // The reason to stop is the one worth telling.
    failed.map_or(Ok(ended?), Err)
}

/// The file of a key: the one that was given, or the one in the data directory, which is made if it is not there.
fn key_file(given: Option<&Path>, own: PathBuf) -> Result<PathBuf, KeyError> {
    match given {
        Some(file) => Ok(file.to_owned()),
        None => keys::load_or_create(&own).map(|_| own),
    }
}

/// In the order in which they start.
const SERVICES: [Role; 4] = [Role::Policy, Role::Content, Role::Presence, Role::Identity];

async fn start_services(
    args: &AllArgs,
    dir: &DataDir,
    [for_policy, for_content, for_presence, for_identity]: &[ServiceContext; 4],
) -> Result<RoutesBuilder, AllError> {
    first_token(&for_identity.nats, &dir.admin_token(), &first_token_name()).await?;
    let mut routes = RoutesBuilder::default();
    let failed = |name| move |source| ServiceError::Start { name, source };
    policy::start(&args.policy, for_policy, &mut routes).await.map_err(|e| failed("policy")(e.into()))?;
    content::start(&args.content, for_content, &mut routes).await.map_err(|e| failed("content")(e.into()))?;
    presence::start(&args.presence, for_presence, &mut routes)
        .await
        .map_err(|e| failed("presence")(e.into()))?;
    identity::start(&args.identity, for_identity, &mut routes)
        .await
        .map_err(|e| failed("identity")(e.into()))?;
    Ok(routes)
}

/// Says where everything is reached, in the log and in the data directory.
fn announce(
    dir: &DataDir,
    args: &ServiceArgs,
    context: &ServiceContext,
    listener: &Listener,
) -> Result<(), DataDirError> {
    let nats = args.nats_url.iter().map(|url| runtime::nats::without_login(url)).collect();
    let addresses = Addresses { api: listener.url(), nats, pid: std::process::id() };
    dir.write_addresses(&addresses)?;
    tracing::info!(api = addresses.api, nats = addresses.nats.join(","), fleet = %args.fleet, "musterd is up");
    let (readiness, stop) = (context.readiness.clone(), context.shutdown().clone());
    context.tasks.spawn_finite("announce ready", async move {
        tokio::select! {
            () = readiness.ready() => tracing::info!("all services are ready"),
            () = stop.requested() => {}
        }
        Ok::<(), Infallible>(())
    });
    Ok(())
}
