//! Live tests of the content service: real replicas on a real `nats-server`.

mod change;
mod fleet;
mod upload;
