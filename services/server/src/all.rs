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
use crate::further::{Further, FurtherError};

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

    /// Another fleet that it serves too, at an address of its own; several are separated by commas. It has accounts of the
    /// broker, streams, keys and API tokens of its own, in fleets/ID of the data directory, which `muster --data-dir` takes.
    /// Nothing crosses from one to the other.
    #[arg(long, env = "MUSTER_ALSO_FLEET", value_name = "ID=ADDRESS:PORT", value_delimiter = ',')]
    pub also_fleet: Vec<Further>,

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
    /// It cannot serve several fleets as it was asked to.
    #[error("these fleets cannot be served together")]
    Further(#[from] FurtherError),
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
    Further::check(&args.also_fleet, args)?;
    dir.belongs_to(&args.fleet)?;
    let addresses = std::iter::once(args.listen).chain(args.also_fleet.iter().map(|further| further.listen));
    for address in addresses {
        args.access.check(address).map_err(ServiceError::from)?;
    }
    let ca = LocalCa::open(dir.tls(), &names(args))?;
    let listener = Listener::bind(args.listen, security(&args.tls, &ca)?).await?;
    let mut fleets = vec![Fleet { id: args.fleet.clone(), dir, is_first: true, listener }];
    for further in &args.also_fleet {
        let listener = Listener::bind(further.listen, security(&args.tls, &ca)?).await?;
        let dir = fleets[0].dir.of_fleet(&further.fleet)?;
        fleets.push(Fleet { id: further.fleet.clone(), dir, is_first: false, listener });
    }
    let server_tasks = Tasks::new(Shutdown::new());
    let broker = match args.nats_url.is_empty() {
        true => start_server(args, &fleets, ca, &server_tasks).await?,
        false => {
            server_tasks.spawn("renew certificates", renew(ca, None, server_tasks.shutdown().clone()));
            let (creds, tls) = (args.nats_creds.clone(), args.nats_tls.clone());
            Broker { urls: args.nats_url.clone(), creds, tls }
        }
    };
    let (ended, dirs) = run_fleets(args, fleets, &broker, (&server_tasks, shutdown)).await;
    let cleared = dirs.iter().try_for_each(DataDir::clear_addresses);
    server_tasks.shutdown().request();
    let stopped = server_tasks.finish().await;
    ended?;
    stopped?;
    Ok(cleared?)
}

/// A fleet that this process serves.
struct Fleet {
    id: FleetId,
    dir: DataDir,
    /// Whether it is the one that options speak of, and whose directory has what all share.
    is_first: bool,
    listener: Listener,
}

/// Names of this machine in the certificate that is made: those that were given, and the addresses it listens on.
fn names(args: &AllArgs) -> Vec<String> {
    let ips = std::iter::once(&args.listen).chain(args.also_fleet.iter().map(|further| &further.listen));
    let own = ips.map(SocketAddr::ip).filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
    let mut names: Vec<String> = args.tls_name.iter().cloned().chain(own.map(|ip| ip.to_string())).collect();
    names.sort();
    names.dedup();
    names
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
    /// Folder of the first fleet; those of others lie beside it.
    creds: Option<PathBuf>,
    tls: BrokerTlsArgs,
}

impl Broker {
    fn creds_of(&self, fleet: &Fleet) -> Option<PathBuf> {
        let first = self.creds.as_deref()?;
        Some(if fleet.is_first { first.to_owned() } else { first.with_file_name(fleet.id.as_str()) })
    }
}

/// Starts the supervised server, with an operator that is made at the first start. Its certificate is from the local CA.
async fn start_server(
    args: &AllArgs,
    fleets: &[Fleet],
    ca: LocalCa,
    tasks: &Tasks,
) -> Result<Broker, AllError> {
    let binary = find(args.nats_server_bin.as_deref()).await?;
    let dir = &fleets[0].dir;
    for fleet in fleets {
        broker::init(&dir.broker(), &fleet.id)?;
    }
    let server = own_server(binary, dir, &ca, args.nats_port).await?;
    dir.keep_nats_port(server.port())?;
    let tls = own_server_tls(ca.ca());
    let urls = vec![server.url()];
    tasks.spawn("renew certificates", renew(ca, Some(server.reloads()), tasks.shutdown().clone()));
    tasks.spawn("nats-server", supervise(server, tasks.shutdown().clone()));
    Ok(Broker { urls, creds: Some(broker::fleet_dir(&dir.broker(), &args.fleet)), tls })
}

/// Starts the server of a data directory, with its certificate from the local CA: at this port, or the one it had.
pub(crate) async fn own_server(
    binary: PathBuf,
    dir: &DataDir,
    ca: &LocalCa,
    port: Option<u16>,
) -> Result<NatsServer, AllError> {
    let mut setup = Setup::new(binary, dir.nats()?).with_operator(&dir.broker())?;
    setup.port = port.or_else(|| dir.nats_port());
    let TlsFiles { cert, key, .. } = ca.files();
    setup.tls = Some(ServerTls { cert, key, ca: ca.ca(), client_ca: None, first: true });
    Ok(NatsServer::start(setup).await?)
}

