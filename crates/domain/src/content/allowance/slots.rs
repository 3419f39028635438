//! Slots by agent, with their owners and ends.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::AgentId;
use crate::time::Timestamp;

/// One slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// The replica in whose share it counts.
    pub(super) owner: u64,
    /// Until when it counts.
    pub(super) until: Timestamp,
    /// The place in the queue that its holder had.
    pub(super) place: Option<u64>,
}

/// Slots that last.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    slots: BTreeMap<AgentId, Slot>,
    ends: BTreeSet<(Timestamp, AgentId)>,
    /// How many each owner has; owners without any are left out.
    counts: BTreeMap<u64, usize>,
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many an owner has.
    pub(super) fn of(&self, owner: u64) -> usize {
        self.counts.get(&owner).copied().unwrap_or(0)
    }

    /// All owners of any.
    pub(super) fn owners(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.keys().copied()
    }

    /// The slot of an agent.
    pub(super) fn get(&self, agent: &AgentId) -> Option<&Slot> {
        self.slots.get(agent)
    }

    /// Gives an agent a slot, in place of the one it had.
    pub(super) fn put(&mut self, agent: &AgentId, slot: Slot) {
        self.remove(agent);
        self.slots.insert(agent.clone(), slot);
        self.ends.insert((slot.until, agent.clone()));
        *self.counts.entry(slot.owner).or_default() += 1;
    }

    pub(super) fn remove(&mut self, agent: &AgentId) -> Option<Slot> {
        let (agent, slot) = self.slots.remove_entry(agent)?;
        self.ends.remove(&(slot.until, agent));
        self.uncount(slot.owner);
        Some(slot)
    }

    /// Takes out all that have ended.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while self.ends.first().is_some_and(|(until, _)| *until <= now) {
            let ended = self.ends.pop_first().and_then(|(_, agent)| self.slots.remove(&agent));
            if let Some(slot) = ended {
                self.uncount(slot.owner);
            }
        }
    }

    fn uncount(&mut self, owner: u64) {
        if let Some(count) = self.counts.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&owner);
            }
        }
    }
}
