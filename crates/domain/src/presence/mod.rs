//! Presence: which agents are there, what they run, and what to answer to a heartbeat.
//!
//! One machine holds the whole fleet. It is told of groups and their heads, of enrolled, moved and deleted
//! agents, of every heartbeat and of the time; it answers heartbeats, keeps each agent's state by exact
//! deadlines, and hands out [`Effect`]s.
//!
//! - *never-seen*: enrolled, no heartbeat yet.
//! - *online*: heard from within its interval.
//! - *late*: silent for one and a half intervals, and half an interval past the slot it was promised.
//! - *offline*: silent for `offline_after` ([`Presence::resume`] says from when silence counts).
//!
//! Time never runs backwards in here: a `now` or a time of arrival earlier than what was seen before counts
//! as the latest time seen.
//!
//! Memory: about 260 bytes for each of a million agents, everything included. What agents of a group have
//! in common (status, version, labels) is kept once, within fixed bounds; beyond them details are dropped
//! and states are still exact.

mod beat;
mod content;
mod credit;
mod deadlines;
mod delivery;
mod groups;
mod intern;
#[cfg(test)]
mod model_tests;
mod order;
mod query;
mod restore;
mod slots;
mod status;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

pub use beat::{Answer, DELETED_INTERVAL, Standing, UNKNOWN_INTERVAL};
pub use content::{
    ContentFailure, ContentSummary, MAX_CONTENT_LIST_BYTES, MAX_CONTENT_STATE_BYTES, MAX_FAILURES,
    RevisionCounts,
};
pub use credit::{BURST, MAX_HEARTBEAT_RATE, REFILL, Ration};
pub use delivery::{Deliveries, Delivery, MAX_DELIVERIES, Moments};
pub use query::{AgentView, Counts, Filter, GroupView, MAX_EXAMINED, Page, Progress, Scope, Summary};
pub use restore::Remembered;
pub use status::{Beat, ItemReport, ItemState, Labels, Report, Status};

use content::Contents;
use deadlines::Calendar;
use groups::Groups;
use intern::Interner;
use table::Table;

use crate::content::ContentStatus;
use crate::id::{AgentId, GroupId};
use crate::path::GroupPath;
use crate::revision::Cursor;
use crate::settings::Settings;
use crate::time::Timestamp;

/// Agents looked at in one [`Presence::tick`]: at about 300 ns each it returns within a few milliseconds,
/// so heartbeats do not wait when a whole fleet falls silent.
pub const MAX_FIRED: usize = 4_096;
/// Distinct agent versions kept; a fleet has a handful. Beyond it a version shows as empty.
pub const MAX_VERSIONS: usize = 4_096;
/// Bytes of distinct statuses kept: 64 bytes for each of a million agents.
pub const MAX_STATUS_BYTES: usize = 64 << 20;
/// Bytes of distinct sets of labels kept: 32 bytes for each of a million agents.
pub const MAX_LABEL_BYTES: usize = 32 << 20;

/// Whether an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Enrolled, no heartbeat yet.
    NeverSeen,
    /// Within its interval.
    Online,
    /// Silent for more than one and a half intervals.
    Late,
    /// Silent for longer than `offline_after`.
    Offline,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::NeverSeen, Self::Online, Self::Late, Self::Offline];
}

/// A group as its snapshot describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupHead {
    /// Its id.
    pub group: GroupId,
    /// Its place in the tree.
    pub path: GroupPath,
    /// Settings in force.
    pub settings: Settings,
    /// Its newest snapshot.
    pub cursor: Cursor,
}

/// An agent as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The agent.
    pub agent: AgentId,
    /// Its group.
    pub group: GroupId,
    /// Its newest assignment.
    pub assignment: Cursor,
    /// Host name given at join; the agent's own reports replace it.
    pub hostname: Box<str>,
    /// Labels given at join.
    pub labels: Labels,
}

/// Something happened that others may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// An agent came, is late, or went. Rationed: see [`BURST`] and [`REFILL`].
    Transition {
        /// The agent.
        agent: AgentId,
        /// Its group.
        group: GroupId,
        /// State in the event before.
        from: State,
        /// State now.
        to: State,
        /// When it changed; for an event that was held back, when it was let through.
        at: Timestamp,
        /// Transitions that were folded into this event.
        damped: u32,
    },
    /// A snapshot came into force on an agent.
    Applied {
        /// The agent.
        agent: AgentId,
        /// Its group.
        group: GroupId,
        /// The snapshot.
        cursor: Cursor,
        /// When that became known.
        at: Timestamp,
    },
    /// A snapshot failed on an agent.
    Failed {
        /// The agent.
        agent: AgentId,
        /// Its group.
        group: GroupId,
        /// The snapshot.
        cursor: Cursor,
        /// The items that failed.
        items: Vec<ItemReport>,
        /// When that became known.
        at: Timestamp,
    },
    /// The assigned revision of a content channel failed on an agent.
    ContentFailed {
        /// The agent.
        agent: AgentId,
        /// Its group.
        group: GroupId,
        /// Where it stands with the channel.
        status: ContentStatus,
        /// When that became known.
        at: Timestamp,
    },
}

