//! What live tests stand on: a real `nats-server`, real `musterd` processes, real agents, the real CLI.
//!
//! Every test starts its own and shares nothing. Tests wait for states with [`eventually`], never for a
//! time. Processes are killed when their handle is dropped, so a failed test leaves nothing behind.

mod agents;
mod bare;
mod cli;
mod disk;
mod fleet;
mod line;
mod process;
mod provider;
mod proxy;
mod tap;
mod tree;
mod wait;

pub use agents::{AgentProcess, Applied};
pub use bare::{Bare, Creds, Said};
pub use cli::{Cli, Output};
pub use disk::{Ballast, SmallDisk};
pub use fleet::{Fleet, Service};
pub use line::{ADMIN_TOKEN, Line, admin_line, line};
pub use process::{Process, binary};
pub use provider::Provider;
pub use proxy::{Faults, Lane, Proxy};
pub use tap::Piece;
pub use tree::{Tree, TreeFile};
pub use wait::{eventually, until};
