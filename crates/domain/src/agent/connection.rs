//! The connection and the clock: what the machine does when time passes, and when it wants to be called.

use crate::agent::backoff;
use crate::agent::io::{Effect, Note};
use crate::agent::items::Reason;
use crate::agent::machine::{Machine, Turn};
use crate::agent::schedule::{KEEP_CONNECTED_UP_TO, LAME_DUCK_SPREAD, Link, SILENT_BEATS};
use crate::agent::work::Work;
use crate::settings::{Mode, Settings};
use crate::time::{Span, Timestamp};

/// A pull agent stays connected for a fetch that is due this soon, rather than to connect again for it.
const HOLD_FOR_FETCH: Span = Span::from_secs(5);
/// After a change of settings the first heartbeat follows within this time, so that presence learns of it
/// and the settings are confirmed; spread, because a whole group changes at one moment.
const SETTINGS_SPREAD: Span = Span::from_secs(10);
/// Smallest time between two comparisons of the files in force, however often the agent beats.
const MIN_DRIFT_GAP: Span = Span::from_secs(10);

impl Machine {
    pub(super) fn on_connected(&mut self, turn: &mut Turn) {
        if matches!(self.link, Link::Down { .. }) {
            turn.emit(Effect::Disconnect);
            return;
        }
        self.link = Link::Up;
        if self.settings.mode == Mode::Push || self.active.is_none() {
            self.fetch.want(turn.now);
        }
    }

    pub(super) fn on_disconnected(&mut self, turn: &mut Turn, retrying: bool) {
        if matches!(self.link, Link::Down { .. }) {
            return;
        }
        self.reconnect_at = None;
        self.beats.lost(turn.now);
        if self.fetch.in_flight.take().is_some() {
            self.fetch.want(turn.now);
        }
        if retrying {
            self.link = Link::Reconnecting;
            return;
        }
        let wait = turn.backoff(self.connect_failures, backoff::BASE, backoff::CAP);
        self.connect_failures = self.connect_failures.saturating_add(1);
        self.subscribed = None;
        self.link = Link::Down { retry_at: turn.now + wait };
    }

    pub(super) fn on_lame_duck(&mut self, turn: &mut Turn) {
        if self.reconnect_at.is_none() {
            self.reconnect_at = Some(turn.now + turn.spread(LAME_DUCK_SPREAD));
        }
    }

    pub(super) fn on_beat_failed(&mut self, turn: &mut Turn, beat: u64) {
        if self.beats.answered(beat).is_some() {
            let random = turn.random();
            self.beats.failed(turn.now, &self.settings, random);
        }
    }

    pub(super) fn on_fetch_done(&mut self, turn: &mut Turn, fetch: u64, result: &Result<(), Reason>) {
        if self.fetch.in_flight.is_none_or(|(sent, _)| sent != fetch) {
            return;
        }
        let (reached, random) = (self.reached(), turn.random());
        match result {
            Ok(()) => self.fetch.answered(turn.now, reached, random),
            Err(_) => self.fetch.failed(turn.now, random),
        }
    }

    /// Brings everything in line with the time and the state; runs after each input.
    pub(super) fn settle(&mut self, turn: &mut Turn) {
        self.follow_timeouts(turn);
        self.follow_trial(turn);
        self.follow_work(turn);
        self.follow_settings(turn);
        self.follow_expiry(turn);
        self.follow_link(turn);
        if self.link == Link::Up {
            self.follow_subscription(turn);
            self.follow_fetch(turn);
            self.follow_beat(turn);
            self.follow_content(turn);
        }
        if turn.now >= self.drift_at {
            self.check_drift(turn);
        }
        if self.save_retry_at.take_if(|at| turn.now >= *at).is_some() {
            self.persist(turn);
        }
        self.follow_prune(turn);
    }

    fn follow_timeouts(&mut self, turn: &mut Turn) {
        if self.beats.in_flight.as_ref().is_some_and(|sent| turn.now >= sent.until) {
            let random = turn.random();
            self.beats.failed(turn.now, &self.settings, random);
            self.beats.silent = self.beats.silent.saturating_add(1);
            if self.beats.silent == SILENT_BEATS && self.link == Link::Up {
                self.reconnect_at = Some(turn.now);
            }
        }
        if self.fetch.in_flight.is_some_and(|(_, until)| turn.now >= until) {
            let random = turn.random();
            self.fetch.failed(turn.now, random);
        }
    }

