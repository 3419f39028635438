//! Flap protection: the state always tells the truth, the events are rationed.
//!
//! Each agent may cause [`BURST`] presence events at once and earns one more every [`REFILL`]. A transition
//! without credit is not announced; when credit is there again, one event tells the state the agent is in
//! by then and how many transitions it stands for. So a flapping agent causes a bounded rate of events,
//! and the last event of every agent agrees with its state at the latest [`REFILL`] after it settled.

use crate::time::{Span, Timestamp};

/// Events an agent may cause in quick succession: two full rounds of late, offline and online again.
pub const BURST: u64 = 6;
/// Time in which an agent earns one event: a flapping agent is mentioned at most every other minute.
pub const REFILL: Span = Span::from_secs(120);

/// Spends one event at `now`. `credit` is the time at which the agent's credit would be full again.
///
/// # Errors
/// The time at which the next event may be spent.
pub(super) fn spend(credit: Timestamp, now: Timestamp) -> Result<Timestamp, Timestamp> {
    let full_again = credit.max(now) + REFILL;
    if full_again <= now + REFILL.scaled(BURST, 1) {
        Ok(full_again)
    } else {
        Err(full_again - REFILL.scaled(BURST, 1))
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
            credit = spend(credit, start).unwrap();
        }
        let next = spend(credit, start).unwrap_err();
        assert_eq!(next, start + REFILL);
        assert_eq!(spend(credit, next - Span(1)).unwrap_err(), next);
        credit = spend(credit, next).unwrap();
        assert_eq!(spend(credit, next).unwrap_err(), next + REFILL);
    }

    #[test]
    fn a_quiet_time_refills_the_burst_and_no_more() {
        let mut credit = Timestamp(0);
        let later = Timestamp(1 << 40);
        for _ in 0..BURST {
            credit = spend(credit, later).unwrap();
        }
        assert!(spend(credit, later).is_err());
    }
}
