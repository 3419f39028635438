//! Signs of life: what they change, and what to answer.

use super::credit::Ration;
use super::groups::Tally;
use super::intern::Handle;
use super::status::{Beat, ItemState, Report, Status};
use super::{Effect, Presence, State, slots};
use crate::id::AgentId;
use crate::revision::Cursor;
use crate::settings::Mode;
use crate::time::{Span, Timestamp};

/// Pace of agents that are not in the registry: those that just joined are there within moments, so they
/// come back soon.
pub const UNKNOWN_INTERVAL: Span = Span::from_secs(10);
/// Pace of deleted agents, which have no reason to come back at all.
pub const DELETED_INTERVAL: Span = Span::from_secs(3600);

/// What the registry makes of the sender of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Enrolled.
    Enrolled,
    /// Enrolled, and another machine with the same identity was there before: the disk of one is a copy of
    /// the other's.
    Duplicate,
    /// Not in the registry (yet).
    Unknown,
    /// Deleted by an operator.
    Deleted,
}

/// What to answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What the registry makes of the agent.
    pub standing: Standing,
    /// Delay until its next slot.
    pub next_in: Span,
    /// Newest snapshot of its group; [`Cursor::NONE`] if there is none.
    pub head: Cursor,
    /// A pull agent runs something older than the head, or the same with a signature that has expired, and
    /// the head did not fail on it: send it along.
    pub offer_snapshot: bool,
    /// The registry holds a newer assignment than the agent obeys: send it along.
    pub offer_assignment: bool,
    /// The agent's status is not known in full: ask for it.
    pub want_status: bool,
}

impl Presence {
    /// What each agent may send from now on; `None`: anything.
    pub fn set_quota(&mut self, quota: Option<Ration>) {
        self.quota = quota;
    }

    /// Whether a message of this agent that arrived now is to be looked at: it is within what the agent may send. What
    /// strangers send is looked at, because an agent may join at any time; the broker lets only agents in.
    pub fn admits(&mut self, now: Timestamp, id: &str) -> bool {
        let (Some(quota), Some(at)) = (self.quota, self.table.find(id)) else { return true };
        let admitted = self.table.get_mut(at).spend_quota(quota, now);
        self.counters.over_quota += u64::from(!admitted);
        admitted
    }

    /// A heartbeat arrived here and waits for an answer.
    pub fn heartbeat(&mut self, now: Timestamp, id: &str, beat: Beat) -> Answer {
        self.now = self.now.max(now);
        let Some(at) = self.enrolled_sender(id) else { return self.refuse(id) };
        self.hear(at, self.now, beat);
        let agent = self.table.get(at);
        let group = self.groups.get(agent.group);
        let head = group.head.unwrap_or_default();
        let failed_here = agent.failed_at != Cursor::NONE && agent.failed_at >= head && !agent.moving();
        let pulls = group.settings.mode == Mode::Pull || agent.mode == Some(Mode::Pull);
        let duplicate = agent.is_duplicated() && agent.younger;
        Answer {
            standing: if duplicate { Standing::Duplicate } else { Standing::Enrolled },
            next_in: slots::next_slot(self.now, group.settings.heartbeat_interval, agent.hash())
                .since(self.now),
            head,
            offer_snapshot: pulls && !failed_here && (head > agent.cursor || agent.stale || agent.moving()),
            offer_assignment: agent.moving(),
            want_status: agent.lacking,
        }
    }

    /// A sign of life that nobody here has to answer: a report between heartbeats, or a heartbeat that
    /// another replica heard at `heard`. If that is later than the latest time seen, it is the time now; the
    /// caller sees to it that other replicas' clocks do not run ahead. False if it is older than what is known,
    /// or of an agent that is not enrolled.
    pub fn observe(&mut self, heard: Timestamp, id: &str, beat: Beat) -> bool {
        self.now = self.now.max(heard);
        self.enrolled_sender(id).is_some_and(|at| self.hear(at, heard, beat))
    }

    fn enrolled_sender(&mut self, id: &str) -> Option<u32> {
        let at = self.table.find(id);
        if at.is_none() {
            match self.standing(id) {
                Standing::Deleted => self.counters.deleted += 1,
                Standing::Enrolled | Standing::Duplicate | Standing::Unknown => self.counters.unknown += 1,
            }
        }
        at
    }

    /// What the registry makes of an id.
    #[must_use]
    pub fn standing(&self, id: &str) -> Standing {
        if self.table.find(id).is_some() {
            Standing::Enrolled
        } else if AgentId::new(id).is_ok_and(|id| self.deleted.contains(&id)) {
            Standing::Deleted
        } else {
            Standing::Unknown
        }
    }

    /// The answer to an agent that has no record: nothing is kept of it.
    fn refuse(&self, id: &str) -> Answer {
        let standing = self.standing(id);
        let interval = if standing == Standing::Deleted { DELETED_INTERVAL } else { UNKNOWN_INTERVAL };
        Answer {
            standing,
            next_in: slots::next_slot(self.now, interval, slots::hash(id)).since(self.now),
            head: Cursor::NONE,
            offer_snapshot: false,
            offer_assignment: false,
            want_status: false,
        }
    }

