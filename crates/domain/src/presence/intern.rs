//! Values that many agents share, kept once and counted.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Number of an interned value; 0 stands for "none".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle(pub(super) u32);

/// A bounded set of shared values, each with the number of its users.
#[derive(Debug)]
pub(super) struct Interner<T: Ord> {
    index: BTreeMap<Arc<T>, u32>,
    entries: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    weight: usize,
    max_weight: usize,
}

#[derive(Debug)]
struct Entry<T> {
    value: Arc<T>,
    users: u32,
    weight: usize,
}

impl<T: Ord> Interner<T> {
    /// An empty set that takes values up to `max_weight` in all.
    pub(super) fn new(max_weight: usize) -> Self {
        Self { index: BTreeMap::new(), entries: Vec::new(), free: Vec::new(), weight: 0, max_weight }
    }

    /// Handle of `value` with one user more; hands the value back if it is new and does not fit.
    pub(super) fn acquire(&mut self, value: T, weight: usize) -> Result<Handle, T> {
        if let Some(&at) = self.index.get(&value) {
            self.entry_mut(at).users += 1;
            return Ok(Handle(at + 1));
        }
        if self.weight + weight > self.max_weight {
            return Err(value);
        }
        let value = Arc::new(value);
        let entry = Some(Entry { value: Arc::clone(&value), users: 1, weight });
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("invariant: weight bounds the entries")
            }
        };
        self.weight += weight;
        self.index.insert(value, at);
        Ok(Handle(at + 1))
    }

    /// One user less; the last one takes the value with it.
    pub(super) fn release(&mut self, handle: Handle) {
        let Some(at) = handle.0.checked_sub(1) else { return };
        let entry = self.entry_mut(at);
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        if let Some(entry) = self.entries[at as usize].take() {
            self.weight -= entry.weight;
            self.index.remove(&entry.value);
            self.free.push(at);
        }
    }

    /// The value behind a handle; `None` for the handle that stands for "none".
    pub(super) fn get(&self, handle: Handle) -> Option<&T> {
        let at = handle.0.checked_sub(1)?;
        self.entries[at as usize].as_ref().map(|entry| &*entry.value)
    }

    fn entry_mut(&mut self, at: u32) -> &mut Entry<T> {
        self.entries[at as usize].as_mut().expect("invariant: a handle in use has its entry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_one_entry_until_the_last_user_leaves() {
        let mut set = Interner::new(2);
        let a = set.acquire("a", 1).unwrap();
        assert_eq!(set.acquire("a", 1), Ok(a));
        let b = set.acquire("b", 1).unwrap();
        assert_ne!(a, b);
        assert_eq!(set.acquire("c", 1), Err("c"), "the set is full");
        set.release(a);
        assert_eq!(set.get(a), Some(&"a"), "one user is left");
        set.release(a);
        let c = set.acquire("c", 1).unwrap();
        assert_eq!((set.get(c), set.get(b)), (Some(&"c"), Some(&"b")));
        assert_eq!(set.get(Handle::default()), None);
        set.release(Handle::default());
    }
}
