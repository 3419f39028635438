//! Which runs of an old content help to rebuild a run of the new one.
//!
//! Both are cut into very short content-defined pieces. A piece that occurs once in the old content and again in the
//! new one is an anchor: it tells exactly where the old content lies that the new one was made from, however much
//! was inserted, removed or moved before it.

use std::hash::{DefaultHasher, Hasher as _};
use std::io;

use domain::content::OldRun;
use domain::content::index::MAX_OLD_RUNS;
use fastcdc::v2020::FastCDC;

use crate::Source;

/// Shortest average of the pieces: what is shorter than two of them is not found when it was moved far.
const PIECE_BYTES: u64 = 256;
/// Most pieces of an old content, as an order of magnitude: 16 bytes of memory each. Longer contents are cut into
/// longer pieces.
const MAX_PIECES: u64 = 512 * 1024;
/// Shortest piece that tells anything.
const MIN_ANCHOR_BYTES: usize = 64;
/// How much of a content is cut at a time.
const BLOCK_BYTES: u64 = 4 << 20;
/// Old content on each side of what lies opposite to a frame: what was changed too densely for anchors is found there.
const SLACK_BYTES: u64 = 2 << 20;
/// Old content on each side of an anchor elsewhere: the rest of what was moved with it.
const MARGIN_BYTES: u64 = 4 << 10;
/// Most old content from elsewhere.
const ELSEWHERE_BYTES: u64 = 8 << 20;

/// A run of bytes of the old content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    start: u64,
    end: u64,
}

impl Run {
    fn bytes(self) -> u64 {
        self.end - self.start
    }

    fn old(self) -> OldRun {
        let bytes = u32::try_from(self.bytes()).expect("invariant: prefixes are bounded");
        OldRun { offset: self.start, bytes }
    }
}

/// A piece that both contents have.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    /// Where it starts in the old content.
    old: u64,
    /// Where it starts in the new content.
    new: u64,
    bytes: u64,
}

/// The pieces of an old content.
pub(crate) struct Pieces {
    /// Hash and place of each piece that occurs once, ordered by hash.
    once: Vec<(u64, u64)>,
    /// Average length of a piece.
    average: usize,
    /// Length of the old content.
    old_bytes: u64,
    /// How far the old content lay behind the new one when that was last known.
    shift: i128,
}

impl Pieces {
    /// Cuts the old content.
    pub(crate) fn of(old: &dyn Source) -> io::Result<Self> {
        let mut average = PIECE_BYTES;
        while old.len() / average > MAX_PIECES {
            average *= 2;
        }
        let average = usize::try_from(average).map_err(io::Error::other)?;
        let mut once = Vec::new();
        let mut block = Vec::new();
        let mut at = 0;
        while at < old.len() {
            let bytes = BLOCK_BYTES.min(old.len() - at);
            block.resize(usize::try_from(bytes).map_err(io::Error::other)?, 0);
            old.read_at(at, &mut block)?;
            once.extend(cut(&block, average).map(|(hash, start, _)| (hash, at + start)));
            at += bytes;
        }
        once.sort_unstable();
        keep_single(&mut once);
        Ok(Self { once, average, old_bytes: old.len(), shift: 0 })
    }

    /// Runs of the old content for the frame `raw`, which starts at `at` in the new content. Frames must be asked for
    /// in order: one without anchors lies where the last one with them lay.
    pub(crate) fn runs(&mut self, at: u64, raw: &[u8]) -> Vec<OldRun> {
        let anchors: Vec<Anchor> = cut(raw, self.average)
            .filter_map(|(hash, start, bytes)| {
                let found = self.once.binary_search_by_key(&hash, |(hash, _)| *hash).ok()?;
                Some(Anchor { old: self.once[found].1, new: at + start, bytes })
            })
            .collect();
        self.shift = usual_shift(&anchors).unwrap_or(self.shift);
        let opposite = self.opposite(at, raw.len() as u64);
        let mut runs = elsewhere(&anchors, opposite, self.old_bytes);
        runs.push(opposite);
        runs.into_iter().filter(|run| run.bytes() > 0).map(Run::old).collect()
    }

    /// The old content that lies opposite to a frame, as far as is known, and some on both sides. At the ends of the
    /// old content there is more on the other side instead.
    fn opposite(&self, at: u64, bytes: u64) -> Run {
        let wanted = (bytes + 2 * SLACK_BYTES).min(self.old_bytes);
        let start = i128::from(at) + self.shift - i128::from(SLACK_BYTES);
        let start = start.clamp(0, i128::from(self.old_bytes - wanted));
        let start = u64::try_from(start).expect("invariant: it was put between 0 and a u64");
        Run { start, end: start + wanted }
    }
}

/// Hash, place and length of each piece that is long enough to tell something.
fn cut(bytes: &[u8], average: usize) -> impl Iterator<Item = (u64, u64, u64)> {
    let pieces = FastCDC::new(bytes, (average / 4).max(MIN_ANCHOR_BYTES), average, average * 4);
    pieces.filter(|piece| piece.length >= MIN_ANCHOR_BYTES).map(|piece| {
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes[piece.offset..piece.offset + piece.length]);
        (hasher.finish(), piece.offset as u64, piece.length as u64)
    })
}

/// Removes all entries whose hash occurs more than once.
fn keep_single(sorted: &mut Vec<(u64, u64)>) {
    let mut kept = 0;
    let mut at = 0;
    while at < sorted.len() {
        let same = sorted[at..].iter().take_while(|(hash, _)| *hash == sorted[at].0).count();
        if same == 1 {
            sorted[kept] = sorted[at];
            kept += 1;
        }
        at += same;
    }
    sorted.truncate(kept);
    sorted.shrink_to_fit();
}

