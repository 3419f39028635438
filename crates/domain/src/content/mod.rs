//! Content: what is distributed in bulk, revision by revision, in channels.

pub mod agent;
pub mod allowance;
pub mod census;
pub mod index;
pub mod manifest;
pub mod name;
pub mod pace;
pub mod patches;
pub mod path;
pub mod plan;
pub mod retention;
pub mod status;
pub mod window;

pub use crate::id::StageName;
pub use census::{Census, Holders};
pub use index::{ContentIndex, Delta, DeltaFrame, DeltaPart, OldRun};
pub use manifest::{ChunkEntry, Manifest, ManifestFile};
pub use name::{ChannelName, ChannelNameError, ContentRevision};
pub use path::{FilePath, FilePathError};
pub use status::{ContentStatus, DownloadWish, MAX_REPORTED_CHANNELS, SourceBytes};

use crate::digest::Digest;
use crate::revision::Revision;

/// Most channels that a group's agents follow: each takes about 150 bytes of the snapshot and at least twice
/// its content's bytes of the agents' disks.
pub const MAX_CHANNELS_PER_GROUP: usize = 64;

/// Which revision of a channel a group's agents should have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentPointer {
    /// The one that a stage names.
    Stage(StageName),
    /// Exactly this one.
    Revision(ContentRevision),
}

/// What names exactly one content, so that no other can stand in for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentTarget {
    /// Number of the content revision in its channel; for people.
    pub number: ContentRevision,
    /// SHA-256 of the manifest as signed.
    pub manifest: Digest,
    /// Length of the manifest as signed.
    pub manifest_bytes: u64,
    /// Length of the content.
    pub content_bytes: u64,
}

impl ContentTarget {
    /// The item of a snapshot that names this content, last altered by the change of `revision`.
    #[must_use]
    pub fn item(self, channel: ChannelName, revision: Revision) -> ContentItem {
        let Self { number, manifest, manifest_bytes, content_bytes } = self;
        ContentItem { channel, number, revision, manifest, manifest_bytes, content_bytes }
    }
}

/// One channel's content that agents should have. The manifest is named by digest and length, so that no
/// other content can stand in for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentItem {
    /// The channel.
    pub channel: ChannelName,
    /// Number of the content revision in its channel; for people.
    pub number: ContentRevision,
    /// Revision of the change that last altered this item.
    pub revision: Revision,
    /// SHA-256 of the manifest as signed.
    pub manifest: Digest,
    /// Length of the manifest as signed.
    pub manifest_bytes: u64,
    /// Length of the content.
    pub content_bytes: u64,
}

impl ContentItem {
    /// What it names.
    #[must_use]
    pub fn target(&self) -> ContentTarget {
        let Self { number, manifest, manifest_bytes, content_bytes, .. } = *self;
        ContentTarget { number, manifest, manifest_bytes, content_bytes }
    }
}
