//! The cheapest road from what an agent really holds to a content: the one with the fewest bytes left to fetch.
//!
//! There are three kinds of roads: the missing chunks, a patch from a content that is held, and the whole content
//! as a delta from nothing. A delta is a row of frames that are decoded in order, each with what was rebuilt
//! before it. Frames whose whole run is covered by chunks that are held need no decoding, and parts that only such
//! frames use are not fetched. So a plan that is made again after a cut costs what was left: chunks that arrived
//! are held, and parts that arrived are on disk until the content is whole.

use std::collections::{BTreeMap, BTreeSet};

use super::SourceBytes;
use super::index::{ContentIndex, Delta, PlacedFrame};
use super::manifest::Manifest;
use crate::digest::Digest;

/// Bytes up to which a download that is no patch needs no allowance: the size of one message at most, which any
/// number of agents may fetch within their spread without filling a network.
pub const ALLOWANCE_FREE_BYTES: u64 = 1 << 20;

/// What an agent holds that may shorten the way to one content. All of it is verified: read back from the disk and
/// held against its digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Manifests of contents that are held whole: patches start from them.
    pub contents: BTreeSet<Digest>,
    /// Digests of chunks that are held anywhere: in the draft of this content, the cache, or another content.
    pub chunks: BTreeSet<Digest>,
    /// Numbers of the parts that are on disk, by where their delta starts (`None`: from nothing).
    pub parts: BTreeMap<Option<Digest>, BTreeSet<u32>>,
    /// Roads that proved unusable: a piece of them is not there, or not what its name says. They are left out as
    /// long as another road is left.
    pub unusable: BTreeSet<Road>,
}

/// Which way a content is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Road {
    /// Chunk by chunk. Also the road that fetches nothing when all chunks are held.
    Chunks,
    /// By the delta from a content that is held.
    Patch {
        /// Its manifest.
        from: Digest,
    },
    /// By the delta from nothing.
    Full,
}

/// A road with all that has to be fetched on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The road.
    pub road: Road,
    /// What to fetch, ascending: positions of chunks in the manifest (of a chunk that occurs several times only the
    /// first), or numbers of the delta's parts.
    pub pieces: Vec<u32>,
    /// Numbers of the delta's frames to decode, ascending. What lies between them is copied from chunks that are
    /// held, before the next frame is decoded. Empty on the road of chunks.
    pub frames: Vec<u32>,
    /// Bytes to fetch, as they travel. Without an index the length of chunks before compression.
    pub fetch_bytes: u64,
    /// Bytes of the content that need not travel: of chunks that are held; with a patch also what it takes from
    /// the old content, counted as the content's length less the bytes fetched.
    pub held_bytes: u64,
}

impl Plan {
    /// Whether the fleet's allowance for full downloads is needed: it is more than small and no patch.
    #[must_use]
    pub fn needs_allowance(&self) -> bool {
        match self.road {
            Road::Patch { .. } => false,
            Road::Chunks | Road::Full => self.fetch_bytes > ALLOWANCE_FREE_BYTES,
        }
    }

    /// So many fetched bytes as bytes of this road's source, beside what is held.
    #[must_use]
    pub fn sources(&self, fetched: u64) -> SourceBytes {
        let none = SourceBytes { held: self.held_bytes, ..SourceBytes::default() };
        match self.road {
            Road::Chunks => SourceBytes { chunk: fetched, ..none },
            Road::Patch { .. } => SourceBytes { patch: fetched, ..none },
            Road::Full => SourceBytes { full: fetched, ..none },
        }
    }
}

/// The road with the fewest bytes left to fetch. Of roads that cost the same, chunks come first: they are fetched
/// and used in any order. Deltas of an index that do not lead to the whole content are left out, and so are roads
/// known to be unusable.
#[must_use]
pub fn plan(manifest: &Manifest, index: Option<&ContentIndex>, held: &Held) -> Plan {
    let usable = |delta: &&Delta| {
        let starts = delta.from().is_none_or(|from| held.contents.contains(&from));
        starts && delta.bytes() == manifest.content_bytes()
    };
    let deltas = index.map_or(&[][..], ContentIndex::deltas).iter().filter(usable);
    let roads = deltas.map(|delta| by_delta(manifest, delta, held));
    let chunks = by_chunks(manifest, index, held);
    let cost = |plan: &Plan| {
        // Where all chunks are held, nothing of a road is used. A delta whose parts are all there still is.
        let is_used = !(plan.pieces.is_empty() && plan.frames.is_empty());
        (is_used && held.unusable.contains(&plan.road), plan.fetch_bytes, plan.road)
    };
    roads.fold(chunks, |best, road| if cost(&road) < cost(&best) { road } else { best })
}

