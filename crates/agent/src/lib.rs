//! Muster's agent as a library: embed it with a [`Handler`] of your own, or run thousands in one process with
//! [`MemoryStorage`].
//!
//! [`Agent`] is the shell around [`domain::agent::Machine`]: one task that hears the broker through a
//! [`Transport`], keeps what it applies in a [`Storage`], and calls a [`Handler`] for each policy that
//! changed. It obeys signed envelopes only; everything else that the broker sends is a hint.
//!
//! ```no_run
//! # async fn example(enrolment: agent::Enrolment) {
//! use std::sync::Arc;
//! let session = runtime::ids::random_u64();
//! let parts = agent::Parts {
//!     transport: agent::NatsTransport::new(enrolment.servers.clone(), &enrolment.agent, session)
//!         .with_tls(enrolment.tls.clone())
//!         .with_access(enrolment.access.clone()),
//!     storage: Arc::new(agent::MemoryStorage::default()),
//!     handler: Arc::new(()),
//!     loaded: Default::default(),
//!     timing: Default::default(),
//!     hostname: "embedded".to_owned(),
//!     session,
//!     observer: None,
//!     content: None,
//! };
//! let shutdown = runtime::Shutdown::new();
//! agent::Agent::new(enrolment, parts).run(shutdown).await;
//! # }
//! ```
#![warn(missing_docs)]

mod access;
mod agent;
pub mod cli;
mod command;
pub mod content;
mod convert;
mod crash;
mod disk;
mod handler;
mod identity;
pub mod join;
mod note;
pub mod offline;
pub mod renew;
mod storage;
mod table;
mod tasks;
mod trail;
mod transport;
mod trust;

#[cfg(test)]
mod agent_tests;
#[cfg(test)]
mod command_tests;
#[cfg(test)]
mod test_claims;
#[cfg(test)]
mod test_fleet;

pub use access::{Access, Claims};
pub use agent::{Agent, Enrolment, Observer, Parts};
pub use command::{CommandHandler, HandlersError};
pub use content::{Content, ContentLink, ContentOptions};
pub use crash::{CONTENT_CRASH_POINTS, CRASH_ENV, CRASH_POINTS, ROOT_CRASH_POINTS};
pub use disk::{DiskError, DiskStorage, Shown, ShownContent, ShownItem};
pub use handler::{ContentChange, Handler, HeldRevision, PolicyChange};
pub use identity::{IdentityError, StateDir, save_claims};
pub use storage::{Drift, MemoryStorage, Proofs, Storage, View};
pub use transport::{Event, Fetched, NatsTransport, Transport};
pub use trust::LiveTrust;
