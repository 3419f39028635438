//! The machine itself: routes inputs and follows what is wanted.

use std::collections::BTreeMap;

use super::durable::Durable;
use super::io::{Effect, Input, Note, Pace};
use super::job::{Job, Step};
use super::lease::Lease;
use super::task::{Stage, Task};
use crate::agent::Reason;
use crate::agent::backoff::{full_jitter, spread};
use crate::content::{
    ChannelName, ContentItem, ContentStatus, MAX_CHANNELS_PER_GROUP, MAX_REPORTED_CHANNELS,
};
use crate::digest::Digest;
use crate::id::AgentId;
use crate::time::{Span, Timestamp};

/// Bound of the first wait after something did not work; it doubles up to [`RETRY_CAP`].
const RETRY_BASE: Span = Span::from_secs(2);
/// Longest bound of a wait. Each attempt reads what is held: not more often than every few minutes on average.
const RETRY_CAP: Span = Span::from_secs(600);
/// Shortest wait after something did not work.
const RETRY_FLOOR: Span = Span::from_secs(1);
/// Longest wait once the broker can be reached again.
const ONLINE_SPREAD: Span = Span::from_secs(5);

/// Waits that a deployment or a test may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Time between comparisons of the files in force with their manifests.
    pub drift_every: Span,
}

impl Default for Timing {
    fn default() -> Self {
        Self { drift_every: Span::from_secs(60) }
    }
}

/// What the shell found on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The state last made durable.
    pub durable: Durable,
    /// The contents that are switched on; the disk is the truth about them.
    pub active: BTreeMap<ChannelName, ContentItem>,
}

/// The content of one agent.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(super) agent: AgentId,
    pub(super) timing: Timing,
    pub(super) durable: Durable,
    pub(super) active: BTreeMap<ChannelName, ContentItem>,
    /// What the snapshot in force assigns, once it is known.
    pub(super) wanted: Option<BTreeMap<ChannelName, ContentItem>>,
    pub(super) pace: Pace,
    pub(super) online: bool,
    /// Channels that are assigned or of which something is left, at most [`MAX_REPORTED_CHANNELS`].
    pub(super) tasks: BTreeMap<ChannelName, Task>,
    pub(super) work: Option<Box<Job>>,
    pub(super) lease: Lease,
    pub(super) drift_at: Timestamp,
    /// Contents may lie about that nothing names any more.
    pub(super) prune: bool,
    /// The last write of the state that was asked for, and the last one that is durable.
    pub(super) tickets: u64,
    pub(super) saved: u64,
    /// When a state that could not be stored is written again.
    pub(super) save_retry_at: Option<Timestamp>,
    reported: Vec<ContentStatus>,
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

    pub(super) fn retry_at(&mut self, failures: u32) -> Timestamp {
        let random = self.random();
        self.now + RETRY_FLOOR + full_jitter(failures, RETRY_BASE, RETRY_CAP, random)
    }
}

impl Machine {
    /// The content as found on disk. It does nothing before [`Input::Started`].
    #[must_use]
    pub fn new(agent: AgentId, timing: Timing, loaded: Loaded) -> Self {
        Self {
            agent,
            timing,
            durable: loaded.durable,
            active: loaded.active,
            wanted: None,
            pace: Pace::default(),
            online: true,
            tasks: BTreeMap::new(),
            work: None,
            lease: Lease::None,
            drift_at: Timestamp(0),
            prune: true,
            tickets: 0,
            saved: 0,
            save_retry_at: None,
            reported: Vec::new(),
            last_now: Timestamp(0),
            started: false,
            stopped: false,
        }
    }

