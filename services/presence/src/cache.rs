//! Heads of groups as they are stored, for pull agents.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::{Cursor, GroupId};
use wire::trace::TraceParent;

/// What an entry takes beside its bytes, roughly: two map entries and two ids.
const ENTRY_OVERHEAD: usize = 256;

/// A head as it is stored, and where in a trace it was published, if its message says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) snapshot: Bytes,
    pub(crate) place: Option<TraceParent>,
}

/// The newest known head of each group, least recently used ones dropped beyond a size.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: BTreeMap<GroupId, Entry>,
    /// Groups by when they were last used.
    by_use: BTreeMap<u64, GroupId>,
    uses: u64,
    bytes: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    cursor: Cursor,
    head: Head,
    used: u64,
}

impl Cache {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { entries: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, max_bytes }
    }

    /// The head of a group, if one at least as new as `wanted` is here.
    pub(crate) fn get(&mut self, group: &GroupId, wanted: Cursor) -> Option<Head> {
        let entry = self.entries.get_mut(group).filter(|entry| entry.cursor >= wanted)?;
        self.uses += 1;
        let group = self.by_use.remove(&entry.used).expect("invariant: every entry has its use");
        self.by_use.insert(self.uses, group);
        entry.used = self.uses;
        Some(entry.head.clone())
    }

    /// Keeps a head, in place of the one before. One that is larger than the whole cache is not kept.
    pub(crate) fn put(&mut self, group: GroupId, cursor: Cursor, head: Head) {
        self.drop_group(&group);
        let size = head.snapshot.len() + ENTRY_OVERHEAD;
        if size > self.max_bytes {
            return;
        }
        while self.bytes + size > self.max_bytes {
            let (_, oldest) = self.by_use.first_key_value().expect("invariant: what takes room has its use");
            let oldest = oldest.clone();
            self.drop_group(&oldest);
        }
        self.uses += 1;
        self.bytes += size;
        self.by_use.insert(self.uses, group.clone());
        self.entries.insert(group, Entry { cursor, head, used: self.uses });
    }

    fn drop_group(&mut self, group: &GroupId) {
        if let Some(entry) = self.entries.remove(group) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.head.snapshot.len() + ENTRY_OVERHEAD;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(snapshot: impl Into<Bytes>) -> Head {
        Head { snapshot: snapshot.into(), place: None }
    }

    fn group(n: u32) -> GroupId {
        GroupId::new(format!("g{n}")).unwrap()
    }

    #[test]
    fn keeps_what_was_used_last_within_its_size() {
        let mut cache = Cache::new(3 * (100 + ENTRY_OVERHEAD));
        let bytes = head(vec![0; 100]);
        for n in 0..3 {
            cache.put(group(n), Cursor::new(1, 1), bytes.clone());
        }
        assert!(cache.get(&group(0), Cursor::new(1, 1)).is_some());
        cache.put(group(3), Cursor::new(1, 1), bytes);
        let kept = (0..4).map(|n| cache.get(&group(n), Cursor::NONE).is_some());
        assert_eq!(kept.collect::<Vec<_>>(), [true, false, true, true]);
        cache.put(group(4), Cursor::new(1, 1), head(vec![0; 1000]));
        assert_eq!(cache.get(&group(4), Cursor::NONE), None, "larger than the cache");
        assert_eq!(cache.entries.len(), 3);
    }

    #[test]
    fn an_older_head_is_not_handed_out() {
        let mut cache = Cache::new(10_000);
        cache.put(group(1), Cursor::new(1, 5), head("five"));
        assert_eq!(cache.get(&group(1), Cursor::new(1, 6)), None);
        cache.put(group(1), Cursor::new(2, 1), head("new epoch"));
        assert_eq!(cache.get(&group(1), Cursor::new(1, 6)), Some(head("new epoch")));
        assert_eq!(cache.bytes, 9 + ENTRY_OVERHEAD);
    }
}
