//! Surveys and downloads: what is held, what is fetched, and what happens when that does not work.

use std::sync::Arc;

use super::io::{Effect, Failure, Note, Space, Survey};
use super::machine::{Machine, Turn};
use super::task::Stage;
use crate::agent::Reason;
use crate::content::plan::Plan;
use crate::content::{ChannelName, ContentItem};
use crate::digest::Digest;
use crate::time::Timestamp;

/// What the machine is doing for one channel: at most one thing at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) channel: ChannelName,
    /// What is to be in force; `None`: nothing any more.
    pub(super) target: Option<ContentItem>,
    pub(super) step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Survey {
        remote: bool,
    },
    Fetch {
        plan: Arc<Plan>,
        fetched: u64,
        /// It was told to end.
        stopping: bool,
    },
    /// That the target is on trial becomes durable.
    Persist {
        ticket: u64,
    },
    Switch,
    Handler,
    Health,
}

impl Job {
    /// Whether an answer about this content is meant for this job.
    fn is_of(&self, channel: &ChannelName, manifest: Digest) -> bool {
        self.channel == *channel && self.target.as_ref().is_some_and(|target| target.manifest == manifest)
    }
}

impl Machine {
    pub(super) fn survey(&mut self, turn: &mut Turn, channel: &ChannelName, remote: bool) {
        let Some(item) = self.goal(channel).cloned() else { return };
        turn.emit(Effect::Survey { item: item.clone(), remote });
        self.begin(channel, Some(item), Step::Survey { remote });
    }

    pub(super) fn begin(&mut self, channel: &ChannelName, target: Option<ContentItem>, step: Step) {
        self.work = Some(Box::new(Job { channel: channel.clone(), target, step }));
    }

    pub(super) fn on_surveyed(
        &mut self,
        turn: &mut Turn,
        channel: &ChannelName,
        manifest: Digest,
        result: Result<Survey, Failure>,
    ) {
        let Some(job) = self.job().filter(|job| job.is_of(channel, manifest)) else { return };
        let Step::Survey { remote } = job.step else { return };
        self.work = None;
        // What is fetched is what was looked at last.
        self.tasks.values_mut().for_each(super::task::Task::make_stale);
        if !self.is_goal(channel, manifest) {
            return;
        }
        match result {
            Ok(survey) if !remote && survey.plan.pieces.is_empty() && shortage(&survey.space).is_none() => {
                self.fetch(turn, channel, survey.plan);
            }
            Ok(_) | Err(_) if !remote => self.set_stage(channel, Stage::Remote),
            Ok(survey) => self.on_plan(turn, channel, survey),
            Err(failure) => self.on_failure(turn, channel, "looking at what is missing", failure),
        }
    }

    fn on_plan(&mut self, turn: &mut Turn, channel: &ChannelName, survey: Survey) {
        let Some(reason) = shortage(&survey.space) else {
            self.set_stage(channel, Stage::Planned { plan: survey.plan, at: turn.now, stale: false });
            if let Some(task) = self.tasks.get_mut(channel) {
                task.trouble = None;
            }
            return;
        };
        self.set_stage(channel, Stage::Remote);
        if self.make_room(turn) {
            // Looked at again at once.
            if let Some(task) = self.tasks.get_mut(channel) {
                task.not_before = Timestamp(0);
            }
        } else {
            self.delay(turn, channel, "looking for room on the disk", reason);
        }
    }

    /// Gives up what is kept for a quick way back. Says whether there was anything. Not before the state is durable:
    /// the disk may still name as good what is kept.
    fn make_room(&mut self, turn: &mut Turn) -> bool {
        if self.saved != self.tickets {
            return false;
        }
        let mut found = false;
        for state in self.durable.channels.values_mut() {
            found |= state.previous.take().is_some();
        }
        if found {
            self.persist(turn);
            self.emit_prune(turn);
        }
        found
    }

