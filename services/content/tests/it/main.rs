//! Live tests of the content service: real replicas on a real `nats-server`.

mod change;
mod deltas;
mod fleet;
mod refusals;
mod sweep;
mod upload;
