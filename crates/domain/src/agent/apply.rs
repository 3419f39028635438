//! Applying a snapshot, one step at a time: stage, make the floor durable, switch, run handlers, check
//! health, and back to the last known good if a handler or the health check says no.

use std::sync::Arc;

use crate::agent::backoff;
use crate::agent::floors::{Applying, Floor, Trial};
use crate::agent::io::{Effect, Note, Offer};
use crate::agent::items::{Change, Failed, Generation, ItemState, ItemStatus, Reason, changes};
use crate::agent::machine::{Machine, Turn};
use crate::agent::work::{Job, Purpose, Step, Work};
use crate::id::KindName;
use crate::time::Span;

/// Times a generation is started before the agent takes it that the generation is what kills it.
pub const MAX_STARTS: u32 = 3;
/// Bound of the first wait after the disk refused; it doubles up to [`backoff::CAP`].
const DISK_RETRY: Span = Span::from_secs(2);

impl Machine {
    /// Takes up what the disk says was going on when the agent stopped.
    pub(super) fn resume(&mut self, turn: &mut Turn) {
        let Some(active) = self.active.clone() else {
            self.durable.good = None;
            self.durable.applying = None;
            return;
        };
        let good = self.durable.good.as_ref();
        self.status.seen = self.active_cursor();
        if good.is_some_and(|good| good.id() == active.id() && good.digest == active.digest) {
            self.durable.good = Some(active.clone());
            self.durable.applying = None;
            self.status.set_items(Some(&active), ItemState::Healthy);
            return;
        }
        self.status.set_items(Some(&active), ItemState::Verified);
        let job = Job::new(active.clone(), Purpose::Resume, changes(good, Some(&active)));
        self.work = Work::Busy(Box::new(job));
        let known = self
            .durable
            .applying
            .filter(|known| known.cursor == active.cursor && known.digest == active.digest);
        let starts = known.map_or(0, |known| known.starts).saturating_add(1);
        let failed = self.durable.failure_of(&active).cloned();
        if let Some(failed) = failed {
            self.fail(turn, failed.kind, failed.reason);
        } else if starts > MAX_STARTS {
            let reason = format!("the agent stopped {MAX_STARTS} times while it was applying this");
            self.fail(turn, None, Reason::new(reason));
        } else {
            self.durable.applying = Some(Applying { cursor: active.cursor, digest: active.digest, starts });
            self.enter(turn, Step::Persist);
        }
    }

    /// Starts what waits, and goes on with what the disk had refused.
    pub(super) fn follow_work(&mut self, turn: &mut Turn) {
        let due = turn.now >= self.work_retry_at;
        if let Work::Busy(job) = &self.work {
            if job.paused && (job.distrusted || (job.purpose == Purpose::Apply && self.next.is_some())) {
                self.work = Work::Idle;
            } else if job.paused && due {
                let step = job.step;
                self.enter(turn, step);
            }
        }
        if self.work != Work::Idle || !due {
            return;
        }
        if let Some(offer) = self.next.take().filter(|offer| Some(&offer.snapshot.group) == self.group()) {
            self.start(turn, offer);
        }
    }

    fn start(&mut self, turn: &mut Turn, offer: Arc<Offer>) {
        let generation = Generation::of(&offer.snapshot);
        self.status.seen = generation.cursor;
        if let Some(failed) = self.durable.failure_of(&generation).cloned() {
            let floor = Floor { cursor: generation.cursor, digest: generation.digest };
            self.durable.floors.raise(&generation.group, floor);
            self.settled = self.settled.max(generation.cursor);
            self.persist(turn);
            self.show_failed(Some(&failed));
            turn.note(Note::NotTried(generation.id(), failed.reason));
            self.send_status(turn);
            return;
        }
        turn.note(Note::Applying(generation.id()));
        self.show_progress(&generation, ItemState::Received, None);
        let mut job = Job::new(generation, Purpose::Apply, Vec::new());
        job.changes = changes(self.active.as_ref(), Some(&job.generation));
        job.offer = Some(offer);
        self.work = Work::Busy(Box::new(job));
        self.enter(turn, Step::Stage);
    }

