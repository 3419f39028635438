//! The agent's part of the fleet's allowance for full downloads: asking, holding, giving back.

use crate::content::DownloadWish;
use crate::content::allowance::GRANT;
use crate::time::{Span, Timestamp};

/// Longest time for which a grant is believed, whatever is said: ten times what presence grants.
const MAX_GRANT: Span = GRANT.scaled(10, 1);

/// What was granted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Lease {
    /// Nothing is wanted.
    #[default]
    None,
    /// Asked for. Presence says with each answer when to ask again.
    Wanted,
    /// Granted until then. Presence asks for a renewal at half of it; if that did not come, it is said again.
    Held { until: Timestamp, again_at: Timestamp },
}

impl Lease {
    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        match self {
            Self::None | Self::Wanted => None,
            Self::Held { until, again_at } => Some((*until).min(*again_at)),
        }
    }

    /// Follows what is needed and what time it is. Returns what to say now, if anything.
    pub(super) fn follow(&mut self, now: Timestamp, needed: bool) -> Option<DownloadWish> {
        let (next, wish) = match *self {
            Self::None if needed => (Self::Wanted, DownloadWish::Wanted),
            Self::Wanted if !needed => (Self::None, DownloadWish::Nothing),
            Self::Held { .. } if !needed => (Self::None, DownloadWish::Done),
            Self::Held { until, .. } if now >= until => (Self::Wanted, DownloadWish::Wanted),
            Self::Held { until, again_at } if now >= again_at => {
                (Self::Held { until, again_at: until }, DownloadWish::Held)
            }
            Self::None | Self::Wanted | Self::Held { .. } => return None,
        };
        *self = next;
        Some(wish)
    }

    /// A heartbeat was answered. A grant is said to be held from the next heartbeat on. Without one the agent goes
    /// on until what it has is over.
    pub(super) fn answered(&mut self, now: Timestamp, granted_for: Option<Span>) -> Option<DownloadWish> {
        let span = granted_for.filter(|span| *span > Span(0))?.min(MAX_GRANT);
        let held = Self::Held { until: now + span, again_at: now + span.scaled(3, 4) };
        match self {
            Self::None => None,
            Self::Wanted => {
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
            Self::None | Self::Wanted => {}
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
        let grant = Some(Span::from_secs(60));
        assert_eq!(lease.follow(at(0), false), None);
        assert_eq!(lease.answered(at(0), grant), None, "what nobody wanted is not taken");
        assert_eq!(lease.follow(at(0), true), Some(Wanted));
        assert_eq!(lease.follow(at(900), true), None);
        assert_eq!(lease.answered(at(900), None), None);
        assert_eq!(lease.next_deadline(), None);
        assert_eq!(lease.answered(at(1_000), grant), Some(Held));
        assert!(lease.is_held());
        assert_eq!(lease.answered(at(1_030), grant), None, "renewed in time");
        assert_eq!(lease.next_deadline(), Some(at(1_075)));
        assert_eq!(lease.follow(at(1_075), true), Some(Held), "not renewed in time");
        assert_eq!(lease.follow(at(1_076), true), None);
        assert_eq!(lease.answered(at(1_080), None), None);
        assert!(lease.is_held(), "it lasts until its end");
        assert_eq!(lease.next_deadline(), Some(at(1_090)));
        assert_eq!(lease.follow(at(1_090), true), Some(Wanted), "its time is over");
        assert!(!lease.is_held());
        assert_eq!(lease.follow(at(1_091), false), Some(Nothing));
        assert_eq!(lease.follow(at(1_092), true), Some(Wanted));
        assert_eq!(lease.answered(at(1_093), Some(Span(0))), None);
        assert_eq!(lease.answered(at(1_100), Some(Span(u64::MAX))), Some(Held));
        assert_eq!(lease.next_deadline(), Some(at(1_100) + MAX_GRANT.scaled(3, 4)));
        assert_eq!(lease.follow(at(1_101), false), Some(Done));
        assert_eq!(lease.next_deadline(), None);
    }
}
