//! Putting a content in force, one durable step at a time: note that it is on trial, switch, run the handler, check
//! health, and back to the last known good if one of them says no.

use super::durable::{Applying, ChannelState, Good, MAX_STARTS};
use super::io::{Effect, Note};
use super::job::Step;
use super::machine::{Machine, Turn};
use super::task::Stage;
use crate::agent::Reason;
use crate::content::{ChannelName, ContentItem, SourceBytes};
use crate::digest::Digest;

/// What switching to a target means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It has to prove healthy.
    Trial,
    /// It is the last known good: on the way back, or built again.
    Good,
    /// The channel's content goes away.
    Gone,
}

impl Machine {
    fn kind(&self, channel: &ChannelName, target: Option<&ContentItem>) -> Kind {
        let good = self.durable.good(channel).map(|good| good.item.manifest);
        match target {
            None => Kind::Gone,
            Some(target) if good == Some(target.manifest) => Kind::Good,
            Some(_) => Kind::Trial,
        }
    }

    fn state_mut(&mut self, channel: &ChannelName) -> &mut ChannelState {
        self.durable.channels.entry(channel.clone()).or_default()
    }

    fn is_active(&self, channel: &ChannelName, manifest: Option<Digest>) -> bool {
        self.active.get(channel).map(|active| active.manifest) == manifest
    }

    /// Takes up what the disk says of a channel when the agent starts.
    pub(super) fn recover(&mut self, channel: &ChannelName) {
        let good = self.durable.good(channel).map(|good| good.item.clone());
        if let Some((active, good)) = self.active.get_mut(channel).zip(good.as_ref())
            && active.manifest == good.manifest
        {
            // It may have been assigned anew since it was switched on.
            active.clone_from(good);
        }
        let active = self.active.get(channel).cloned();
        let good = good.map(|good| good.manifest);
        let applying = self.durable.channels.get(channel).and_then(|state| state.applying.clone());
        let target = applying.as_ref().map(|applying| applying.item.clone());
        match (target, active) {
            // On trial, and switched on: it goes on.
            (Some(Some(target)), Some(active)) if target.manifest == active.manifest => {}
            // On the way back, or away: it goes on.
            (Some(target), _) if self.kind(channel, target.as_ref()) != Kind::Trial => {}
            // Switched on, and nothing says that it is healthy: it has to prove it.
            (_, Some(active)) if good != Some(active.manifest) => {
                let (bytes, starts) = (SourceBytes::default(), 0);
                self.state_mut(channel).applying = Some(Applying { item: Some(active), bytes, starts });
            }
            // Not switched on yet: looked at anew if it is still wanted.
            (Some(_), _) => self.state_mut(channel).applying = None,
            (None, _) => {}
        }
    }

    /// Goes on with what is durable.
    pub(super) fn resume(&mut self, turn: &mut Turn, channel: &ChannelName) {
        let applying = self.durable.channels.get(channel).and_then(|state| state.applying.clone());
        let Some(Applying { item, bytes, starts }) = applying else { return };
        let is_assigned = self.tasks.get(channel).is_some_and(|task| task.item.is_some());
        if item.is_none() && is_assigned && self.durable.good(channel).is_some() {
            // It was to be taken away, and is wanted again.
            self.state_mut(channel).applying = None;
            self.persist(turn);
            self.assess(turn, channel);
            return;
        }
        let failed = item.as_ref().and_then(|item| self.durable.failure_of(item)).cloned();
        if self.kind(channel, item.as_ref()) != Kind::Trial {
            self.switch_to(turn, channel, item, bytes);
        } else if let Some(reason) = failed {
            self.begin(channel, item, Step::Handler);
            self.fail(turn, reason);
        } else if starts >= MAX_STARTS {
            self.begin(channel, item, Step::Handler);
            let reason = format!("the agent stopped {MAX_STARTS} times while it was switching this on");
            self.fail(turn, Reason::new(reason));
        } else {
            self.switch_to(turn, channel, item, bytes);
        }
    }

    /// Nothing assigns the channel any more.
    pub(super) fn remove(&mut self, turn: &mut Turn, channel: &ChannelName) {
        let is_held = self.active.contains_key(channel) || self.durable.good(channel).is_some();
        if is_held {
            self.switch_to(turn, channel, None, SourceBytes::default());
        } else {
            self.forget(turn, channel);
        }
    }

