//! Where the agent stands with each channel, as it is reported.

use super::job::{Job, Step};
use super::machine::Machine;
use super::task::{Stage, Task};
use crate::agent::ItemState;
use crate::content::{ChannelName, ContentRevision, ContentStatus};
use crate::revision::Revision;

impl Machine {
    /// Where the agent stands with each channel, ordered by channel.
    #[must_use]
    pub fn statuses(&self) -> Vec<ContentStatus> {
        self.tasks.iter().map(|(channel, task)| self.status(channel, task)).collect()
    }

    fn status(&self, channel: &ChannelName, task: &Task) -> ContentStatus {
        let number = |item: Option<&crate::content::ContentItem>| {
            item.map_or(ContentRevision::default(), |item| item.number)
        };
        let active = self.active.get(channel);
        let revision = task.item.as_ref().or(active).map_or(Revision::default(), |item| item.revision);
        let (state, reason) = self.state(channel, task);
        let is_there = matches!(state, ItemState::Verified | ItemState::Applied | ItemState::Healthy);
        ContentStatus {
            channel: channel.clone(),
            active: number(active),
            wanted: number(task.item.as_ref()),
            revision,
            state,
            percent: if is_there { 100 } else { task.percent },
            bytes: task.bytes,
            reason,
        }
    }

    fn state(&self, channel: &ChannelName, task: &Task) -> (ItemState, Box<str>) {
        let Some(item) = &task.item else {
            let trouble = task.trouble.as_ref().map_or("", |reason| reason.as_str());
            return (
                ItemState::Offered,
                format!("is being removed; {trouble}").trim_end_matches("; ").into(),
            );
        };
        if let Some(reason) = self.durable.failure_of(item) {
            return (ItemState::Failed, reason.as_str().into());
        }
        let job = self.job().filter(|job| {
            let target = job.target.as_ref().map(|target| target.manifest);
            job.channel == *channel && target == Some(item.manifest)
        });
        let begun =
            if task.percent > 0 || task.fetched() > 0 { ItemState::Received } else { ItemState::Offered };
        let state = match (job.map(|job| &job.step), &task.stage) {
            (Some(Step::Fetch { .. }), _) => ItemState::Received,
            (Some(Step::Persist { .. } | Step::Switch | Step::Handler), _) => ItemState::Verified,
            (Some(Step::Health), _) => ItemState::Applied,
            (None, Stage::Settled) => ItemState::Healthy,
            (Some(Step::Survey { .. }) | None, _) if task.repair => ItemState::Received,
            (Some(Step::Survey { .. }) | None, _) => begun,
        };
        (state, self.waits_for(task, job).into())
    }

    /// What keeps a task from going on.
    fn waits_for(&self, task: &Task, job: Option<&Job>) -> String {
        if let Some(trouble) = &task.trouble {
            return if task.stage == Stage::Settled {
                trouble.to_string()
            } else {
                format!("waits to try again: {trouble}")
            };
        }
        if task.repair {
            return "files in force were damaged and are built again".to_owned();
        }
        let none = String::new();
        match &task.stage {
            _ if job.is_some() => none,
            Stage::Settled | Stage::Local => none,
            Stage::Remote | Stage::Planned { .. } if !self.online => "waits for a connection".to_owned(),
            Stage::Remote => "waits for its turn within contentSpread".to_owned(),
            Stage::Planned { plan, .. } if plan.needs_allowance() && !self.lease.is_held() => {
                format!("waits for an allowance to download {} bytes", plan.fetch_bytes)
            }
            Stage::Planned { .. } => "waits for another channel".to_owned(),
        }
    }
}
