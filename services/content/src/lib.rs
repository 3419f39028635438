//! The content service: takes uploads, keeps channels and their revisions, makes patches, frees what nothing
//! needs any more.
//!
//! # What it stands on
//! - Channels, revisions, uploads under way and garbage collections are objects of the catalogue (stream POLICY).
//!   What they are about lies in the stream CONTENT, one message a piece, named by digest.
//! - Every decision is taken on the newest catalogue and written by compare-and-set, through the same planner as
//!   changes of policies. Any number of replicas may run; an upload may go to another one with each call.
//! - A revision exists from the moment of one change. All its pieces are stored before that, and nothing deletes a
//!   piece that a revision or an upload needs: a garbage collection is announced in the catalogue and planned on
//!   exactly the state that it was announced on.
//! - Deltas come later, in the background, and are listed in an index beside the manifest.

mod api;
mod census;
mod change;
mod crash;
mod deltas;
mod refuse;
mod replica;
mod resign;
mod store;
mod sweep;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use runtime::{ServiceArgs, ServiceContext, ServiceError, Shutdown};
use tonic::Status;
use tonic::service::RoutesBuilder;
use wire::access::Role;
use wire::api::v1::content_service_server::ContentServiceServer;

pub use crash::CRASH_POINTS;

use crate::replica::Replica;
use crate::store::Store;

/// Most patches to each revision: what an index lists, beside the whole content.
const MAX_PATCHES: u16 = 127;
/// Most threads that make deltas: each holds up to half a gigabyte.
const MAX_WORKERS: u8 = 16;
/// Shortest time between two garbage collections: each lists all that is stored.
const MIN_GC_EVERY: Duration = Duration::from_secs(1);

/// Options of the content service.
#[derive(Debug, Clone, Args)]
#[group(id = "content")]
pub struct Config {
    /// Most bytes that all content may take in the store: chunks, patches, manifests. An upload beyond it is refused.
    #[arg(long, env = "MUSTER_CONTENT_QUOTA", value_name = "SIZE", default_value = "20GiB", value_parser = size)]
    pub content_quota: u64,

    /// How many revisions of a channel are kept beside those in use, where the channel does not say.
    #[arg(long, env = "MUSTER_KEEP_REVISIONS", value_name = "N", default_value = "100")]
    pub keep_revisions: u32,

    /// How long a revision is kept at least, where its channel does not say.
    #[arg(long, env = "MUSTER_KEEP_FOR", value_name = "DURATION", default_value = "90d", value_parser = runtime::config::duration)]
    pub keep_for: Duration,

    /// How often retention is applied and what nothing needs any more is deleted.
    #[arg(long, env = "MUSTER_GC_EVERY", value_name = "DURATION", default_value = "1h", value_parser = gc_every)]
    pub gc_every: Duration,

    /// How many patches are made to a revision, from those that most agents hold. 0: none.
    #[arg(long, env = "MUSTER_PATCHES", value_name = "N", default_value = "32", value_parser = clap::value_parser!(u16).range(..=i64::from(MAX_PATCHES)))]
    pub patches: u16,

    /// How many threads make patches, with low priority. 0: another replica does.
    #[arg(long, env = "MUSTER_PATCH_WORKERS", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(..=i64::from(MAX_WORKERS)))]
    pub patch_workers: u8,

    /// Where contents lie while patches are made: as much space as two contents for each thread. Without it: the
    /// system's directory for temporary files.
    #[arg(long, env = "MUSTER_WORK_DIR", value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
}

fn size(text: &str) -> Result<u64, String> {
    wire::manifest::size::parse(text).map_err(|error| error.to_string())
}

fn gc_every(text: &str) -> Result<Duration, String> {
    let every = runtime::config::duration(text)?;
    if every < MIN_GC_EVERY {
        return Err(format!("must be at least {} s", MIN_GC_EVERY.as_secs()));
    }
    Ok(every)
}

/// What a caller of the API is told.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Status);

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        refused.0
    }
}

/// Starts the service inside a process that may run others too.
///
/// # Errors
/// [`ServiceError`] without a content key.
pub async fn start(
    config: &Config,
    context: &ServiceContext,
    routes: &mut RoutesBuilder,
) -> Result<(), ServiceError> {
    let replica = Arc::new(replica(config, context)?);
    let server = ContentServiceServer::new(api::Api(Arc::clone(&replica)))
        .max_decoding_message_size(api::MAX_REQUEST_BYTES);
    routes.add_service(server);
    spawn(&replica, context);
    Ok(())
}

fn replica(config: &Config, context: &ServiceContext) -> Result<Replica, ServiceError> {
    let key = context.content_key()?;
    let public = wire::sign::key_text(&wire::sign::public_key(&key.public_key()));
    tracing::info!(public, "the key that signs content");
    let store = Store::new(context.nats.clone(), context.fleet.clone(), key, context.roots.clone());
    Ok(Replica::new(config.clone(), context.nats.clone(), store, context.tasks.clone()))
}

fn spawn(replica: &Arc<Replica>, context: &ServiceContext) {
    let (tasks, readiness) = (&context.tasks, &context.readiness);
    let (service, ready) = (Arc::clone(replica), readiness.register("content catalogue"));
    tasks.spawn("content catalogue", async move {
        service.catalogue.follow(Some(ready), service.stopped()).await
    });
    let (service, ready) = (Arc::clone(replica), readiness.register("content registry"));
    tasks.spawn("content registry", async move {
        service.agents.follow(service.store.nats(), ready, &service.shutdown).await
    });
    let service = Arc::clone(replica);
    tasks.spawn("content census", async move { census::follow(&service).await });
    for worker in 0..replica.config.patch_workers {
        let service = Arc::clone(replica);
        tasks.spawn(format!("content deltas {worker}"), async move { deltas::run(&service).await });
    }
    let service = Arc::clone(replica);
    tasks.spawn("content signatures", async move { resign::run(&service).await });
    let service = Arc::clone(replica);
    tasks.spawn("content garbage", async move { sweep::run(&service).await });
}

/// Runs the service alone in its process, until the shutdown.
///
/// # Errors
/// [`ServiceError`] if anything cannot start or ends early.
pub async fn run(args: &ServiceArgs, config: &Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    runtime::service::run(args, Role::Content, shutdown, async |context, routes| {
        start(config, context, routes).await
    })
    .await
}