    /// Begins a step of the job: notes it and asks the shell.
    fn enter(&mut self, turn: &mut Turn, step: Step) {
        let good = self.durable.good.as_ref().map(Generation::id);
        let Work::Busy(job) = &mut self.work else { return };
        job.step = step;
        job.paused = false;
        let kept = |change: &Change| (!change.removed).then(|| change.kind.clone());
        match step {
            Step::Stage => {
                let offer = job.offer.clone().expect("only a snapshot in hand is staged");
                turn.emit(Effect::Stage(offer));
            }
            Step::Persist => {
                let ticket = self.persist(turn);
                if let Work::Busy(job) = &mut self.work {
                    job.ticket = ticket;
                }
            }
            Step::Activate => turn.emit(Effect::Activate(job.generation.id())),
            Step::Handlers => {
                job.handlers_left = job.changes.len();
                turn.emit(Effect::RunHandlers(job.changes.clone()));
            }
            Step::Health => turn.emit(Effect::CheckHealth(job.changes.iter().filter_map(kept).collect())),
            Step::Revert => turn.emit(Effect::RevertTo(good)),
            Step::Repair => turn.emit(Effect::Repair(job.changes.iter().filter_map(kept).collect())),
        }
    }

    pub(super) fn on_staged(&mut self, turn: &mut Turn, result: Result<(), Reason>) {
        let Some(job) = self.work.at(Step::Stage) else { return };
        let (generation, distrusted) = (job.generation.clone(), job.distrusted);
        if Some(&generation.group) != self.group() || distrusted {
            self.finish(turn);
            return;
        }
        if let Err(reason) = result {
            self.pause(turn, "staging the snapshot", reason);
            return;
        }
        self.show_progress(&generation, ItemState::Verified, None);
        let Generation { cursor, digest, .. } = generation;
        self.durable.floors.raise(&generation.group, Floor { cursor, digest });
        self.durable.applying = Some(Applying { cursor, digest, starts: 1 });
        self.enter(turn, Step::Persist);
    }

    pub(super) fn on_persisted(&mut self, turn: &mut Turn, ticket: u64, result: Result<(), Reason>) {
        if result.is_ok() {
            self.save_retry_at = None;
            self.saved = self.saved.max(ticket.min(self.tickets));
        }
        if self.moving == Some(ticket) {
            self.on_moved(turn, result);
            return;
        }
        let Some(job) = self.work.at(Step::Persist).filter(|job| job.ticket == ticket) else {
            if let Err(reason) = result {
                self.save_retry_at = Some(turn.now + DISK_RETRY + turn.spread(DISK_RETRY));
                turn.note(Note::Delayed { step: "storing the state", reason });
            }
            return;
        };
        let (purpose, has_changes) = (job.purpose, !job.changes.is_empty());
        let (group, distrusted) = (job.generation.group.clone(), job.distrusted);
        if distrusted || (purpose == Purpose::Apply && Some(&group) != self.group()) {
            self.finish(turn);
            return;
        }
        match (result, purpose) {
            (Err(reason), _) => self.pause(turn, "storing the floor", reason),
            (Ok(()), Purpose::Apply) => self.enter(turn, Step::Activate),
            (Ok(()), Purpose::Resume | Purpose::Return | Purpose::Repair) if has_changes => {
                self.enter(turn, Step::Handlers);
            }
            (Ok(()), Purpose::Resume | Purpose::Return | Purpose::Repair) => self.confirm(turn),
        }
    }

    pub(super) fn on_activated(&mut self, turn: &mut Turn, result: Result<(), Reason>) {
        let Some(job) = self.work.at(Step::Activate) else { return };
        if let Err(reason) = result {
            self.pause(turn, "switching to the generation", reason);
            return;
        }
        self.active = Some(job.generation.clone());
        if job.changes.is_empty() {
            self.confirm(turn);
        } else {
            self.enter(turn, Step::Handlers);
        }
    }

    pub(super) fn on_handler_done(&mut self, turn: &mut Turn, kind: &KindName, result: Result<(), Reason>) {
        let Some(job) = self.work.at(Step::Handlers) else { return };
        if !job.changes.iter().any(|change| change.kind == *kind) {
            return;
        }
        job.handlers_left = job.handlers_left.saturating_sub(1);
        let (left, purpose, revision) =
            (job.handlers_left, job.purpose, job.generation.item(kind).map(|i| i.revision));
        if let Err(reason) = result {
            self.fail(turn, Some(kind.clone()), reason);
            return;
        }
        if let Some(revision) = revision.filter(|_| purpose != Purpose::Return) {
            let (kind, state) = (kind.clone(), ItemState::Applied);
            self.status.set_item(ItemStatus { kind, state, revision, reason: None });
        }
        match purpose {
            Purpose::Apply | Purpose::Resume | Purpose::Repair if left == 0 => self.enter(turn, Step::Health),
            // The last known good was healthy before; a check now could only say no to the way back.
            Purpose::Return if left == 0 => self.finish(turn),
            Purpose::Apply | Purpose::Resume | Purpose::Repair | Purpose::Return => {}
        }
    }

