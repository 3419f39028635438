//! Agents that wait for a slot, in the order of first asking.

use std::collections::BTreeMap;

use crate::id::AgentId;
use crate::time::{Span, Timestamp};

/// Most agents whose place is remembered, about 10 MB. Those beyond are remembered once others have gone.
pub(super) const MAX_WAITING: usize = 65_536;
/// How much later than it was asked to an agent may come without losing its place: some lost heartbeats.
pub(super) const GRACE: Span = Span::from_secs(30);

#[derive(Debug, Clone)]
struct Place {
    agent: AgentId,
    /// It has gone away if it did not ask again by then.
    until: Timestamp,
}

/// The queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    numbers: BTreeMap<AgentId, u64>,
    places: BTreeMap<u64, Place>,
    last: u64,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// An agent waits, or still does. Returns when it is to ask again: `pause` of its place, or up to as much
    /// again later. Places of those who left the middle of the queue count until the head has passed them.
    pub(super) fn ask(&mut self, now: Timestamp, agent: &AgentId, pause: impl Fn(u64) -> Span) -> Span {
        let Some(number) = self.number(now, agent) else { return pause(MAX_WAITING as u64) };
        let first = self.places.first_key_value().map_or(number, |(first, _)| *first);
        let again = pause((number - first).min(MAX_WAITING as u64));
        let until = now + again.scaled(2, 1) + GRACE;
        if let Some(place) = self.places.get_mut(&number) {
            place.until = until;
        }
        again
    }

    /// The number of an agent; `None` if there is no room for one more.
    fn number(&mut self, now: Timestamp, agent: &AgentId) -> Option<u64> {
        if let Some(number) = self.numbers.get(agent) {
            return Some(*number);
        }
        if self.len() >= MAX_WAITING {
            let gone = self.places.first_key_value().filter(|(_, place)| place.until < now);
            let gone = gone.map(|(_, place)| place.agent.clone())?;
            self.remove(&gone);
        }
        self.last += 1;
        self.numbers.insert(agent.clone(), self.last);
        self.places.insert(self.last, Place { agent: agent.clone(), until: now });
        Some(self.last)
    }

    /// Takes an agent out. Returns its place.
    pub(super) fn remove(&mut self, agent: &AgentId) -> Option<u64> {
        let number = self.numbers.remove(agent)?;
        self.places.remove(&number);
        Some(number)
    }

    /// Gives an agent back the place that it had; it has to ask, else it is gone again.
    pub(super) fn put_back(&mut self, agent: &AgentId, number: u64) {
        if self.len() < MAX_WAITING && !self.numbers.contains_key(agent) {
            self.numbers.insert(agent.clone(), number);
            self.places.insert(number, Place { agent: agent.clone(), until: Timestamp(0) });
        }
    }

    /// Whether an agent is one of the first `count` that wait. Those before it that went away lose their
    /// places.
    pub(super) fn is_among(&mut self, now: Timestamp, agent: &AgentId, count: usize) -> bool {
        let Some(own) = self.numbers.get(agent).copied() else { return false };
        let mut ahead = 0;
        let mut gone = Vec::new();
        for place in self.places.range(..own).map(|(_, place)| place) {
            if ahead >= count {
                break;
            }
            if place.until < now {
                gone.push(place.agent.clone());
            } else {
                ahead += 1;
            }
        }
        for agent in gone {
            self.remove(&agent);
        }
        ahead < count
    }
}