fn by_chunks(manifest: &Manifest, index: Option<&ContentIndex>, held: &Held) -> Plan {
    let stored = index.map_or(&[][..], ContentIndex::stored_bytes);
    let mut plan =
        Plan { road: Road::Chunks, pieces: Vec::new(), frames: Vec::new(), fetch_bytes: 0, held_bytes: 0 };
    let mut fetched = BTreeSet::new();
    for (position, (number, chunk)) in (0u32..).zip(manifest.chunks().iter().enumerate()) {
        if held.chunks.contains(&chunk.digest) {
            plan.held_bytes += u64::from(chunk.bytes);
        } else if fetched.insert(chunk.digest) {
            plan.pieces.push(position);
            plan.fetch_bytes += u64::from(stored.get(number).copied().unwrap_or(chunk.bytes));
        }
    }
    plan
}

fn by_delta(manifest: &Manifest, delta: &Delta, held: &Held) -> Plan {
    let (frames, held_bytes) = frames_to_decode(manifest, delta, held);
    let on_disk = held.parts.get(&delta.from());
    let wanted: BTreeSet<u32> = parts_of(delta, &frames)
        .into_iter()
        .filter(|part| !on_disk.is_some_and(|parts| parts.contains(part)))
        .collect();
    let parts = (0u32..).zip(delta.parts()).filter(|(number, _)| wanted.contains(number));
    let fetch_bytes = parts.map(|(_, part)| u64::from(part.bytes)).sum();
    let (road, held_bytes) = match delta.from() {
        Some(from) => (Road::Patch { from }, manifest.content_bytes().saturating_sub(fetch_bytes)),
        None => (Road::Full, held_bytes),
    };
    let frames = frames.into_iter().map(|(number, _)| number).collect();
    Plan { road, pieces: wanted.into_iter().collect(), frames, fetch_bytes, held_bytes }
}

/// Frames with a chunk in their run that is not held, and how many bytes of the content the others cover.
fn frames_to_decode<'a>(
    manifest: &Manifest,
    delta: &'a Delta,
    held: &Held,
) -> (Vec<(u32, PlacedFrame<'a>)>, u64) {
    let missing = manifest.placed_chunks().filter(|(_, chunk)| !held.chunks.contains(&chunk.digest));
    let mut missing = missing.map(|(at, chunk)| (at, at + u64::from(chunk.bytes))).peekable();
    let (mut frames, mut covered) = (Vec::new(), 0);
    for (number, placed) in (0u32..).zip(delta.placed_frames()) {
        let end = placed.offset + u64::from(placed.frame.bytes);
        while missing.next_if(|(_, chunk_end)| *chunk_end <= placed.offset).is_some() {}
        if missing.peek().is_some_and(|(start, _)| *start < end) {
            frames.push((number, placed));
        } else {
            covered += u64::from(placed.frame.bytes);
        }
    }
    (frames, covered)
}

/// Numbers of the parts in which these frames are stored.
fn parts_of(delta: &Delta, frames: &[(u32, PlacedFrame<'_>)]) -> Vec<u32> {
    let mut runs = frames
        .iter()
        .map(|(_, placed)| {
            (placed.stored_offset, placed.stored_offset + u64::from(placed.frame.stored_bytes))
        })
        .peekable();
    let (mut numbers, mut offset) = (Vec::new(), 0);
    for (number, part) in (0u32..).zip(delta.parts()) {
        let end = offset + u64::from(part.bytes);
        while runs.next_if(|(_, run_end)| *run_end <= offset).is_some() {}
        if runs.peek().is_some_and(|(start, _)| *start < end) {
            numbers.push(number);
        }
        offset = end;
    }
    numbers
}
