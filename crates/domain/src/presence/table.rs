//! The agents: one compact record each, found by id, walked in order of id.
//!
//! Records live in pages, so that a growing fleet neither copies them nor reserves twice what it needs.
//! Sets of agents (a group's members, those due at one moment) are doubly linked lists through the
//! records: no allocation, and leaving one takes a constant time.

use hashbrown::HashTable;

use super::State;
use super::credit::Ration;
use super::intern::Handle;
use super::order::Order;
use super::slots;
use crate::revision::Cursor;
use crate::settings::Mode;
use crate::time::{Span, Timestamp};

/// Records in a page: large enough to make the page list short, small enough that a half-empty page does
/// not matter.
const PAGE: usize = 1024;
/// Alternations of two sessions from which a second machine is suspected: a straggler of the session
/// before a restart causes two. Two machines that beat in turn get there with the second beat of the elder.
const SUSPICIOUS_ALTERNATIONS: u16 = 3;
/// End of a list.
pub(super) const NIL: u32 = u32::MAX;

/// Which list a link belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// Agents due at the same moment.
    Due,
    /// Agents of the same group.
    Members,
}

fn lower_half(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Neighbours in one list.
#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

/// All that is kept of one agent. At a million agents each byte here is a megabyte.
#[derive(Debug)]
pub(super) struct Agent {
    /// The id, then the host name.
    names: Box<str>,
    hash: u64,
    /// Last sign of life; 0 for none.
    pub(super) heard: Timestamp,
    /// When it was asked to beat next.
    pub(super) slot: Timestamp,
    /// Session of the last sign of life.
    pub(super) session: u64,
    /// Number of the last sign of life within its session.
    pub(super) sequence: u64,
    /// Snapshot in force.
    pub(super) cursor: Cursor,
    /// Snapshot that failed; [`Cursor::NONE`] for none.
    pub(super) failed_at: Cursor,
    /// Assignment in the registry.
    pub(super) assigned: Cursor,
    /// Assignment the agent obeys.
    pub(super) obeys: Cursor,
    /// When the credit for events is full again.
    pub(super) credit: Timestamp,
    /// When to look at it again; 0 for never. May be earlier than needed.
    pub(super) due: Timestamp,
    due_link: Link,
    member_link: Link,
    pub(super) group: u32,
    pub(super) status: Handle,
    pub(super) labels: Handle,
    pub(super) version: Handle,
    pub(super) content: Handle,
    /// Lower half of the session before the last one. Sessions are random: two that are taken for the same are as
    /// likely as one in four billion.
    rival: u32,
    /// Lower half of the time when the credit for heartbeats is full again.
    quota: u32,
    /// Times this session and the one before it alternated.
    pub(super) alternations: u16,
    /// Of the two, the present one was heard of later.
    pub(super) younger: bool,
    /// Transitions since the last event.
    pub(super) untold: u16,
    id_bytes: u8,
    pub(super) state: State,
    /// State in the last event.
    pub(super) told: State,
    /// Mode it reported.
    pub(super) mode: Option<Mode>,
    /// Its status is not known in full.
    pub(super) lacking: bool,
    /// It reported that its snapshot has expired.
    pub(super) stale: bool,
}

impl Agent {
    fn new(id: &str, hostname: &str, hash: u64) -> Self {
        let link = Link { previous: NIL, next: NIL };
        Self {
            names: [id, hostname].concat().into_boxed_str(),
            hash,
            heard: Timestamp(0),
            slot: Timestamp(0),
            session: 0,
            rival: 0,
            quota: 0,
            sequence: 0,
            cursor: Cursor::NONE,
            failed_at: Cursor::NONE,
            assigned: Cursor::NONE,
            obeys: Cursor::NONE,
            credit: Timestamp(0),
            due: Timestamp(0),
            due_link: link,
            member_link: link,
            group: NIL,
            status: Handle::default(),
            labels: Handle::default(),
            version: Handle::default(),
            content: Handle::default(),
            alternations: 0,
            younger: false,
            untold: 0,
            id_bytes: u8::try_from(id.len()).expect("invariant: ids have at most 64 bytes"),
            state: State::NeverSeen,
            told: State::NeverSeen,
            mode: None,
            lacking: true,
            stale: false,
        }
    }

    /// Whether two machines seem to use this identity.
    pub(super) fn is_duplicated(&self) -> bool {
        self.alternations >= SUSPICIOUS_ALTERNATIONS
    }

    /// Whether this is the session before the last one.
    pub(super) fn is_rival(&self, session: u64) -> bool {
        lower_half(session) == self.rival
    }

    /// The session that is heard now, in place of the last one.
    pub(super) fn follow_session(&mut self, session: u64) {
        self.rival = lower_half(self.session);
        self.session = session;
    }

    /// Spends one heartbeat of what the agent may send. False if there is none left.
    pub(super) fn spend_quota(&mut self, quota: Ration, now: Timestamp) -> bool {
        let ahead = Span(self.quota.wrapping_sub(lower_half(now.0)).into());
        // What lies further ahead lies behind: the credit has been full since.
        let credit = if ahead <= quota.longest() { now + ahead } else { now };
        let spent = quota.spend(credit, now);
        if let Ok(credit) = spent {
            self.quota = lower_half(credit.0);
        }
        spent.is_ok()
    }

    pub(super) fn id(&self) -> &str {
        &self.names[..usize::from(self.id_bytes)]
    }

    pub(super) fn hostname(&self) -> &str {
        &self.names[usize::from(self.id_bytes)..]
    }

    pub(super) fn set_hostname(&mut self, hostname: &str) {
        if self.hostname() != hostname {
            self.names = [self.id(), hostname].concat().into_boxed_str();
        }
    }

    /// Hash of the id: its phase.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether the agent does not obey its newest assignment yet.
    pub(super) fn moving(&self) -> bool {
        self.obeys < self.assigned
    }

    fn link(&mut self, chain: Chain) -> &mut Link {
        match chain {
            Chain::Due => &mut self.due_link,
            Chain::Members => &mut self.member_link,
        }
    }
}

/// All agents.
#[derive(Debug, Default)]
pub(super) struct Table {
    pages: Vec<Vec<Agent>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    order: Order,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn find(&self, id: &str) -> Option<u32> {
        self.index.find(slots::hash(id), |&at| self.get(at).id() == id).copied()
    }

    pub(super) fn get(&self, at: u32) -> &Agent {
        &self.pages[at as usize / PAGE][at as usize % PAGE]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Agent {
        &mut self.pages[at as usize / PAGE][at as usize % PAGE]
    }

    /// Adds an agent that is not there yet.
    pub(super) fn insert(&mut self, id: &str, hostname: &str) -> u32 {
        let hash = slots::hash(id);
        let at = self.place(Agent::new(id, hostname, hash));
        let pages = &self.pages;
        let record = |at: u32| &pages[at as usize / PAGE][at as usize % PAGE];
        self.index.insert_unique(hash, at, |&other| record(other).hash);
        self.order.insert(at, id, |other| record(other).id());
        at
    }

    fn place(&mut self, agent: Agent) -> u32 {
        if let Some(at) = self.free.pop() {
            *self.get_mut(at) = agent;
            return at;
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let first = (self.pages.len() - 1) * PAGE;
        let page = self.pages.last_mut().expect("invariant: a page was just made sure of");
        page.push(agent);
        u32::try_from(first + page.len() - 1).expect("invariant: fewer than 2^32 agents fit in memory")
    }

    /// Takes an agent out. It must have left its lists.
    pub(super) fn remove(&mut self, at: u32) {
        let hash = self.get(at).hash;
        let pages = &self.pages;
        let record = |at: u32| &pages[at as usize / PAGE][at as usize % PAGE];
        self.order.remove(at, record(at).id(), |other| record(other).id());
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == at) {
            entry.remove();
        }
        *self.get_mut(at) = Agent::new("", "", 0);
        self.free.push(at);
    }

    /// Agents in order of id, from the first one after `after`.
    pub(super) fn after<'a>(&'a self, after: Option<&str>) -> impl Iterator<Item = u32> + 'a {
        self.order.after(after, |at| self.get(at).id())
    }

    /// Next agent of a list.
    pub(super) fn next(&self, chain: Chain, at: u32) -> u32 {
        match chain {
            Chain::Due => self.get(at).due_link.next,
            Chain::Members => self.get(at).member_link.next,
        }
    }

    /// Puts an agent at the head of a list and returns the new head.
    pub(super) fn push(&mut self, chain: Chain, head: u32, at: u32) -> u32 {
        *self.get_mut(at).link(chain) = Link { previous: NIL, next: head };
        if head != NIL {
            self.get_mut(head).link(chain).previous = at;
        }
        at
    }

    /// Takes an agent out of the list that starts at `head` and returns the new head.
    pub(super) fn unlink(&mut self, chain: Chain, head: u32, at: u32) -> u32 {
        let Link { previous, next } = *self.get_mut(at).link(chain);
        *self.get_mut(at).link(chain) = Link { previous: NIL, next: NIL };
        if next != NIL {
            self.get_mut(next).link(chain).previous = previous;
        }
        if previous == NIL {
            return next;
        }
        self.get_mut(previous).link(chain).next = next;
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The measured total (benches/presence.rs) rests on this; the rest is the id, the host name and the
    /// indexes.
    #[test]
    fn a_record_is_three_cache_lines() {
        assert_eq!(size_of::<Agent>(), 192);
    }
}
