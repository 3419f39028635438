//! What live tests stand on: a real `nats-server`, real `musterd` processes, real agents, the real CLI.
//!
//! Every test starts its own and shares nothing. Tests wait for states with [`eventually`], never for a
//! time. Processes are killed when their handle is dropped, so a failed test leaves nothing behind.

mod agents;
mod cli;
mod fleet;
mod process;
mod wait;

pub use agents::{AgentProcess, Applied};
pub use cli::{Cli, Output};
pub use fleet::{Fleet, Service};
pub use process::{Process, binary};
pub use wait::{eventually, until};
