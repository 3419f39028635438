//! The presence service against a real nats-server: every test starts its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its fleet has failed")]

mod answers;
mod api;
mod bad_input;
mod content;
mod downloads;
mod fleet;
mod replicas;
mod restarts;
