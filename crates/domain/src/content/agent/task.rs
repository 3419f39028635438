//! One channel as the machine works on it, and the order in which channels come.

use std::sync::Arc;

use crate::agent::Reason;
use crate::content::plan::Plan;
use crate::content::{ChannelName, ContentItem, SourceBytes};
use crate::time::{Span, Timestamp};

/// A plan older than this is made again before it is carried out: patches may have been made meanwhile, so a
/// download that waits for its allowance may turn into a small one.
pub(super) const PLAN_LASTS: Span = Span::from_secs(300);

/// How far the way to the content that is wanted has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing to do: it is in force, or it failed for good, or nothing is assigned any more.
    Settled,
    /// The disk is looked at first: what is there as a whole needs no turn.
    Local,
    /// The network is needed.
    Remote,
    /// This is left to do.
    Planned {
        plan: Arc<Plan>,
        /// When it was made.
        at: Timestamp,
        /// Something else was looked at or fetched since.
        stale: bool,
    },
}

/// One channel that is assigned, or that has something left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// What is assigned; `None`: nothing any more.
    pub(super) item: Option<ContentItem>,
    pub(super) stage: Stage,
    /// The content in force is damaged, and built again.
    pub(super) repair: bool,
    /// Since when it is wanted.
    pub(super) since: Timestamp,
    /// Nothing is tried before.
    pub(super) not_before: Timestamp,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Why the last attempt failed.
    pub(super) trouble: Option<Reason>,
    /// Where the bytes came from, over all attempts.
    pub(super) bytes: SourceBytes,
    /// How much of it is there.
    pub(super) percent: u8,
}

impl Task {
    pub(super) fn new(now: Timestamp, item: Option<ContentItem>) -> Self {
        Self {
            item,
            stage: Stage::Settled,
            repair: false,
            since: now,
            not_before: Timestamp(0),
            failures: 0,
            trouble: None,
            bytes: SourceBytes::default(),
            percent: 0,
        }
    }

    /// Bytes fetched by all attempts.
    pub(super) fn fetched(&self) -> u64 {
        self.bytes.patch.saturating_add(self.bytes.chunk).saturating_add(self.bytes.full)
    }

    /// Counts what an attempt fetched.
    pub(super) fn count(&mut self, plan: &Plan, fetched: u64) {
        let more = plan.sources(fetched);
        self.bytes.patch = self.bytes.patch.saturating_add(more.patch);
        self.bytes.chunk = self.bytes.chunk.saturating_add(more.chunk);
        self.bytes.full = self.bytes.full.saturating_add(more.full);
        self.bytes.held = more.held.saturating_sub(self.fetched().saturating_sub(fetched));
    }

    /// Share of the bytes that are there when the running attempt has fetched so many, in steps of 10.
    pub(super) fn percent_at(&self, plan: &Plan, fetched: u64) -> u8 {
        let before = self.fetched();
        let all = before.saturating_add(plan.fetch_bytes).max(1);
        let there = before.saturating_add(fetched).min(all);
        let tenths = u128::from(there) * 10 / u128::from(all);
        // All of it is there only once it is verified.
        u8::try_from(tenths.min(9) * 10).unwrap_or(90)
    }

    /// The plan is to be made again before it is carried out.
    pub(super) fn make_stale(&mut self) {
        if let Stage::Planned { stale, .. } = &mut self.stage {
            *stale = true;
        }
    }

    pub(super) fn needs_allowance(&self) -> bool {
        matches!(&self.stage, Stage::Planned { plan, .. } if plan.needs_allowance())
    }

    /// The clock went back by `span`.
    pub(super) fn shift(&mut self, span: Span) {
        self.since = self.since - span;
        self.not_before = self.not_before - span;
        if let Stage::Planned { at, .. } = &mut self.stage {
            *at = *at - span;
        }
    }
}

/// What the machine takes up next for a channel. The first variant comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Next {
    /// What was begun and is durable: switching back, taking away, what a crash interrupted.
    Resume(ChannelName),
    /// A channel that nothing assigns any more.
    Remove(ChannelName),
    /// A look at the disk.
    Local(ChannelName),
    /// A look at the disk and at what the server has.
    Remote(ChannelName),
    /// A download: patches and small ones first, then by what is left of them.
    Fetch { needs_allowance: bool, bytes: u64, channel: ChannelName },
}
