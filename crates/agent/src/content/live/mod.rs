//! The content's shell against a real nats-server, with contents that the tests store themselves.

mod crashes;
mod faults;
mod order;
mod rig;
mod roads;
mod store;
