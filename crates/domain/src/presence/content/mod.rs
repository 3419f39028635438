//! Content: where agents stand with each channel.
//!
//! What is assigned is known from the agents' own reports: an agent that has not seen its group's newest
//! snapshot counts by the one before. Failures of content do not make a snapshot fail.

mod holdings;
mod pace;
mod query;
mod tally;
#[cfg(test)]
pub(super) mod tests;

pub use query::{ContentFailure, ContentSummary, MAX_FAILURES, RevisionCounts};
pub(super) use tally::Place;

use holdings::Holdings;
use tally::{Channels, Stage, Stand};

use super::intern::Handle;
use super::{Effect, Presence, State};
use crate::agent::ItemState;
use crate::content::{ContentRevision, ContentStatus};
use crate::revision::Revision;
use crate::time::Timestamp;

/// Bytes of different states of channels kept: 32 bytes for each of a million agents. 100,000 of them fit;
/// a fleet that comes from 90 revisions of 10 channels in steps of ten percent has a tenth of that.
pub const MAX_CONTENT_STATE_BYTES: usize = 32 << 20;
/// Bytes of different lists of such states kept: 32 bytes for each of a million agents.
pub const MAX_CONTENT_LIST_BYTES: usize = 32 << 20;

/// What all agents hold, and how many hold what.
#[derive(Debug)]
pub(super) struct Contents {
    holdings: Holdings,
    channels: Channels,
}

/// What a report says of content that was not known before.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The agent's list from now on.
    pub(super) list: Handle,
    /// Details were left out for lack of room.
    pub(super) trimmed: bool,
    /// Channels whose assigned revision failed, which it had not before.
    pub(super) failed: Vec<ContentStatus>,
}

/// Which assigned revision failed, if one did.
fn failed_revision(status: &ContentStatus) -> Option<(ContentRevision, Revision)> {
    let failed = status.state == ItemState::Failed && status.wanted != ContentRevision::default();
    failed.then_some((status.wanted, status.revision))
}

impl Contents {
    pub(super) fn new() -> Self {
        let holdings = Holdings::new(MAX_CONTENT_STATE_BYTES, MAX_CONTENT_LIST_BYTES);
        Self { holdings, channels: Channels::default() }
    }

    /// The states of a list, in order of channel.
    pub(super) fn states(&self, list: Handle) -> impl Iterator<Item = &ContentStatus> {
        self.holdings.states(list)
    }

    /// An agent reports another list than before. The list is ordered by channel, each of them once.
    pub(super) fn replace(
        &mut self,
        now: Timestamp,
        place: Place,
        (old, list): (Handle, Vec<ContentStatus>),
    ) -> News {
        if self.states(old).eq(&list) {
            return News { list: old, ..News::default() };
        }
        // The new states are taken before the old ones are given back: an equal one is not rebuilt.
        let (new, trimmed) = self.holdings.keep(list);
        let mut failed = Vec::new();
        let Self { holdings, channels } = self;
        for (before, after) in paired(holdings, old, new) {
            if before == after {
                continue;
            }
            let [before, after] = [before, after].map(|state| state.map(|state| holdings.state(state)));
            channels.shift(now, before.map(|status| (place, status)), after.map(|status| (place, status)));
            let Some(status) = after else { continue };
            // A short download may be over between two reports.
            let is_other = |before: &ContentStatus| before.wanted != status.wanted;
            if is_current(status) && before.is_some_and(|before| !is_current(before) || is_other(before)) {
                channels.done(now, &status.channel, place.group);
            }
            let failure = failed_revision(status);
            if failure.is_some() && failure != before.and_then(failed_revision) {
                failed.push(status.clone());
            }
        }
        self.holdings.release(old);
        News { list: new, trimmed, failed }
    }

    /// An agent counts elsewhere from now on: it was moved, came or went. `None` for nowhere.
    pub(super) fn relocate(
        &mut self,
        now: Timestamp,
        list: Handle,
        (from, to): (Option<Place>, Option<Place>),
    ) {
        let Self { holdings, channels } = self;
        if from != to {
            for status in holdings.states(list) {
                channels.shift(now, from.map(|place| (place, status)), to.map(|place| (place, status)));
            }
        }
    }

    /// An agent is no more; it counts nowhere.
    pub(super) fn release(&mut self, list: Handle) {
        self.holdings.release(list);
    }
}

fn is_current(status: &ContentStatus) -> bool {
    Stand::of(status, false).stage() == Stage::Current
}

/// The states of two lists side by side, by channel.
fn paired(holdings: &Holdings, old: Handle, new: Handle) -> Vec<(Option<Handle>, Option<Handle>)> {
    let mut old = holdings.handles(old).iter().copied().peekable();
    let mut new = holdings.handles(new).iter().copied().peekable();
    let mut pairs = Vec::with_capacity(old.len().max(new.len()));
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(&old), Some(&new)) => holdings.state(old).channel.cmp(&holdings.state(new).channel),
        };
        pairs.push((
            if order.is_le() { old.next() } else { None },
            if order.is_ge() { new.next() } else { None },
        ));
    }
}

impl Presence {
    /// Where the agent's content counts now.
    pub(super) fn place(&self, at: u32) -> Place {
        let agent = self.table.get(at);
        Place { agent: at, group: agent.group, gone: agent.state == State::Offline }
    }

    /// The agent's content counts elsewhere from now on.
    pub(super) fn relocate(&mut self, at: u32, from: Option<Place>, to: Option<Place>) {
        self.contents.relocate(self.now, self.table.get(at).content, (from, to));
    }

    /// Replaces what is known of the agent's content.
    pub(super) fn note_content(&mut self, at: u32, heard: Timestamp, list: Vec<ContentStatus>) {
        let old = self.table.get(at).content;
        let news = self.contents.replace(self.now, self.place(at), (old, list));
        self.table.get_mut(at).content = news.list;
        self.counters.contents_trimmed += u64::from(news.trimmed);
        for status in news.failed {
            let (agent, group) = self.names(at);
            self.effects.push_back(Effect::ContentFailed { agent, group, status, at: heard });
        }
    }
}
