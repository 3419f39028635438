//! The fleet's allowance for full downloads, as one replica of presence grants its share of it from memory.
//!
//! Agents ask in their heartbeats, and any replica may hear any beat; replicas share what they heard. Each grants
//! new slots up to its share of the cap, and none while all slots that it knows of, its own and those that agents
//! say they hold from others, make the cap. A slot lasts for [`GRANT`] and is renewed by whoever hears its holder,
//! so a replica that stops takes no download down with it.
//!
//! Who waits is remembered in the order of first asking. A free slot is kept for those who wait longest: an agent
//! is granted one when fewer agents wait before it than slots are free. One that does not ask for [`WAITS_FOR`]
//! loses its place, so that agents which went away hold up nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::DownloadWish;
use crate::id::AgentId;
use crate::time::{Span, Timestamp};

/// How long a slot is granted. An agent that dies keeps it for this long; one that lives renews it at half of it.
pub const GRANT: Span = Span::from_secs(120);
/// How long a waiting agent keeps its place without asking again: three times the longest time after which the
/// content machine asks again.
pub const WAITS_FOR: Span = Span::from_secs(120);
/// Most agents whose place is remembered, about 10 MB. Those beyond are remembered once others have gone.
pub const MAX_WAITING: usize = 65_536;
/// Most slots: beyond, nothing is limited any more.
pub const MAX_CAP: u32 = 65_536;

/// Slots and who waits for them.
#[derive(Debug, Clone)]
pub struct Allowance {
    cap: u32,
    /// Granted by this replica.
    own: Slots,
    /// Held by agents that have them from others.
    foreign: Slots,
    waiting: Waiting,
}

impl Allowance {
    /// No slots taken. `cap` is the fleet's; more than [`MAX_CAP`] counts as that, 0 as 1.
    #[must_use]
    pub fn new(cap: u32) -> Self {
        Self {
            cap: cap.clamp(1, MAX_CAP),
            own: Slots::default(),
            foreign: Slots::default(),
            waiting: Waiting::default(),
        }
    }

    /// An agent's heartbeat is to be answered: for how long may it download from now? `live_replicas` counts this
    /// one; 0 counts as 1. A wish for nothing frees what the agent had.
    pub fn ask(
        &mut self,
        now: Timestamp,
        agent: &AgentId,
        wish: DownloadWish,
        live_replicas: u32,
    ) -> Option<Span> {
        self.expire(now);
        match wish {
            DownloadWish::Nothing | DownloadWish::Done => {
                self.forget(agent);
                None
            }
            DownloadWish::Held => {
                self.renew(now, agent);
                Some(GRANT)
            }
            DownloadWish::Wanted => {
                self.foreign.remove(agent);
                let grants = self.own.contains(agent) || {
                    self.waiting.ask(now, agent);
                    let free = self.free(live_replicas);
                    self.waiting.is_among(now, agent, free)
                };
                if !grants {
                    return None;
                }
                self.waiting.remove(agent);
                self.own.put(agent, now + GRANT);
                Some(GRANT)
            }
        }
    }

    /// Another replica heard an agent's heartbeat, and answers it.
    pub fn observe(&mut self, now: Timestamp, agent: &AgentId, wish: DownloadWish) {
        self.expire(now);
        match wish {
            DownloadWish::Nothing | DownloadWish::Done => self.forget(agent),
            DownloadWish::Held => self.renew(now, agent),
            DownloadWish::Wanted => {
                // It holds none, whatever was granted here: who answers it decides.
                self.own.remove(agent);
                self.foreign.remove(agent);
                self.waiting.ask(now, agent);
            }
        }
    }

    /// An agent is no more.
    pub fn forget(&mut self, agent: &AgentId) {
        self.own.remove(agent);
        self.foreign.remove(agent);
        self.waiting.remove(agent);
    }

    /// Slots that this replica granted and that last.
    #[must_use]
    pub fn granted(&self) -> usize {
        self.own.len()
    }

