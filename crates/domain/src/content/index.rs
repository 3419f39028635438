//! The ways to a content: how long each piece is as it travels, and deltas that rebuild the content from an older
//! one or from nothing. An index saves bytes and proves nothing: whatever it says, the result is held against the
//! manifest.

use super::manifest::{MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_CONTENT_BYTES, MAX_MANIFEST_BYTES, Manifest};
use crate::digest::Digest;
use crate::id::FleetId;

/// Most deltas of a content, at most one from each revision: more would be kept for agents that hardly exist.
pub const MAX_DELTAS: usize = 128;
/// Longest index as signed, for the same reason as a manifest's.
pub const MAX_INDEX_BYTES: usize = MAX_MANIFEST_BYTES;
/// What compression may add to `bytes` that do not compress: a header, and three bytes for each 128 KiB.
pub const MAX_EXPANSION_BYTES: u32 = 512;
/// Longest chunk as stored.
pub const MAX_STORED_CHUNK_BYTES: u32 = MAX_CHUNK_BYTES + MAX_EXPANSION_BYTES;
/// Longest run of the new content that one frame rebuilds: an agent holds it in memory.
pub const MAX_FRAME_BYTES: u32 = 8 << 20;
/// Longest prefix of a frame: an agent holds it in memory, beside the frame and what is rebuilt.
pub const MAX_PREFIX_BYTES: u64 = 32 << 20;
/// Most runs of old content in a frame's prefix: each is read from the disk apart.
pub const MAX_OLD_RUNS: usize = 256;
/// Longest part of a delta: one message, for the same reason as a chunk's.
pub const MAX_PART_BYTES: u32 = MAX_CHUNK_BYTES;

/// What an index takes at most beside chunks and deltas.
const INDEX_WEIGHT: usize = 512;
/// What a chunk's stored length takes at most.
const CHUNK_WEIGHT: usize = 3;
/// What a delta takes at most beside frames and parts.
const DELTA_WEIGHT: usize = 48;
/// What a frame takes at most beside its runs.
const FRAME_WEIGHT: usize = 32;
/// What a run of old content takes at most.
const RUN_WEIGHT: usize = 9;
/// What a part takes at most.
const PART_WEIGHT: usize = 44;

/// Why pieces do not make an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// More than [`MAX_CHUNKS`].
    #[error("has {0} chunks; at most {MAX_CHUNKS} are allowed")]
    TooManyChunks(usize),
    /// No bytes, or more than [`MAX_STORED_CHUNK_BYTES`].
    #[error("has a stored chunk of {0} bytes; 1 to {MAX_STORED_CHUNK_BYTES} are allowed")]
    ChunkLength(u32),
    /// More than [`MAX_DELTAS`].
    #[error("has {0} deltas; at most {MAX_DELTAS} are allowed")]
    TooManyDeltas(usize),
    /// Deltas twice from the same content, or out of order.
    #[error("has deltas twice from one content or out of order")]
    Order,
    /// A delta that leads from the content to itself.
    #[error("has a delta that starts where it ends")]
    Circle,
    /// More than [`MAX_INDEX_BYTES`] when written.
    #[error("takes up to {0} bytes; at most {MAX_INDEX_BYTES} are allowed")]
    TooHeavy(usize),
    /// It belongs to another manifest.
    #[error("does not lead to the manifest it came with")]
    Manifest,
    /// A delta is broken.
    #[error("has a broken delta")]
    Delta(#[from] DeltaError),
}

/// Why frames and parts do not make a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// A delta rebuilds something.
    #[error("has no frames")]
    NoFrames,
    /// No bytes, or more than [`MAX_FRAME_BYTES`].
    #[error("has a frame of {0} bytes; 1 to {MAX_FRAME_BYTES} are allowed")]
    FrameLength(u32),
    /// No bytes, or more than compression makes of the frame.
    #[error("has a frame stored in {0} bytes, which is none or more than it rebuilds")]
    StoredLength(u32),
    /// More than [`MAX_PREFIX_BYTES`].
    #[error("has a frame with a prefix of {0} bytes; at most {MAX_PREFIX_BYTES} are allowed")]
    Prefix(u64),
    /// More than [`MAX_OLD_RUNS`].
    #[error("has a frame with {0} runs of old content; at most {MAX_OLD_RUNS} are allowed")]
    Runs(usize),
    /// An empty run, or one behind the end of every content.
    #[error("has a run of old content that is empty or ends behind {MAX_CONTENT_BYTES} bytes")]
    Run,
    /// Old content in a delta that starts from nothing.
    #[error("uses old content and starts from nothing")]
    OldFromNothing,
    /// New content that is not rebuilt by then.
    #[error("has a frame that uses {wanted} bytes of the new content when {rebuilt} are rebuilt")]
    NotYetRebuilt {
        /// What the frame's prefix has of the new content.
        wanted: u32,
        /// What the frames before it rebuild.
        rebuilt: u64,
    },
    /// Longer than [`MAX_CONTENT_BYTES`].
    #[error("rebuilds {0} bytes; at most {MAX_CONTENT_BYTES} are allowed")]
    TooLong(u64),
    /// No bytes, or more than [`MAX_PART_BYTES`].
    #[error("has a part of {0} bytes; 1 to {MAX_PART_BYTES} are allowed")]
    PartLength(u32),
    /// The lengths of frames and parts differ.
    #[error("has frames stored in {frames} bytes and parts of {parts} bytes; both must be all of it")]
    Sums {
        /// Sum over the frames.
        frames: u64,
        /// Sum over the parts.
        parts: u64,
    },
}

