//! The machine itself: routes inputs, judges snapshots and assignments, answers heartbeats.

use std::sync::Arc;

use crate::agent::backoff::{full_jitter, spread};
use crate::agent::content::Content;
use crate::agent::floors::{self, Durable, Floor, Identity, Placement, Refusal, Verdict};
use crate::agent::io::{Beat, Effect, Input, Note, Offer, Reply, Source, Standing};
use crate::agent::items::{Generation, Reason, Status};
use crate::agent::schedule::{Beats, Fetch, Link, Timing};
use crate::agent::work::Work;
use crate::id::GroupId;
use crate::revision::Cursor;
use crate::settings::{DEFAULT_CONTENT_SPREAD, DEFAULT_PUSH_INTERVAL, Mode, Settings};
use crate::snapshot::Assignment;
use crate::time::{Span, Timestamp};

/// Settings before the first snapshot: listen, so that the first one arrives at once.
const FIRST_SETTINGS: Settings = Settings {
    mode: Mode::Push,
    heartbeat_interval: DEFAULT_PUSH_INTERVAL,
    offline_after: DEFAULT_PUSH_INTERVAL.scaled(5, 2),
    content_spread: DEFAULT_CONTENT_SPREAD,
    content_rate_limit: None,
};
/// Called later than this after its deadline, the machine takes it that the computer slept or that its
/// clock jumped, and does not hold the lost time against settings under trial.
const SLEPT_AFTER: Span = Span::from_secs(30);

/// What the shell found on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The state last made durable.
    pub durable: Durable,
    /// The generation that is switched on; the disk is the truth about it.
    pub active: Option<Generation>,
}

/// The state of one agent.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) identity: Identity,
    pub(super) timing: Timing,
    pub(super) durable: Durable,
    /// The assignment acted upon: durable.
    pub(super) placement: Option<Placement>,
    /// Ticket of the write that makes a newer assignment durable.
    pub(super) moving: Option<u64>,
    pub(super) active: Option<Generation>,
    pub(super) link: Link,
    pub(super) connect_failures: u32,
    pub(super) reconnect_at: Option<Timestamp>,
    pub(super) subscribed: Option<GroupId>,
    pub(super) fetch: Fetch,
    pub(super) beats: Beats,
    pub(super) work: Work,
    pub(super) next: Option<Arc<Offer>>,
    /// Highest cursor of the group that needs no more work: applied, or failed for good.
    pub(super) settled: Cursor,
    pub(super) work_retry_at: Timestamp,
    pub(super) work_failures: u32,
    /// When a state that could not be stored is written again.
    pub(super) save_retry_at: Option<Timestamp>,
    pub(super) drift_at: Timestamp,
    pub(super) status: Status,
    pub(super) acked: Option<Status>,
    pub(super) settings: Settings,
    standing: Standing,
    /// What is to be said of content.
    pub(super) content: Content,
    /// Until when the trust root is good.
    pub(super) root_expires_at: Timestamp,
    /// The last write of the state that was asked for, and the last one that is durable.
    pub(super) tickets: u64,
    pub(super) saved: u64,
    /// Generations may lie about that nothing names any more.
    pub(super) prune: bool,
    last_now: Timestamp,
    started: bool,
    stopped: bool,
}

/// One call of the machine: its time, its random numbers, its effects.
pub(super) struct Turn {
    pub(super) now: Timestamp,
    random: u64,
    effects: Vec<Effect>,
}

impl Turn {
    pub(super) fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn note(&mut self, note: Note) {
        self.effects.push(Effect::Note(note));
    }

    /// The next number of a SplitMix64 sequence: one random argument serves several draws.
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn spread(&mut self, bound: Span) -> Span {
        let random = self.random();
        spread(bound, random)
    }

    pub(super) fn backoff(&mut self, attempt: u32, base: Span, cap: Span) -> Span {
        let random = self.random();
        full_jitter(attempt, base, cap, random)
    }
}

