//! The fleet's allowance for full downloads, as each replica of presence grants its share of it from memory.
//!
//! Agents ask in their heartbeats; any replica may hear any beat, and tells the others what it heard and
//! answered. A slot belongs to the replica that granted it first, lasts for a time, and is renewed by whoever
//! hears its holder: a replica that stops takes no download down with it.
//!
//! **The slots never exceed the cap.** A replica grants a new one only if the cap holds even when every other
//! replica has used up its share, or holds the more slots that are known to be its. A replica that fell
//! silent counts until every slot that it may have granted unheard has ended; one that cannot know what
//! others granted grants nothing for as long.
//!
//! **Who waits longest goes first.** A free slot is kept for those at the head of the queue; they ask every
//! second or two, those further back ever more rarely. So ten thousand waiting agents cause about 200 beats a
//! second, a million less than a thousand. One that does not come when it should loses its place: agents that
//! went away hold up nobody for long.

mod slots;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use slots::{Slot, Slots};
use waiting::Waiting;

use super::DownloadWish;
use crate::id::AgentId;
use crate::time::{Span, Timestamp};

/// How long a slot lasts unless it is renewed, which its holder does at half of it. An agent that dies keeps
/// its slot for this long; one whose heartbeats are lost for half of it has to ask again.
pub const GRANT: Span = Span::from_secs(60);
/// How much longer than its grant a slot counts, and a silent replica. Up to half of it a late holder may
/// renew; the other half is for the others to hear of that, or for the time since a last sign of life.
const SLACK: Span = Span::from_secs(6);
/// Most slots: beyond, nothing is limited any more.
pub const MAX_CAP: u32 = 65_536;
/// Most other replicas that are reckoned with; a deployment has a handful.
const MAX_PEERS: usize = 64;
/// Most slots of other replicas that are known: those of two caps, while shares move from one to another.
const MAX_SLOTS: usize = 2 * MAX_CAP as usize;
/// Pause before the first in the queue asks again, and up to as much more for being spread: about as long is
/// a freed slot idle.
const HEAD_PAUSE: Span = Span(1_000);
/// By how much later each further one asks again. With [`HEAD_PAUSE`] it bounds the beats of any queue: of
/// `n` that wait, `33 ln(1 + n / 50)` ask in a second.
const PAUSE_A_PLACE: Span = Span(20);

/// The rules of an allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Most slots of the whole fleet at the same time; 0: no limit. More than [`MAX_CAP`] counts as that.
    pub cap: u32,
    /// How long a slot lasts unless it is renewed: the same for all replicas.
    pub grant: Span,
}

/// What an agent is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decision {
    /// For how long it may download from now on.
    pub granted: Option<Span>,
    /// When it should beat again because of this: to renew its slot in time, or, at the earliest, to ask
    /// again. Those who ask again are to be spread over as much again.
    pub again: Option<Span>,
    /// Replica whose slot it holds.
    pub granted_by: Option<u64>,
}

/// Slots, who waits for them, and who else grants.
#[derive(Debug, Clone)]
pub struct Allowance {
    replica: u64,
    terms: Terms,
    /// Nothing new is granted before.
    grants_from: Timestamp,
    slots: Slots,
    peers: BTreeMap<u64, Peer>,
    waiting: Waiting,
}

impl Allowance {
    /// No slots taken, nobody waits, no other replica known.
    #[must_use]
    pub fn new(replica: u64, terms: Terms) -> Self {
        Self {
            replica,
            terms: Terms { cap: terms.cap.min(MAX_CAP), ..terms },
            grants_from: Timestamp(0),
            slots: Slots::default(),
            peers: BTreeMap::new(),
            waiting: Waiting::default(),
        }
    }

    /// Slots may have been granted up to `now` that this replica does not know of: it grants none until each
    /// of them has ended or was renewed and heard of.
    pub fn distrust(&mut self, now: Timestamp) {
        self.grants_from = now + self.terms.grant + SLACK;
    }

    /// Another replica showed that it lives.
    pub fn heard_replica(&mut self, now: Timestamp, replica: u64) {
        let room = self.peers.len() < MAX_PEERS;
        match self.peers.get_mut(&replica) {
            Some(peer) => peer.heard = now,
            None if room => drop(self.peers.insert(replica, Peer { since: now, heard: now })),
            None => {}
        }
    }

    /// An agent's heartbeat is to be answered. A wish for nothing gives back what the agent had.
    pub fn ask(&mut self, now: Timestamp, agent: &AgentId, wish: DownloadWish) -> Decision {
        match wish {
            DownloadWish::Nothing | DownloadWish::Done => {
                self.forget(agent);
                Decision::default()
            }
            DownloadWish::Wanted | DownloadWish::Held if self.terms.cap == 0 => self.granted(None),
            DownloadWish::Held => {
                self.expire(now);
                // One that is not known was granted by a replica that is no more, or has just ended.
                let known = self.holder(now, agent);
                let owner = known.or_else(|| (self.slots.len() < self.cap()).then_some(self.replica));
                match owner {
                    Some(owner) => self.grant(now, agent, owner),
                    None => Decision { again: Some(HEAD_PAUSE), ..Decision::default() },
                }
            }
            DownloadWish::Wanted => {
                self.expire(now);
                self.withdraw(agent);
                let again = self.queue(now, agent);
                let free = if now < self.grants_from { 0 } else { self.free(now) };
                if self.waiting.is_among(now, agent, free) {
                    return self.grant(now, agent, self.replica);
                }
                Decision { again: Some(again), ..Decision::default() }
            }
        }
    }

