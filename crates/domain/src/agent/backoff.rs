//! Exponential back-off with full jitter, after "Exponential Backoff And Jitter" (AWS Architecture Blog,
//! 2015): the delay is drawn evenly from zero to the exponential bound. Of the variants measured there it
//! needs the fewest calls in total, and it spreads clients that failed at the same moment.

use crate::time::Span;

/// Bound of the first delay. Two seconds spread a fleet that lost its broker over enough time for the
/// broker to take the first connections.
pub const BASE: Span = Span::from_secs(2);
/// Longest delay, however often it failed: an agent is back at most two minutes after what it waits for.
pub const CAP: Span = Span::from_secs(120);

/// Delay before attempt `attempt` (0 is the first retry): even over `0..=min(cap, base * 2^attempt)`.
/// `random` is any number; even over `u64` gives an even delay. Saturates, never panics.
#[must_use]
pub fn full_jitter(attempt: u32, base: Span, cap: Span, random: u64) -> Span {
    let factor = 1u64.checked_shl(attempt).unwrap_or(u64::MAX);
    let bound = base.0.saturating_mul(factor).min(cap.0);
    spread(Span(bound), random)
}

/// A span drawn evenly from `0..=bound`.
#[must_use]
pub fn spread(bound: Span, random: u64) -> Span {
    match bound.0.checked_add(1) {
        Some(count) => Span(random % count),
        None => Span(random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_doubles_up_to_the_cap() {
        for (attempt, bound) in
            [(0, 2_000), (1, 4_000), (3, 16_000), (6, 120_000), (63, 120_000), (999, 120_000)]
        {
            assert_eq!(full_jitter(attempt, BASE, CAP, bound), Span(bound), "attempt {attempt}");
            assert_eq!(full_jitter(attempt, BASE, CAP, bound + 1), Span(0), "attempt {attempt}");
        }
    }

    #[test]
    fn extremes_do_not_panic() {
        assert_eq!(full_jitter(64, Span(u64::MAX), Span(u64::MAX), u64::MAX), Span(u64::MAX));
        assert_eq!(full_jitter(0, Span(0), CAP, u64::MAX), Span(0));
    }
}
