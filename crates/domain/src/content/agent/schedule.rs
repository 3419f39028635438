//! What comes next, and when: one channel after the other, what is short before what is long.

use super::io::Effect;
use super::job::{Job, Step};
use super::machine::{Machine, Turn};
use super::task::{Next, PLAN_LASTS, Stage, Task};
use crate::content::pace::phase;
use crate::content::plan::ALLOWANCE_FREE_BYTES;
use crate::content::{ChannelName, MAX_REPORTED_CHANNELS};
use crate::time::Timestamp;

impl Machine {
    /// The time at which to call again at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if !self.is_running() {
            return None;
        }
        let tasks = self.tasks.iter().filter_map(|(channel, task)| match &self.work {
            None => self.due(channel, task).map(|(at, _)| at),
            Some(job) => {
                self.due(channel, task).filter(|(_, next)| may_interrupt(job, task, next)).map(|(at, _)| at)
            }
        });
        let drift = (!self.active.is_empty()).then_some(self.drift_at);
        tasks.chain(drift).chain(self.save_retry_at).chain(self.lease.next_deadline()).min()
    }

    /// When a task is due, and what is to be done then. `None`: it waits for something else than time.
    fn due(&self, channel: &ChannelName, task: &Task) -> Option<(Timestamp, Next)> {
        let state = self.durable.channels.get(channel);
        let name = channel.clone();
        if let Some((state, applying)) = state.and_then(|state| Some((state, state.applying.as_ref()?))) {
            // What was to be taken away when the agent stopped may be wanted again.
            let is_sure = applying.item.is_some() || state.good.is_none() || self.wanted.is_some();
            return is_sure.then_some((task.not_before, Next::Resume(name)));
        }
        let Some(goal) = self.goal(channel) else {
            let is_left = state.is_some() || self.active.contains_key(channel);
            let gone = self.wanted.is_some() && task.item.is_none() && is_left;
            return gone.then_some((task.not_before, Next::Remove(name)));
        };
        match &task.stage {
            Stage::Settled => None,
            Stage::Local => Some((task.not_before, Next::Local(name))),
            _ if !self.online => None,
            Stage::Remote => {
                let begun = state.is_some_and(|state| state.begun == Some(goal.manifest));
                let turn = if begun || task.repair {
                    task.since
                } else {
                    task.since + phase(&self.agent, channel, &goal.manifest, self.pace.spread)
                };
                Some((turn.max(task.not_before), Next::Remote(name)))
            }
            Stage::Planned { plan, at, .. } => {
                let (needs_allowance, bytes) = (plan.needs_allowance(), plan.fetch_bytes);
                if needs_allowance && !self.lease.is_held() {
                    return Some((*at + PLAN_LASTS, Next::Remote(name)));
                }
                Some((Timestamp(0), Next::Fetch { needs_allowance, bytes, channel: name }))
            }
        }
    }

    /// Does what time and inputs have made due.
    pub(super) fn settle(&mut self, turn: &mut Turn) {
        self.drop_idle();
        self.admit(turn);
        self.follow_lease(turn);
        self.follow_interruption(turn);
        // Each turn begins a job or ends what is left of a channel.
        for _ in 0..=MAX_REPORTED_CHANNELS {
            if self.work.is_some() {
                break;
            }
            self.follow_prune(turn);
            let due = self.tasks.iter().filter_map(|(channel, task)| self.due(channel, task));
            let next = due.filter(|(at, _)| *at <= turn.now).map(|(_, next)| next).min();
            let Some(next) = next else { break };
            self.take_up(turn, next);
        }
        // What was taken up may have changed what is needed.
        self.follow_lease(turn);
        self.follow_saving(turn);
        if turn.now >= self.drift_at && !self.active.is_empty() {
            self.drift_at = turn.now + self.timing.drift_every;
            self.check_drift(turn);
        }
        self.follow_report(turn);
    }

    /// Forgets channels of which nothing is wanted and nothing is left.
    fn drop_idle(&mut self) {
        let Self { tasks, durable, active, work, wanted, .. } = self;
        tasks.retain(|channel, task| {
            let is_left = durable.channels.contains_key(channel) || active.contains_key(channel);
            let is_busy = work.as_ref().is_some_and(|job| job.channel == *channel);
            wanted.is_none() || task.item.is_some() || is_left || is_busy
        });
    }

    fn take_up(&mut self, turn: &mut Turn, next: Next) {
        match next {
            Next::Resume(channel) => self.resume(turn, &channel),
            Next::Remove(channel) => self.remove(turn, &channel),
            Next::Local(channel) => self.survey(turn, &channel, false),
            Next::Remote(channel) => self.survey(turn, &channel, true),
            // What has become stale is looked at again when its turn has come.
            Next::Fetch { channel, .. } => {
                let stage = self.tasks.get(&channel).map(|task| task.stage.clone());
                match stage {
                    Some(Stage::Planned { plan, at, stale }) if !stale && turn.now < at + PLAN_LASTS => {
                        self.fetch(turn, &channel, plan);
                    }
                    Some(_) | None => self.survey(turn, &channel, true),
                }
            }
        }
    }

    fn follow_lease(&mut self, turn: &mut Turn) {
        let running = self.job().is_some_and(|job| match &job.step {
            Step::Fetch { plan, .. } => plan.needs_allowance(),
            Step::Survey { .. } => false,
            Step::Persist { .. } | Step::Switch | Step::Handler | Step::Health => false,
        });
        let waiting = self
            .tasks
            .iter()
            .any(|(channel, task)| task.needs_allowance() && self.online && self.goal(channel).is_some());
        if let Some(wish) = self.lease.follow(turn.now, running || waiting) {
            turn.emit(Effect::Wish(wish));
        }
        if running && !self.lease.is_held() {
            self.stop_fetch(turn);
        }
    }

    /// A long download makes way for what is short, or what nobody has looked at yet.
    fn follow_interruption(&mut self, turn: &mut Turn) {
        let Some(job) = self.job() else { return };
        let interrupts = self.tasks.iter().any(|(channel, task)| {
            self.due(channel, task)
                .is_some_and(|(at, next)| at <= turn.now && may_interrupt(job, task, &next))
        });
        if interrupts {
            self.stop_fetch(turn);
        }
    }
}

/// Whether a running job makes way for a task: a long download does, for what needs no network and for a first look
/// at what is new.
fn may_interrupt(job: &Job, task: &Task, next: &Next) -> bool {
    let Step::Fetch { plan, fetched, stopping: false } = &job.step else { return false };
    let is_long = plan.fetch_bytes.saturating_sub(*fetched) > ALLOWANCE_FREE_BYTES;
    is_long
        && match next {
            Next::Resume(channel) | Next::Remove(channel) | Next::Local(channel) => *channel != job.channel,
            Next::Remote(channel) => {
                *channel != job.channel && task.stage == Stage::Remote && task.failures == 0
            }
            Next::Fetch { .. } => false,
        }
}
