//! Presence: answers every heartbeat, knows which agents are there and what they run.
//!
//! - One task owns the whole fleet ([`domain::presence::Presence`]) and answers heartbeats from memory: no
//!   lock, no store, no round trip. What has to be fetched (snapshots for pull agents, assignments) is fetched
//!   and answered by another task.
//! - The broker delivers a heartbeat to one replica, which tells the others; so every replica knows the whole
//!   fleet. Nothing is written for a heartbeat. Transitions and checkpoints are stored.
//! - A replica that cannot hear, judges nobody: deadlines are looked at only up to the moment until which it is
//!   proven that everything was heard, and start again after an interruption.
#![warn(missing_docs)]

mod api;
mod cache;
mod census;
mod checkpoint;
mod clock;
mod convert;
mod events;
mod fleet;
mod follow;
mod leave;
mod measure;
mod newcomers;
mod offers;
mod present;
mod queries;
mod sharing;
mod status;
mod task;
mod watchers;

use std::convert::Infallible;
use std::time::Duration;

use clap::Args;
use domain::content::allowance::{GRANT, MAX_CAP, Terms};
use domain::presence::{MAX_HEARTBEAT_RATE, Ration};
use domain::{Revision, Span};
use runtime::{ServiceArgs, ServiceContext, ServiceError, Shutdown};
use tokio::sync::{mpsc, watch};
use tonic::service::RoutesBuilder;
use wire::access::Role;
use wire::api::v1::presence_service_server::PresenceServiceServer;

use crate::fleet::{Fleet, Outlets};
use crate::offers::Offers;

/// Largest request that the API reads: a filter.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Options of the presence service.
#[derive(Debug, Clone, Args)]
#[group(id = "presence")]
pub struct Config {
    /// Time in which all that is known of the fleet is written to the stream of events once, for restarts.
    #[arg(long, env = "MUSTER_CHECKPOINT_INTERVAL", value_name = "DURATION", default_value = "1m", value_parser = interval)]
    pub checkpoint_interval: Duration,

    /// Memory for snapshots that pull agents ask for, in MiB.
    #[arg(long, env = "MUSTER_SNAPSHOT_CACHE_MIB", value_name = "MIB", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub snapshot_cache_mib: u16,

    /// How many agents may download whole contents at the same time, in the whole fleet; more wait for their turn.
    /// Patches and small downloads do not count. 0: any number. The same for all replicas.
    #[arg(long, env = "MUSTER_MAX_FULL_DOWNLOADS", value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_CAP)))]
    pub max_full_downloads: u32,

    /// Heartbeats and reports that one agent may send each second on the average, and five times as many at once. What
    /// it sends beyond is neither read nor answered. 0: any number.
    #[arg(long, env = "MUSTER_AGENT_HEARTBEAT_LIMIT", value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_HEARTBEAT_RATE)))]
    pub agent_heartbeat_limit: u32,

    /// How long such a download may go on before its agent has to ask again. The same for all replicas.
    #[arg(skip = Duration::from(GRANT))]
    pub download_grant: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("must be between 1s and 1h".to_owned())
    }
}

/// Starts the service inside a process that may run others too.
///
/// # Errors
/// None so far: what can fail, fails in the service's tasks.
pub async fn start(
    config: &Config,
    context: &ServiceContext,
    routes: &mut RoutesBuilder,
) -> Result<(), ServiceError> {
    let (offers, offers_in) = mpsc::channel(offers::MAX_WAITING);
    let (events, events_in) = mpsc::channel(events::MAX_WAITING);
    let (chunks, chunks_in) = mpsc::channel(events::MAX_CHUNKS);
    let (queries, queries_in) = mpsc::channel(queries::MAX_WAITING);
    let (compiled, compiled_seen) = watch::channel(Revision(0));
    let out = Outlets { offers, events, chunks, compiled };
    let terms = Terms { cap: config.max_full_downloads, grant: Span::from(config.download_grant) };
    let paces = (Span::from(config.checkpoint_interval), Ration::heartbeats(config.agent_heartbeat_limit));
    let mut fleet = Fleet::new(runtime::ids::random_u64(), paces, terms, out);
    fleet.roots = Some(context.roots.clone());

    let api = api::Api::new(context.fleet.clone(), queries, compiled_seen, context.shutdown().clone());
    routes.add_service(PresenceServiceServer::new(api).max_decoding_message_size(MAX_REQUEST_BYTES));

    let (nats, agents, tasks) = (&context.nats, &context.agents, &context.tasks);
    let ready = context.readiness.register("presence");
    let stop = (ready, context.shutdown().clone());
    tasks.spawn("presence fleet", task::run((nats.clone(), agents.clone()), fleet, queries_in, stop));
    // These two end when the fleet's task has, and all it gave them is done.
    let answering = Offers::new((nats.clone(), agents.clone()), usize::from(config.snapshot_cache_mib) << 20);
    tasks.spawn("presence offers", async move {
        answering.run(offers_in).await;
        Ok::<(), Infallible>(())
    });
    let (nats, shutdown) = (nats.clone(), context.shutdown().clone());
    tasks.spawn("presence events", async move {
        events::run(nats, events_in, chunks_in, shutdown).await;
        Ok::<(), Infallible>(())
    });
    Ok(())
}

/// Runs the service alone in its process.
///
/// # Errors
/// [`ServiceError`] if it cannot start, or a part of it fails.
pub async fn run(args: &ServiceArgs, config: &Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    let start =
        async |context: &ServiceContext, routes: &mut RoutesBuilder| start(config, context, routes).await;
    runtime::service::run(args, Role::Presence, shutdown, start).await
}