impl Machine {
    /// An agent as found on disk. It does nothing before [`Input::Started`].
    #[must_use]
    pub fn new(identity: Identity, timing: Timing, loaded: Loaded) -> Self {
        let Loaded { durable, active } = loaded;
        let mut machine = Self {
            identity,
            timing,
            placement: durable.assignment.clone(),
            moving: None,
            durable,
            active,
            link: Link::Down { retry_at: Timestamp(0) },
            connect_failures: 0,
            reconnect_at: None,
            subscribed: None,
            fetch: Fetch::default(),
            beats: Beats::new(Timestamp(0)),
            work: Work::Idle,
            next: None,
            settled: Cursor::NONE,
            work_retry_at: Timestamp(0),
            work_failures: 0,
            save_retry_at: None,
            drift_at: Timestamp(0),
            status: Status::new(),
            acked: None,
            settings: FIRST_SETTINGS,
            standing: Standing::Ok,
            content: Content::default(),
            root_expires_at: Timestamp(u64::MAX),
            tickets: 0,
            saved: 0,
            prune: false,
            last_now: Timestamp(0),
            started: false,
            stopped: false,
        };
        machine.settings = machine.wanted_settings();
        machine.status.mode = machine.settings.mode;
        machine.status.rollbacks = machine.durable.rollbacks;
        machine
    }

    /// Takes one input. `random` is any number; even over `u64` gives even jitter. The effects are to be
    /// carried out in order.
    #[must_use]
    pub fn handle(&mut self, now: Timestamp, random: u64, input: Input) -> Vec<Effect> {
        if self.stopped || (!self.started && input != Input::Started) {
            return Vec::new();
        }
        let mut turn = Turn { now, random, effects: Vec::new() };
        self.follow_clock(now);
        match input {
            Input::Started => self.on_started(&mut turn),
            Input::Connected => self.on_connected(&mut turn),
            Input::Disconnected { retrying } => self.on_disconnected(&mut turn, retrying),
            Input::LameDuck => self.on_lame_duck(&mut turn),
            Input::SnapshotReceived { offer, source } => self.on_snapshot(&mut turn, &offer, source),
            Input::AssignmentReceived(assignment) => self.on_assignment(&mut turn, &assignment),
            Input::RootAdopted(adopted) => self.on_root(&mut turn, adopted),
            Input::EnvelopeRefused { refusal, source } => self.on_refused(&mut turn, refusal, source),
            Input::HeartbeatReplied(reply) => self.on_reply(&mut turn, reply),
            Input::HeartbeatFailed { beat } => self.on_beat_failed(&mut turn, beat),
            Input::Resync => self.fetch.want(now),
            Input::FetchDone { fetch, result } => self.on_fetch_done(&mut turn, fetch, &result),
            Input::Persisted { ticket, result } => self.on_persisted(&mut turn, ticket, result),
            Input::Staged(result) => self.on_staged(&mut turn, result),
            Input::Activated(result) => self.on_activated(&mut turn, result),
            Input::HandlerDone { kind, result } => self.on_handler_done(&mut turn, &kind, result),
            Input::HealthChecked(result) => self.on_health(&mut turn, result),
            Input::Reverted(result) => self.on_reverted(&mut turn, result),
            Input::Repaired(result) => self.on_repaired(&mut turn, result),
            Input::DriftFound(kinds) => self.on_drift(&mut turn, kinds),
            Input::GenerationLost => self.on_lost(&mut turn),
            Input::ContentReported(statuses) => self.on_content(&turn, statuses),
            Input::DownloadWished(wish) => self.on_wish(&mut turn, wish),
            Input::Tick => {}
            Input::Stop => {
                self.stop(&mut turn);
                return turn.effects;
            }
        }
        self.settle(&mut turn);
        turn.effects
    }

    /// What must be on disk when [`Effect::Persist`] is carried out.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// The generation in force.
    #[must_use]
    pub fn active(&self) -> Option<&Generation> {
        self.active.as_ref()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The group acted for, with the cursor of its assignment.
    #[must_use]
    pub fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }

    /// The state as it would be reported now.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Cursor of the snapshot in force for the agent's own group: one of a group it left does not count, and none
    /// that no floor stands for, because the key that signed it is trusted no more.
    #[must_use]
    pub fn active_cursor(&self) -> Cursor {
        let own = self.active.as_ref().filter(|active| Some(&active.group) == self.group());
        let stands = |active: &&Generation| {
            self.durable.floors.of(&active.group).is_some_and(|floor| floor.cursor >= active.cursor)
        };
        own.filter(stands).map_or(Cursor::NONE, |active| active.cursor)
    }

    pub(super) fn is_running(&self) -> bool {
        self.started && !self.stopped
    }

    pub(super) fn group(&self) -> Option<&GroupId> {
        self.placement.as_ref().map(|placement| &placement.group)
    }

    pub(super) fn persist(&mut self, turn: &mut Turn) -> u64 {
        self.tickets += 1;
        turn.emit(Effect::Persist { ticket: self.tickets });
        self.tickets
    }

    /// Whether what is on disk is what the machine holds: nothing that the disk still names may be removed
    /// before.
    pub(super) fn is_saved(&self) -> bool {
        self.saved == self.tickets
    }

