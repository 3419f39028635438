//! The identity service against a real nats-server: every test starts its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its fleet has failed")]

mod fleet;
mod joins;
mod moves;
mod tokens;
