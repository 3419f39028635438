//! Rations: so many at once, and one more every so often. Each agent has two of them, which keep their state in one
//! moment each (the generic cell rate algorithm, ITU-T I.371).
//!
//! **Events.** Flap protection: the state always tells the truth, the events are rationed. Each agent may cause
//! [`BURST`] presence events at once and earns one more every [`REFILL`]. A transition without credit is not announced;
//! when credit is there again, one event tells the state the agent is in by then and how many transitions it stands for.
//! So a flapping agent causes a bounded rate of events, and the last event of every agent agrees with its state at the
//! latest [`REFILL`] after it settled.
//!
//! **Heartbeats.** An agent that sends more than it may is not listened to for the rest, before what it sent is even
//! read: what one agent can cost is bounded, whatever it does.

use crate::time::{Span, Timestamp};

/// Events an agent may cause in quick succession: two full rounds of late, offline and online again.
pub const BURST: u64 = 6;
/// Time in which an agent earns one event: a flapping agent is mentioned at most every other minute.
pub const REFILL: Span = Span::from_secs(120);
/// Events.
pub(super) const EVENTS: Ration = Ration { burst: BURST, refill: REFILL };

/// Seconds of the permitted rate that an agent may send at once: after a pause, the reports of all its channels.
const BURST_SECS: u64 = 5;
/// Highest rate of heartbeats that can be set for an agent, each second: spans count milliseconds.
pub const MAX_HEARTBEAT_RATE: u32 = 1000;

/// So many at once, and one more every so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ration {
    burst: u64,
    refill: Span,
}

impl Ration {
    /// Heartbeats that an agent may send, each second on the average; `None` for any number. More than
    /// [`MAX_HEARTBEAT_RATE`] is that.
    #[must_use]
    pub fn heartbeats(each_second: u32) -> Option<Self> {
        let rate = u64::from(each_second.min(MAX_HEARTBEAT_RATE));
        (rate > 0).then(|| Self { burst: rate * BURST_SECS, refill: Span(1000 / rate) })
    }

    /// How long it takes at most until all of the credit is there again.
    pub(super) fn longest(self) -> Span {
        self.refill.scaled(self.burst, 1)
    }

    /// Spends one at `now`. `credit` is the time at which all of the credit would be there again.
    ///
    /// # Errors
    /// The time at which the next one may be spent.
    pub(super) fn spend(self, credit: Timestamp, now: Timestamp) -> Result<Timestamp, Timestamp> {
        let (full_again, most) = (credit.max(now) + self.refill, self.longest());
        if full_again <= now + most { Ok(full_again) } else { Err(full_again - most) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_for_each_refill() {
        let start = Timestamp(1_000_000);
        let mut credit = Timestamp(0);
        for _ in 0..BURST {
            credit = EVENTS.spend(credit, start).unwrap();
        }
        let next = EVENTS.spend(credit, start).unwrap_err();
        assert_eq!(next, start + REFILL);
        assert_eq!(EVENTS.spend(credit, next - Span(1)).unwrap_err(), next);
        credit = EVENTS.spend(credit, next).unwrap();
        assert_eq!(EVENTS.spend(credit, next).unwrap_err(), next + REFILL);
    }

    #[test]
    fn a_quiet_time_refills_the_burst_and_no_more() {
        let mut credit = Timestamp(0);
        let later = Timestamp(1 << 40);
        for _ in 0..BURST {
            credit = EVENTS.spend(credit, later).unwrap();
        }
        assert!(EVENTS.spend(credit, later).is_err());
    }

    #[test]
    fn heartbeats_pass_at_their_rate() {
        assert_eq!(Ration::heartbeats(0), None);
        for rate in [1, 10, 300, MAX_HEARTBEAT_RATE, u32::MAX] {
            let ration = Ration::heartbeats(rate).unwrap();
            let (mut credit, mut passed) = (Timestamp(0), 0);
            for millisecond in 0..10_000 {
                for _ in 0..3 {
                    if let Ok(spent) = ration.spend(credit, Timestamp(1_000_000 + millisecond)) {
                        (credit, passed) = (spent, passed + 1);
                    }
                }
            }
            let rate = u64::from(rate.min(MAX_HEARTBEAT_RATE));
            // The burst and ten seconds, the last of which ends a moment too early. A span is whole milliseconds, so
            // that a rate is met from above.
            assert!((rate * 15 - 1..=rate * 17).contains(&passed), "{rate}: {passed}");
        }
    }
}
