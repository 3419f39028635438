//! Which heads have to be looked at, and when. At most one item for each group.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::GroupId;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Why and when a head is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    /// Not before this.
    pub(crate) due: Instant,
    /// See [`crate::heads::Circumstances::check_path`].
    pub(crate) check_path: bool,
}

/// The heads to look at.
#[derive(Default)]
pub(crate) struct Work {
    items: Mutex<BTreeMap<GroupId, Item>>,
    added: Notify,
}

/// What [`Work::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// These are due.
    Items(Vec<(GroupId, Item)>),
    /// The next one is due then.
    Later(Instant),
    /// There is nothing to do.
    Nothing,
}

impl Work {
    /// Adds groups. One that is there already becomes due at the earlier of the two times.
    pub(crate) fn add(&self, groups: impl IntoIterator<Item = GroupId>, item: Item) {
        let mut items = self.items();
        for group in groups {
            items
                .entry(group)
                .and_modify(|known| {
                    known.due = known.due.min(item.due);
                    known.check_path |= item.check_path;
                })
                .or_insert(item);
        }
        drop(items);
        self.added.notify_one();
    }

    /// Takes what is due at `now`, at most `most` items.
    pub(crate) fn take(&self, now: Instant, most: usize) -> Taken {
        let mut items = self.items();
        let due: Vec<GroupId> = items
            .iter()
            .filter(|(_, item)| item.due <= now)
            .map(|(group, _)| group.clone())
            .take(most)
            .collect();
        if due.is_empty() {
            return items.values().map(|item| item.due).min().map_or(Taken::Nothing, Taken::Later);
        }
        let take = |group: GroupId| items.remove(&group).map(|item| (group, item));
        Taken::Items(due.into_iter().filter_map(take).collect())
    }

    /// If the group waits for its time, its time is now: what it waited for has happened.
    pub(crate) fn hasten(&self, group: &GroupId) {
        let waits = self.items().get_mut(group).map(|item| item.due = Instant::now()).is_some();
        if waits {
            self.added.notify_one();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.items().clear();
    }

    /// Waits until something was added since the last call.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Makes [`Work::added`] return although nothing was added.
    pub(crate) fn wake(&self) {
        self.added.notify_one();
    }

    fn items(&self) -> MutexGuard<'_, BTreeMap<GroupId, Item>> {
        // No code panics while it holds this lock, and the map stays usable if it did.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_group_stands_once_and_becomes_due_at_the_earlier_time() {
        let (now, group) = (Instant::now(), |id: &str| GroupId::new(id).unwrap());
        let at = |seconds, check_path| Item { due: now + Duration::from_secs(seconds), check_path };
        let work = Work::default();
        assert_eq!(work.take(now, 9), Taken::Nothing);
        work.add([group("a"), group("b")], at(5, false));
        work.add([group("b")], at(9, true));
        work.add([group("c")], at(2, false));
        assert_eq!(work.take(now, 9), Taken::Later(at(2, false).due));
        let later = now + Duration::from_secs(6);
        let expected = vec![(group("a"), at(5, false)), (group("b"), at(5, true))];
        assert_eq!(work.take(later, 2), Taken::Items(expected));
        assert_eq!(work.take(later, 2), Taken::Items(vec![(group("c"), at(2, false))]));
        assert_eq!(work.take(later, 2), Taken::Nothing);
    }
}