    /// Nothing of the channel is left.
    fn forget(&mut self, turn: &mut Turn, channel: &ChannelName) {
        self.durable.channels.remove(channel);
        self.tasks.remove(channel);
        self.prune = true;
        turn.note(Note::Removed(channel.clone()));
        self.persist(turn);
    }

    /// Begins to put a target in force. A content on trial is noted durably before it is switched on; on the way
    /// back and away a disk that refuses must not be in the way.
    pub(super) fn switch_to(
        &mut self,
        turn: &mut Turn,
        channel: &ChannelName,
        target: Option<ContentItem>,
        bytes: SourceBytes,
    ) {
        let kind = self.kind(channel, target.as_ref());
        let wanted = target.as_ref().map(|target| target.manifest);
        let state = self.state_mut(channel);
        let before = state.applying.take();
        let same = before.filter(|known| known.item.as_ref().map(|item| item.manifest) == wanted);
        let starts = same.map_or(0, |known| known.starts).saturating_add(1);
        state.applying = Some(Applying { item: target.clone(), bytes, starts });
        let ticket = self.persist(turn);
        self.begin(channel, target, Step::Persist { ticket });
        match kind {
            Kind::Trial => {}
            Kind::Good | Kind::Gone => self.enter_switch(turn),
        }
    }

    pub(super) fn on_persisted(&mut self, turn: &mut Turn, ticket: u64, result: Result<(), Reason>) {
        match &result {
            Ok(()) => {
                self.save_retry_at = None;
                self.saved = self.saved.max(ticket.min(self.tickets));
            }
            Err(reason) => {
                self.save_retry_at = Some(turn.retry_at(0));
                let (channel, reason) = (None, reason.clone());
                turn.note(Note::Delayed { channel, step: "storing the state", reason });
            }
        }
        let Some(job) = self.job().filter(|job| job.step == Step::Persist { ticket }) else { return };
        let (channel, target) = (job.channel.clone(), job.target.clone());
        let Some(manifest) = target.map(|target| target.manifest) else { return };
        match result {
            // Switched on before a crash.
            Ok(()) if self.is_active(&channel, Some(manifest)) => self.enter_handler(turn),
            Ok(()) if self.is_goal(&channel, manifest) => self.enter_switch(turn),
            Ok(()) => {
                self.drop_trial(turn, &channel);
                self.persist(turn);
            }
            // A trial that goes on after a crash does so when the disk takes it.
            Err(reason) if self.is_active(&channel, Some(manifest)) => {
                self.keep_intent(&channel);
                self.delay(turn, &channel, "storing the state", reason);
            }
            Err(reason) => {
                self.drop_trial(turn, &channel);
                self.delay(turn, &channel, "storing the state", reason);
            }
        }
    }

    /// What was to be tried is not switched on.
    fn drop_trial(&mut self, turn: &mut Turn, channel: &ChannelName) {
        self.work = None;
        self.state_mut(channel).applying = None;
        self.drop_empty(channel);
        self.assess(turn, channel);
    }

    /// What is durable is taken up again later; this time does not count as a start.
    fn keep_intent(&mut self, channel: &ChannelName) {
        self.work = None;
        if let Some(applying) = &mut self.state_mut(channel).applying {
            applying.starts = applying.starts.saturating_sub(1);
        }
    }

    /// The last known good could not be switched to: its files may be gone. It is looked at, and built again where
    /// nothing else is assigned that may work.
    fn rebuild(&mut self, turn: &mut Turn, channel: &ChannelName) {
        self.drop_trial(turn, channel);
        if let Some(task) = self.tasks.get_mut(channel).filter(|task| task.item.is_some())
            && task.stage == Stage::Settled
        {
            task.repair = true;
            task.stage = Stage::Local;
        }
    }

    fn enter_switch(&mut self, turn: &mut Turn) {
        let Some(job) = &mut self.work else { return };
        job.step = Step::Switch;
        turn.emit(Effect::Switch { channel: job.channel.clone(), to: job.target.clone() });
    }