    pub(super) fn on_health(&mut self, turn: &mut Turn, result: Result<(), (KindName, Reason)>) {
        if self.work.at(Step::Health).is_none() {
            return;
        }
        match result {
            Ok(()) => self.confirm(turn),
            Err((kind, reason)) => self.fail(turn, Some(kind), reason),
        }
    }

    /// The generation in force is healthy: it is the last known good from now on.
    fn confirm(&mut self, turn: &mut Turn) {
        let Work::Busy(job) = &self.work else { return };
        let id = job.generation.id();
        if job.purpose == Purpose::Repair {
            self.status.repairs = self.status.repairs.saturating_add(1);
            turn.note(Note::Repaired(job.changes.iter().map(|change| change.kind.clone()).collect()));
            self.show_failed(None);
            self.finish(turn);
            return;
        }
        let had_settings = self.durable.good.is_some();
        let previous = self.wanted_settings();
        let active = self.active.clone();
        self.status.set_items(active.as_ref(), ItemState::Healthy);
        let changed = active.as_ref().filter(|active| had_settings && active.settings != previous);
        let until = Some(turn.now + self.timing.confirm_within);
        self.durable.trial = changed.map(|active| Trial { cursor: active.cursor, previous, until });
        if self.durable.trial.is_some() {
            // A reply to a heartbeat under the old settings proves nothing about the new ones.
            self.beats.in_flight = None;
        }
        self.durable.good = active;
        self.durable.applying = None;
        self.settled = self.settled.max(self.active_cursor());
        self.work_failures = 0;
        self.persist(turn);
        turn.note(Note::Applied(id));
        self.finish(turn);
    }

    /// A handler or the health check said no.
    fn fail(&mut self, turn: &mut Turn, kind: Option<KindName>, reason: Reason) {
        let Work::Busy(job) = &mut self.work else { return };
        let generation = job.generation.clone();
        let item = kind.as_ref().and_then(|kind| generation.item(kind));
        let (revision, digest) =
            item.map_or((generation.cursor.revision, generation.digest), |item| (item.revision, item.digest));
        let failed =
            Failed { kind: item.map(|item| item.kind.clone()), revision, digest, reason: reason.clone() };
        if matches!(job.purpose, Purpose::Return | Purpose::Repair) {
            turn.note(Note::Delayed { step: "running a handler again", reason });
            if job.purpose == Purpose::Repair {
                self.show_failed(Some(&failed));
            }
            self.finish(turn);
            return;
        }
        job.changes = changes(Some(&generation), self.durable.good.as_ref());
        job.purpose = Purpose::Return;
        job.failed = Some(failed.clone());
        self.durable.remember(failed);
        self.durable.rollbacks = self.durable.rollbacks.saturating_add(1);
        self.durable.applying = None;
        self.status.rollbacks = self.durable.rollbacks;
        if Some(&generation.group) == self.group() {
            self.settled = self.settled.max(generation.cursor);
        }
        turn.note(Note::Failed { generation: generation.id(), kind, reason });
        // In this order on disk: a crash in between finds the failure and goes back at the next start.
        self.persist(turn);
        self.enter(turn, Step::Revert);
    }

    pub(super) fn on_reverted(&mut self, turn: &mut Turn, result: Result<(), Reason>) {
        let Some(job) = self.work.at(Step::Revert) else { return };
        if let Err(reason) = result {
            self.pause(turn, "returning to the last known good", reason);
            return;
        }
        let failed = job.failed.clone();
        let has_changes = !job.changes.is_empty();
        self.active = self.durable.good.clone();
        self.show_failed(failed.as_ref());
        turn.note(Note::Reverted(self.active.as_ref().map(Generation::id)));
        if has_changes { self.enter(turn, Step::Handlers) } else { self.finish(turn) }
    }

