//! Agents in order of id: sorted blocks of record numbers, in effect a tree of two levels.

/// Numbers in a block before it is split. Bounds the cost of an insertion (a move of at most 2 KiB) and
/// the length of the list of blocks (4,000 for a million agents).
const BLOCK: usize = 512;

/// Record numbers sorted by the ids of their records, which the caller looks up.
#[derive(Debug, Default)]
pub(super) struct Order {
    blocks: Vec<Vec<u32>>,
}

impl Order {
    /// Block and place of the first id that is not less than `id`.
    fn position<'a>(&self, id: &str, id_of: impl Fn(u32) -> &'a str) -> (usize, usize) {
        let block = self.blocks.partition_point(|block| id_of(block[block.len() - 1]) < id);
        let place = self.blocks.get(block).map_or(0, |block| block.partition_point(|&at| id_of(at) < id));
        (block, place)
    }

    pub(super) fn insert<'a>(&mut self, at: u32, id: &str, id_of: impl Fn(u32) -> &'a str) {
        let (mut block, mut place) = self.position(id, id_of);
        if block == self.blocks.len() {
            match block.checked_sub(1) {
                None => self.blocks.push(Vec::new()),
                Some(last) => {
                    block = last;
                    place = self.blocks[last].len();
                }
            }
        }
        self.blocks[block].insert(place, at);
        if self.blocks[block].len() > BLOCK {
            // Ids that arrive in order leave full blocks behind; others split in the middle.
            let cut = if place == BLOCK { BLOCK } else { BLOCK / 2 };
            let rest = self.blocks[block].split_off(cut);
            self.blocks[block].shrink_to_fit();
            self.blocks.insert(block + 1, rest);
        }
    }

    pub(super) fn remove<'a>(&mut self, at: u32, id: &str, id_of: impl Fn(u32) -> &'a str) {
        let (block, place) = self.position(id, id_of);
        assert_eq!(self.blocks[block].remove(place), at, "an agent stands where its id belongs");
        if self.blocks[block].is_empty() {
            self.blocks.remove(block);
        }
    }

    /// Numbers in order, from the first id greater than `after`.
    pub(super) fn after<'a>(
        &'a self,
        after: Option<&str>,
        id_of: impl Fn(u32) -> &'a str,
    ) -> impl Iterator<Item = u32> + 'a {
        let (block, place) = match after {
            None => (0, 0),
            Some(id) => {
                let (block, place) = self.position(id, &id_of);
                let exact =
                    self.blocks.get(block).and_then(|b| b.get(place)).is_some_and(|&at| id_of(at) == id);
                (block, place + usize::from(exact))
            }
        };
        let first = self.blocks.get(block).map_or(&[][..], |b| &b[place..]);
        let rest = self.blocks.get(block + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flatten()).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn walks_like_an_ordered_map(steps in prop::collection::vec((any::<bool>(), 0_u32..3000), 1..4000)) {
            let ids: Vec<String> = (0..3000_u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
            let id_of = |at: u32| ids[at as usize].as_str();
            let mut order = Order::default();
            let mut model = BTreeMap::new();
            for (remove, at) in steps {
                let id = id_of(at);
                if remove && model.remove(id).is_some() {
                    order.remove(at, id, id_of);
                } else if !remove && model.insert(id, at).is_none() {
                    order.insert(at, id, id_of);
                }
            }
            prop_assert!(order.after(None, id_of).eq(model.values().copied()));
            for probe in ["", "7", "8000", "g"] {
                let expected = model.range::<str, _>((std::ops::Bound::Excluded(probe), std::ops::Bound::Unbounded));
                prop_assert!(order.after(Some(probe), id_of).eq(expected.map(|(_, at)| *at)));
            }
            if let Some((last, _)) = model.last_key_value() {
                prop_assert_eq!(order.after(Some(last), id_of).next(), None);
            }
        }
    }
}