    /// Agents that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn expire(&mut self, now: Timestamp) {
        self.own.expire(now);
        self.foreign.expire(now);
    }

    fn renew(&mut self, now: Timestamp, agent: &AgentId) {
        self.waiting.remove(agent);
        if self.own.contains(agent) {
            self.own.put(agent, now + GRANT);
        } else if self.foreign.contains(agent) || self.foreign.len() < self.cap() {
            self.foreign.put(agent, now + GRANT);
        }
    }

    fn cap(&self) -> usize {
        usize::try_from(self.cap).unwrap_or(usize::MAX)
    }

    fn free(&self, live_replicas: u32) -> usize {
        let share = usize::try_from((self.cap / live_replicas.max(1)).max(1)).unwrap_or(usize::MAX);
        let of_share = share.saturating_sub(self.own.len());
        of_share.min(self.cap().saturating_sub(self.own.len() + self.foreign.len()))
    }
}

/// Slots with their ends.
#[derive(Debug, Clone, Default)]
struct Slots {
    until: BTreeMap<AgentId, Timestamp>,
    ends: BTreeSet<(Timestamp, AgentId)>,
}

impl Slots {
    fn len(&self) -> usize {
        self.until.len()
    }

    fn contains(&self, agent: &AgentId) -> bool {
        self.until.contains_key(agent)
    }

    fn put(&mut self, agent: &AgentId, until: Timestamp) {
        self.remove(agent);
        self.until.insert(agent.clone(), until);
        self.ends.insert((until, agent.clone()));
    }

    fn remove(&mut self, agent: &AgentId) {
        if let Some((agent, until)) = self.until.remove_entry(agent) {
            self.ends.remove(&(until, agent));
        }
    }

    fn expire(&mut self, now: Timestamp) {
        while self.ends.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, agent)) = self.ends.pop_first() {
                self.until.remove(&agent);
            }
        }
    }
}

/// Waiting agents in the order of first asking.
#[derive(Debug, Clone, Default)]
struct Waiting {
    places: BTreeMap<AgentId, u64>,
    order: BTreeMap<u64, (AgentId, Timestamp)>,
    last: u64,
}

impl Waiting {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn ask(&mut self, now: Timestamp, agent: &AgentId) {
        if let Some((_, heard)) = self.places.get(agent).and_then(|place| self.order.get_mut(place)) {
            let is_late = now.since(*heard) > WAITS_FOR;
            *heard = now;
            if !is_late {
                return;
            }
            self.remove(agent);
        }
        if self.len() >= MAX_WAITING {
            self.expire_first(now);
        }
        if self.len() < MAX_WAITING {
            self.last += 1;
            self.places.insert(agent.clone(), self.last);
            self.order.insert(self.last, (agent.clone(), now));
        }
    }

    fn remove(&mut self, agent: &AgentId) {
        if let Some(place) = self.places.remove(agent) {
            self.order.remove(&place);
        }
    }

    /// Whether the agent is one of the first `count` that wait.
    fn is_among(&mut self, now: Timestamp, agent: &AgentId, count: usize) -> bool {
        let Some(own) = self.places.get(agent).copied() else { return false };
        let mut ahead = 0;
        let mut gone = Vec::new();
        for (_, (other, heard)) in self.order.range(..own) {
            if ahead >= count {
                break;
            }
            if now.since(*heard) > WAITS_FOR { gone.push(other.clone()) } else { ahead += 1 }
        }
        gone.iter().for_each(|other| self.remove(other));
        ahead < count
    }

