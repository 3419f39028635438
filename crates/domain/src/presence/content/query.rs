//! Questions about content.

use std::collections::BTreeMap;

use super::super::intern::Handle;
use super::super::query::{MAX_EXAMINED, marked};
use super::super::{Presence, Scope};
use super::pace::Outlook;
use super::tally::{Bytes, Channel, Stage, Stand, Tally};
use crate::content::census::MAX_HOLDERS;
use crate::content::{Census, ChannelName, ContentRevision, Holders, SourceBytes};
use crate::time::Timestamp;

/// Agents named in a summary on which content failed: enough to see a pattern; a list of agents tells all.
pub const MAX_FAILURES: usize = 20;

/// Agents at one revision of a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RevisionCounts {
    /// Agents that have it in force.
    pub active: u64,
    /// Agents to which it is assigned.
    pub wanted: u64,
    /// Of those, the ones that are downloading it.
    pub downloading: u64,
    /// Of those, the ones on which it failed.
    pub failed: u64,
}

/// An agent on which the assigned revision failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentFailure<'a> {
    /// The agent.
    pub agent: &'a str,
    /// The content revision.
    pub revision: ContentRevision,
    /// Why.
    pub reason: &'a str,
}

/// How far a channel has got. Each agent counts once, by what it reported last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentSummary<'a> {
    /// Agents to which some of it is assigned or that have some of it in force.
    pub agents: u64,
    /// Agents that have in force and healthy what is assigned to them.
    pub current: u64,
    /// Agents that have not started yet.
    pub waiting: u64,
    /// Agents that are downloading.
    pub downloading: u64,
    /// Agents that have all of it and are switching or checking.
    pub applying: u64,
    /// Agents on which the assigned revision failed.
    pub failed: u64,
    /// Every revision that is in force or assigned anywhere.
    pub revisions: BTreeMap<ContentRevision, RevisionCounts>,
    /// Where the bytes of what is assigned came from.
    pub bytes: SourceBytes,
    /// When the last agent is expected to be done, by the pace so far. Offline agents are not waited for.
    pub expected_finish: Option<Timestamp>,
    /// Agents on which it failed, at most [`MAX_FAILURES`], in order of id. Among very many failures they
    /// need not be the first ones.
    pub failures: Vec<ContentFailure<'a>>,
}

impl ContentSummary<'_> {
    fn add(&mut self, stand: Stand, agents: u32) {
        let agents = u64::from(agents);
        let none = ContentRevision::default();
        if stand.active == none && stand.wanted == none {
            return;
        }
        self.agents += agents;
        if stand.active != none {
            self.revisions.entry(stand.active).or_default().active += agents;
        }
        let mut wanted = RevisionCounts { wanted: agents, ..RevisionCounts::default() };
        match stand.stage() {
            Stage::Free => return,
            Stage::Current => self.current += agents,
            Stage::Waiting => self.waiting += agents,
            Stage::Downloading => {
                self.downloading += agents;
                wanted.downloading = agents;
            }
            Stage::Applying => self.applying += agents,
            Stage::Failed => {
                self.failed += agents;
                wanted.failed = agents;
            }
        }
        let counts = self.revisions.entry(stand.wanted).or_default();
        counts.wanted += wanted.wanted;
        counts.downloading += wanted.downloading;
        counts.failed += wanted.failed;
    }
}

impl Presence {
    /// How far a channel has got within a scope. Costs a look at each combination of revisions and states
    /// that exists, for each group if the scope is not the whole fleet.
    #[must_use]
    pub fn content(&self, channel: &ChannelName, scope: &Scope) -> ContentSummary<'_> {
        let mut summary = ContentSummary::default();
        let Some(Channel { fleet, groups, failing }) = self.contents.channels.get(channel) else {
            return summary;
        };
        let marks = self.marks(scope);
        let tallies: Vec<&Tally> = match marks {
            None => vec![fleet],
            Some(_) => {
                let groups = groups.iter().filter(|(group, _)| marked(&marks, **group));
                groups.map(|(_, tally)| tally).collect()
            }
        };
        let (mut outlook, mut bytes) = (Outlook::default(), Bytes::default());
        for tally in tallies {
            tally.stands.iter().for_each(|(stand, agents)| summary.add(*stand, *agents));
            bytes.merge(&tally.bytes);
            outlook.add(self.now, tally.on_the_way, &tally.pace);
        }
        summary.bytes = bytes.sums();
        summary.expected_finish = outlook.finish(self.now);
        // In order of id, the first ones of those that are looked at.
        let mut first = BTreeMap::new();
        let in_scope = |at: &&u32| marked(&marks, self.table.get(**at).group);
        for agent in failing.iter().take(MAX_EXAMINED).filter(in_scope).map(|&at| self.table.get(at)) {
            first.insert(agent.id(), agent.content);
            if first.len() > MAX_FAILURES {
                first.pop_last();
            }
        }
        summary.failures =
            first.into_iter().filter_map(|(agent, list)| self.failure(agent, list, channel)).collect();
        summary
    }

    fn failure<'a>(
        &'a self,
        agent: &'a str,
        list: Handle,
        channel: &ChannelName,
    ) -> Option<ContentFailure<'a>> {
        let status = self.contents.states(list).find(|status| status.channel == *channel)?;
        Some(ContentFailure { agent, revision: status.wanted, reason: &status.reason })
    }

    /// How many agents hold which content: all that have it in force, and those online or late that still
    /// have to fetch it. At most [`MAX_HOLDERS`] entries: first what is being fetched, then most
    /// agents first.
    #[must_use]
    pub fn census(&self, replica: u64) -> Census {
        let mut holders = Vec::new();
        for (name, channel) in self.contents.channels.iter() {
            let mut revisions: BTreeMap<ContentRevision, (u64, u64)> = BTreeMap::new();
            for (stand, agents) in &channel.fleet.stands {
                revisions.entry(stand.active).or_default().0 += u64::from(*agents);
                let fetches = match stand.stage() {
                    Stage::Waiting | Stage::Downloading => !stand.gone,
                    Stage::Free | Stage::Current | Stage::Applying | Stage::Failed => false,
                };
                if fetches {
                    revisions.entry(stand.wanted).or_default().1 += u64::from(*agents);
                }
            }
            revisions.remove(&ContentRevision::default());
            let entry = |(revision, (active, fetching))| Holders {
                channel: name.clone(),
                revision,
                active,
                fetching,
            };
            holders.extend(revisions.into_iter().map(entry));
        }
        holders.sort_by_key(|holders| {
            std::cmp::Reverse((holders.fetching > 0, holders.active + holders.fetching))
        });
        holders.truncate(MAX_HOLDERS);
        Census { replica, holders }
    }

    /// Rises whenever the census may have changed.
    #[must_use]
    pub fn content_changes(&self) -> u64 {
        self.contents.channels.changes()
    }
}
