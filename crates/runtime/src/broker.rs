//! The broker in operator mode: who may sign what, made once and kept in files.
//!
//! ```text
//! <dir>/operator/            the operator's keys and the system account's; may be taken off-line
//! <dir>/fleets/<fleet>/      the accounts of a fleet
//!     keys/                  their keys, and one for each kind of user
//!     roles/<role>/          what one service needs, and no more: what a Secret of that service holds
//! <dir>/nats.conf            what a nats-server needs of it: no secret
//! ```
//! `operator` and each fleet are made beside their place and renamed into it, so they are there whole or not at
//! all, and nothing that is there is ever written again.

mod claims;
mod files;
mod init;
mod role;

pub use claims::{FleetKeys, OperatorKeys};
pub use init::{InitError, Made, fleet_dir, init, mint, server_config};
pub use role::{OtherFleet, RoleError, RoleFiles, Signers};

#[cfg(test)]
mod tests;
