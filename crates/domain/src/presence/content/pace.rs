//! How fast agents get done, and when the last one will be.
//!
//! Agents that got done are counted in steps of time over a sliding window that begins anew whenever nobody
//! was on the way. The pace is even where it matters: starts are spread, and full downloads wait for an
//! allowance.

use std::collections::VecDeque;

use crate::time::{Span, Timestamp};

/// Width of a step: the precision of the window's edge.
const STEP: Span = Span::from_secs(15);
/// Steps that are looked back at: fifteen minutes, three of the longest usual intervals between heartbeats.
const STEPS: usize = 60;
/// Agents that have to be done before a pace is told: with fewer, chance speaks.
const MIN_DONE: u64 = 5;

/// Agents that got done lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    /// When somebody was on the way again after nobody was.
    began: Timestamp,
    /// Agents done by step, the latest step last; steps without any are left out. At most [`STEPS`].
    steps: VecDeque<(u64, u32)>,
}

/// Number of the step that a moment lies in.
fn step(at: Timestamp) -> u64 {
    at.0 / STEP.0
}

/// First step of the window that ends `now`.
fn first_step(now: Timestamp) -> u64 {
    (step(now) + 1).saturating_sub(STEPS as u64)
}

impl Pace {
    /// The first agent is on its way: what was before says nothing.
    pub(super) fn begin(&mut self, now: Timestamp) {
        *self = Self { began: now, steps: VecDeque::new() };
    }

    /// An agent is done.
    pub(super) fn note(&mut self, now: Timestamp) {
        let first = first_step(now);
        while self.steps.front().is_some_and(|(at, _)| *at < first) {
            self.steps.pop_front();
        }
        match self.steps.back_mut() {
            Some((at, done)) if *at >= step(now) => *done = done.saturating_add(1),
            Some(_) | None => self.steps.push_back((step(now), 1)),
        }
    }

    /// Since when, within the window, and how many.
    fn seen(&self, now: Timestamp) -> (Timestamp, u64) {
        let first = first_step(now);
        let done = self.steps.iter().filter(|(at, _)| *at >= first).map(|(_, done)| u64::from(*done)).sum();
        (self.began.max(Timestamp(first * STEP.0)), done)
    }
}

/// Paces of several sets of agents as one.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    on_the_way: u64,
    done: u64,
    since: Option<Timestamp>,
}

impl Outlook {
    /// Adds a set of agents of which so many are on the way.
    pub(super) fn add(&mut self, now: Timestamp, on_the_way: u32, pace: &Pace) {
        let (since, done) = pace.seen(now);
        if on_the_way > 0 || done > 0 {
            self.on_the_way += u64::from(on_the_way);
            self.done += done;
            self.since = Some(self.since.map_or(since, |known| known.min(since)));
        }
    }

    /// When the last one is expected to be done; `None` if nobody is on the way or no pace can be told.
    pub(super) fn finish(&self, now: Timestamp) -> Option<Timestamp> {
        let took = now.since(self.since?);
        (self.on_the_way > 0 && self.done >= MIN_DONE).then(|| now + took.scaled(self.on_the_way, self.done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000);

    /// Agents that are done at these seconds; at `now` so many are on the way. Expected is the number of
    /// seconds that are left.
    #[track_caller]
    fn check(done: impl IntoIterator<Item = u64>, now: u64, on_the_way: u32, expected: Option<u64>) {
        let mut pace = Pace::default();
        pace.begin(START);
        for at in done {
            pace.note(START + Span::from_secs(at));
        }
        let now = START + Span::from_secs(now);
        let mut outlook = Outlook::default();
        outlook.add(now, on_the_way, &pace);
        assert_eq!(outlook.finish(now).map(|at| at.since(now).0 / 1000), expected);
        assert!(pace.steps.len() <= STEPS);
    }

    #[test]
    fn an_even_pace_goes_on() {
        check(1..=50, 50, 100, Some(100));
        check((1..=50).map(|n| n * 10), 500, 10, Some(100));
        check(1..=50, 100, 10, Some(20));
    }

    #[test]
    fn nothing_is_told_without_a_pace() {
        check(1..=50, 50, 0, None);
        check([], 600, 10, None);
        check(1..=4, 10, 10, None);
        check(1..=50, 4_000, 10, None);
    }

    #[test]
    fn what_is_long_ago_counts_no_more() {
        // A thousand in a second, and later one in ten seconds: 90 of them within the window.
        let slow = (1..=200).map(|n| 1_000 + n * 10);
        let fast = std::iter::repeat_n(1, 1_000);
        check(fast.chain(slow), 3_000, 9, Some(89));
    }

    #[test]
    fn a_new_beginning_forgets() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| pace.note(START));
        pace.begin(START + Span(1));
        assert_eq!(pace.seen(START + Span(2)), (START + Span(1), 0));
    }

    #[test]
    fn sets_of_agents_add_up() {
        let mut slow = Pace::default();
        slow.begin(START);
        let mut fast = slow.clone();
        (1..=10).for_each(|n| fast.note(START + Span::from_secs(n)));
        let now = START + Span::from_secs(10);
        let mut outlook = Outlook::default();
        outlook.add(now, 5, &slow);
        assert_eq!(outlook.finish(now), None);
        outlook.add(now, 0, &fast);
        outlook.add(now, 0, &Pace::default());
        assert_eq!(outlook.finish(now), Some(now + Span::from_secs(5)));
    }
}
