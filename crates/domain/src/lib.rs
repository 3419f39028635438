//! The pure rules of Muster: values go in, decisions come out.
//!
//! Nothing here performs I/O, reads a clock, draws a random number or knows a wire format. Machines take
//! `(now, input)` and return effects and their next deadline, so the same code runs in services, in
//! agents, in tests and in simulations of a million agents.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod access;
pub mod agent;
pub mod audit;
pub mod catalog;
pub mod change;
pub mod compile;
pub mod content;
pub mod diff;
pub mod digest;
pub mod document;
pub mod enrol;
pub mod explain;
pub mod flood;
pub mod id;
pub mod path;
pub mod presence;
pub mod registry;
pub mod revision;
pub mod sample;
pub mod schema;
pub mod settings;
pub mod snapshot;
pub mod time;
pub mod token;
pub mod trust;

pub use digest::Digest;
pub use id::{AgentId, ApiTokenName, FleetId, GroupId, IdError, KindName, PolicyName, TokenId};
pub use path::{GroupPath, PathError};
pub use revision::{Cursor, Epoch, Revision};
pub use settings::{Mode, Settings, SettingsOverlay};
pub use snapshot::{Assignment, PolicyItem, Snapshot};
pub use time::{Span, Timestamp};
