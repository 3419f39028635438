//! Contents for tests, made from a seed: lines of words as rules have them, and edits of such contents.

/// Numbers that look like chance and are the same each time (splitmix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// Lines of words, cut at `bytes`.
pub(crate) fn text(chance: &mut Chance, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 64);
    while out.len() < bytes {
        let word = chance.below(4096) * chance.below(4096) / 4096;
        out.extend_from_slice(format!("{:x}", word * 0x9e37_79b1 % 0x00ff_ffff).as_bytes());
        out.push(if chance.below(9) == 0 { b'\n' } else { b' ' });
    }
    out.truncate(bytes);
    out
}

/// The content with pieces changed, inserted, removed and moved.
pub(crate) fn edited(chance: &mut Chance, old: &[u8], edits: usize) -> Vec<u8> {
    let mut new = old.to_vec();
    for edit in 0..edits {
        let at = chance.below(new.len() + 1);
        let end = (at + chance.below(2000)).min(new.len());
        let fresh = text(chance, end - at);
        match edit % 4 {
            0 => new[at..end].copy_from_slice(&fresh),
            1 => drop(new.splice(at..at, fresh)),
            2 => drop(new.drain(at..end)),
            _ => {
                let moved: Vec<u8> = new.drain(at..end).collect();
                let to = chance.below(new.len() + 1);
                new.splice(to..to, moved);
            }
        }
    }
    new
}
