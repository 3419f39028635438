//! The policy service: the store of record and what is compiled from it.
//!
//! One replica holds the whole catalogue in memory, as a fold of the log in the stream POLICY, together with
//! what it compiles to. A change is planned on that, committed under the condition that the log has not moved
//! on, and comes back through the log like everybody else's. Then the heads of the groups that it touches are
//! signed and published by compare-and-set. Every replica looks after every head, so that whatever a crash
//! leaves undone is done by the next one that looks.
//!
//! A group's agents are counted by following the registry; nothing else is asked of other services.

mod api;
mod change;
mod desired;
mod fold;
mod heads;
#[cfg(test)]
mod live;
mod publish;
mod replica;
mod seal;
mod work;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use clap::Args;
use domain::Revision;
use runtime::registry::AgentCounts;
use runtime::store::Log;
use runtime::{ServiceArgs, ServiceContext, ServiceError, Shutdown};
use tokio::sync::watch;
use tonic::service::RoutesBuilder;
use wire::access::Role;
use wire::api::v1::policy_service_server::PolicyServiceServer;

use crate::heads::Heads;
use crate::replica::{OwnChanges, Replica};
use crate::work::Work;

/// Shortest validity of a snapshot. Heads are renewed at half of it and looked through once a minute.
const MIN_VALIDITY: Duration = Duration::from_secs(300);

/// Options of the policy service.
#[derive(Debug, Clone, Args)]
#[group(id = "policy")]
pub struct Config {
    /// How long a signed snapshot proves that it is fresh; it is signed anew at half of that. Agents that hear
    /// of nothing newer keep what they have and say that it is stale.
    #[arg(long, env = "MUSTER_SNAPSHOT_VALIDITY", value_name = "DURATION", default_value = "7d", value_parser = validity)]
    pub snapshot_validity: Duration,
}

fn validity(text: &str) -> Result<Duration, String> {
    let validity = runtime::config::duration(text)?;
    if validity < MIN_VALIDITY {
        return Err(format!("must be at least {} s", MIN_VALIDITY.as_secs()));
    }
    Ok(validity)
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
    let replica = Arc::new(replica(config, context)?);
    let server = PolicyServiceServer::new(api::Api(Arc::clone(&replica)))
        .max_decoding_message_size(api::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(api::MAX_MESSAGE_BYTES);
    routes.add_service(server);
    spawn(&replica, context);
    Ok(())
}

fn replica(config: &Config, context: &ServiceContext) -> Result<Replica, ServiceError> {
    let director = context.director()?;
    Ok(Replica {
        nats: context.nats.clone(),
        log: Log::new(context.nats.clone()),
        fleet: context.fleet.clone(),
        roots: context.roots.clone(),
        director,
        trust: context.trust()?,
        validity: config.snapshot_validity.into(),
        stream_replicas: context.stream_replicas,
        view: watch::Sender::new(None),
        published: watch::Sender::new(Revision(0)),
        heads: RwLock::new(Heads::default()),
        agents: AgentCounts::default(),
        work: Work::default(),
        showing: std::sync::Mutex::new(()),
        own: OwnChanges::default(),
        compare_epochs: AtomicBool::new(false),
        writer: tokio::sync::Mutex::new(()),
        changes: watch::Sender::new(0),
    })
}

fn spawn(replica: &Arc<Replica>, context: &ServiceContext) {
    let (tasks, readiness) = (&context.tasks, &context.readiness);
    let parts = || (Arc::clone(replica), context.shutdown().clone());
    let ((replica, stop), ready) = (parts(), readiness.register("policy store"));
    tasks.spawn("policy fold", async move { fold::follow(&replica, ready, &stop).await });
    let ((replica, stop), ready) = (parts(), readiness.register("policy heads"));
    let may_sign = readiness.register("director key");
    tasks.spawn("policy heads", async move { desired::follow(&replica, (ready, may_sign), &stop).await });
    let ((replica, stop), ready) = (parts(), readiness.register("policy registry"));
    tasks.spawn("policy registry", async move { replica.agents.follow(&replica.nats, ready, &stop).await });
    let (replica, stop) = parts();
    tasks.spawn("policy publish", async move { publish::run(&replica, &stop).await });
}

/// Runs the service alone in its process, until the shutdown.
///
/// # Errors
/// [`ServiceError`] if anything cannot start or ends early.
pub async fn run(args: &ServiceArgs, config: &Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    runtime::service::run(args, Role::Policy, shutdown, async |context, routes| {
        start(config, context, routes).await
    })
    .await
}
