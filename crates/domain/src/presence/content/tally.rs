//! Agents counted by where they stand with a channel.
//!
//! Counts are kept up to date with every report, for the whole fleet and for each group, by revision in
//! force, revision assigned, and how far that one got. So any question costs one look at each combination
//! that exists (a handful a channel), never one at each agent.

use std::collections::{BTreeMap, BTreeSet};

use super::pace::Pace;
use crate::agent::ItemState;
use crate::content::{ChannelName, ContentRevision, ContentStatus, SourceBytes};
use crate::time::Timestamp;

/// Where an agent counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::presence) struct Place {
    /// Its record.
    pub(in crate::presence) agent: u32,
    /// Its group.
    pub(in crate::presence) group: u32,
    /// Offline: nobody waits for it.
    pub(in crate::presence) gone: bool,
}

/// What agents are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stand {
    pub(super) active: ContentRevision,
    pub(super) wanted: ContentRevision,
    pub(super) state: ItemState,
    pub(super) gone: bool,
}

/// How far an agent got with what is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is assigned.
    Free,
    /// In force and healthy.
    Current,
    /// Not begun.
    Waiting,
    /// On its way to the agent.
    Downloading,
    /// All there, not in force yet or not known to be healthy.
    Applying,
    /// It failed.
    Failed,
}

impl Stand {
    pub(super) fn of(status: &ContentStatus, gone: bool) -> Self {
        Self { active: status.active, wanted: status.wanted, state: status.state, gone }
    }

    pub(super) fn stage(self) -> Stage {
        if self.wanted == ContentRevision::default() {
            return Stage::Free;
        }
        match self.state {
            ItemState::Offered => Stage::Waiting,
            ItemState::Received => Stage::Downloading,
            ItemState::Healthy if self.active == self.wanted => Stage::Current,
            ItemState::Verified | ItemState::Applied | ItemState::Healthy => Stage::Applying,
            ItemState::Failed => Stage::Failed,
        }
    }

    /// It is there, and is to get done.
    fn is_on_the_way(self) -> bool {
        let unfinished = match self.stage() {
            Stage::Waiting | Stage::Downloading | Stage::Applying => true,
            Stage::Free | Stage::Current | Stage::Failed => false,
        };
        unfinished && !self.gone
    }
}

/// Sums of bytes. A single agent can say any number; sums of all agents' numbers fit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bytes([u128; 4]);

fn parts(bytes: SourceBytes) -> [u128; 4] {
    let SourceBytes { patch, chunk, full, held } = bytes;
    [patch, chunk, full, held].map(u128::from)
}

impl Bytes {
    fn add(&mut self, bytes: SourceBytes) {
        self.0.iter_mut().zip(parts(bytes)).for_each(|(sum, part)| *sum += part);
    }

    fn remove(&mut self, bytes: SourceBytes) {
        self.0.iter_mut().zip(parts(bytes)).for_each(|(sum, part)| *sum -= part);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, part)| *sum += part);
    }

    /// The sums; what is beyond the largest number counts as that.
    pub(super) fn sums(&self) -> SourceBytes {
        let [patch, chunk, full, held] = self.0.map(|sum| u64::try_from(sum).unwrap_or(u64::MAX));
        SourceBytes { patch, chunk, full, held }
    }
}

/// A set of agents counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) stands: BTreeMap<Stand, u32>,
    pub(super) bytes: Bytes,
    /// Agents that are there and are to get done.
    pub(super) on_the_way: u32,
    pub(super) pace: Pace,
}

impl Tally {
    fn count(&mut self, now: Timestamp, stand: Stand, bytes: SourceBytes) {
        *self.stands.entry(stand).or_default() += 1;
        self.bytes.add(bytes);
        if stand.is_on_the_way() {
            self.on_the_way += 1;
            if self.on_the_way == 1 {
                self.pace.begin(now);
            }
        }
    }

    fn uncount(&mut self, stand: Stand, bytes: SourceBytes) {
        let agents = self.stands.get_mut(&stand).expect("invariant: an agent is counted where it stands");
        *agents -= 1;
        if *agents == 0 {
            self.stands.remove(&stand);
        }
        self.bytes.remove(bytes);
        self.on_the_way -= u32::from(stand.is_on_the_way());
    }
}

/// One channel.
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) fleet: Tally,
    pub(super) groups: BTreeMap<u32, Tally>,
    /// Records of the agents on which the assigned revision failed.
    pub(super) failing: BTreeSet<u32>,
}

/// Where an agent stands with a channel, and where that counts.
type Counted<'a> = (Place, &'a ContentStatus);

/// All channels that any agent reports.
#[derive(Debug, Default)]
pub(super) struct Channels {
    channels: BTreeMap<ChannelName, Channel>,
    /// Rises whenever agents are counted differently.
    changes: u64,
}

impl Channels {
    pub(super) fn get(&self, channel: &ChannelName) -> Option<&Channel> {
        self.channels.get(channel)
    }

    /// All channels, in order of name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ChannelName, &Channel)> {
        self.channels.iter()
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// An agent stands elsewhere with a channel than before; `None` for an agent that does not report it.
    pub(super) fn shift(&mut self, now: Timestamp, before: Option<Counted<'_>>, after: Option<Counted<'_>>) {
        let Some((_, status)) = after.or(before) else { return };
        let [was, is] = [before, after].map(|counted| counted.map(|(place, of)| Stand::of(of, place.gone)));
        self.changes += u64::from(was != is);
        let channel = match self.channels.get_mut(&status.channel) {
            Some(channel) => channel,
            None => self.channels.entry(status.channel.clone()).or_default(),
        };
        // Counted in before it is counted out: that nobody is on the way for a moment would end the pace.
        if let Some(((place, status), stand)) = after.zip(is) {
            channel.fleet.count(now, stand, status.bytes);
            channel.groups.entry(place.group).or_default().count(now, stand, status.bytes);
        }
        if let Some(((place, status), stand)) = before.zip(was) {
            channel.fleet.uncount(stand, status.bytes);
            let group = channel.groups.get_mut(&place.group);
            let group = group.expect("invariant: an agent is counted where it stands");
            group.uncount(stand, status.bytes);
            if group.stands.is_empty() {
                channel.groups.remove(&place.group);
            }
        }
        let failed = |stand: Option<Stand>| stand.is_some_and(|stand| stand.stage() == Stage::Failed);
        match (before, after) {
            (_, Some((place, _))) if failed(is) => drop(channel.failing.insert(place.agent)),
            (Some((place, _)), _) if failed(was) => drop(channel.failing.remove(&place.agent)),
            (Some(_) | None, Some(_) | None) => {}
        }
        if channel.fleet.stands.is_empty() {
            self.channels.remove(&status.channel.clone());
        }
    }

    /// An agent of a group got done with a channel.
    pub(super) fn done(&mut self, now: Timestamp, channel: &ChannelName, group: u32) {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.fleet.pace.note(now);
            if let Some(group) = channel.groups.get_mut(&group) {
                group.pace.note(now);
            }
        }
    }
}
