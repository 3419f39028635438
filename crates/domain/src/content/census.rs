//! How many agents hold which content, as one presence replica counted.

use super::name::{ChannelName, ContentRevision};

/// Most entries of a census: beyond them a patch is not worth making.
pub const MAX_HOLDERS: usize = 4096;

/// How many agents hold which content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Random id of the replica that counted.
    pub replica: u64,
    /// At most [`MAX_HOLDERS`]: first what is being fetched, then most agents first.
    pub holders: Vec<Holders>,
}

/// Agents at one content revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// The channel.
    pub channel: ChannelName,
    /// The content revision.
    pub revision: ContentRevision,
    /// Agents that have it in force.
    pub active: u64,
    /// Agents that are fetching it.
    pub fetching: u64,
}