    /// False if it is outdated: then nothing changes.
    fn hear(&mut self, at: u32, heard: Timestamp, beat: Beat) -> bool {
        if self.is_outdated(at, heard, &beat) {
            self.counters.outdated += 1;
            return false;
        }
        self.settle(at, heard);
        let before = self.groups.tally(self.table.get(at));
        let was = (self.table.get(at).moving(), before.reach.cursor, before.reach.failed_at);
        self.note_session(at, &beat);
        let fresh = beat.report.is_some();
        if let Some(report) = beat.report {
            self.note_report(at, beat.cursor, report, heard);
        }
        let interval = self.groups.get(before.group).settings.heartbeat_interval;
        let agent = self.table.get_mut(at);
        agent.lacking = agent.lacking && !fresh;
        agent.heard = agent.heard.max(heard);
        agent.slot = slots::next_slot(agent.heard, interval, agent.hash());
        agent.cursor = beat.cursor;
        agent.obeys = beat.assignment;
        self.recount(before, at);
        if before.state != State::Online {
            self.set_state(at, State::Online, heard);
        }
        // Usually the deadline moved later and this does nothing; a slot promised under a longer interval
        // that is gone now moves it earlier.
        self.rearm(at);
        self.tell_progress(at, was, heard);
        true
    }

    /// Older than what is known: of this session with a lower number, or of another one that was heard
    /// before the present one spoke.
    fn is_outdated(&self, at: u32, heard: Timestamp, beat: &Beat) -> bool {
        let agent = self.table.get(at);
        if beat.session == agent.session { beat.sequence < agent.sequence } else { heard < agent.heard }
    }

    /// Follows the agent's sessions. A gap in the numbers may hide a change of the status; two sessions
    /// that alternate are two machines. A session that was never heard of begins the count anew: it is a
    /// restart of one of them, and two machines alternate again soon.
    fn note_session(&mut self, at: u32, beat: &Beat) {
        let agent = self.table.get_mut(at);
        if beat.session == agent.session {
            let gap = beat.sequence > agent.sequence.saturating_add(1);
            agent.lacking = agent.lacking || gap;
        } else {
            if agent.is_rival(beat.session) && agent.heard.0 != 0 {
                agent.alternations = agent.alternations.saturating_add(1);
                agent.younger = !agent.younger;
                self.counters.alternations += 1;
            } else {
                agent.alternations = 0;
                agent.younger = true;
            }
            agent.follow_session(beat.session);
            agent.lacking = true;
        }
        agent.sequence = beat.sequence;
    }

    /// Replaces what is known of the agent's status.
    fn note_report(&mut self, at: u32, in_force: Cursor, mut report: Report, heard: Timestamp) {
        self.note_content(at, heard, std::mem::take(&mut report.content));
        self.note_status(at, in_force, report);
    }

    /// Replaces what is known of the agent itself and its policies.
    pub(super) fn note_status(&mut self, at: u32, in_force: Cursor, report: Report) {
        let (failed_at, stale) = (report.status.failed_at(in_force), report.status.stale);
        let old = self.table.get(at);
        let (old_version, old_status) = (old.version, old.status);
        // The new values are taken before the old ones are given back: an equal value is not rebuilt.
        let version = self.versions.acquire(report.version, 1).unwrap_or_default();
        let status = self.keep_status(report.status);
        self.versions.release(old_version);
        self.statuses.release(old_status);
        let agent = self.table.get_mut(at);
        agent.version = version;
        agent.status = status;
        agent.failed_at = failed_at;
        agent.stale = stale;
        agent.mode = report.mode;
        agent.set_hostname(&report.hostname);
    }

    fn keep_status(&mut self, status: Status) -> Handle {
        let weight = status.weight();
        match self.statuses.acquire(status, weight) {
            Ok(handle) => handle,
            Err(status) => {
                self.counters.statuses_trimmed += 1;
                let plain = status.without_details();
                let weight = plain.weight();
                self.statuses.acquire(plain, weight).unwrap_or_default()
            }
        }
    }

    fn recount(&mut self, before: Tally, at: u32) {
        let after = self.groups.tally(self.table.get(at));
        if before != after {
            self.groups.uncount(before);
            self.groups.count(after);
        }
    }

    /// Tells that the agent reached another snapshot, or that one failed on it.
    fn tell_progress(&mut self, at: u32, was: (bool, Cursor, Cursor), heard: Timestamp) {
        let agent = self.table.get(at);
        let (moving, cursor, failed_at) = (agent.moving(), agent.cursor, agent.failed_at);
        let applied = cursor.revision.0 != 0 && (cursor != was.1 || moving != was.0) && !moving;
        let failed = failed_at != Cursor::NONE && failed_at != was.2;
        if applied {
            let (agent, group) = self.names(at);
            self.effects.push_back(Effect::Applied { agent, group, cursor, at: heard });
        }
        if failed {
            let items = self.statuses.get(self.table.get(at).status).map_or(&[][..], |status| &status.items);
            let items = items.iter().filter(|item| item.state == ItemState::Failed).cloned().collect();
            let (agent, group) = self.names(at);
            self.effects.push_back(Effect::Failed { agent, group, cursor: failed_at, items, at: heard });
        }
    }
}