/// How clients of that server verify it.
pub(crate) fn own_server_tls(ca: PathBuf) -> BrokerTlsArgs {
    BrokerTlsArgs { nats_ca_file: Some(ca), nats_tls_first: true, ..BrokerTlsArgs::default() }
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

/// Serves all fleets until the shutdown, and gives their directories back.
async fn run_fleets(
    args: &AllArgs,
    fleets: Vec<Fleet>,
    broker: &Broker,
    (server_tasks, shutdown): (&Tasks, Shutdown),
) -> (Result<(), AllError>, Vec<DataDir>) {
    let tasks = Tasks::new(shutdown);
    let (supervised, stop) = (server_tasks.shutdown().clone(), tasks.shutdown().clone());
    tasks.spawn("watch nats-server", async move {
        tokio::select! {
            () = stop.requested() => Ok(()),
            () = supervised.requested() => Err(Unsupervised),
        }
    });
    let (mut contexts, mut dirs, mut failed) = (Vec::new(), Vec::new(), None);
    for fleet in fleets {
        let begun = match failed {
            None => begin(args, fleet, broker, (&tasks, &mut contexts)).await,
            Some(_) => (Ok(()), fleet.dir),
        };
        dirs.push(begun.1);
        if let Err(error) = begun.0 {
            tasks.shutdown().request();
            failed = Some(error);
        }
    }
    let ended = tasks.finish().await;
    for context in &contexts {
        context.close().await;
    }
    // The reason to stop is the one worth telling.
    (failed.map_or_else(|| ended.map_err(Into::into), Err), dirs)
}

/// Starts the services of a fleet. What they were given goes to `contexts`, also when one of them does not start.
async fn begin(
    args: &AllArgs,
    fleet: Fleet,
    broker: &Broker,
    (tasks, contexts): (&Tasks, &mut Vec<ServiceContext>),
) -> (Result<(), AllError>, DataDir) {
    let begun = async {
        let service_args = service_args(args, &fleet, broker)?;
        let of_fleet = ServiceContext::connect_all(&service_args, SERVICES, tasks).await?;
        contexts.extend(of_fleet.iter().cloned());
        let routes = start_services(args, &fleet.dir, &of_fleet).await?;
        let [first, ..] = &of_fleet;
        announce(&fleet, &service_args, first)?;
        Ok((first.clone(), routes))
    };
    match begun.await {
        Ok((first, routes)) => {
            first.serve(fleet.listener, routes);
            (Ok(()), fleet.dir)
        }
        Err(error) => (Err(error), fleet.dir),
    }
}

/// What the services of a fleet are given. Options that name files are about the first fleet.
fn service_args(args: &AllArgs, fleet: &Fleet, broker: &Broker) -> Result<ServiceArgs, AllError> {
    let own_trust = TrustArgs { root_validity: args.trust.root_validity, ..TrustArgs::default() };
    let (director, content, trust) = match fleet.is_first {
        true => (args.director_key.as_deref(), args.content_keys.clone(), args.trust.clone()),
        false => (None, ContentKeyArgs::default(), own_trust),
    };
    let dir = &fleet.dir;
    let director_key = key_file(director, dir.director_key())?;
    let content_key = key_file(content.content_key.as_deref(), dir.content_key())?;
    let root_key = match &trust {
        TrustArgs { root_key: None, trust_root: Some(_), .. } => None,
        trust => Some(key_file(trust.root_key.as_deref(), dir.root_key())?),
    };
    Ok(ServiceArgs {
        listen: fleet.listener.address(),
        tls: args.tls.clone(),
        nats_url: broker.urls.clone(),
        nats_tls: broker.tls.clone(),
        nats_creds: broker.creds_of(fleet),
        agent_servers: args.agent_servers.clone(),
        agent_ca_file: args.agent_ca_file.clone(),
        fleet: fleet.id.clone(),
        director_key: Some(director_key),
        content_keys: ContentKeyArgs { content_key: Some(content_key), ..content },
        access: args.access.clone(),
        trust: TrustArgs { root_key, ..trust },
        stream_replicas: 1,
    })
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
fn announce(fleet: &Fleet, args: &ServiceArgs, context: &ServiceContext) -> Result<(), DataDirError> {
    let nats = args.nats_url.iter().map(|url| runtime::nats::without_login(url)).collect();
    let (api, pid, ca) = (fleet.listener.url(), std::process::id(), fleet.dir.ca());
    let addresses = Addresses { api, ca, nats, pid };
    fleet.dir.write_addresses(&addresses)?;
    tracing::info!(api = addresses.api, nats = addresses.nats.join(","), fleet = %args.fleet, "musterd is up");
    let (readiness, stop, fleet) = (context.readiness.clone(), context.shutdown().clone(), fleet.id.clone());
    context.tasks.spawn_finite("announce ready", async move {
        tokio::select! {
            () = readiness.ready() => tracing::info!(%fleet, "all services are ready"),
            () = stop.requested() => {}
        }
        Ok::<(), Infallible>(())
    });
    Ok(())
}
