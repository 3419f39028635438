//! The shell that services and agents share: configuration, logs, tasks, the listener, NATS, keys, clock and
//! random ids. Decisions live in `domain`, encodings in `wire`; here are the effects.
//!
//! # How a service uses it
//! A service crate offers
//! ```ignore
//! #[derive(Debug, Clone, clap::Args)]
//! pub struct Config { /* each field: flag, MUSTER_… environment name, documented default */ }
//!
//! /// Starts the service inside a process that may run others too.
//! pub async fn start(
//!     config: &Config,
//!     context: &runtime::ServiceContext,
//!     routes: &mut tonic::service::RoutesBuilder,
//! ) -> Result<(), StartError> {
//!     let ready = context.readiness.register("policy");
//!     let shutdown = context.shutdown().clone();
//!     let nats = context.nats.clone();
//!     routes.add_service(PolicyServiceServer::new(api));
//!     context.tasks.spawn("policy fold", async move {
//!         ready.set_ready();
//!         shutdown.requested().await; // a task that returns before this fails the process
//!         Ok::<(), FoldError>(())
//!     });
//!     Ok(())
//! }
//!
//! /// Runs the service alone in its process.
//! pub async fn run(
//!     args: &runtime::ServiceArgs,
//!     config: &Config,
//!     shutdown: runtime::Shutdown,
//! ) -> Result<(), runtime::ServiceError> {
//!     runtime::service::run(args, Role::Policy, shutdown, async |context, routes| start(config, context, routes).await).await
//! }
//! ```
//! The context has connected and made sure of all streams ([`nats::POLICY`], [`nats::IDENTITY`],
//! [`nats::DESIRED`], [`nats::CONTENT`], [`nats::EVENTS`]) before `start` is called; the listener accepts after it returned.
//! `start` registers tasks and conditions and returns quickly; loading happens in tasks, with the service's
//! condition not ready until then. gRPC services are added with their own message size limits. Answers that
//! stream without end are wrapped in [`Shutdown::until`].
//!
//! To stop: close the intake when [`Shutdown::requested`] resolves (unsubscribe, let the queue run empty),
//! finish, and return. The connection is flushed and closed after all tasks are done.
//!
//! # NATS
//! [`nats::Nats`] takes [`wire::subject::Subject`]s and [`nats::Headers`]. [`nats::Nats::publish_cas`] is
//! compare-and-set with retries, [`nats::Nats::follow`] survives everything and says [`nats::Followed::Reset`]
//! when a fold has to start over, [`nats::Nats::direct_get_last`] is how agents read. The catalogue's log is
//! [`store::Log`].
#![warn(missing_docs)]

pub mod access;
pub mod audit;
pub mod broker;
pub mod client;
pub mod clock;
pub mod config;
pub mod content_keys;
pub mod crash;
pub mod ids;
pub mod keys;
#[cfg(test)]
mod live;
pub mod log;
pub mod nats;
pub mod nats_server;
pub mod ready;
pub mod registry;
pub mod roots;
pub mod serve;
pub mod service;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod trust;

pub use content_keys::ContentKeyArgs;
pub use nats::Nats;
pub use ready::{Condition, Readiness};
pub use roots::{Roots, TrustArgs};
pub use serve::{Listener, ServeError};
pub use service::{ServiceArgs, ServiceContext, ServiceError};
pub use tasks::{Shutdown, Tasks, TasksError};
pub use tls::{BrokerTlsArgs, ListenerTlsArgs, Security};
pub use trust::Trust;