    pub(super) fn fetch(&mut self, turn: &mut Turn, channel: &ChannelName, plan: Arc<Plan>) {
        let Some(item) = self.goal(channel).cloned() else { return };
        if !plan.pieces.is_empty() {
            let state = self.durable.channels.entry(channel.clone()).or_default();
            if state.begun != Some(item.manifest) {
                state.begun = Some(item.manifest);
                self.persist(turn);
            }
            turn.note(Note::Fetching { item: item.clone(), plan: Arc::clone(&plan) });
        }
        turn.emit(Effect::Fetch { item: item.clone(), plan: Arc::clone(&plan) });
        self.begin(channel, Some(item), Step::Fetch { plan, fetched: 0, stopping: false });
    }

    pub(super) fn on_progress(&mut self, channel: &ChannelName, manifest: Digest, so_far: u64) {
        let Some(job) = self.work.as_mut().filter(|job| job.is_of(channel, manifest)) else { return };
        let Step::Fetch { plan, fetched, .. } = &mut job.step else { return };
        *fetched = so_far.max(*fetched);
        if let Some(task) = self.tasks.get_mut(channel)
            && !plan.pieces.is_empty()
        {
            task.percent = task.percent.max(task.percent_at(plan, *fetched));
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        turn: &mut Turn,
        channel: &ChannelName,
        manifest: Digest,
        result: Result<(), Failure>,
    ) {
        let Some(job) = self.job().filter(|job| job.is_of(channel, manifest)) else { return };
        let Step::Fetch { plan, fetched, stopping } = job.step.clone() else { return };
        self.work = None;
        if fetched > 0 {
            self.tasks.values_mut().for_each(super::task::Task::make_stale);
        }
        let is_goal = self.is_goal(channel, manifest);
        let Some(task) = self.tasks.get_mut(channel).filter(|_| is_goal) else { return };
        task.count(&plan, fetched);
        if fetched > 0 {
            task.failures = 0;
        }
        match result {
            Ok(()) => self.on_whole(turn, channel, &plan),
            Err(failure) if stopping && failure.retry => {
                task.stage = Stage::Planned { plan, at: turn.now, stale: true };
            }
            Err(failure) => self.on_failure(turn, channel, "downloading", failure),
        }
    }

    /// All of it is on disk.
    fn on_whole(&mut self, turn: &mut Turn, channel: &ChannelName, plan: &Plan) {
        let Some(item) = self.goal(channel).cloned() else { return };
        let Some(task) = self.tasks.get_mut(channel) else { return };
        task.trouble = None;
        task.stage = Stage::Local;
        let bytes = task.bytes;
        if !plan.pieces.is_empty() {
            turn.note(Note::Fetched { item: item.clone(), bytes });
        }
        self.switch_to(turn, channel, Some(item), bytes);
    }

    fn on_failure(&mut self, turn: &mut Turn, channel: &ChannelName, step: &'static str, failure: Failure) {
        let Some(task) = self.tasks.get_mut(channel) else { return };
        if failure.retry || task.repair {
            task.stage = Stage::Remote;
            self.delay(turn, channel, step, failure.reason);
        } else if let Some(item) = self.goal(channel).cloned() {
            self.give_up(turn, &item, failure.reason);
        }
    }

    /// The item has failed until it changes. Nothing was switched.
    fn give_up(&mut self, turn: &mut Turn, item: &ContentItem, reason: Reason) {
        self.durable.remember(item, reason.clone());
        if let Some(state) = self.durable.channels.get_mut(&item.channel) {
            state.begun = None;
        }
        turn.note(Note::Failed(item.clone(), reason));
        self.prune = true;
        self.assess(turn, &item.channel);
        self.drop_empty(&item.channel);
        self.persist(turn);
    }

    fn set_stage(&mut self, channel: &ChannelName, stage: Stage) {
        if let Some(task) = self.tasks.get_mut(channel) {
            task.stage = stage;
        }
    }
}

/// Why there is no room, in numbers and with the way out.
fn shortage(space: &Space) -> Option<Reason> {
    let Space { needed, free, quota, used } = *space;
    if needed > free {
        return Some(Reason::new(format!("it takes {needed} bytes and the disk has {free} left: free some")));
    }
    let quota = quota.filter(|quota| used.saturating_add(needed) > *quota)?;
    Some(Reason::new(format!(
        "it takes {needed} bytes; content may take {quota} and takes {used} already: raise the quota or assign less"
    )))
}
