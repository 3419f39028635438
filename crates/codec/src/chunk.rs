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