/// A run of the old content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OldRun {
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub bytes: u32,
}

/// One run of the new content, rebuilt in one step from a zstd frame and a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaFrame {
    /// Length of the run.
    pub bytes: u32,
    /// Length of the zstd frame.
    pub stored_bytes: u32,
    /// Runs of the old content that the prefix begins with, in this order.
    pub old: Vec<OldRun>,
    /// How much of the new content before this frame the prefix ends with.
    pub new_bytes: u32,
}

impl DeltaFrame {
    /// Length of the prefix.
    #[must_use]
    pub fn prefix_bytes(&self) -> u64 {
        self.old.iter().fold(u64::from(self.new_bytes), |sum, run| sum + u64::from(run.bytes))
    }

    fn check(&self, from_nothing: bool, rebuilt: u64) -> Result<(), DeltaError> {
        if self.bytes == 0 || self.bytes > MAX_FRAME_BYTES {
            return Err(DeltaError::FrameLength(self.bytes));
        }
        if self.stored_bytes == 0 || self.stored_bytes > self.bytes + MAX_EXPANSION_BYTES {
            return Err(DeltaError::StoredLength(self.stored_bytes));
        }
        if self.old.len() > MAX_OLD_RUNS {
            return Err(DeltaError::Runs(self.old.len()));
        }
        if from_nothing && !self.old.is_empty() {
            return Err(DeltaError::OldFromNothing);
        }
        let inside = |run: &OldRun| run.offset.saturating_add(run.bytes.into()) <= MAX_CONTENT_BYTES;
        if !self.old.iter().all(|run| run.bytes > 0 && inside(run)) {
            return Err(DeltaError::Run);
        }
        if self.prefix_bytes() > MAX_PREFIX_BYTES {
            return Err(DeltaError::Prefix(self.prefix_bytes()));
        }
        if u64::from(self.new_bytes) > rebuilt {
            return Err(DeltaError::NotYetRebuilt { wanted: self.new_bytes, rebuilt });
        }
        Ok(())
    }
}

/// One message of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaPart {
    /// Its length.
    pub bytes: u32,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

/// A content rebuilt from an older one, or from nothing. Its frames are stored one after the other and cut into
/// parts without regard to where a frame ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    from: Option<Digest>,
    frames: Vec<DeltaFrame>,
    parts: Vec<DeltaPart>,
    bytes: u64,
    stored_bytes: u64,
}

impl Delta {
    /// Checks frames and parts. `from` names the manifest that it starts from; none: from nothing.
    ///
    /// # Errors
    /// [`DeltaError`] names the first rule that is broken.
    pub fn new(
        from: Option<Digest>,
        frames: Vec<DeltaFrame>,
        parts: Vec<DeltaPart>,
    ) -> Result<Self, DeltaError> {
        if frames.is_empty() {
            return Err(DeltaError::NoFrames);
        }
        let (mut bytes, mut stored_bytes) = (0, 0);
        for frame in &frames {
            frame.check(from.is_none(), bytes)?;
            bytes += u64::from(frame.bytes);
            stored_bytes += u64::from(frame.stored_bytes);
        }
        if bytes > MAX_CONTENT_BYTES {
            return Err(DeltaError::TooLong(bytes));
        }
        if let Some(part) = parts.iter().find(|part| part.bytes == 0 || part.bytes > MAX_PART_BYTES) {
            return Err(DeltaError::PartLength(part.bytes));
        }
        let in_parts = parts.iter().map(|part| u64::from(part.bytes)).sum();
        if stored_bytes != in_parts {
            return Err(DeltaError::Sums { frames: stored_bytes, parts: in_parts });
        }
        Ok(Self { from, frames, parts, bytes, stored_bytes })
    }

    /// The manifest that it starts from; none: from nothing.
    #[must_use]
    pub fn from(&self) -> Option<Digest> {
        self.from
    }

