//! An agent that sends far more than it may.
//!
//! What is beyond its quota is not read, but it is carried all the way to where it is dropped, and what others send waits
//! behind it. So whoever drops it says when it has become a flood ([`Watch`]), and whoever rules at the broker shuts the
//! agent out for a while ([`Bans`]).

use std::collections::BTreeMap;

use crate::id::AgentId;
use crate::registry::AgentKey;
use crate::time::{Span, Timestamp};

/// Messages beyond the quota of their agent that are a flood if they come within [`WINDOW`]. A thousand cost a service less
/// than a millisecond, and an agent that tries again at its shortest pause sends ten.
pub const FLOOD: u32 = 1_000;
/// The time in which they are counted.
pub const WINDOW: Span = Span::from_secs(1);
/// Agents that are counted at the same time; how many others are beyond their quota does not matter then.
const MAX_WATCHED: usize = 1_024;

/// Longest time for which an agent is shut out.
pub const MAX_BAN: Span = Span::from_secs(3_600);
/// Time after which an agent that behaved is as one that always did.
const FORGET: Span = Span::from_secs(3_600);
/// Agents that are shut out, or were a while ago, at most: each takes about 80 bytes of a message to the broker.
const MAX_BANS: usize = 1_000;

/// Counts what agents send beyond their quotas.
#[derive(Debug, Default)]
pub struct Watch {
    since: Timestamp,
    beyond: BTreeMap<AgentId, u32>,
}

impl Watch {
    /// A message beyond the quota of its agent was dropped. True if that makes it a flood, which is said once in each
    /// [`WINDOW`].
    pub fn note(&mut self, now: Timestamp, agent: &AgentId) -> bool {
        if now.since(self.since) >= WINDOW {
            (self.since, self.beyond) = (now, BTreeMap::new());
        }
        if let Some(count) = self.beyond.get_mut(agent) {
            *count = count.saturating_add(1);
            return *count == FLOOD;
        }
        if self.beyond.len() < MAX_WATCHED {
            self.beyond.insert(agent.clone(), 1);
        }
        false
    }
}

/// Who is shut out for a while: at first for the time that was set, for twice as long each time that it happens again
/// within an hour, up to [`MAX_BAN`].
#[derive(Debug)]
pub struct Bans {
    first: Span,
    bans: BTreeMap<AgentKey, Ban>,
}

#[derive(Debug, Clone, Copy)]
struct Ban {
    until: Timestamp,
    length: Span,
}

impl Bans {
    /// The first time somebody is shut out, it is for this long; with zero nobody is.
    #[must_use]
    pub fn new(first: Span) -> Self {
        Self { first, bans: BTreeMap::new() }
    }

    /// Shuts out whoever floods.
    ///
    /// # Returns
    /// For how long; `None` if it is shut out already, so that what was still on its way changes nothing.
    pub fn flood(&mut self, now: Timestamp, key: &AgentKey) -> Option<Span> {
        if self.first == Span(0) {
            return None;
        }
        self.bans.retain(|_, ban| now < ban.until + FORGET);
        let length = match self.bans.get(key) {
            Some(ban) if now < ban.until => return None,
            Some(ban) => ban.length.scaled(2, 1),
            None => self.first,
        };
        if self.bans.len() >= MAX_BANS && !self.bans.contains_key(key) {
            let next = self.bans.iter().min_by_key(|(_, ban)| ban.until).map(|(key, _)| key.clone());
            next.and_then(|key| self.bans.remove(&key));
        }
        let length = length.min(MAX_BAN);
        self.bans.insert(key.clone(), Ban { until: now + length, length });
        Some(length)
    }

    /// Who is shut out, and until when.
    pub fn current(&self, now: Timestamp) -> impl Iterator<Item = (&AgentKey, Timestamp)> {
        self.bans.iter().filter(move |(_, ban)| now < ban.until).map(|(key, ban)| (key, ban.until))
    }

    /// When the next of them is let in again.
    #[must_use]
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.current(now).map(|(_, until)| until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000);

    fn agent(n: usize) -> AgentId {
        AgentId::new(format!("agent-{n}")).unwrap()
    }

    fn key(n: usize) -> AgentKey {
        let digits: String =
            format!("{n:055}").bytes().map(|digit| char::from(b'A' + digit - b'0')).collect();
        AgentKey::new(format!("U{digits}")).unwrap()
    }

    #[test]
    fn much_in_a_short_time_is_a_flood_and_said_once() {
        let mut watch = Watch::default();
        let said =
            |watch: &mut Watch, now, count: u32| (0..count).filter(|_| watch.note(now, &agent(1))).count();
        assert_eq!(said(&mut watch, START, FLOOD - 1), 0);
        assert!(!watch.note(START, &agent(2)), "another agent counts for itself");
        assert_eq!(said(&mut watch, START + Span(999), 5 * FLOOD), 1);
        assert_eq!(said(&mut watch, START + WINDOW, FLOOD - 1), 0, "it begins anew");
        assert_eq!(said(&mut watch, START + WINDOW, 1), 1);
    }

    #[test]
    fn counting_is_bounded() {
        let mut watch = Watch::default();
        for n in 0..2 * MAX_WATCHED {
            let _ = watch.note(START, &agent(n));
        }
        assert_eq!(watch.beyond.len(), MAX_WATCHED);
    }

    #[test]
    fn who_does_it_again_is_shut_out_for_longer() {
        let mut bans = Bans::new(Span::from_secs(60));
        let (mut now, mut lengths) = (START, Vec::new());
        for _ in 0..8 {
            let length = bans.flood(now, &key(1)).unwrap();
            lengths.push(length.0 / 60_000);
            assert_eq!(bans.flood(now + Span(1), &key(1)), None, "it is out already");
            assert_eq!(bans.current(now).collect::<Vec<_>>(), [(&key(1), now + length)]);
            assert_eq!(bans.next_end(now), Some(now + length));
            now = now + length;
            assert_eq!((bans.current(now).count(), bans.next_end(now)), (0, None));
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(bans.flood(now + FORGET, &key(1)), Some(Span::from_secs(60)), "that is long ago");
    }

    #[test]
    fn nobody_is_shut_out_where_that_is_off() {
        assert_eq!(Bans::new(Span(0)).flood(START, &key(1)), None);
    }

    #[test]
    fn of_too_many_those_go_that_would_go_first() {
        let mut bans = Bans::new(Span::from_secs(60));
        for n in 0..MAX_BANS + 3 {
            assert!(bans.flood(START + Span(n.try_into().unwrap()), &key(n)).is_some());
        }
        let now = START + Span(MAX_BANS.try_into().unwrap());
        let current: Vec<_> = bans.current(now).map(|(key, _)| key.clone()).collect();
        assert_eq!(current.len(), MAX_BANS);
        assert!(!current.contains(&key(2)) && current.contains(&key(3)));
    }
}
