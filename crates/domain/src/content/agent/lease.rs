//! The agent's part of the fleet's allowance for full downloads: asking, holding, giving back.

use crate::content::DownloadWish;
use crate::content::allowance::GRANT;
use crate::time::{Span, Timestamp};

/// Shortest time after which a wish that was not granted is said again; as much again is added at random. A
/// quarter of the time for which presence keeps a place, so that two lost heartbeats lose none.
pub(super) const ASK_AGAIN: Span = Span::from_secs(20);

/// What was granted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Lease {
    /// Nothing is wanted.
    #[default]
    None,
    /// Asked for; said again then.
    Wanted { again_at: Timestamp },
    /// Granted until then; said again before.
    Held { until: Timestamp, again_at: Timestamp },
}

impl Lease {
    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        match self {
            Self::None => None,
            Self::Wanted { again_at } => Some(*again_at),
            Self::Held { until, again_at } => Some((*until).min(*again_at)),
        }
    }

    /// Follows what is needed and what time it is. Returns what to say now, if anything. `wait` is a random part of
    /// [`ASK_AGAIN`].
    pub(super) fn follow(&mut self, now: Timestamp, needed: bool, wait: Span) -> Option<DownloadWish> {
        let asking = Self::Wanted { again_at: now + ASK_AGAIN + wait };
        match *self {
            Self::None if needed => {
                *self = asking;
                Some(DownloadWish::Wanted)
            }
            Self::None => None,
            Self::Wanted { .. } if !needed => {
                *self = Self::None;
                Some(DownloadWish::Nothing)
            }
            Self::Held { .. } if !needed => {
                *self = Self::None;
                Some(DownloadWish::Done)
            }
            Self::Wanted { again_at } if now >= again_at => {
                *self = asking;
                Some(DownloadWish::Wanted)
            }
            Self::Held { until, .. } if now >= until => {
                *self = asking;
                Some(DownloadWish::Wanted)
            }
            Self::Held { until, again_at } if now >= again_at => {
                *self = Self::Held { until, again_at: now + ASK_AGAIN + wait };
                Some(DownloadWish::Held)
            }
            Self::Wanted { .. } | Self::Held { .. } => None,
        }
    }

    /// A heartbeat was answered. A grant is said to be held at once, so that all replicas know. Without one the
    /// agent goes on until what it has is over: another replica may renew it.
    pub(super) fn answered(&mut self, now: Timestamp, granted_for: Option<Span>) -> Option<DownloadWish> {
        let span = granted_for.filter(|span| *span > Span(0))?.min(GRANT.scaled(10, 1));
        let held = Self::Held { until: now + span, again_at: now + span.scaled(1, 2) };
        match self {
            Self::None => None,
            Self::Wanted { .. } => {
                *self = held;
                Some(DownloadWish::Held)
            }
            Self::Held { .. } => {
                *self = held;
                None
            }
        }
    }

    /// The clock went back by `span`.
    pub(super) fn shift(&mut self, span: Span) {
        match self {
            Self::None => {}
            Self::Wanted { again_at } => *again_at = *again_at - span,
            Self::Held { until, again_at } => {
                *until = *until - span;
                *again_at = *again_at - span;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DownloadWish::{Done, Held, Nothing, Wanted};

    #[test]
    fn it_asks_holds_renews_and_gives_back() {
        let mut lease = Lease::None;
        let at = |secs: u64| Timestamp(secs * 1_000);
        assert_eq!(lease.follow(at(0), false, Span(0)), None);
        assert_eq!(lease.answered(at(0), Some(GRANT)), None, "what nobody wanted is not taken");
        assert_eq!(lease.follow(at(0), true, Span(0)), Some(Wanted));
        assert_eq!(lease.follow(at(19), true, Span(0)), None);
        assert_eq!(lease.answered(at(19), None), None);
        assert_eq!(lease.follow(at(20), true, Span(5_000)), Some(Wanted));
        assert_eq!(lease.next_deadline(), Some(at(45)));
        assert_eq!(lease.answered(at(30), Some(GRANT)), Some(Held));
        assert!(lease.is_held());
        assert_eq!(lease.next_deadline(), Some(at(90)));
        assert_eq!(lease.follow(at(90), true, Span(0)), Some(Held));
        assert_eq!(lease.next_deadline(), Some(at(110)));
        assert_eq!(lease.answered(at(100), None), None);
        assert!(lease.is_held(), "another replica may renew it");
        assert_eq!(lease.answered(at(101), Some(GRANT)), None);
        assert_eq!(lease.next_deadline(), Some(at(161)));
        assert_eq!(lease.follow(at(221), true, Span(0)), Some(Wanted), "its time is over");
        assert!(!lease.is_held());
        assert_eq!(lease.follow(at(222), false, Span(0)), Some(Nothing));
        assert_eq!(lease.follow(at(223), true, Span(0)), Some(Wanted));
        assert_eq!(lease.answered(at(224), Some(Span(0))), None);
        assert_eq!(lease.answered(at(224), Some(Span(u64::MAX))), Some(Held));
        assert_eq!(lease.next_deadline(), Some(at(224 + 600)));
        assert_eq!(lease.follow(at(225), false, Span(0)), Some(Done));
        assert_eq!(lease.next_deadline(), None);
    }
}