/// What the machine met and did not act on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Signs of life older than what was known already.
    pub outdated: u64,
    /// Signs of life of agents that are not in the registry.
    pub unknown: u64,
    /// Signs of life of deleted agents.
    pub deleted: u64,
    /// Times the session of an agent changed back to the one before.
    pub alternations: u64,
    /// Statuses that were kept without their details, or not at all, for lack of room.
    pub statuses_trimmed: u64,
    /// States of content that were kept without their details, or not at all, for lack of room.
    pub contents_trimmed: u64,
    /// Transitions that were not announced at once.
    pub held_back: u64,
    /// Heartbeats beyond what an agent may send.
    pub over_quota: u64,
}

/// Presence of a whole fleet.
#[derive(Debug)]
pub struct Presence {
    now: Timestamp,
    /// Silence before this moment counts for nothing.
    listening_since: Timestamp,
    table: Table,
    groups: Groups,
    calendar: Calendar,
    deleted: BTreeSet<AgentId>,
    versions: Interner<Box<str>>,
    labels: Interner<Labels>,
    statuses: Interner<Status>,
    contents: Contents,
    effects: VecDeque<Effect>,
    counters: Counters,
    /// What each agent may send; `None`: anything.
    quota: Option<Ration>,
}

impl Presence {
    /// An empty fleet, listened to from `now` on.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            listening_since: now,
            table: Table::default(),
            groups: Groups::default(),
            calendar: Calendar::default(),
            deleted: BTreeSet::new(),
            versions: Interner::new(MAX_VERSIONS),
            labels: Interner::new(MAX_LABEL_BYTES),
            statuses: Interner::new(MAX_STATUS_BYTES),
            contents: Contents::new(),
            effects: VecDeque::new(),
            counters: Counters::default(),
            quota: None,
        }
    }

    /// Heartbeats could not be heard for a while, and can be from `now` on: every deadline starts again.
    /// Between losing the connection and this call, [`Presence::tick`] must not be called.
    pub fn resume(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        self.listening_since = self.now;
    }

    /// A group was made, moved, got other settings or a newer head. An older head than the known one is
    /// ignored.
    pub fn group_changed(&mut self, now: Timestamp, head: GroupHead) {
        self.now = self.now.max(now);
        let at = self.groups.ensure(&head.group);
        if self.groups.get(at).head.is_some_and(|known| known > head.cursor) {
            return;
        }
        if self.groups.get(at).settings != head.settings {
            self.set_settings(at, head.settings);
        }
        let group = self.groups.get_mut(at);
        group.path = Some(head.path);
        group.head = Some(head.cursor);
    }

    /// Costs a constant time for each member: some may be due earlier, and those that never reported a mode
    /// count under the group's.
    fn set_settings(&mut self, group: u32, settings: Settings) {
        let members: Vec<u32> = self.groups.members(&self.table, group).collect();
        for &at in &members {
            self.groups.uncount(self.groups.tally(self.table.get(at)));
        }
        self.groups.get_mut(group).settings = settings;
        for at in members {
            self.groups.count(self.groups.tally(self.table.get(at)));
            self.rearm(at);
        }
    }

    /// A group was deleted. Agents that still belong to it keep its settings until they are moved.
    pub fn group_removed(&mut self, id: &GroupId) {
        if let Some(at) = self.groups.find(id) {
            let group = self.groups.get_mut(at);
            group.path = None;
            group.head = None;
            self.groups.forget_if_empty(at);
        }
    }

    /// An agent was enrolled, or its registration changed. An older assignment than the known one, and the
    /// id of a deleted agent, are ignored.
    pub fn enrolled(&mut self, now: Timestamp, enrolment: &Enrolment) {
        self.now = self.now.max(now);
        if self.deleted.contains(&enrolment.agent) {
            return;
        }
        let id = enrolment.agent.as_str();
        let (at, from) = match self.table.find(id) {
            Some(at) if self.table.get(at).assigned > enrolment.assignment => return,
            Some(at) => {
                let from = self.place(at);
                self.groups.leave(&mut self.table, at);
                (at, Some(from))
            }
            None => (self.table.insert(id, &enrolment.hostname), None),
        };
        self.label(at, &enrolment.labels);
        let group = self.groups.ensure(&enrolment.group);
        let agent = self.table.get_mut(at);
        agent.group = group;
        agent.assigned = enrolment.assignment;
        self.groups.join(&mut self.table, at);
        self.relocate(at, from, Some(self.place(at)));
        self.rearm(at);
    }

    /// An agent was deleted; its id is refused from now on.
    pub fn deleted(&mut self, agent: AgentId) {
        self.forgotten(&agent);
        self.deleted.insert(agent);
    }

    /// An agent is not in the registry any more, without having been deleted: the registry was replaced.
    pub fn forgotten(&mut self, agent: &AgentId) {
        if let Some(at) = self.table.find(agent.as_str()) {
            self.calendar.cancel(&mut self.table, at);
            self.relocate(at, Some(self.place(at)), None);
            self.groups.leave(&mut self.table, at);
            let record = self.table.get(at);
            self.contents.release(record.content);
            self.statuses.release(record.status);
            self.versions.release(record.version);
            self.labels.release(record.labels);
            self.table.remove(at);
        }
    }

    fn label(&mut self, at: u32, labels: &Labels) {
        self.labels.release(self.table.get(at).labels);
        let weight = labels.iter().map(|(key, value)| 64 + key.len() + value.len()).sum();
        let handle = if labels.is_empty() { None } else { self.labels.acquire(labels.clone(), weight).ok() };
        self.table.get_mut(at).labels = handle.unwrap_or_default();
    }

    /// Time passed: states change by their deadlines, events that were held back are let through. At most
    /// [`MAX_FIRED`] agents are looked at; if more are due, [`Presence::next_deadline`] is not after `now`.
    pub fn tick(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        for _ in 0..MAX_FIRED {
            let Some((at, due)) = self.calendar.pop(&mut self.table, self.now) else { return };
            self.settle(at, due);
            self.rearm(at);
        }
    }

    /// Nothing changes before this moment unless something is heard; `None` if nothing ever will. It may
    /// come earlier than the next change.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.calendar.first()
    }

    /// Takes what happened since the last call, in order.
    pub fn take_effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// What was met and not acted on, since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Enters the agent's next deadline into the calendar.
    fn rearm(&mut self, at: u32) {
        if let Some(due) = self.next_step(at).map(|(due, _)| due) {
            self.calendar.schedule(&mut self.table, at, due);
        }
    }

    /// The next thing that happens to a silent agent: a state it falls to, or (`None`) an event that was
    /// held back and may pass.
    fn next_step(&self, at: u32) -> Option<(Timestamp, Option<State>)> {
        let agent = self.table.get(at);
        let settings = &self.groups.get(agent.group).settings;
        let heard = agent.heard.max(self.listening_since);
        let offline = || slots::offline_at(heard, agent.slot, settings);
        let fall = match agent.state {
            State::NeverSeen | State::Offline => None,
            State::Late => Some((offline(), Some(State::Offline))),
            State::Online => {
                let late = slots::late_at(heard, agent.slot, settings);
                let offline = offline();
                if late < offline {
                    Some((late, Some(State::Late)))
                } else {
                    Some((offline, Some(State::Offline)))
                }
            }
        };
        let release = (agent.told != agent.state)
            .then(|| (credit::EVENTS.spend(agent.credit, Timestamp(0)).err().unwrap_or_default(), None));
        match (fall, release) {
            (Some(fall), Some(release)) => Some(if release.0 < fall.0 { release } else { fall }),
            (fall, release) => fall.or(release),
        }
    }

    /// Lets everything happen to the agent that was due up to `until`.
    fn settle(&mut self, at: u32, until: Timestamp) {
        while let Some((due, step)) = self.next_step(at).filter(|(due, _)| *due <= until) {
            match step {
                Some(state) => self.set_state(at, state, due),
                None => self.announce(at, due),
            }
        }
    }

    /// Changes the state and announces it if the agent's credit allows.
    fn set_state(&mut self, at: u32, to: State, when: Timestamp) {
        let (before, from) = (self.groups.tally(self.table.get(at)), self.place(at));
        self.groups.uncount(before);
        self.groups.count(groups::Tally { state: to, ..before });
        self.table.get_mut(at).state = to;
        self.relocate(at, Some(from), Some(self.place(at)));
        let agent = self.table.get_mut(at);
        agent.untold = agent.untold.saturating_add(1);
        if agent.told != to {
            self.announce(at, when);
        }
    }

    /// Emits the event for the present state, or leaves it for later.
    fn announce(&mut self, at: u32, when: Timestamp) {
        let agent = self.table.get_mut(at);
        match credit::EVENTS.spend(agent.credit, when) {
            Err(_) => self.counters.held_back += 1,
            Ok(credit) => {
                agent.credit = credit;
                let (from, to) = (agent.told, agent.state);
                let damped = u32::from(agent.untold.saturating_sub(1));
                agent.told = to;
                agent.untold = 0;
                let (agent, group) = self.names(at);
                self.effects.push_back(Effect::Transition { agent, group, from, to, at: when, damped });
            }
        }
    }

    fn names(&self, at: u32) -> (AgentId, GroupId) {
        let agent = self.table.get(at);
        let id = AgentId::new(agent.id()).expect("invariant: only checked ids are enrolled");
        (id, self.groups.get(agent.group).id.clone())
    }
}
