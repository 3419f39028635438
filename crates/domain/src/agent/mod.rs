//! The agent machine: how one agent learns what its group should have, and applies it.
//!
//! Push and pull are one machine; the mode is a setting and may change while it runs. What the machine
//! guarantees, whatever the inputs:
//! - the floor of a group never goes down, and nothing below it is switched on;
//! - the floor is durable before what raised it is switched on;
//! - a snapshot is switched on at most once, by however many roads and times it arrives;
//! - an item that failed is not tried again until it changes;
//! - any failure while applying brings back the last known good as a whole.
//!
//! The shell passes [`Input`]s with the time and a random number, carries out the [`Effect`]s and calls
//! again at [`Machine::next_deadline`] at the latest.

pub mod backoff;
pub mod floors;
pub mod io;
pub mod items;

mod apply;
mod connection;
mod content;
mod machine;
mod root;
mod schedule;
mod work;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod root_tests;
#[cfg(test)]
mod test_rig;
#[cfg(test)]
mod tests;

pub use crate::snapshot::Assignment;
pub use apply::MAX_STARTS;
pub use floors::{Applying, Durable, Floor, Floors, Identity, Placement, Refusal, Trial};
pub use io::{Beat, Effect, Input, Note, Offer, Reply, Source, Standing};
pub use items::{
    Change, Failed, Generation, GenerationId, Item, ItemState, ItemStatus, MAX_REASON_BYTES, Reason, Status,
    changes,
};
pub use machine::{Loaded, Machine};
pub use schedule::{KEEP_CONNECTED_UP_TO, Timing};
