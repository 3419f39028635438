//! The content's shell against a real nats-server, with contents that the tests store themselves.

mod rig;
mod roads;
mod store;