    pub(super) fn on_drift(&mut self, turn: &mut Turn, kinds: Vec<KindName>) {
        let Some(active) = self.active.clone().filter(|_| self.work == Work::Idle) else { return };
        let known = kinds.into_iter().filter(|kind| active.item(kind).is_some());
        let changes: Vec<Change> = known.map(|kind| Change { kind, removed: false }).collect();
        if changes.is_empty() {
            return;
        }
        self.work = Work::Busy(Box::new(Job::new(active, Purpose::Repair, changes)));
        self.enter(turn, Step::Repair);
    }

    pub(super) fn on_repaired(&mut self, turn: &mut Turn, result: Result<(), Reason>) {
        if self.work.at(Step::Repair).is_none() {
            return;
        }
        match result {
            Ok(()) => self.enter(turn, Step::Handlers),
            // The next comparison finds the drift again.
            Err(reason) => {
                turn.note(Note::Delayed { step: "repairing drifted files", reason });
                self.finish(turn);
            }
        }
    }

    /// The generation in force is gone: fetch it again. The floor stays.
    pub(super) fn on_lost(&mut self, turn: &mut Turn) {
        if self.work != Work::Idle || self.active.is_none() {
            return;
        }
        let lost = self.active.take();
        if self.durable.good.as_ref().map(Generation::id) == lost.map(|lost| lost.id()) {
            self.durable.good = None;
        }
        self.settled = crate::revision::Cursor::NONE;
        self.fetch.want(turn.now);
    }

    /// The disk refused: nothing changed, and the step is tried again.
    fn pause(&mut self, turn: &mut Turn, step: &'static str, reason: Reason) {
        let wait = turn.backoff(self.work_failures, DISK_RETRY, backoff::CAP);
        self.work_retry_at = turn.now + DISK_RETRY + wait;
        self.work_failures = self.work_failures.saturating_add(1);
        let Work::Busy(job) = &mut self.work else { return };
        job.paused = true;
        if job.purpose == Purpose::Apply {
            job.step = Step::Stage;
            let generation = job.generation.clone();
            let waits = Reason::new(format!("waits to try again: {step}: {reason}"));
            self.show_progress(&generation, ItemState::Received, Some(&waits));
        }
        turn.note(Note::Delayed { step, reason });
        self.send_status(turn);
    }

    fn finish(&mut self, turn: &mut Turn) {
        self.work = Work::Idle;
        self.work_retry_at = turn.now;
        self.prune = true;
        self.send_status(turn);
    }

    /// Not before the state is durable: after a crash the agent goes back to what the disk names.
    pub(super) fn follow_prune(&mut self, turn: &mut Turn) {
        if self.prune && self.work == Work::Idle && self.is_saved() {
            self.prune = false;
            let kept = self.active.iter().chain(&self.durable.good).map(Generation::id);
            let mut keep: Vec<_> = kept.collect();
            keep.dedup();
            turn.emit(Effect::Prune { keep });
        }
    }

    /// Items of a generation on its way: unchanged ones are as healthy as they were.
    fn show_progress(&mut self, generation: &Generation, state: ItemState, reason: Option<&Reason>) {
        let active = self.active.as_ref();
        let is_same = |item: &ItemStatus| {
            let new = generation.item(&item.kind);
            let old = active.and_then(|active| active.item(&item.kind));
            new.zip(old).is_some_and(|(new, old)| new.digest == old.digest)
        };
        self.status.set_items(Some(generation), state);
        for item in &mut self.status.items {
            if is_same(item) {
                item.state = ItemState::Healthy;
            } else {
                item.reason = reason.cloned();
            }
        }
    }

    /// Items of the last known good, and beside them the one that failed.
    fn show_failed(&mut self, failed: Option<&Failed>) {
        let good = self.durable.good.clone();
        self.status.set_items(good.as_ref(), ItemState::Healthy);
        let Some(failed) = failed else { return };
        let status = |kind: KindName| ItemStatus {
            kind,
            state: ItemState::Failed,
            revision: failed.revision,
            reason: Some(failed.reason.clone()),
        };
        match &failed.kind {
            Some(kind) => self.status.set_item(status(kind.clone())),
            None => {
                let kinds: Vec<KindName> = self.status.items.iter().map(|item| item.kind.clone()).collect();
                kinds.into_iter().for_each(|kind| self.status.set_item(status(kind)));
            }
        }
    }
}
