//! What agents say of themselves.

use std::collections::BTreeMap;

pub use crate::agent::ItemState;
use crate::content::ContentStatus;
use crate::id::KindName;
use crate::revision::{Cursor, Revision};
use crate::settings::Mode;

/// One sign of life: a heartbeat, or a report sent between heartbeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Drawn at each start of the agent's process.
    pub session: u64,
    /// Counts the heartbeats and reports of the session, from 1.
    pub sequence: u64,
    /// Snapshot in force.
    pub cursor: Cursor,
    /// Assignment in force.
    pub assignment: Cursor,
    /// Absent if unchanged since the last acknowledged one.
    pub report: Option<Report>,
}

/// The part of a heartbeat that is left out while it does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Version of the agent.
    pub version: Box<str>,
    /// Mode the agent runs in, if it knows one.
    pub mode: Option<Mode>,
    /// Host name, for people.
    pub hostname: Box<str>,
    /// State of its policies.
    pub status: Status,
    /// State of each content channel that is assigned or in force, ordered by channel, each of them once;
    /// at most [`crate::content::MAX_REPORTED_CHANNELS`].
    pub content: Vec<ContentStatus>,
}

/// State of the policies that an agent holds. Most agents of a group say the same, so it is kept once for all of
/// them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Status {
    /// Newest snapshot the agent saw, in force or not.
    pub seen: Cursor,
    /// One for each policy of that snapshot, at most [`crate::snapshot::MAX_POLICIES`].
    pub items: Vec<ItemReport>,
    /// Whether the snapshot in force has expired.
    pub stale: bool,
    /// Times the agent went back to its last known good.
    pub rollbacks: u64,
    /// Envelopes it refused.
    pub refusals: u64,
    /// Why it refused the last one; empty if it refused none.
    pub last_refusal: Box<str>,
    /// Times it repaired drift of applied files.
    pub repairs: u64,
    /// Version of the trust root that it obeys; 0 if it has not said.
    pub root_version: u64,
}

/// State of one policy on an agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemReport {
    /// The kind.
    pub kind: KindName,
    /// How far it got.
    pub state: ItemState,
    /// Revision of the item.
    pub revision: Revision,
    /// Why it failed; empty otherwise.
    pub reason: Box<str>,
}

impl Status {
    /// The snapshot that failed here, if any: the newest one the agent saw, when an item of it failed.
    #[must_use]
    pub fn failed_at(&self, in_force: Cursor) -> Cursor {
        if self.items.iter().any(|item| item.state == ItemState::Failed) {
            self.seen.max(in_force)
        } else {
            Cursor::NONE
        }
    }

    /// The same without the texts and counters that differ from agent to agent.
    pub(super) fn without_details(mut self) -> Self {
        for item in &mut self.items {
            item.reason = Box::default();
        }
        Self { rollbacks: 0, refusals: 0, repairs: 0, last_refusal: Box::default(), ..self }
    }

    /// Bytes it takes, roughly.
    pub(super) fn weight(&self) -> usize {
        let items = self.items.iter().map(|item| 64 + item.kind.as_str().len() + item.reason.len());
        160 + self.last_refusal.len() + items.sum::<usize>()
    }
}

/// Labels of an agent, as registered.
pub type Labels = BTreeMap<Box<str>, Box<str>>;
