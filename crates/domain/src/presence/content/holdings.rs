//! What agents hold, kept once for all that hold the same.
//!
//! Two levels: the state of one channel, and the list of an agent's states. Channels change independently of
//! each other, so there are far fewer different states than different lists, and a list is a few numbers.

use super::super::intern::{Handle, Interner};
use crate::content::{ContentStatus, SourceBytes};

/// The lists of all agents and the states they consist of. Each agent is a user of its list and of every
/// state in it.
#[derive(Debug)]
pub(super) struct Holdings {
    states: Interner<ContentStatus>,
    lists: Interner<Box<[Handle]>>,
}

impl Holdings {
    /// Empty, with bounds for all different states and all different lists.
    pub(super) fn new(max_state_bytes: usize, max_list_bytes: usize) -> Self {
        Self { states: Interner::new(max_state_bytes), lists: Interner::new(max_list_bytes) }
    }

    /// Keeps a list for one agent more. If there is no room, without details; if there is none for that
    /// either, not at all. True if something was left out.
    pub(super) fn keep(&mut self, list: Vec<ContentStatus>) -> (Handle, bool) {
        if list.is_empty() {
            return (Handle::default(), false);
        }
        let list = match self.try_keep(list) {
            Ok(handle) => return (handle, false),
            Err(list) => list,
        };
        let plain = list.into_iter().map(without_details).collect();
        (self.try_keep(plain).unwrap_or_default(), true)
    }

    fn try_keep(&mut self, list: Vec<ContentStatus>) -> Result<Handle, Vec<ContentStatus>> {
        let mut kept = Vec::with_capacity(list.len());
        let mut rest = list.into_iter();
        let refused = rest.by_ref().find_map(|status| {
            let weight = weight(&status);
            self.states.acquire(status, weight).map(|handle| kept.push(handle)).err()
        });
        let list = match refused {
            None => {
                let weight = LIST_WEIGHT + size_of::<Handle>() * kept.len();
                match self.lists.acquire(kept.into_boxed_slice(), weight) {
                    Ok(handle) => return Ok(handle),
                    Err(list) => list,
                }
            }
            Some(_) => kept.into_boxed_slice(),
        };
        let mut back = Vec::with_capacity(list.len());
        for handle in list {
            back.extend(self.states.get(handle).cloned());
            self.states.release(handle);
        }
        Err(back.into_iter().chain(refused).chain(rest).collect())
    }

    /// One agent less that holds the list.
    pub(super) fn release(&mut self, list: Handle) {
        let Self { states, lists } = self;
        for &state in lists.get(list).into_iter().flatten() {
            states.release(state);
        }
        lists.release(list);
    }

    /// The handles of a list, in order of channel.
    pub(super) fn handles(&self, list: Handle) -> &[Handle] {
        self.lists.get(list).map_or(&[], |list| list)
    }

    /// The state behind a handle of a list in use.
    pub(super) fn state(&self, handle: Handle) -> &ContentStatus {
        self.states.get(handle).expect("invariant: a list in use has its states")
    }

    /// The states of a list, in order of channel.
    pub(super) fn states(&self, list: Handle) -> impl Iterator<Item = &ContentStatus> {
        self.handles(list).iter().map(|&handle| self.state(handle))
    }
}

/// The same without what differs from agent to agent.
fn without_details(status: ContentStatus) -> ContentStatus {
    ContentStatus { reason: Box::default(), bytes: SourceBytes::default(), ..status }
}

/// Bytes that a list takes beside its handles, roughly: its allocations and its places in the indexes.
const LIST_WEIGHT: usize = 112;

/// Bytes that a state takes, roughly.
fn weight(status: &ContentStatus) -> usize {
    192 + status.channel.as_str().len() + status.reason.len()
}

#[cfg(test)]
mod tests {
    use super::super::tests::status;
    use super::*;

    #[test]
    fn equal_lists_are_kept_once_and_leave_with_their_last_user() {
        let mut holdings = Holdings::new(10_000, 10_000);
        let list = || vec![status("a", 1, 1), status("b", 2, 3)];
        let (one, trimmed) = holdings.keep(list());
        assert!(!trimmed);
        assert_eq!(holdings.keep(list()), (one, false));
        let (other, _) = holdings.keep(vec![status("a", 1, 1)]);
        assert_ne!(one, other);
        assert_eq!(holdings.handles(one)[0], holdings.handles(other)[0], "a state is kept once");
        holdings.release(one);
        assert!(holdings.states(one).eq(&list()));
        holdings.release(one);
        assert!(holdings.states(other).eq(&[status("a", 1, 1)]), "others stay");
        holdings.release(other);
        assert!(holdings.keep(Vec::new()) == (Handle::default(), false));
        assert!(holdings.states(Handle::default()).next().is_none());
        holdings.release(Handle::default());
    }

    #[test]
    fn without_room_details_go_first_and_nothing_leaks() {
        let detailed = |n: u64| {
            let bytes = SourceBytes { patch: n, ..SourceBytes::default() };
            ContentStatus { bytes, reason: "slow".into(), ..status("a", 1, 2) }
        };
        // Room for two states and two lists.
        let mut holdings = Holdings::new(2 * weight(&detailed(0)), 2 * (LIST_WEIGHT + 8));
        let (first, trimmed) = holdings.keep(vec![detailed(1)]);
        assert!(!trimmed);
        let (plain, trimmed) = holdings.keep(vec![detailed(2), status("b", 1, 1)]);
        assert!(trimmed && plain == Handle::default(), "three states do not fit, however plain");
        let (plain, trimmed) = holdings.keep(vec![status("a", 1, 2)]);
        assert!(!trimmed);
        let (third, trimmed) = holdings.keep(vec![detailed(3)]);
        assert_eq!((third, trimmed), (plain, true), "kept without its details");
        for list in [first, plain, third] {
            holdings.release(list);
        }
        let (again, trimmed) = holdings.keep(vec![detailed(4), detailed(5)]);
        assert!(!trimmed && holdings.states(again).count() == 2, "all room is free again");
    }
}