    /// Settings that nobody could reach the agent with are given up.
    fn follow_trial(&mut self, turn: &mut Turn) {
        let Some(trial) = &mut self.durable.trial else { return };
        if trial.until.is_some_and(|until| turn.now >= until) {
            trial.until = None;
            self.persist(turn);
            turn.note(Note::SettingsReverted);
        }
    }

    /// A heartbeat was answered: the settings under trial stay.
    pub(super) fn confirm_settings(&mut self, turn: &mut Turn) {
        self.connect_failures = 0;
        if self.durable.trial.is_some_and(|trial| trial.until.is_some()) {
            self.durable.trial = None;
            self.persist(turn);
            turn.note(Note::SettingsConfirmed);
        }
    }

    fn follow_settings(&mut self, turn: &mut Turn) {
        let wanted = self.wanted_settings();
        let given_up = self.durable.trial.is_some_and(|trial| trial.until.is_none());
        self.status.settings_reverted = given_up;
        if wanted == self.settings {
            return;
        }
        let Settings { mode, .. } = std::mem::replace(&mut self.settings, wanted);
        self.status.mode = wanted.mode;
        if mode != wanted.mode {
            turn.note(Note::ModeChanged(wanted.mode));
            self.send_status(turn);
        }
        let bound = wanted.heartbeat_interval.scaled(1, 4).min(SETTINGS_SPREAD);
        let soon = turn.now + turn.spread(bound);
        self.beats.next_at = self.beats.next_at.min(soon);
    }

    fn follow_expiry(&mut self, turn: &mut Turn) {
        let now = self.signed_now(turn.now);
        let over =
            |active: &crate::agent::items::Generation| active.expires_at.min(self.root_expires_at) <= now;
        let stale = self.active.as_ref().is_some_and(over);
        if stale != self.status.stale {
            self.status.stale = stale;
            turn.note(if stale { Note::Stale } else { Note::Fresh });
        }
    }

    /// Push agents and those that beat often stay connected; the others connect for what they have to do.
    fn stays_connected(&self) -> bool {
        self.settings.mode == Mode::Push || self.settings.heartbeat_interval <= KEEP_CONNECTED_UP_TO
    }

    /// Something will be worth a report in a moment.
    fn is_busy(&self) -> bool {
        self.moving.is_some() || (self.work != Work::Idle && !self.work.is_paused())
    }

