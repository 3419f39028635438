//! Live views: what happens, told to whoever watches, each at its own pace within a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::presence::{Filter, Presence};
use tokio::sync::mpsc;
use wire::api::v1::WatchEvent;

/// Events that wait for one watcher: a change that reaches 4,000 agents in the time in which a slow terminal
/// draws once.
pub(crate) const MAX_BEHIND: usize = 4_096;
/// Watchers at the same time: consoles of a team. Each costs a look at its filter for every event.
pub(crate) const MAX_WATCHERS: usize = 64;

/// The reading end of a watcher.
pub(crate) struct Watching {
    pub(crate) events: mpsc::Receiver<WatchEvent>,
    /// Events it did not get because it was too slow. Nothing comes after the first of them.
    pub(crate) missed: Arc<AtomicU64>,
}

struct Watcher {
    filter: Filter,
    events: mpsc::Sender<WatchEvent>,
    missed: Arc<AtomicU64>,
}

/// Everyone who watches.
#[derive(Default)]
pub(crate) struct Watchers(Vec<Watcher>);

impl Watchers {
    /// One more, unless there are too many.
    pub(crate) fn add(&mut self, filter: Filter) -> Option<Watching> {
        self.0.retain(|watcher| !watcher.events.is_closed());
        if self.0.len() >= MAX_WATCHERS {
            return None;
        }
        let (sender, events) = mpsc::channel(MAX_BEHIND);
        let missed = Arc::new(AtomicU64::new(0));
        self.0.push(Watcher { filter, events: sender, missed: Arc::clone(&missed) });
        Some(Watching { events, missed })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells those who care. One that has no room for it is told so by [`Watching::missed`] and dropped.
    pub(crate) fn tell(&mut self, event: &WatchEvent, concerns: impl Fn(&Filter) -> bool) {
        self.0.retain(|watcher| {
            if !concerns(&watcher.filter) {
                return !watcher.events.is_closed();
            }
            match watcher.events.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    watcher.missed.fetch_add(1, Ordering::Release);
                    false
                }
            }
        });
    }

    /// As [`Watchers::tell`], for an event of an agent.
    pub(crate) fn tell_of_agent(&mut self, event: &WatchEvent, agent: &str, fleet: &Presence) {
        self.tell(event, |filter| fleet.selects(filter, agent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_watcher_is_told_and_dropped_and_others_go_on() {
        let mut watchers = Watchers::default();
        let mut slow = watchers.add(Filter::default()).unwrap();
        let mut quick = watchers.add(Filter::default()).unwrap();
        let event = WatchEvent::default();
        for _ in 0..=MAX_BEHIND {
            watchers.tell(&event, |_| true);
            assert!(quick.events.try_recv().is_ok());
        }
        assert_eq!((slow.missed.load(Ordering::Acquire), quick.missed.load(Ordering::Acquire)), (1, 0));
        let got = std::iter::from_fn(|| slow.events.try_recv().ok()).count();
        assert_eq!(got, MAX_BEHIND, "what was there before is delivered");
        assert!(slow.events.is_closed());
        watchers.tell(&event, |_| false);
        assert!(quick.events.try_recv().is_err(), "others' events are not told");
    }

    #[test]
    fn watchers_are_bounded_and_those_who_left_make_room() {
        let mut watchers = Watchers::default();
        let mut all: Vec<_> = (0..MAX_WATCHERS).map(|_| watchers.add(Filter::default()).unwrap()).collect();
        assert!(watchers.add(Filter::default()).is_none());
        all.pop();
        assert!(watchers.add(Filter::default()).is_some());
    }
}
