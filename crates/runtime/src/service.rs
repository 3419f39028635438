//! What every service starts from, and how one runs alone in its process.

mod args;

use std::sync::Arc;

use domain::FleetId;
use tonic::service::RoutesBuilder;
use wire::access::{Account, Role, STREAMS, permissions};
use wire::join::BrokerTrust;
use wire::sign::{KeySet, Signer};
use wire::subject::pattern;

pub use args::ServiceArgs;

use crate::access::{Gate, OpenError};
use crate::broker::{OtherFleet, RoleError, RoleFiles};
use crate::content_keys::{ContentKeys, ContentKeysError};
use crate::keys::{self, KeyError};
use crate::nats::{
    AUDIT, CONTENT, ConnectError, Connection, DESIRED, EVENTS, IDENTITY, Nats, POLICY, StreamError,
    StreamSpec,
};
use crate::ready::{Condition, Readiness};
use crate::roots::{LocalRoot, Part, Roots, RootsError};
use crate::serve::{Listener, ServeError};
use crate::tasks::{Shutdown, TaskFailure, Tasks, TasksError};
use crate::tls::ListenerTlsError;
use crate::trust::{Trust, TrustError};

/// Why a service does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No NATS.
    #[error("the broker cannot be used")]
    Connect(#[from] ConnectError),
    /// The credentials for the broker cannot be used.
    #[error("the credentials for the broker cannot be used")]
    Role(#[from] RoleError),
    /// The credentials for the broker are of another fleet.
    #[error(transparent)]
    OtherFleet(#[from] OtherFleet),
    /// A stream is not as it should be.
    #[error("the streams cannot be prepared")]
    Stream(#[from] StreamError),
    /// The director key cannot be used.
    #[error("the director key cannot be used")]
    Key(#[from] KeyError),
    /// A service that signs has no key.
    #[error(
        "this service signs what agents obey and needs the director key: give its file with --director-key"
    )]
    NoKey,
    /// The keys of content cannot be used.
    #[error("the keys of content cannot be used")]
    ContentKeys(#[from] ContentKeysError),
    /// The trust roots cannot be used.
    #[error("the trust roots of the fleet cannot be used")]
    Roots(#[from] RootsError),
    /// The service that signs content has no key for it.
    #[error("this service signs content and needs a key for it: give its file with --content-key")]
    NoContentKey,
    /// Everybody would be let in from other machines.
    #[error("the API cannot be served without authentication")]
    Open(#[from] OpenError),
    /// The listener failed.
    #[error("the API cannot be served")]
    Serve(#[from] ServeError),
    /// The listener has no certificate.
    #[error("the API cannot be served with TLS")]
    Tls(#[from] ListenerTlsError),
    /// Join tokens cannot be made.
    #[error("the servers for agents cannot be used")]
    Trust(#[from] TrustError),
    /// The signal handlers cannot be installed.
    #[error("signals cannot be handled")]
    Signals(#[source] std::io::Error),
    /// The service itself did not start.
    #[error("service {name} did not start")]
    Start {
        /// The service.
        name: &'static str,
        /// Why not.
        source: TaskFailure,
    },
    /// A task failed or did not stop.
    #[error("the process stopped")]
    Tasks(#[from] TasksError),
}

/// What a service is given. One for each process; services in one process share it.
#[derive(Clone)]
pub struct ServiceContext {
    /// The connection to the broker, in the account of the fleet.
    pub nats: Nats,
    /// The connection in the account of the agents; the same as `nats` for services that do not talk to agents, and
    /// at a broker without accounts.
    pub agents: Nats,
    /// The connection in the system account, of the service that says who counts.
    pub system: Option<Nats>,
    /// What this service may sign; `None` at a broker that lets everyone in.
    pub role: Option<Arc<RoleFiles>>,
    /// Where the service starts its tasks, and where it learns that it has to stop.
    pub tasks: Tasks,
    /// Where the service says whether it is ready.
    pub readiness: Readiness,
    /// The fleet.
    pub fleet: FleetId,
    /// URLs of the broker for agents: what join tokens name.
    pub agent_servers: Vec<String>,
    /// How agents verify those.
    pub agent_broker: BrokerTrust,
    /// Replicas for streams.
    pub stream_replicas: u8,
    /// Who may call.
    pub gate: Gate,
    /// The fleet's trust roots.
    pub roots: Roots,
    director: Option<Arc<dyn Signer>>,
    content: ContentKeys,
}

impl ServiceContext {
    /// Loads the keys that there are, connects, and makes sure that all streams are as they should
    /// be. Failures of tasks request the shutdown of `tasks`.
    ///
    /// # Errors
    /// [`ServiceError`] if a key, the broker or a stream cannot be used.
    pub async fn connect(args: &ServiceArgs, role: Role, tasks: Tasks) -> Result<Self, ServiceError> {
        let roots = Roots::new(args.fleet.clone());
        let context = Self::open(args, role, (tasks, Readiness::new(), roots)).await?;
        context.start_roots(args, role).await?;
        Ok(context)
    }

    /// The contexts of several services that share a process: tasks, readiness and trust roots are the same, each has
    /// its own connections. They come together, because each may wait for streams that another one makes.
    ///
    /// # Errors
    /// As [`ServiceContext::connect`].
    pub async fn connect_all<const N: usize>(
        args: &ServiceArgs,
        roles: [Role; N],
        tasks: &Tasks,
    ) -> Result<[Self; N], ServiceError> {
        let shared = (tasks.clone(), Readiness::new(), Roots::new(args.fleet.clone()));
        let contexts = roles.map(|role| Self::open(args, role, shared.clone()));
        let contexts = futures::future::try_join_all(contexts).await?;
        // One brings the roots to all of them: one that may write them, if there is one.
        let may_write = roles.iter().position(|role| may_write_roots(*role)).unwrap_or(0);
        if let (Some(context), Some(role)) = (contexts.get(may_write), roles.get(may_write)) {
            context.start_roots(args, *role).await?;
        }
        Ok(contexts.try_into().unwrap_or_else(|_| unreachable!("invariant: there is one for each role")))
    }

    async fn open(
        args: &ServiceArgs,
        role: Role,
        (tasks, readiness, roots): (Tasks, Readiness, Roots),
    ) -> Result<Self, ServiceError> {
        args.access.check(args.listen)?;
        let director = args.director_key.as_deref().map(keys::signer).transpose()?;
        let content = ContentKeys::load(&args.content_keys)?;
        let files = load_role(args, role)?;
        let mut connection = Connection::service(args.nats_url.clone(), format!("musterd {role}"));
        connection.tls = args.nats_tls.tls();
        let nats = match &files {
            Some(files) => Nats::connect(&connection.clone().with_login(role, files.fleet.clone())).await?,
            None => Nats::connect(&connection).await?,
        };
        watch(&nats, "nats", (&tasks, &readiness));
        let agents = match files.as_ref().and_then(|files| files.agents.clone()) {
            Some(login) => {
                let agents = Nats::connect(&connection.clone().with_login(role, login)).await?;
                watch(&agents, "nats for agents", (&tasks, &readiness));
                agents
            }
            None => nats.clone(),
        };
        let system = match files.as_ref().and_then(|files| files.system.clone()) {
            Some(login) => Some(Nats::connect(&connection.with_login(role, login)).await?),
            None => None,
        };
        prepare_streams(&nats, files.is_some().then_some(role), args.stream_replicas).await?;
        let gate = Gate::start(&args.access, &nats, &tasks, &readiness);
        Ok(Self {
            nats,
            agents,
            system,
            role: files,
            tasks,
            readiness,
            fleet: args.fleet.clone(),
            agent_servers: args.servers_for_agents(),
            agent_broker: args.trust_for_agents()?,
            stream_replicas: args.stream_replicas,
            gate,
            roots,
            director,
            content,
        })
    }

    /// Reads the trust roots, makes what this process has to make of them, and follows them from then on.
    async fn start_roots(&self, args: &ServiceArgs, role: Role) -> Result<(), ServiceError> {
        // A broker that lets everyone in has no table of who may write what.
        let writes = self.role.is_none() || may_write_roots(role);
        let local = local_root(args, self.director.as_deref(), &self.content.trust)?;
        if local.is_some() && !writes {
            return Err(RootsError::NotWriter(role).into());
        }
        let (roots, nats, stop) = (self.roots.clone(), self.nats.clone(), self.shutdown().clone());
        if let Some(file) = &args.trust.trust_root {
            roots.begin_with(&nats, file, writes).await?;
        }
        roots.catch_up(&nats).await?;
        if let Some(local) = &local {
            local.make(&roots, &nats).await?;
        }
        let part = match (local, writes) {
            (Some(local), _) => Part::Makes(local),
            (None, true) => Part::Writes,
            (None, false) => Part::Reads,
        };
        self.tasks.spawn("trust roots", async move { roots.follow(&nats, part, &stop).await });
        Ok(())
    }

    /// The request to stop.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        self.tasks.shutdown()
    }

    /// The key that signs snapshots and assignments.
    ///
    /// # Errors
    /// [`ServiceError::NoKey`] if none was configured.
    pub fn director(&self) -> Result<Arc<dyn Signer>, ServiceError> {
        self.director.clone().ok_or(ServiceError::NoKey)
    }

    /// The key that signs content.
    ///
    /// # Errors
    /// [`ServiceError::NoContentKey`] if none was configured.
    pub fn content_key(&self) -> Result<Arc<dyn Signer>, ServiceError> {
        self.content.signing.clone().ok_or(ServiceError::NoContentKey)
    }

    /// What agents of this fleet trust, for making join tokens.
    ///
    /// # Errors
    /// [`ServiceError`] if a join token cannot hold the servers for agents.
    pub fn trust(&self) -> Result<Trust, ServiceError> {
        let agents = (self.agent_servers.clone(), self.agent_broker.clone());
        let trust = Trust::new(self.fleet.clone(), self.roots.clone(), agents)?;
        let signer =
            self.role.as_ref().and_then(|role| Some((role.signers.join.clone()?, &role.keys.agents)));
        Ok(match signer {
            Some((signer, account)) => trust.with_doors(signer, account.clone()),
            None => trust,
        })
    }

    /// Serves `routes` behind the gate as one more task.
    pub fn serve(&self, listener: Listener, routes: RoutesBuilder) {
        let (readiness, shutdown) = (self.readiness.clone(), self.shutdown().clone());
        let routes = self.gate.guard(routes.routes());
        self.tasks.spawn("serve", async move {
            listener.serve(routes, &[wire::DESCRIPTORS], readiness, shutdown).await
        });
    }

    /// Waits for the shutdown and for all tasks, then closes the connection.
    ///
    /// # Errors
    /// [`TasksError`] if a task failed or did not stop in time.
    pub async fn finish(&self) -> Result<(), TasksError> {
        let end = self.tasks.finish().await;
        self.close().await;
        end
    }

    /// Closes the connections. The last thing a process does.
    pub async fn close(&self) {
        self.agents.close().await;
        if let Some(system) = &self.system {
            system.close().await;
        }
        self.nats.close().await;
    }
}

/// The credentials of a service, if it was given any.
fn load_role(args: &ServiceArgs, role: Role) -> Result<Option<Arc<RoleFiles>>, ServiceError> {
    let Some(dir) = &args.nats_creds else {
        tracing::warn!(
            %role,
            "no credentials for the broker: it must let everyone in, and nothing keeps agents apart; give --nats-creds"
        );
        return Ok(None);
    };
    Ok(Some(Arc::new(RoleFiles::load(dir, role)?.of_fleet(&args.fleet)?)))
}

/// Says what a service cannot do without before it waits for anything.
fn check_keys(args: &ServiceArgs, role: Role) -> Result<(), ServiceError> {
    if matches!(role, Role::Policy | Role::Identity) && args.director_key.is_none() {
        return Err(ServiceError::NoKey);
    }
    if role == Role::Content && ContentKeys::load(&args.content_keys)?.signing.is_none() {
        return Err(ServiceError::NoContentKey);
    }
    Ok(())
}

/// Whether the broker lets a role write trust roots.
fn may_write_roots(role: Role) -> bool {
    permissions(role, Account::Fleet).publish.iter().any(|subject| subject == pattern::IDENTITY_ROOTS)
}

/// Makes the streams that are a role's to make and waits for those that it reads. Without roles: makes all.
async fn prepare_streams(nats: &Nats, role: Option<Role>, replicas: u8) -> Result<(), StreamError> {
    let may = |roles: &[Role]| role.is_none_or(|role| roles.contains(&role));
    let streams = |spec: &StreamSpec| STREAMS.iter().find(|stream| stream.name == spec.name);
    let specs = [POLICY, IDENTITY, DESIRED, CONTENT, EVENTS, AUDIT];
    for spec in specs.iter().filter(|spec| streams(spec).is_some_and(|stream| may(stream.makes))) {
        nats.ensure_stream(spec, replicas).await?;
    }
    for spec in specs.iter().filter(|spec| streams(spec).is_some_and(|stream| may(stream.reads))) {
        nats.await_stream(spec).await?;
    }
    Ok(())
}

/// Says whether there is a connection.
fn watch(nats: &Nats, name: &'static str, (tasks, readiness): (&Tasks, &Readiness)) {
    let condition = readiness.register(name);
    let (nats, shutdown) = (nats.clone(), tasks.shutdown().clone());
    tasks.spawn("watch nats", async move {
        watch_link(&nats, &condition, &shutdown).await;
        Ok::<(), ServiceError>(())
    });
}

/// Runs one service in its own process until `shutdown`: binds, connects, starts it, serves its API, stops in
/// order. `start` registers the service's API, conditions and tasks.
///
/// # Errors
/// [`ServiceError`] if anything cannot start or ends early.
pub async fn run<E: Into<TaskFailure>>(
    args: &ServiceArgs,
    role: Role,
    shutdown: Shutdown,
    start: impl AsyncFnOnce(&ServiceContext, &mut RoutesBuilder) -> Result<(), E>,
) -> Result<(), ServiceError> {
    let tasks = Tasks::new(shutdown);
    let listener = Listener::bind(args.listen, args.tls.security()?).await?;
    check_keys(args, role)?;
    let context = ServiceContext::connect(args, role, tasks).await?;
    let mut routes = RoutesBuilder::default();
    if let Err(error) = start(&context, &mut routes).await {
        context.shutdown().request();
        // The reason to stop is the one worth telling.
        drop(context.finish().await);
        return Err(ServiceError::Start { name: role.name(), source: error.into() });
    }
    context.serve(listener, routes);
    Ok(context.finish().await?)
}

/// What this process puts into trust roots, if it makes them.
fn local_root(
    args: &ServiceArgs,
    director: Option<&dyn Signer>,
    content: &KeySet,
) -> Result<Option<LocalRoot>, RootsError> {
    let Some(file) = &args.trust.root_key else { return Ok(None) };
    let director = director.ok_or(RootsError::NoDirector)?;
    if content.keys.is_empty() {
        tracing::warn!(
            "trust roots are made without content keys: agents refuse all content; give --content-key or --content-public-key"
        );
    }
    let signer = keys::signer(file)?;
    let validity = args.trust.root_validity.into();
    Ok(Some(LocalRoot::new(args.fleet.clone(), signer, (director, content), validity)))
}

async fn watch_link(nats: &Nats, condition: &Condition, shutdown: &Shutdown) {
    let mut link = nats.link();
    loop {
        match nats.is_connected() {
            true => condition.set_ready(),
            false => condition.set_not_ready("is not connected"),
        }
        tokio::select! {
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = shutdown.requested() => return,
        }
    }
}
