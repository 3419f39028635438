//! What survives a crash of an agent, and what of a content is missing there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::Digest;
use domain::Revision;
use domain::content::agent::{Durable, Space};
use domain::content::plan::{Plan, Road};
use domain::content::{ChannelName, ContentItem, ContentRevision};

/// Length of a piece of a content.
pub(crate) const PIECE: u64 = 128 * 1024;
/// Length of a piece of a patch; numbered from [`FIRST_OF_PATCH`].
const PATCH_PIECE: u64 = 20 * 1024;
const FIRST_OF_PATCH: u32 = 1_000;
const PIECES_OF_PATCH: u32 = 2;

/// What comes of a content when it is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    Good,
    /// Its handler says no.
    Refused,
    /// The health check says no.
    Sick,
    /// The agent dies while its handler runs.
    Deadly,
    /// Its pieces do not make what its manifest says.
    Broken,
}

/// One content as the server has it.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) channel: ChannelName,
    pub(crate) number: u32,
    pub(crate) manifest: Digest,
    pub(crate) pieces: u32,
    /// Where its patch starts.
    pub(crate) patch_from: Option<Digest>,
    pub(crate) nature: Nature,
}

impl Content {
    pub(crate) fn new(channel: &str, number: u32, pieces: u32) -> Self {
        let manifest = Digest::of(format!("{channel}#{number}").as_bytes());
        let channel = ChannelName::new(channel).expect("a valid name");
        Self { channel, number, manifest, pieces, patch_from: None, nature: Nature::Good }
    }

    pub(crate) fn item(&self, revision: u64) -> ContentItem {
        ContentItem {
            channel: self.channel.clone(),
            number: ContentRevision(self.number),
            revision: Revision(revision),
            manifest: self.manifest,
            manifest_bytes: 1_000,
            content_bytes: u64::from(self.pieces) * PIECE,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) durable: Durable,
    pub(crate) active: BTreeMap<ChannelName, ContentItem>,
    /// Contents that are there as a whole.
    pub(crate) trees: BTreeSet<Digest>,
    /// Of those, the ones with damaged files.
    pub(crate) damaged: BTreeSet<Digest>,
    /// Pieces of contents that were begun.
    pub(crate) drafts: BTreeMap<Digest, BTreeSet<u32>>,
    /// Whether it refuses to write.
    pub(crate) full: bool,
    /// Bytes that all contents may take.
    pub(crate) quota: Option<u64>,
}

impl Disk {
    pub(crate) fn is_whole(&self, manifest: &Digest) -> bool {
        self.trees.contains(manifest) && !self.damaged.contains(manifest)
    }

    /// The cheapest road to a content.
    pub(crate) fn plan(&self, content: &Content) -> Arc<Plan> {
        let none = BTreeSet::new();
        let there = self.drafts.get(&content.manifest).unwrap_or(&none);
        let is_missing = |piece: &u32| !there.contains(piece);
        let made = |road: Road, pieces: Vec<u32>, length: u64| {
            let fetch_bytes = pieces.len() as u64 * length;
            Plan { road, pieces, frames: Vec::new(), fetch_bytes, held_bytes: 0 }
        };
        let all = if self.damaged.contains(&content.manifest) {
            0..content.pieces.min(2)
        } else {
            0..content.pieces
        };
        let chunks = if self.is_whole(&content.manifest) {
            made(Road::Chunks, Vec::new(), PIECE)
        } else {
            made(Road::Chunks, all.filter(is_missing).collect(), PIECE)
        };
        let held = content.patch_from.filter(|from| self.is_whole(from));
        let patch = held.map(|from| {
            let all = FIRST_OF_PATCH..FIRST_OF_PATCH + PIECES_OF_PATCH;
            made(Road::Patch { from }, all.filter(is_missing).collect(), PATCH_PIECE)
        });
        Arc::new(patch.filter(|patch| patch.fetch_bytes < chunks.fetch_bytes).unwrap_or(chunks))
    }

    pub(crate) fn piece_length(piece: u32) -> u64 {
        if piece >= FIRST_OF_PATCH { PATCH_PIECE } else { PIECE }
    }

    pub(crate) fn space(&self, content: &Content) -> Space {
        let needed = if self.is_whole(&content.manifest) { 0 } else { u64::from(content.pieces) * PIECE };
        let free = if self.full { 0 } else { u64::MAX };
        Space { needed, free, quota: self.quota, used: self.trees.len() as u64 * 40 * PIECE }
    }
}