    pub(super) fn on_switched(&mut self, turn: &mut Turn, result: Result<(), Reason>) {
        let Some(job) = self.job().filter(|job| job.step == Step::Switch) else { return };
        let (channel, target) = (job.channel.clone(), job.target.clone());
        let kind = self.kind(&channel, target.as_ref());
        if let Err(reason) = result {
            match kind {
                Kind::Trial => self.drop_trial(turn, &channel),
                Kind::Good => self.rebuild(turn, &channel),
                Kind::Gone => self.keep_intent(&channel),
            }
            self.delay(turn, &channel, "switching", reason);
            return;
        }
        match target {
            Some(target) => self.active.insert(channel.clone(), target),
            None => self.active.remove(&channel),
        };
        let starts = self.state_mut(&channel).applying.as_ref().map_or(0, |applying| applying.starts);
        if kind != Kind::Trial && starts > MAX_STARTS {
            let reason = Reason::new(format!("its handler did not end well {MAX_STARTS} times"));
            turn.note(Note::Delayed { channel: Some(channel), step: "running the handler", reason });
            self.finish(turn);
        } else {
            self.enter_handler(turn);
        }
    }

    fn enter_handler(&mut self, turn: &mut Turn) {
        let Some(job) = &mut self.work else { return };
        job.step = Step::Handler;
        turn.emit(Effect::RunHandler { channel: job.channel.clone(), item: job.target.clone() });
    }

    pub(super) fn on_handler_done(&mut self, turn: &mut Turn, result: Result<(), Reason>) {
        let Some(job) = self.work.as_mut().filter(|job| job.step == Step::Handler) else { return };
        let (channel, target) = (job.channel.clone(), job.target.clone());
        match (self.kind(&channel, target.as_ref()), result, target) {
            (Kind::Trial, Ok(()), Some(target)) => {
                if let Some(job) = &mut self.work {
                    job.step = Step::Health;
                }
                turn.emit(Effect::CheckHealth(target));
            }
            (Kind::Trial, Err(reason), _) => self.fail(turn, reason),
            // It was healthy before; the next one that is switched on runs the handler again.
            (Kind::Good, Err(reason), _) => {
                let step = "running the handler";
                turn.note(Note::Delayed { channel: Some(channel), step, reason });
                self.finish(turn);
            }
            // What is durable is taken up again, a bounded number of times.
            (Kind::Gone, Err(reason), _) => {
                self.work = None;
                self.delay(turn, &channel, "running the handler", reason);
            }
            (Kind::Trial | Kind::Good | Kind::Gone, Ok(()), _) => self.finish(turn),
        }
    }

    pub(super) fn on_health(&mut self, turn: &mut Turn, result: Result<(), Reason>) {
        if self.job().is_none_or(|job| job.step != Step::Health) {
            return;
        }
        match result {
            Ok(()) => self.confirm(turn),
            Err(reason) => self.fail(turn, reason),
        }
    }

    /// What is in force is healthy: it is the last known good from now on.
    fn confirm(&mut self, turn: &mut Turn) {
        let Some(job) = self.work.take() else { return };
        let Some(item) = job.target else { return };
        let state = self.state_mut(&job.channel);
        let bytes = state.applying.take().map_or(SourceBytes::default(), |applying| applying.bytes);
        state.begun = None;
        let before = state.good.replace(Good { item: item.clone(), bytes }).map(|good| good.item);
        state.previous = before.filter(|before| before.manifest != item.manifest);
        self.prune = true;
        turn.note(Note::Applied(item));
        self.assess(turn, &job.channel);
        self.persist(turn);
    }

    /// The handler or the health check said no, or the content stopped the agent too often.
    fn fail(&mut self, turn: &mut Turn, reason: Reason) {
        let Some(job) = self.work.take() else { return };
        let Some(item) = job.target else { return };
        self.durable.remember(&item, reason.clone());
        self.state_mut(&job.channel).begun = None;
        turn.note(Note::Failed(item, reason));
        let good = self.durable.good(&job.channel).cloned();
        let bytes = good.as_ref().map_or(SourceBytes::default(), |good| good.bytes);
        self.switch_to(turn, &job.channel, good.map(|good| good.item), bytes);
    }

    /// The last known good is in force, or nothing is.
    fn finish(&mut self, turn: &mut Turn) {
        let Some(job) = self.work.take() else { return };
        let channel = job.channel;
        let task = self.tasks.get(&channel);
        let (assigned, repaired) = task.map_or((None, false), |task| (task.item.clone(), task.repair));
        self.prune = true;
        let state = self.state_mut(&channel);
        state.applying = None;
        if job.target.is_none() {
            state.good = None;
            state.previous = None;
        }
        match assigned {
            None if job.target.is_none() => {
                self.forget(turn, &channel);
                return;
            }
            Some(_) | None if repaired => turn.note(Note::Repaired(channel.clone())),
            Some(_) | None => turn.note(Note::Reverted(channel.clone(), job.target)),
        }
        self.assess(turn, &channel);
        self.drop_empty(&channel);
        self.persist(turn);
    }