    /// Takes one input. `random` is any number; even over `u64` gives even jitter. The effects are to be carried
    /// out in order.
    #[must_use]
    pub fn handle(&mut self, now: Timestamp, random: u64, input: Input) -> Vec<Effect> {
        if self.stopped || (!self.started && input != Input::Started) {
            return Vec::new();
        }
        let mut turn = Turn { now, random, effects: Vec::new() };
        self.follow_clock(now);
        match input {
            Input::Started => self.on_started(&mut turn),
            Input::Wanted { items, pace } => self.on_wanted(&mut turn, items, pace),
            Input::Online(online) => self.on_online(&mut turn, online),
            Input::Surveyed { channel, manifest, result } => {
                self.on_surveyed(&mut turn, &channel, manifest, result);
            }
            Input::Progress { channel, manifest, fetched } => self.on_progress(&channel, manifest, fetched),
            Input::Fetched { channel, manifest, fetched, result } => {
                self.on_progress(&channel, manifest, fetched);
                self.on_fetched(&mut turn, &channel, manifest, result);
            }
            Input::Persisted { ticket, result } => self.on_persisted(&mut turn, ticket, result),
            Input::Switched(result) => self.on_switched(&mut turn, result),
            Input::HandlerDone(result) => self.on_handler_done(&mut turn, result),
            Input::HealthChecked(result) => self.on_health(&mut turn, result),
            Input::Allowance { granted_for } => self.on_allowance(&mut turn, granted_for),
            Input::DriftFound(channels) => self.on_drift(&mut turn, &channels),
            Input::Tick => {}
            Input::Stop => {
                self.stop_fetch(&mut turn);
                self.stopped = true;
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

    /// The contents in force.
    #[must_use]
    pub fn active(&self) -> &BTreeMap<ChannelName, ContentItem> {
        &self.active
    }

    pub(super) fn is_running(&self) -> bool {
        self.started && !self.stopped
    }

    pub(super) fn job(&self) -> Option<&Job> {
        self.work.as_deref()
    }

    pub(super) fn persist(&mut self, turn: &mut Turn) -> u64 {
        self.tickets += 1;
        turn.emit(Effect::Persist { ticket: self.tickets });
        self.tickets
    }

    /// What the channel should have: what is assigned unless it failed, or what is in force where that is damaged.
    pub(super) fn goal(&self, channel: &ChannelName) -> Option<&ContentItem> {
        let task = self.tasks.get(channel)?;
        if task.repair {
            return self.durable.good(channel).map(|good| &good.item);
        }
        task.item.as_ref().filter(|item| self.durable.failure_of(item).is_none())
    }

    pub(super) fn is_goal(&self, channel: &ChannelName, manifest: Digest) -> bool {
        self.goal(channel).is_some_and(|goal| goal.manifest == manifest)
    }

    /// Something did not work now; it is tried again.
    pub(super) fn delay(
        &mut self,
        turn: &mut Turn,
        channel: &ChannelName,
        step: &'static str,
        reason: Reason,
    ) {
        if let Some(task) = self.tasks.get_mut(channel) {
            task.not_before = turn.retry_at(task.failures);
            task.failures = task.failures.saturating_add(1);
            task.trouble = Some(Reason::new(format!("{step}: {reason}")));
        }
        turn.note(Note::Delayed { channel: Some(channel.clone()), step, reason });
    }

    fn on_started(&mut self, turn: &mut Turn) {
        if self.started {
            return;
        }
        self.started = true;
        self.drift_at = turn.now;
        let known = self.durable.channels.keys().chain(self.active.keys()).cloned();
        let channels: Vec<ChannelName> = known.take(MAX_REPORTED_CHANNELS).collect();
        for channel in channels {
            self.tasks.insert(channel.clone(), Task::new(turn.now, None));
            self.recover(&channel);
        }
    }

    fn on_wanted(&mut self, turn: &mut Turn, items: Vec<ContentItem>, pace: Pace) {
        if pace.rate_limit != self.pace.rate_limit || self.wanted.is_none() {
            turn.emit(Effect::Limit(pace.rate_limit));
        }
        self.pace = pace;
        let items = items.into_iter().map(|item| (item.channel.clone(), item));
        let items: BTreeMap<_, _> = items.take(MAX_CHANNELS_PER_GROUP).collect();
        for (channel, task) in &mut self.tasks {
            if task.item.is_some() && !items.contains_key(channel) {
                *task = Task::new(turn.now, None);
                if let Some(state) = self.durable.channels.get_mut(channel) {
                    state.begun = None;
                }
            }
        }
        // What was begun of another content is of no use any more.
        self.prune |= self.wanted.as_ref() != Some(&items);
        self.wanted = Some(items);
        self.admit(turn);
        let stale = self.job().is_some_and(|job| {
            job.target.as_ref().is_some_and(|target| !self.is_goal(&job.channel, target.manifest))
        });
        if stale {
            self.stop_fetch(turn);
        }
    }

    /// Takes up what is wanted, as far as there is room beside what is being removed.
    pub(super) fn admit(&mut self, turn: &mut Turn) {
        let wanted: Vec<ContentItem> = self.wanted.iter().flat_map(BTreeMap::values).cloned().collect();
        for item in wanted {
            let channel = item.channel.clone();
            let room = self.tasks.len() < MAX_REPORTED_CHANNELS;
            match self.tasks.get_mut(&channel) {
                Some(task) if task.item.as_ref() == Some(&item) => {}
                Some(task)
                    if task.stage != Stage::Settled
                        && !task.repair
                        && task.item.as_ref().is_some_and(|known| known.manifest == item.manifest) =>
                {
                    task.item = Some(item);
                }
                None if !room => {}
                Some(_) | None => {
                    self.tasks.insert(channel.clone(), Task::new(turn.now, Some(item)));
                    self.assess(turn, &channel);
                    let task = self.tasks.get(&channel);
                    let failed = task.and_then(|task| task.item.as_ref()).and_then(|item| {
                        let reason = self.durable.failure_of(item)?;
                        Some(Note::NotTried(item.clone(), reason.clone()))
                    });
                    failed.into_iter().for_each(|note| turn.note(note));
                }
            }
        }
    }

    fn on_online(&mut self, turn: &mut Turn, online: bool) {
        let is_back = online && !self.online;
        self.online = online;
        for task in self.tasks.values_mut().filter(|task| is_back && task.stage == Stage::Remote) {
            let random = turn.random();
            task.not_before = task.not_before.min(turn.now + spread(ONLINE_SPREAD, random));
        }
    }

    fn on_allowance(&mut self, turn: &mut Turn, granted_for: Option<Span>) {
        if let Some(wish) = self.lease.answered(turn.now, granted_for) {
            turn.emit(Effect::Wish(wish));
        }
    }

    pub(super) fn stop_fetch(&mut self, turn: &mut Turn) {
        if let Some(Step::Fetch { stopping, .. }) = self.work.as_mut().map(|job| &mut job.step)
            && !std::mem::replace(stopping, true)
        {
            turn.emit(Effect::StopFetch);
        }
    }

    pub(super) fn follow_saving(&mut self, turn: &mut Turn) {
        if self.save_retry_at.is_some_and(|at| turn.now >= at) {
            self.save_retry_at = None;
            self.persist(turn);
        }
    }

    pub(super) fn follow_report(&mut self, turn: &mut Turn) {
        if self.wanted.is_none() {
            return;
        }
        let statuses = self.statuses();
        if statuses != self.reported {
            self.reported.clone_from(&statuses);
            turn.emit(Effect::Report(statuses));
        }
    }

    /// A clock that went back must not freeze the schedule.
    fn follow_clock(&mut self, now: Timestamp) {
        let back = self.last_now.since(now);
        if back > Span(0) {
            self.tasks.values_mut().for_each(|task| task.shift(back));
            self.lease.shift(back);
            self.drift_at = self.drift_at - back;
            self.save_retry_at = self.save_retry_at.map(|at| at - back);
        }
        self.last_now = now;
    }
}
