//! Leaving a queue group without losing a request.
//!
//! When a subscription ends, the client forgets it at once, and drops what the server has sent but the client
//! has not read yet (`drain` of async-nats 0.51 does not wait for the server either). Under load that loses
//! requests. So the end is agreed on: "after so many messages in all", a number that lies ahead of what can
//! be on the way. The server then stops at exactly that number, and the client waits for exactly as many.
//! If traffic is too thin to reach the number in time, it is lowered, but never below what came meanwhile: a
//! machine that is short of time may hold all of that up and deliver it at once.

use std::time::Duration;

/// Messages still to come at least, and how long to wait for them. Together they take two seconds at most, well
/// within what a process has to stop. In each stage the number is far beyond what can be on the way
/// at the rate that the stage before has proven not to be reached.
const STAGES: [(u64, Duration); 4] = [
    (1_024, Duration::from_millis(300)),
    (64, Duration::from_millis(500)),
    (8, Duration::from_millis(600)),
    (2, Duration::from_millis(600)),
];

/// One stage of leaving.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    /// The number of the last message; `None` to end at once.
    pub(crate) last: Option<u64>,
    /// How long to wait for it.
    pub(crate) until: Duration,
}

/// The stages of leaving.
#[derive(Debug)]
pub(crate) struct Leaving {
    stage: usize,
    /// Messages taken when the present stage began.
    taken: u64,
}

impl Leaving {
    /// After `taken` messages in all.
    pub(crate) fn new(taken: u64) -> Self {
        Self { stage: 0, taken }
    }

    /// The next stage, after `taken` messages in all. The last one ends at once, with a moment for what is on
    /// the way; then there is none.
    pub(crate) fn next(&mut self, taken: u64) -> Option<Stage> {
        let came = taken - std::mem::replace(&mut self.taken, taken);
        let stage = match STAGES.get(self.stage) {
            Some(&(more, until)) => Stage { last: Some(taken + more.max(came)), until },
            None if self.stage == STAGES.len() => Stage { last: None, until: Duration::from_millis(100) },
            None => return None,
        };
        self.stage += 1;
        Some(stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_come_to_an_end_in_time() {
        let mut leaving = Leaving::new(10);
        let stages: Vec<Stage> = std::iter::from_fn(|| leaving.next(10)).collect();
        assert_eq!(stages.len(), STAGES.len() + 1);
        assert_eq!(stages[0].last, Some(1_034));
        assert_eq!(stages.last().unwrap().last, None);
        assert!(stages.iter().map(|stage| stage.until).sum::<Duration>() < Duration::from_secs(3));
    }
    #[test]
    fn the_number_is_not_lowered_below_what_came() {
        let mut leaving = Leaving::new(5_000);
        let mut last = |taken| leaving.next(taken).and_then(|stage| stage.last);
        assert_eq!(last(5_000), Some(6_024));
        assert_eq!(last(5_950), Some(5_950 + 950), "busy");
        assert_eq!(last(5_960), Some(5_970), "calm");
        assert_eq!(last(5_960), Some(5_962), "silent");
    }
}