    /// Looks at what is assigned to a channel and what is in force there, and decides what is to be done.
    pub(super) fn assess(&mut self, turn: &mut Turn, channel: &ChannelName) {
        let good = self.durable.good(channel).cloned();
        let good_in_force =
            good.as_ref().is_some_and(|good| self.is_active(channel, Some(good.item.manifest)));
        let Some(task) = self.tasks.get_mut(channel) else { return };
        task.repair = false;
        task.stage = Stage::Settled;
        let Some(item) = task.item.clone() else { return };
        if self.durable.failure_of(&item).is_some() {
            task.trouble = None;
            task.repair = good.is_some() && !good_in_force;
            task.stage = if task.repair { Stage::Local } else { Stage::Settled };
            return;
        }
        let Some(good) = good.filter(|good| good_in_force && good.item.manifest == item.manifest) else {
            task.stage = Stage::Local;
            return;
        };
        task.trouble = None;
        task.failures = 0;
        task.percent = 100;
        task.bytes = good.bytes;
        if good.item != item {
            // The same content, assigned anew.
            self.active.insert(channel.clone(), item.clone());
            self.state_mut(channel).good = Some(Good { item, ..good });
            self.persist(turn);
        }
    }

    /// Files in force are damaged or gone. Where another content is on its way, that one replaces them.
    pub(super) fn on_drift(&mut self, turn: &mut Turn, channels: &[ChannelName]) {
        for channel in channels {
            let good = self.durable.good(channel).map(|good| good.item.manifest);
            let is_good = good.is_some() && self.is_active(channel, good);
            let is_busy = self.job().is_some_and(|job| job.channel == *channel);
            let task = self.tasks.get_mut(channel).filter(|_| is_good && !is_busy);
            if let Some(task) = task.filter(|task| task.item.is_some() && task.stage == Stage::Settled) {
                task.repair = true;
                task.stage = Stage::Local;
                task.percent = 0;
                task.not_before = turn.now;
                task.failures = 0;
                turn.note(Note::Damaged(channel.clone()));
            }
        }
    }

    pub(super) fn check_drift(&mut self, turn: &mut Turn) {
        let switching =
            self.job().filter(|job| !matches!(job.step, Step::Survey { .. } | Step::Fetch { .. }));
        let items: Vec<ContentItem> = self
            .active
            .iter()
            .filter(|(channel, _)| switching.is_none_or(|job| job.channel != **channel))
            .filter(|(channel, _)| self.tasks.get(*channel).is_some_and(|task| task.stage == Stage::Settled))
            .map(|(_, item)| item.clone())
            .collect();
        if !items.is_empty() {
            turn.emit(Effect::CheckDrift(items));
        }
    }

    /// Not before the state is durable: after a crash the agent goes back to what the disk names.
    pub(super) fn follow_prune(&mut self, turn: &mut Turn) {
        if self.prune && self.wanted.is_some() && self.saved == self.tickets {
            self.emit_prune(turn);
        }
    }

    pub(super) fn emit_prune(&mut self, turn: &mut Turn) {
        self.prune = false;
        let states = self.durable.channels.values();
        let known = states.flat_map(|state| {
            let good = state.good.as_ref().map(|good| &good.item);
            let applying = state.applying.as_ref().and_then(|applying| applying.item.as_ref());
            good.into_iter().chain(applying).chain(&state.previous)
        });
        let mut keep: Vec<Digest> = known.chain(self.active.values()).map(|item| item.manifest).collect();
        let begun = self.tasks.iter().filter(|(_, task)| task.stage != Stage::Settled);
        let mut drafts: Vec<Digest> =
            begun.filter_map(|(channel, _)| self.goal(channel)).map(|item| item.manifest).collect();
        for list in [&mut keep, &mut drafts] {
            list.sort_unstable();
            list.dedup();
        }
        turn.emit(Effect::Prune { keep, drafts });
    }

    pub(super) fn drop_empty(&mut self, channel: &ChannelName) {
        if self.durable.channels.get(channel) == Some(&ChannelState::default()) {
            self.durable.channels.remove(channel);
        }
    }
}