    /// Another replica heard an agent's heartbeat, and answered that it holds a slot of `granted_by`. Only what
    /// is newer than all that was heard of the agent may be told.
    pub fn observe(&mut self, now: Timestamp, agent: &AgentId, wish: DownloadWish, granted_by: Option<u64>) {
        if self.terms.cap == 0 {
            return;
        }
        match (wish, granted_by) {
            (DownloadWish::Nothing | DownloadWish::Done, _) => self.forget(agent),
            (DownloadWish::Wanted | DownloadWish::Held, Some(owner)) => {
                self.expire(now);
                if self.slots.len() < MAX_SLOTS {
                    self.keep(now, agent, owner);
                }
            }
            // What it was granted may be on its way to it. If that is lost, it asks here one day.
            (DownloadWish::Wanted, None) if self.slots.get(agent).is_none() => {
                self.queue(now, agent);
            }
            // It goes on until its time is over.
            (DownloadWish::Wanted | DownloadWish::Held, None) => {}
        }
    }

    /// An agent is no more, or wants nothing more.
    pub fn forget(&mut self, agent: &AgentId) {
        if !self.slots.is_empty() {
            self.slots.remove(agent);
        }
        if !self.waiting.is_empty() {
            self.waiting.remove(agent);
        }
    }

    /// Whether nobody holds or awaits anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.waiting.is_empty()
    }

    /// Slots that are known, of all replicas.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Agents that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whose slot an agent holds, if it is in time to renew it.
    fn holder(&self, now: Timestamp, agent: &AgentId) -> Option<u64> {
        let slot = self.slots.get(agent)?;
        (now + SLACK.scaled(1, 2) < slot.until).then_some(slot.owner)
    }

    fn cap(&self) -> usize {
        usize::try_from(self.terms.cap).unwrap_or(usize::MAX)
    }

    fn granted(&self, owner: Option<u64>) -> Decision {
        let grant = self.terms.grant;
        Decision { granted: Some(grant), again: Some(grant.scaled(1, 2)), granted_by: owner }
    }

    fn grant(&mut self, now: Timestamp, agent: &AgentId, owner: u64) -> Decision {
        self.keep(now, agent, owner);
        self.granted(Some(owner))
    }

    fn keep(&mut self, now: Timestamp, agent: &AgentId, owner: u64) {
        let place = self.waiting.remove(agent).or_else(|| self.slots.get(agent)?.place);
        self.slots.put(agent, Slot { owner, until: now + self.terms.grant + SLACK, place });
    }

    /// Forgets replicas and slots whose time is over. While a replica is silent it may have renewed a slot
    /// unheard, so until then no slot ends.
    fn expire(&mut self, now: Timestamp) {
        let gone_since = now - self.terms.grant - SLACK;
        self.peers.retain(|_, peer| peer.heard > gone_since);
        if self.peers.values().all(|peer| now.since(peer.heard) < SLACK.scaled(1, 2)) {
            self.slots.expire(now);
        }
    }

    /// An agent has no slot, whatever it was granted: it did not get the answer, or had none for a while. It
    /// waits where it waited before.
    fn withdraw(&mut self, agent: &AgentId) {
        if let Some(place) = self.slots.remove(agent).and_then(|slot| slot.place) {
            self.waiting.put_back(agent, place);
        }
    }

    /// Lets an agent wait, or wait on. Returns when it is to ask again at the earliest.
    fn queue(&mut self, now: Timestamp, agent: &AgentId) -> Span {
        let pause = |place: u64| Span(HEAD_PAUSE.0.saturating_add(PAUSE_A_PLACE.scaled(place, 1).0));
        self.waiting.ask(now, agent, pause)
    }

    /// How many slots this replica may grant whatever the others do meanwhile.
    fn free(&self, now: Timestamp) -> usize {
        // A replica that has just come makes the shares of the others smaller, and they may not know yet.
        let is_new = |peer: &Peer| now.since(peer.since) < SLACK.scaled(1, 2);
        let mut all = BTreeSet::from([self.replica]);
        let mut known = all.clone();
        for (id, peer) in &self.peers {
            all.insert(*id);
            known.extend((!is_new(peer)).then_some(*id));
        }
        let others = self.peers.iter().map(|(id, peer)| {
            let share = self.share(*id, if is_new(peer) { &all } else { &known });
            share.max(self.slots.of(*id))
        });
        let rest = self.slots.owners().filter(|owner| !self.peers.contains_key(owner));
        let taken = others.sum::<usize>() + rest.map(|owner| self.slots.of(owner)).sum::<usize>();
        self.cap().saturating_sub(taken)
    }

    /// The share of one of some replicas. Shares differ by one at most: what cannot be divided goes to the
    /// first ones.
    fn share(&self, replica: u64, replicas: &BTreeSet<u64>) -> usize {
        let before = replicas.range(..replica).count();
        self.cap() / replicas.len() + usize::from(before < self.cap() % replicas.len())
    }
}

/// Another replica.
#[derive(Debug, Clone, Copy)]
struct Peer {
    since: Timestamp,
    /// When it was last heard.
    heard: Timestamp,
}