    /// The clock, or the latest signed time where the clock is behind it.
    pub(super) fn signed_now(&self, now: Timestamp) -> Timestamp {
        now.max(self.durable.time_floor)
    }

    /// A clock that went back must not freeze the schedule; time that nobody lived through must not count
    /// against settings under trial.
    fn follow_clock(&mut self, now: Timestamp) {
        let back = self.last_now.since(now);
        let shift = |at: &mut Timestamp| *at = *at - back;
        if back > Span(0) {
            self.beats.shift(back);
            self.fetch.shift(back);
            self.content.shift(back);
            shift(&mut self.work_retry_at);
            shift(&mut self.drift_at);
            self.reconnect_at.iter_mut().chain(&mut self.save_retry_at).for_each(shift);
            if let Link::Down { retry_at } = &mut self.link {
                shift(retry_at);
            }
            if let Some(until) = self.durable.trial.as_mut().and_then(|trial| trial.until.as_mut()) {
                shift(until);
            }
        } else if self.started {
            let late = self.next_deadline().map_or(Span(0), |due| now.since(due));
            let until = self.durable.trial.as_mut().and_then(|trial| trial.until.as_mut());
            if let Some(until) = until.filter(|_| late > SLEPT_AFTER) {
                *until = *until + late;
            }
        }
        self.last_now = now;
    }

    fn on_started(&mut self, turn: &mut Turn) {
        if self.started {
            return;
        }
        self.started = true;
        let wait = turn.spread(self.timing.first_spread);
        self.link = Link::Down { retry_at: turn.now + wait };
        self.beats = Beats::new(turn.now);
        self.drift_at = turn.now;
        self.resume(turn);
    }

    fn stop(&mut self, turn: &mut Turn) {
        self.stopped = true;
        if !matches!(self.link, Link::Down { .. }) {
            turn.emit(Effect::Disconnect);
        }
    }

    fn on_snapshot(&mut self, turn: &mut Turn, offer: &Arc<Offer>, source: Source) {
        let snapshot = &offer.snapshot;
        let now = self.signed_now(turn.now);
        let newest = self.newest();
        let verdict = match now >= self.root_expires_at {
            true => Err(Refusal::RootExpired),
            false => floors::judge(snapshot, &self.identity, self.group(), newest, now),
        };
        if snapshot.fleet == self.identity.fleet {
            self.durable.time_floor = self.durable.time_floor.max(snapshot.issued_at);
        }
        match verdict {
            Err(refusal) => self.refuse(turn, refusal, source),
            Ok(Verdict::Same) if self.is_in_hand(snapshot.cursor) => self.refresh(turn, offer),
            Ok(Verdict::Same | Verdict::Newer) => self.next = Some(Arc::clone(offer)),
        }
        let reached = self.reached();
        if source == Source::Fetch {
            let random = turn.random();
            self.fetch.answered(turn.now, reached, random);
        }
        self.fetch.reached(reached);
    }

    /// The highest cursor of the group that was accepted, durable or not yet.
    fn newest(&self) -> Option<Floor> {
        let of = |offer: &Arc<Offer>| Floor {
            cursor: offer.snapshot.cursor,
            digest: offer.snapshot.content_digest(),
        };
        let group = self.group()?;
        let known = self.durable.floors.of(group);
        let job = self.work.generation().filter(|generation| generation.group == *group);
        let job = job.map(|generation| Floor { cursor: generation.cursor, digest: generation.digest });
        let next = self.next.as_ref().filter(|offer| offer.snapshot.group == *group).map(of);
        known.into_iter().chain(job).chain(next).max_by_key(|floor| floor.cursor)
    }

    /// Whether a cursor of the group is applied, failed for good, or on its way.
    fn is_in_hand(&self, cursor: Cursor) -> bool {
        cursor <= self.reached()
    }

    /// The highest cursor of the group that needs no more fetching.
    pub(super) fn reached(&self) -> Cursor {
        let group = self.group();
        let job = self.work.generation().filter(|generation| Some(&generation.group) == group);
        let job = job.map_or(Cursor::NONE, |generation| generation.cursor);
        let next = self.next.as_ref().map(|offer| &offer.snapshot).filter(|next| Some(&next.group) == group);
        let next = next.map_or(Cursor::NONE, |next| next.cursor);
        self.active_cursor().max(self.settled).max(job).max(next)
    }

