//! A `nats-server` child process: `musterd all` supervises one, and live tests start, kill, pause and restart
//! theirs with the same code.

mod find;
#[cfg(target_os = "linux")]
mod leftover;
mod process;
mod supervise;

pub use find::{FindError, find};
pub use process::{NatsServer, Reload, ServerError, Setup};
pub use supervise::supervise;

#[cfg(test)]
mod tests;
