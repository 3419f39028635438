//! How revisions got to agents: when their heads were stored, and when agents reported them applied or failed.
//!
//! In memory and bounded: the newest [`MAX_DELIVERIES`] revisions, each with its times in classes of about 3 %, so that
//! the median needs no list of agents.

use std::collections::BTreeMap;

use crate::revision::Revision;
use crate::time::{Span, Timestamp};

/// Revisions that are kept: an hour of a change every 15 s. Each takes about 3 KiB.
pub const MAX_DELIVERIES: usize = 256;
/// Classes for each power of two of milliseconds.
const PER_DOUBLING: u64 = 32;

/// Points in time of many agents: how many, the first, the last, and the median as classes tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moments {
    /// How many.
    pub count: u64,
    /// The earliest.
    pub first: Timestamp,
    /// The latest.
    pub last: Timestamp,
    /// How many in each class of spans since the start.
    classes: BTreeMap<u64, u32>,
}

impl Moments {
    fn note(&mut self, start: Timestamp, at: Timestamp) {
        self.first = if self.count == 0 { at } else { self.first.min(at) };
        self.last = self.last.max(at);
        self.count += 1;
        let class = self.classes.entry(class(at.since(start))).or_default();
        *class = class.saturating_add(1);
    }

    /// When half of them were there, to about 3 % of the time since `start`; `None` if there are none.
    #[must_use]
    pub fn median(&self, start: Timestamp) -> Option<Timestamp> {
        let mut left = self.count.checked_add(1)? / 2;
        for (class, count) in &self.classes {
            left = left.saturating_sub(u64::from(*count));
            if left == 0 {
                return Some((start + lower_end(*class)).clamp(self.first, self.last));
            }
        }
        None
    }
}

/// The class of a span. Up to 63 ms each millisecond is one.
fn class(span: Span) -> u64 {
    let doublings =
        u64::from(span.0.checked_ilog2().unwrap_or(0)).saturating_sub(u64::from(PER_DOUBLING.ilog2()));
    doublings * PER_DOUBLING + (span.0 >> doublings)
}

/// The shortest span of a class.
fn lower_end(class: u64) -> Span {
    let doublings = (class / PER_DOUBLING).saturating_sub(1);
    Span((class - doublings * PER_DOUBLING) << doublings)
}

/// How one revision got to agents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Groups that got a head of this revision.
    pub groups: u32,
    /// When the first head was compiled and signed.
    pub compiled: Timestamp,
    /// When the broker stored the first head.
    pub first_published: Timestamp,
    /// When the broker stored the last head.
    pub last_published: Timestamp,
    /// Reports of agents that have it in force.
    pub applied: Moments,
    /// Reports of agents on which it failed.
    pub failed: Moments,
}

/// The newest deliveries.
#[derive(Debug, Clone, Default)]
pub struct Deliveries(BTreeMap<Revision, Delivery>);

impl Deliveries {
    /// The head of a group was stored with this revision. A head that was only signed again is none.
    pub fn published(&mut self, revision: Revision, compiled: Timestamp, stored: Timestamp) {
        let oldest = self.0.first_key_value().map_or(Revision(0), |(oldest, _)| *oldest);
        if self.0.len() >= MAX_DELIVERIES && revision < oldest {
            return;
        }
        let delivery = self.0.entry(revision).or_default();
        if delivery.groups == 0 {
            (delivery.compiled, delivery.first_published) = (compiled, stored);
        }
        delivery.groups = delivery.groups.saturating_add(1);
        delivery.compiled = delivery.compiled.min(compiled);
        delivery.first_published = delivery.first_published.min(stored);
        delivery.last_published = delivery.last_published.max(stored);
        if self.0.len() > MAX_DELIVERIES {
            self.0.pop_first();
        }
    }

    /// An agent reported that it has this revision in force, or that it failed.
    pub fn reported(&mut self, revision: Revision, applied: bool, at: Timestamp) {
        let Some(delivery) = self.0.get_mut(&revision) else { return };
        let moments = if applied { &mut delivery.applied } else { &mut delivery.failed };
        moments.note(delivery.first_published, at);
    }

    /// How a revision got to agents; `None` if no group got a head of it, or it is not kept.
    #[must_use]
    pub fn get(&self, revision: Revision) -> Option<&Delivery> {
        self.0.get(&revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_each_other_without_gaps() {
        let mut before = 0;
        for ms in 0..200_000 {
            let class = class(Span(ms));
            assert!(class == before || class == before + 1, "{ms}");
            let low = lower_end(class).0;
            assert!(low <= ms && ms - low <= ms / 32, "{ms} is in the class from {low}");
            before = class;
        }
        assert!(lower_end(class(Span(u64::MAX))).0 > u64::MAX / 2);
    }

    #[test]
    fn a_delivery_tells_first_median_and_last() {
        let at = |ms: u64| Timestamp(1_000_000 + ms);
        let mut deliveries = Deliveries::default();
        deliveries.published(Revision(7), at(1), at(4));
        deliveries.published(Revision(7), at(0), at(3));
        for ms in [10, 30, 20, 40, 5_000] {
            deliveries.reported(Revision(7), true, at(ms));
        }
        deliveries.reported(Revision(7), false, at(50));
        deliveries.reported(Revision(8), true, at(50));
        let delivery = deliveries.get(Revision(7)).unwrap();
        assert_eq!((delivery.groups, delivery.compiled), (2, at(0)));
        assert_eq!((delivery.first_published, delivery.last_published), (at(3), at(4)));
        let applied = &delivery.applied;
        assert_eq!((applied.count, applied.first, applied.last), (5, at(10), at(5_000)));
        assert_eq!(applied.median(delivery.first_published), Some(at(30)));
        assert_eq!(delivery.failed.count, 1);
        assert_eq!(delivery.failed.median(delivery.first_published), Some(at(50)));
        assert_eq!(Moments::default().median(at(0)), None);
        assert!(deliveries.get(Revision(8)).is_none());
    }

    #[test]
    fn the_newest_are_kept() {
        let mut deliveries = Deliveries::default();
        let newest = MAX_DELIVERIES as u64 + 10;
        for revision in (10..=newest).rev().chain([5]) {
            deliveries.published(Revision(revision), Timestamp(1), Timestamp(1));
        }
        assert_eq!(deliveries.0.len(), MAX_DELIVERIES);
        assert!(deliveries.get(Revision(5)).is_none() && deliveries.get(Revision(newest)).is_some());
    }
}
