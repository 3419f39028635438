//! Who may join and who has joined: enrolment tokens, the registry of agents, and the group each agent is in; and
//! whom they trust: the chain of trust roots.
//!
//! # What it stands on
//! - Tokens are objects of the catalogue (stream POLICY), so that `muster apply` and `muster token create`
//!   meet in one log. How often one was used, and every agent, is in the registry (stream IDENTITY).
//! - Every decision is taken on what the streams hold and written by compare-and-set. What a replica keeps in
//!   memory is a fold that is brought up to date first; any number of replicas may run.
//! - A join is: decide, consume a use, make the record, publish the assignment. A crash between two of these
//!   steps never lets one agent too many in. The use it consumed names its agent, whose next try goes on.
//! - An assignment is in the record before it is published, so that whatever is missing in DESIRED can be
//!   published again: at the start of each replica, and by presence in its replies to heartbeats.

mod api;
mod assign;
mod broker;
mod catalogue;
mod claims;
mod enrol;
mod heal;
mod registry;
mod revoke;
mod status;
mod uses;
mod waiting;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use domain::flood::{Bans, MAX_BAN};
use domain::{FleetId, Span};
use runtime::broker::RoleFiles;
use runtime::keys::Signer;
use runtime::store::Catalogue;
use runtime::{Nats, Roots, ServiceArgs, ServiceContext, ServiceError, Shutdown, Trust};
use tonic::service::RoutesBuilder;
use wire::access::Role;
use wire::api::v1::access_service_server::AccessServiceServer;
use wire::api::v1::audit_service_server::AuditServiceServer;
use wire::api::v1::identity_service_server::IdentityServiceServer;
use wire::api::v1::trust_service_server::TrustServiceServer;

use crate::assign::HighestPlace;
use crate::broker::SignedBroker;
use crate::claims::Issuer;
use crate::revoke::Revoked;
use crate::uses::UseCounts;
use crate::waiting::Waiting;

/// Largest request that the API reads: names and a few numbers.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Options of the identity service.
#[derive(Debug, Clone, Args)]
#[group(id = "identity")]
pub struct Config {
    /// Joins that are worked on at the same time; more wait their turn.
    #[arg(long, env = "MUSTER_ENROL_PARALLEL", value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub enrol_parallel: u16,

    /// How long an agent's claims for the broker hold. It asks for new ones at half of that, and may ask after they
    /// have expired.
    #[arg(long, env = "MUSTER_AGENT_CLAIMS_TTL", value_name = "TIME", default_value = "24h", value_parser = claims::ttl)]
    pub agent_claims_ttl: Duration,

    /// How long the broker shuts an agent out that sends a thousand messages in a second beyond what it may. Each time
    /// it does so again within an hour takes twice as long, up to an hour. 0s: never.
    #[arg(long, env = "MUSTER_AGENT_FLOOD_BAN", value_name = "TIME", default_value = "1m", value_parser = ban)]
    pub agent_flood_ban: Duration,
}

fn ban(text: &str) -> Result<Duration, String> {
    let ban = runtime::config::duration(text)?;
    match Span::from(ban) <= MAX_BAN {
        true => Ok(ban),
        false => Err("must be at most 1h".to_owned()),
    }
}

/// What the parts of the service share.
struct Shared {
    nats: Nats,
    /// Where agents ask.
    agents: Nats,
    /// Where the broker is told who counts; `None` at one that lets everyone in.
    system: Option<Nats>,
    role: Option<Arc<RoleFiles>>,
    revoked: Revoked,
    bans: Mutex<Bans>,
    waiting: Waiting,
    broker: SignedBroker,
    claims_ttl: Span,
    /// Makes claims for agents; `None` at a broker that lets everyone in.
    issuer: Option<Issuer>,
    fleet: FleetId,
    director: Arc<dyn Signer>,
    roots: Roots,
    trust: Trust,
    catalogue: Catalogue,
    use_counts: UseCounts,
    consuming: uses::Consuming,
    highest: HighestPlace,
    stream_replicas: u8,
}

/// Starts the service inside a process that may run others too.
///
/// # Errors
/// [`ServiceError`] without a director key, or if a join token cannot hold the servers for agents.
pub async fn start(
    config: &Config,
    context: &ServiceContext,
    routes: &mut RoutesBuilder,
) -> Result<(), ServiceError> {
    let shared = Arc::new(Shared {
        nats: context.nats.clone(),
        agents: context.agents.clone(),
        system: context.system.clone(),
        role: context.role.clone(),
        revoked: Revoked::default(),
        bans: Mutex::new(Bans::new(config.agent_flood_ban.into())),
        waiting: Waiting::default(),
        broker: SignedBroker::default(),
        claims_ttl: config.agent_claims_ttl.into(),
        issuer: context.role.as_ref().and_then(|role| Issuer::new(role, config.agent_claims_ttl)),
        fleet: context.fleet.clone(),
        director: context.director()?,
        roots: context.roots.clone(),
        trust: context.trust()?,
        catalogue: catalogue::new(context.nats.clone()),
        use_counts: UseCounts::default(),
        consuming: uses::Consuming::default(),
        highest: HighestPlace::default(),
        stream_replicas: context.stream_replicas,
    });
    let api = IdentityServiceServer::new(api::Api(Arc::clone(&shared)));
    routes.add_service(api.max_decoding_message_size(MAX_REQUEST_BYTES));
    let access = AccessServiceServer::new(api::Access(Arc::clone(&shared)));
    routes.add_service(access.max_decoding_message_size(MAX_REQUEST_BYTES));
    let api = TrustServiceServer::new(api::Api(Arc::clone(&shared)));
    routes.add_service(api.max_decoding_message_size(MAX_REQUEST_BYTES));
    let audit = AuditServiceServer::new(api::Audit(Arc::clone(&shared)));
    routes.add_service(audit.max_decoding_message_size(MAX_REQUEST_BYTES));

    let shutdown = context.shutdown();
    let tasks = &context.tasks;
    let (service, stop) = (Arc::clone(&shared), shutdown.clone());
    tasks.spawn("identity catalogue", async move { service.catalogue.follow(None, stop.requested()).await });
    let (service, stop) = (Arc::clone(&shared), shutdown.clone());
    tasks.spawn("identity token uses", async move { service.use_counts.follow(&service.nats, &stop).await });
    let (service, stop) = (Arc::clone(&shared), shutdown.clone());
    tasks.spawn("identity heal", async move { heal::run(&service, &stop).await });
    let (service, stop) = (Arc::clone(&shared), shutdown.clone());
    tasks.spawn("identity revocations", async move { revoke::run(&service, &stop).await });
    let (stop, ready) = (shutdown.clone(), context.readiness.register("identity"));
    let parallel = usize::from(config.enrol_parallel);
    tasks.spawn("identity enrol", async move { enrol::run(&shared, parallel, &ready, &stop).await });
    Ok(())
}

/// Runs the service alone in its process.
///
/// # Errors
/// [`ServiceError`] if it cannot start, or a part of it fails.
pub async fn run(args: &ServiceArgs, config: &Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    let start =
        async |context: &ServiceContext, routes: &mut RoutesBuilder| start(config, context, routes).await;
    runtime::service::run(args, Role::Identity, shutdown, start).await
}