    /// Makes room by dropping the one that waits longest, if it went away.
    fn expire_first(&mut self, now: Timestamp) {
        let first = self.order.first_key_value().filter(|(_, (_, heard))| now.since(*heard) > WAITS_FOR);
        if let Some(agent) = first.map(|(_, (agent, _))| agent.clone()) {
            self.remove(&agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use DownloadWish::{Done, Held, Nothing, Wanted};

    fn agent(number: usize) -> AgentId {
        AgentId::new(format!("agent-{number}")).unwrap()
    }

    #[test]
    fn slots_are_granted_held_and_given_back() {
        let mut allowance = Allowance::new(2);
        let mut now = Timestamp(1_000);
        let ask = |allowance: &mut Allowance, now, number, wish| allowance.ask(now, &agent(number), wish, 1);
        assert_eq!(ask(&mut allowance, now, 1, Wanted), Some(GRANT));
        assert_eq!(ask(&mut allowance, now, 1, Wanted), Some(GRANT), "the reply may have been lost");
        assert_eq!(ask(&mut allowance, now, 2, Wanted), Some(GRANT));
        assert_eq!(ask(&mut allowance, now, 3, Wanted), None);
        assert_eq!(ask(&mut allowance, now, 4, Wanted), None);
        now = now + GRANT.scaled(1, 2);
        assert_eq!(ask(&mut allowance, now, 1, Held), Some(GRANT));
        now = now + GRANT.scaled(1, 2);
        assert_eq!(ask(&mut allowance, now, 4, Wanted), None, "2 has lost its slot, but 3 waits longer");
        assert_eq!(ask(&mut allowance, now, 3, Wanted), Some(GRANT));
        assert_eq!(ask(&mut allowance, now, 4, Wanted), None);
        assert_eq!(ask(&mut allowance, now, 1, Done), None);
        assert_eq!(ask(&mut allowance, now, 4, Wanted), Some(GRANT));
        assert_eq!(ask(&mut allowance, now, 3, Nothing), None);
        assert_eq!((allowance.granted(), allowance.waiting()), (1, 0));
    }

    #[test]
    fn who_went_away_holds_up_nobody() {
        let mut allowance = Allowance::new(1);
        let mut now = Timestamp(1_000);
        assert!(allowance.ask(now, &agent(0), Wanted, 1).is_some());
        for number in 1..50 {
            assert_eq!(allowance.ask(now, &agent(number), Wanted, 1), None);
        }
        now = now + WAITS_FOR;
        assert_eq!(allowance.ask(now, &agent(50), Wanted, 1), None, "0 is gone, but 1 may still ask");
        now = now + Span(1);
        assert!(allowance.ask(now, &agent(50), Wanted, 1).is_some());
        assert_eq!(allowance.waiting(), 0);
    }

    #[test]
    fn any_replica_renews_and_none_grants_twice() {
        let (mut one, mut two) = (Allowance::new(4), Allowance::new(4));
        let now = Timestamp(1_000);
        for number in 0..2 {
            assert!(one.ask(now, &agent(number), Wanted, 2).is_some());
            two.observe(now, &agent(number), Wanted);
            two.observe(now, &agent(number), Held);
        }
        assert_eq!(one.ask(now, &agent(2), Wanted, 2), None, "its share is two");
        let later = now + GRANT.scaled(1, 2);
        assert!(two.ask(later, &agent(0), Held, 2).is_some(), "who holds a slot from another goes on");
        one.observe(later, &agent(0), Held);
        let end = now + GRANT;
        // The other replica is no more: its slots still count.
        assert!(two.ask(end, &agent(10), Wanted, 1).is_some());
        assert!(two.ask(end, &agent(11), Wanted, 1).is_some());
        assert!(two.ask(end, &agent(12), Wanted, 1).is_some());
        assert_eq!(two.ask(end, &agent(13), Wanted, 1), None, "0 still downloads under a slot of the other");
    }

    #[test]
    fn memory_is_bounded() {
        let mut allowance = Allowance::new(1);
        let now = Timestamp(1_000);
        for number in 0..MAX_WAITING + 100 {
            allowance.ask(now, &agent(number), Wanted, 1);
            allowance.observe(now, &agent(MAX_WAITING + 100 + number), Held);
        }
        assert_eq!(allowance.waiting(), MAX_WAITING);
        assert_eq!(allowance.foreign.len(), 1);
        let later = now + WAITS_FOR + Span(1);
        allowance.observe(later, &agent(usize::MAX), Wanted);
        assert_eq!(allowance.waiting(), MAX_WAITING, "the place of one that went away");
    }

    #[derive(Debug, Clone)]
    enum Op {
        Ask(usize, DownloadWish),
        Observe(usize, DownloadWish),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let wish = || prop_oneof![4 => Just(Wanted), 2 => Just(Held), 1 => Just(Done), 1 => Just(Nothing)];
        prop_oneof![
            6 => (0usize..12, wish()).prop_map(|(number, wish)| Op::Ask(number, wish)),
            2 => (0usize..12, wish()).prop_map(|(number, wish)| Op::Observe(number, wish)),
            2 => (0u64..100_000).prop_map(Op::Pass),
        ]
    }

    proptest! {
        /// The slots of one replica never exceed its share; whoever is granted a new one waited longest of all
        /// that still ask.
        #[test]
        fn shares_and_order_hold(
            ops in prop::collection::vec(op(), 1..120),
            cap in 1u32..6,
            replicas in 1u32..3,
        ) {
            let mut allowance = Allowance::new(cap);
            let mut now = Timestamp(1_000_000);
            // The model: who asks, since when (a counter) and when last.
            let mut waits: BTreeMap<usize, (usize, Timestamp)> = BTreeMap::new();
            let share = usize::try_from((cap / replicas).max(1)).unwrap();
            for (turn, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Pass(ms) => now = now + Span(ms),
                    Op::Observe(number, wish) => {
                        allowance.observe(now, &agent(number), wish);
                        waits.retain(|_, (_, heard)| now.since(*heard) <= WAITS_FOR);
                        if wish == Wanted {
                            waits.entry(number).or_insert((turn, now)).1 = now;
                        } else {
                            waits.remove(&number);
                        }
                    }
                    Op::Ask(number, wish) => {
                        allowance.expire(now);
                        waits.retain(|_, (_, heard)| now.since(*heard) <= WAITS_FOR);
                        let had = allowance.granted();
                        let granted = allowance.ask(now, &agent(number), wish, replicas);
                        if wish != Wanted {
                            prop_assert_eq!(granted.is_some(), wish == Held);
                            waits.remove(&number);
                        } else if granted.is_none() {
                            waits.entry(number).or_insert((turn, now)).1 = now;
                        } else {
                            let since = waits.remove(&number).map_or(turn, |(since, _)| since);
                            let longer = waits.values().filter(|(other, _)| *other < since);
                            // The reply to an earlier grant may have been lost: it is granted again.
                            let again = allowance.granted() == had;
                            prop_assert!(again || longer.count() < share - had, "{} went before others", number);
                        }
                    }
                }
                prop_assert!(allowance.granted() <= share);
                prop_assert!(allowance.waiting() <= 12);
            }
        }

        /// Whoever keeps asking gets a slot.
        #[test]
        fn nobody_starves(agents in 1usize..40, cap in 1u32..5, order in any::<u64>()) {
            let mut allowance = Allowance::new(cap);
            let (mut now, mut served, mut holds) = (Timestamp(1_000), BTreeSet::new(), BTreeMap::new());
            for turn in 0..200 {
                now = now + Span::from_secs(40);
                for step in 0..agents {
                    let number = (step + usize::try_from(order % 1_000).unwrap() * turn) % agents;
                    let wish = match holds.get(&number) {
                        None => Wanted,
                        Some(since) if turn - since < 3 => Held,
                        Some(_) => Done,
                    };
                    let granted = allowance.ask(now, &agent(number), wish, 1);
                    if wish == Done {
                        holds.remove(&number);
                    } else if granted.is_some() && wish == Wanted {
                        holds.insert(number, turn);
                        served.insert(number);
                    }
                }
            }
            prop_assert_eq!(served.len(), agents);
        }
    }
}
