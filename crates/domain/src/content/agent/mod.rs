//! The content machine of an agent: how it gets and keeps the content that its snapshot in force assigns.
//!
//! One machine serves all channels, one download at a time. What it guarantees, whatever the inputs:
//! - only a content that is on disk as a whole, was verified against its manifest and is assigned by the snapshot
//!   in force is switched on; the only other one is the last known good of its channel, on the way back;
//! - what is switched on is durable as "on trial" before;
//! - a content that failed is not tried again until its revision or its manifest changes;
//! - a content that kills the agent while it is switched on is given up after [`MAX_STARTS`] times;
//! - a content in force stays in force until its successor is on disk as a whole.
//!
//! The shell passes [`Input`]s with the time and a random number, carries out the [`Effect`]s and calls again at
//! [`Machine::next_deadline`] at the latest.

pub mod durable;
pub mod io;

mod apply;
mod job;
mod lease;
mod machine;
mod report;
mod schedule;
mod task;

pub use durable::{Applying, ChannelState, Durable, Failed, Good, MAX_FAILED, MAX_STARTS};
pub use io::{Effect, Failure, Input, Note, Pace, Space, Survey};
pub use machine::{Loaded, Machine, Timing};
