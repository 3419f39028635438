//! How often a call that broke off is made again.

use std::time::Duration;

/// Tries in a row that bring nothing: with the pauses below about a minute, in which a server restarts.
const MAX_TRIES: u32 = 8;
/// First pause; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Counts tries that bring nothing.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    failed: u32,
    /// Least that was left after a try.
    least: Option<u64>,
}

impl Tries {
    /// Whether the last try failed after one that brought something: worth a word, the next ones are not.
    pub(crate) fn is_first(&self) -> bool {
        self.failed == 1
    }

    /// How long to pause before the next try, `left` being what is still to be done; nothing if it is not worth
    /// another one. Each try that brings something starts the count again.
    pub(crate) fn after(&mut self, left: u64) -> Option<Duration> {
        if self.least.is_none_or(|least| left < least) {
            self.failed = 0;
            self.least = Some(left);
        }
        self.failed += 1;
        let doubled = 1_u32.checked_shl(self.failed - 1).unwrap_or(u32::MAX);
        (self.failed <= MAX_TRIES).then(|| FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_without_progress_end() {
        let mut tries = Tries::default();
        let pauses: Vec<_> = std::iter::from_fn(|| tries.after(9)).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
        assert_eq!(tries.after(8), Some(FIRST_PAUSE), "something was done");
        assert_eq!(tries.after(9), Some(FIRST_PAUSE * 2), "what is lost again is no progress");
    }
}
