//! Content: what is distributed in bulk, revision by revision, in channels.

pub mod name;
pub mod status;

pub use crate::id::StageName;
pub use name::{ChannelName, ChannelNameError, ContentRevision};
pub use status::{ContentStatus, MAX_REPORTED_CHANNELS, SourceBytes};

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