    /// The frames, in the order of the new content.
    #[must_use]
    pub fn frames(&self) -> &[DeltaFrame] {
        &self.frames
    }

    /// The messages, in order.
    #[must_use]
    pub fn parts(&self) -> &[DeltaPart] {
        &self.parts
    }

    /// Length of what it rebuilds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Length of all parts.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Each frame with where it starts in the new content and where it is stored in the joined parts.
    pub fn placed_frames(&self) -> impl Iterator<Item = PlacedFrame<'_>> {
        self.frames.iter().scan((0, 0), |(offset, stored_offset), frame| {
            let placed = PlacedFrame { frame, offset: *offset, stored_offset: *stored_offset };
            *offset += u64::from(frame.bytes);
            *stored_offset += u64::from(frame.stored_bytes);
            Some(placed)
        })
    }

    fn weight(&self) -> usize {
        let runs: usize = self.frames.iter().map(|frame| frame.old.len()).sum();
        DELTA_WEIGHT + self.frames.len() * FRAME_WEIGHT + runs * RUN_WEIGHT + self.parts.len() * PART_WEIGHT
    }
}

/// A frame and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedFrame<'a> {
    /// The frame.
    pub frame: &'a DeltaFrame,
    /// Where what it rebuilds starts in the new content.
    pub offset: u64,
    /// Where it starts in the joined parts.
    pub stored_offset: u64,
}

/// The ways to one content. One that exists keeps all the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentIndex {
    fleet: FleetId,
    manifest: Digest,
    stored_bytes: Vec<u32>,
    deltas: Vec<Delta>,
}

impl ContentIndex {
    /// Checks the ways to the content whose manifest has this digest. `stored_bytes` are the lengths of the chunks
    /// as stored, in the order of the manifest; `deltas` are ordered by where they start, from nothing first.
    ///
    /// # Errors
    /// [`IndexError`] names the first rule that is broken.
    pub fn new(
        fleet: FleetId,
        manifest: Digest,
        stored_bytes: Vec<u32>,
        deltas: Vec<Delta>,
    ) -> Result<Self, IndexError> {
        if stored_bytes.len() > MAX_CHUNKS {
            return Err(IndexError::TooManyChunks(stored_bytes.len()));
        }
        if let Some(bytes) = stored_bytes.iter().find(|bytes| !(1..=MAX_STORED_CHUNK_BYTES).contains(*bytes))
        {
            return Err(IndexError::ChunkLength(*bytes));
        }
        if deltas.len() > MAX_DELTAS {
            return Err(IndexError::TooManyDeltas(deltas.len()));
        }
        if !deltas.is_sorted_by(|a, b| a.from < b.from) {
            return Err(IndexError::Order);
        }
        if deltas.iter().any(|delta| delta.from == Some(manifest)) {
            return Err(IndexError::Circle);
        }
        let in_deltas: usize = deltas.iter().map(Delta::weight).sum();
        let weight = INDEX_WEIGHT + stored_bytes.len() * CHUNK_WEIGHT + in_deltas;
        if weight > MAX_INDEX_BYTES {
            return Err(IndexError::TooHeavy(weight));
        }
        Ok(Self { fleet, manifest, stored_bytes, deltas })
    }

    /// Whether it leads to this content: of the same fleet, chunk by chunk, each delta to its whole length.
    /// `digest` is the manifest's.
    ///
    /// # Errors
    /// [`IndexError::Manifest`] if not.
    pub fn check_against(&self, digest: &Digest, manifest: &Manifest) -> Result<(), IndexError> {
        let same = self.manifest == *digest && self.fleet == *manifest.fleet();
        let chunks = self.stored_bytes.len() == manifest.chunks().len();
        if same && chunks && self.deltas.iter().all(|delta| delta.bytes == manifest.content_bytes()) {
            Ok(())
        } else {
            Err(IndexError::Manifest)
        }
    }

    /// The fleet it is meant for.
    #[must_use]
    pub fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    /// SHA-256 of the manifest it leads to.
    #[must_use]
    pub fn manifest(&self) -> Digest {
        self.manifest
    }

    /// Length of each chunk as stored, in the order of the manifest.
    #[must_use]
    pub fn stored_bytes(&self) -> &[u32] {
        &self.stored_bytes
    }

    /// The deltas, ordered by where they start.
    #[must_use]
    pub fn deltas(&self) -> &[Delta] {
        &self.deltas
    }

    /// The delta that starts from this manifest, or from nothing.
    #[must_use]
    pub fn delta(&self, from: Option<Digest>) -> Option<&Delta> {
        self.deltas.iter().find(|delta| delta.from == from)
    }
}

#[cfg(test)]
mod tests;
