//! When to tell how many agents hold which content.

use domain::{Span, Timestamp};

/// How often it is told although nothing changed: a content service that just started waits no longer.
const EVERY: Span = Span::from_secs(10);
/// Pause after a change, and between two tellings: one wave of reports makes one census.
const AFTER_CHANGE: Span = Span::from_secs(1);

/// What was told, and when.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    at: Timestamp,
    /// State of [`domain::presence::Presence::content_changes`] when it was told.
    changes: u64,
}

impl Telling {
    /// Whether it is time to tell; notes that it is told if so.
    pub(crate) fn is_due(&mut self, now: Timestamp, changes: u64) -> bool {
        let since = now.since(self.at);
        let due = since >= EVERY || (changes != self.changes && since >= AFTER_CHANGE);
        if due {
            *self = Self { at: now, changes };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_soon_and_nothing_new_rarely() {
        let mut telling = Telling::default();
        let mut due = |at: u64, changes: u64| telling.is_due(Timestamp(100_000 + at), changes);
        assert!(due(0, 0), "at the start");
        assert!(!due(500, 1), "a wave of reports makes one census");
        assert!(due(1_000, 2));
        assert!(!due(2_500, 2), "nothing changed");
        assert!(due(11_000, 2));
    }
}