/// How far the old content lies behind the new one: the median over the bytes of all anchors, so that pieces that
/// were moved do not count unless they are most of it.
fn usual_shift(anchors: &[Anchor]) -> Option<i128> {
    let mut shifts: Vec<(i128, u64)> = anchors
        .iter()
        .map(|anchor| (i128::from(anchor.old) - i128::from(anchor.new), anchor.bytes))
        .collect();
    shifts.sort_unstable();
    let half = shifts.iter().map(|(_, bytes)| bytes).sum::<u64>() / 2;
    let mut seen = 0;
    shifts.into_iter().find_map(|(shift, bytes)| {
        seen += bytes;
        (seen > half).then_some(shift)
    })
}

/// Old content around the anchors that lie outside of `opposite`, in the order of the old content; where it is more
/// than the bound, the runs with most anchors.
fn elsewhere(anchors: &[Anchor], opposite: Run, old_bytes: u64) -> Vec<Run> {
    let inside = |anchor: &Anchor| anchor.old >= opposite.start && anchor.old + anchor.bytes <= opposite.end;
    let mut outside: Vec<Anchor> = anchors.iter().copied().filter(|anchor| !inside(anchor)).collect();
    outside.sort_unstable_by_key(|anchor| anchor.old);
    // Each run with how many bytes of anchors it has.
    let mut runs: Vec<(u64, Run)> = Vec::new();
    for anchor in outside {
        let start = anchor.old.saturating_sub(MARGIN_BYTES);
        let end = (anchor.old + anchor.bytes + MARGIN_BYTES).min(old_bytes);
        match runs.last_mut() {
            Some((found, run)) if start <= run.end + MARGIN_BYTES => {
                run.end = end;
                *found += anchor.bytes;
            }
            _ => runs.push((anchor.bytes, Run { start, end })),
        }
    }
    runs.sort_by_key(|(found, run)| (std::cmp::Reverse(*found), *run));
    let mut room = ELSEWHERE_BYTES;
    runs.retain(|(_, run)| match room.checked_sub(run.bytes()) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    });
    runs.truncate(MAX_OLD_RUNS - 1);
    let mut runs: Vec<Run> = runs.into_iter().map(|(_, run)| run).collect();
    runs.sort_unstable();
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::{Chance, text};

    const MIB: u64 = 1 << 20;

    fn content(bytes: u64) -> Vec<u8> {
        text(&mut Chance(7), usize::try_from(bytes).unwrap())
    }

    /// Runs for the frame of `new` at `at`, when nothing was asked before.
    fn runs(old: &[u8], new: &[u8], at: u64, bytes: u64) -> Vec<(u64, u64)> {
        let range = usize::try_from(at).unwrap()..usize::try_from(at + bytes).unwrap();
        let runs = Pieces::of(&old).unwrap().runs(at, &new[range]);
        runs.iter().map(|run| (run.offset, run.offset + u64::from(run.bytes))).collect()
    }

    #[test]
    fn a_short_old_content_is_used_whole() {
        let old = content(3 * MIB);
        assert_eq!(runs(&old, &content(MIB), 0, MIB), [(0, 3 * MIB)]);
        assert_eq!(runs(&[], &old, 0, MIB), []);
    }

    #[test]
    fn what_was_inserted_before_shifts_the_run() {
        let old = content(20 * MIB);
        let new = [&text(&mut Chance(8), 9 << 20), &old[..]].concat();
        assert_eq!(runs(&old, &new, 17 * MIB, 4 * MIB), [(6 * MIB, 14 * MIB)]);
        let new = &old[6 << 20..];
        assert_eq!(runs(&old, new, 4 * MIB, 4 * MIB), [(8 * MIB, 16 * MIB)]);
    }

    #[test]
    fn what_was_moved_is_found_where_it_was() {
        let old = content(24 * MIB);
        let mut new = old.clone();
        new[1 << 20..(1 << 20) + 5000].copy_from_slice(&old[20 << 20..(20 << 20) + 5000]);
        let runs = runs(&old, &new, 0, 4 * MIB);
        let [(start, end), opposite] = runs[..] else { panic!("{runs:?}") };
        assert_eq!(opposite, (0, 8 * MIB));
        assert!(start <= 20 * MIB && end >= 20 * MIB + 5000 && end - start < 20_000, "{start} {end}");
    }

    #[test]
    fn a_frame_without_anchors_lies_where_the_last_one_lay() {
        let old = content(24 * MIB);
        let mut pieces = Pieces::of(&old).unwrap();
        let _ = pieces.runs(0, &old[6 << 20..7 << 20]);
        let runs = pieces.runs(4 * MIB, &vec![0; 4 << 20]);
        assert_eq!(runs, [OldRun { offset: 8 * MIB, bytes: 8 << 20 }]);
    }

    #[test]
    fn runs_are_bounded() {
        let old = content(40 * MIB);
        let mut pieces = Pieces::of(&old).unwrap();
        // Every other 8 KiB of the old content: far more places than a prefix has room for.
        let scattered: Vec<u8> = old.chunks(8192).step_by(10).flatten().copied().collect();
        let runs = pieces.runs(0, &scattered[..4 << 20]);
        let bytes: u64 = runs.iter().map(|run| u64::from(run.bytes)).sum();
        assert!(runs.len() > 100 && runs.len() <= MAX_OLD_RUNS, "{}", runs.len());
        assert!(bytes <= ELSEWHERE_BYTES + 8 * MIB, "{bytes}");
    }

    #[test]
    fn pieces_that_occur_twice_are_no_anchors() {
        let mut pieces = vec![(1, 5), (2, 6), (2, 7), (2, 8), (3, 9), (4, 1), (4, 2)];
        keep_single(&mut pieces);
        assert_eq!(pieces, [(1, 5), (3, 9)]);
    }
}
