//! Content-defined chunks: a boundary depends on the bytes around it alone, so what stays the same between two
//! contents gives the same chunks wherever it moves.
//!
//! Chunks are checked by digest. Whoever cuts otherwise shares less and breaks nothing; whoever wants to share
//! cuts with FastCDC as of 2020, normalised at level 2, with the sizes that stand here.

use std::io::{self, Read};

use domain::Digest;
use domain::content::ChunkEntry;
use fastcdc::v2020::{Error, Normalization, StreamCDC};

/// Average length that is aimed at, for contents that it suits (see [`sizes`]).
pub const AVERAGE_BYTES: u32 = 64 * 1024;
/// How many averages of content there may be before the average doubles: with some chunks shorter than the average,
/// a manifest still has room for all (`domain::content::manifest::MAX_CHUNKS`).
const MAX_AVERAGES: u64 = 14 * 1024;

/// Shortest, average and longest chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Shortest, but for the last one.
    pub min: u32,
    /// What is aimed at.
    pub average: u32,
    /// Longest.
    pub max: u32,
}

/// How long chunks are in a content of this length: the longer the content, the longer its chunks, so that their
/// list has a bound. The average is [`AVERAGE_BYTES`] or a power of two times that; two contents around the same
/// length are cut alike.
#[must_use]
pub fn sizes(content_bytes: u64) -> Sizes {
    let mut average = AVERAGE_BYTES;
    while content_bytes / u64::from(average) > MAX_AVERAGES && average < AVERAGE_BYTES << 2 {
        average *= 2;
    }
    let max = (average * 4).min(domain::content::manifest::MAX_CHUNK_BYTES);
    Sizes { min: average / 4, average, max }
}

/// One chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Its entry in a manifest.
    #[must_use]
    pub fn entry(&self) -> ChunkEntry {
        let bytes = u32::try_from(self.bytes.len()).expect("invariant: chunks are at most 512 KiB long");
        ChunkEntry { digest: self.digest, bytes }
    }
}

/// Cuts a stream into chunks. Memory: a buffer for one chunk, and the chunk that is given.
pub struct Chunker<R: Read>(StreamCDC<R>);

impl<R: Read> Chunker<R> {
    /// Cuts what `reader` gives. `content_bytes` is how long the whole content is; a wrong length cuts it into more
    /// or fewer chunks and breaks nothing else.
    pub fn new(reader: R, content_bytes: u64) -> Self {
        let sizes = sizes(content_bytes);
        let [min, average, max] = [sizes.min, sizes.average, sizes.max]
            .map(|bytes| usize::try_from(bytes).expect("invariant: chunks fit in memory"));
        Self(StreamCDC::with_level(reader, min, average, max, Normalization::Level2))
    }
}

impl<R: Read> Iterator for Chunker<R> {
    type Item = io::Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.0.next()? {
            Ok(chunk) => Ok(Chunk { digest: Digest::of(&chunk.data), bytes: chunk.data }),
            Err(Error::IoError(error)) => Err(error),
            Err(other) => Err(io::Error::other(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use domain::content::manifest::{MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_CONTENT_BYTES};

    use super::*;
    use crate::made::{Chance, edited, text};

    fn cut(bytes: &[u8]) -> Vec<Chunk> {
        Chunker::new(bytes, bytes.len() as u64).collect::<io::Result<_>>().unwrap()
    }

    #[test]
    fn chunks_are_all_of_it_and_have_their_sizes() {
        let bytes = text(&mut Chance(1), 9 << 20);
        let chunks = cut(&bytes);
        let joined: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.clone()).collect();
        assert_eq!(joined, bytes);
        let sizes = sizes(bytes.len() as u64);
        for chunk in &chunks[..chunks.len() - 1] {
            let entry = chunk.entry();
            assert!((sizes.min..=sizes.max).contains(&entry.bytes), "{}", entry.bytes);
            assert_eq!(entry.digest, Digest::of(&chunk.bytes));
        }
        let average = bytes.len() / chunks.len();
        assert!((60_000..100_000).contains(&average), "{average}");
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn an_edit_touches_the_chunks_around_it() {
        let old = text(&mut Chance(2), 9 << 20);
        let new = edited(&mut Chance(3), &old, 4);
        let held: BTreeSet<Digest> = cut(&old).iter().map(|chunk| chunk.digest).collect();
        let missing = cut(&new).iter().filter(|chunk| !held.contains(&chunk.digest)).count();
        assert!((1..=15).contains(&missing), "{missing}");
    }

    /// Pinned: other sizes or another algorithm would share nothing with what is stored.
    #[test]
    fn boundaries_are_what_they_were() {
        let chunks = cut(&text(&mut Chance(4), 1 << 20));
        let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.bytes.len()).collect();
        let expected = [
            46_665, 84_828, 54_155, 118_146, 67_029, 89_576, 70_481, 84_563, 68_936, 140_452, 103_710,
            70_545, 49_490,
        ];
        assert_eq!(lengths, expected);
    }

    #[test]
    fn the_longest_content_has_few_enough_chunks() {
        for bytes in [1, 64 << 20, 896 << 20, (896 << 20) + 65_536, 1 << 30, 2 << 30, MAX_CONTENT_BYTES] {
            let sizes = sizes(bytes);
            let most = bytes / u64::from(sizes.average);
            assert!(most * 5 / 4 <= MAX_CHUNKS as u64, "{bytes}: {most}");
            assert!(sizes.max <= MAX_CHUNK_BYTES && sizes.min.is_multiple_of(2));
        }
        assert_eq!(sizes(896 << 20).average, AVERAGE_BYTES);
        assert_eq!(sizes(MAX_CONTENT_BYTES).average, 4 * AVERAGE_BYTES);
    }

    #[test]
    fn what_cannot_be_read_ends_it() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(into.len()).ok_or_else(|| io::Error::other("broken"))?;
                Ok(into.len())
            }
        }
        let mut chunker = Chunker::new(Broken(1 << 20), 8 << 20);
        let error = chunker.find_map(Result::err).unwrap();
        assert_eq!(error.to_string(), "broken");
    }
}
