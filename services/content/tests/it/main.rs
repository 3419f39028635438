//! Live tests of the content service: real replicas on a real `nats-server`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::cast_possible_truncation, reason = "lengths of test contents are small")]

mod change;
mod deltas;
mod fleet;
mod refusals;
mod sweep;
mod upload;