    /// The content is known. A later signature proves freshness for longer.
    fn refresh(&mut self, turn: &mut Turn, offer: &Arc<Offer>) {
        let snapshot = &offer.snapshot;
        let known = self.active.as_mut().filter(|active| active.group == snapshot.group);
        let Some(active) = known.filter(|active| active.cursor == snapshot.cursor) else { return };
        if snapshot.issued_at <= active.issued_at || snapshot.expires_at <= active.expires_at {
            return;
        }
        active.issued_at = snapshot.issued_at;
        active.expires_at = snapshot.expires_at;
        let good = self.durable.good.as_mut().filter(|good| good.id() == active.id());
        if let Some(good) = good {
            good.clone_from(active);
        }
        turn.emit(Effect::Refresh(Arc::clone(offer)));
        self.persist(turn);
    }

    fn on_assignment(&mut self, turn: &mut Turn, assignment: &Assignment) {
        let known = self.durable.assignment.as_ref();
        let verdict = floors::judge_assignment(assignment, &self.identity, known);
        if assignment.fleet == self.identity.fleet {
            self.durable.time_floor = self.durable.time_floor.max(assignment.issued_at);
        }
        let waits = self.moving.is_none() && self.placement != self.durable.assignment;
        match verdict {
            Err(refusal) => self.refuse(turn, refusal, Source::Notify),
            Ok(Verdict::Same) if !waits => {}
            Ok(Verdict::Same | Verdict::Newer) => {
                self.durable.assignment =
                    Some(Placement { group: assignment.group.clone(), cursor: assignment.cursor });
                self.moving = Some(self.persist(turn));
            }
        }
    }

    /// An assignment is durable: act on it.
    pub(super) fn on_moved(&mut self, turn: &mut Turn, result: Result<(), Reason>) {
        self.moving = None;
        if let Err(reason) = result {
            turn.note(Note::Delayed { step: "storing the assignment", reason });
            return;
        }
        let before = std::mem::replace(&mut self.placement, self.durable.assignment.clone());
        let Some(placement) = &self.placement else { return };
        if before.is_some_and(|before| before.group == placement.group) {
            return;
        }
        turn.note(Note::Moved(placement.group.clone()));
        self.next = None;
        self.settled = Cursor::NONE;
        self.status.seen = Cursor::NONE;
        self.fetch.reset();
        self.fetch.want(turn.now);
    }

    fn on_refused(&mut self, turn: &mut Turn, refusal: Refusal, source: Source) {
        self.refuse(turn, refusal, source);
        if source == Source::Fetch {
            let random = turn.random();
            self.fetch.failed(turn.now, random);
        }
    }

    fn refuse(&mut self, turn: &mut Turn, refusal: Refusal, source: Source) {
        self.status.refusals = self.status.refusals.saturating_add(1);
        self.status.last_refusal = Some(refusal);
        turn.note(Note::Refused { refusal, source });
    }

    fn on_reply(&mut self, turn: &mut Turn, reply: Reply) {
        let Some(sent) = self.beats.answered(reply.beat) else { return };
        self.beats.replied(turn.now, reply.next, &self.settings);
        if sent.status.is_some() {
            self.acked = sent.status;
        }
        if reply.want_status {
            self.acked = None;
        }
        self.content.answered(sent.download);
        if reply.standing != self.standing {
            self.standing = reply.standing;
            turn.note(Note::Standing(reply.standing));
        }
        self.confirm_settings(turn);
        if reply.head > self.reached() {
            let random = turn.random();
            self.fetch.behind(turn.now, reply.head, random);
        } else if self.is_due_for_refresh(turn.now) {
            self.fetch.want(turn.now);
        }
    }

    /// Past three quarters of its validity a snapshot should have been signed anew. Heartbeat replies carry
    /// it only for a newer cursor, so the agent asks.
    fn is_due_for_refresh(&self, now: Timestamp) -> bool {
        let Some(active) = &self.active else { return false };
        let validity = active.expires_at.since(active.issued_at);
        now >= active.issued_at + validity.scaled(3, 4)
    }

    pub(super) fn beat(&self, beat: u64, status: Option<Status>) -> Box<Beat> {
        let assignment = self.placement.as_ref().map_or(Cursor::NONE, |placement| placement.cursor);
        let active = self.active_cursor();
        Box::new(Beat { beat, active, assignment, status, download: self.content.wish })
    }

    /// The settings that should be in force: those of the last known good unless they were given up.
    pub(super) fn wanted_settings(&self) -> Settings {
        let Some(good) = &self.durable.good else { return FIRST_SETTINGS };
        match &self.durable.trial {
            Some(trial) if trial.cursor == good.cursor && trial.until.is_none() => trial.previous,
            _ => good.settings,
        }
    }
}