    /// Whether a snapshot is on its way or being applied: what is less urgent waits for it.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.is_running() && (self.is_busy() || (self.link == Link::Up && self.fetch.in_flight.is_some()))
    }

    fn wants_connection(&self, now: Timestamp) -> bool {
        let fetches = self.fetch.due_at().is_some_and(|at| at <= now + HOLD_FOR_FETCH);
        self.stays_connected()
            || now >= self.beats.due_at()
            || self.beats.in_flight.is_some()
            || self.fetch.in_flight.is_some()
            || fetches
            || (self.link == Link::Up && self.is_busy())
    }

    /// When the connection is made anew. Not while a heartbeat waits for its answer, which would be lost with it.
    fn reconnect_due(&self) -> Option<Timestamp> {
        self.reconnect_at.filter(|_| self.beats.in_flight.is_none())
    }

    fn follow_link(&mut self, turn: &mut Turn) {
        let wanted = self.wants_connection(turn.now);
        match self.link {
            Link::Down { retry_at } if wanted && turn.now >= retry_at => {
                self.link = Link::Connecting;
                turn.emit(Effect::Connect);
            }
            Link::Up | Link::Reconnecting if !wanted => {
                self.link = Link::Down { retry_at: turn.now };
                self.subscribed = None;
                self.reconnect_at = None;
                turn.emit(Effect::Disconnect);
            }
            Link::Up if self.reconnect_due().is_some_and(|at| turn.now >= at) => {
                self.reconnect_at = None;
                turn.emit(Effect::Reconnect);
            }
            Link::Down { .. } | Link::Connecting | Link::Reconnecting | Link::Up => {}
        }
    }

    /// Subscribe first, then fetch: what is published in between arrives by the subscription.
    fn follow_subscription(&mut self, turn: &mut Turn) {
        let wanted = self.group().filter(|_| self.settings.mode == Mode::Push).cloned();
        if wanted == self.subscribed {
            return;
        }
        if let Some(old) = self.subscribed.take() {
            turn.emit(Effect::Unsubscribe(old));
        }
        if let Some(new) = &wanted {
            turn.emit(Effect::Subscribe(new.clone()));
            self.fetch.want(turn.now);
        }
        self.subscribed = wanted;
    }

    fn follow_fetch(&mut self, turn: &mut Turn) {
        if self.fetch.due_at().is_none_or(|at| turn.now < at) {
            return;
        }
        let Some(group) = self.group().cloned() else {
            self.fetch.reset();
            return;
        };
        let fetch = self.fetch.send(turn.now, turn.now + self.timing.answer_within);
        turn.emit(Effect::FetchSnapshot { group, fetch });
    }

    fn follow_beat(&mut self, turn: &mut Turn) {
        if self.beats.in_flight.is_some() || turn.now < self.beats.due_at() {
            return;
        }
        let status = (self.acked.as_ref() != Some(&self.status)).then(|| self.status.clone());
        self.content.reported(turn.now);
        let until = turn.now + self.timing.answer_within;
        let beat = self.beats.send(until, status.clone(), self.content.wish);
        turn.emit(Effect::SendHeartbeat(self.beat(beat, status)));
        if turn.now + self.timing.drift_every >= self.drift_at + MIN_DRIFT_GAP {
            self.check_drift(turn);
        }
    }

    fn check_drift(&mut self, turn: &mut Turn) {
        self.drift_at = turn.now + self.timing.drift_every;
        if self.active.is_some() && self.work == Work::Idle {
            turn.emit(Effect::CheckDrift);
        }
    }

    /// Sends the status at once if it changed and somebody can be reached. Not acknowledged: the next
    /// heartbeat carries it again.
    pub(super) fn send_status(&self, turn: &mut Turn) {
        if self.link == Link::Up && self.acked.as_ref() != Some(&self.status) {
            turn.emit(Effect::SendStatus(self.beat(0, Some(self.status.clone()))));
        }
    }

    /// When the machine wants to be called at the latest; `None` before it starts and after it stopped.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if !self.is_running() {
            return None;
        }
        let link = match self.link {
            Link::Down { retry_at } => Some(retry_at.max(self.connects_at())),
            Link::Up => {
                let beat = Some(self.beat_deadline());
                let all = [self.fetch_deadline(), beat, self.reconnect_due(), self.content.report_at];
                all.into_iter().flatten().min()
            }
            Link::Connecting | Link::Reconnecting => None,
        };
        let trial = self.durable.trial.and_then(|trial| trial.until);
        let expiry = self.active.as_ref().filter(|_| !self.status.stale);
        let expiry = expiry.map(|active| active.expires_at.min(self.root_expires_at));
        let waits = self.work.is_paused() || (self.work == Work::Idle && self.next.is_some());
        let work = waits.then_some(self.work_retry_at);
        [link, trial, expiry, work, self.save_retry_at, Some(self.drift_at)].into_iter().flatten().min()
    }

    fn connects_at(&self) -> Timestamp {
        if self.stays_connected() {
            return Timestamp(0);
        }
        let fetch = self.fetch.due_at().map(|at| at - HOLD_FOR_FETCH);
        fetch.map_or(self.beats.due_at(), |at| at.min(self.beats.due_at()))
    }

    fn beat_deadline(&self) -> Timestamp {
        self.beats.in_flight.as_ref().map_or(self.beats.due_at(), |sent| sent.until)
    }

    fn fetch_deadline(&self) -> Option<Timestamp> {
        self.fetch.in_flight.map(|(_, until)| until).or(self.fetch.due_at())
    }
}
