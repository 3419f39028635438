//! Where an agent stands with one channel.

use super::{ChannelName, ContentRevision};
use crate::agent::ItemState;
use crate::revision::Revision;

/// Most channels that an agent reports: those that are assigned and as many that are still in force although
/// nothing assigns them any more.
pub const MAX_REPORTED_CHANNELS: usize = 2 * super::MAX_CHANNELS_PER_GROUP;

/// State of one channel on an agent, as it reports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentStatus {
    /// The channel.
    pub channel: ChannelName,
    /// Content revision in force; 0 for none.
    pub active: ContentRevision,
    /// Content revision that is assigned; 0 for none any more.
    pub wanted: ContentRevision,
    /// Revision of the assignment that `state` speaks of.
    pub revision: Revision,
    /// How far the assigned content got: offered until its download starts, received while it runs, verified
    /// when all of it is on disk, then as for policies.
    pub state: ItemState,
    /// Share of the bytes planned that are there, 0 to 100, in steps of 10 while the download runs.
    pub percent: u8,
    /// Where the bytes of this assignment came from so far.
    pub bytes: SourceBytes,
    /// Why it failed, or what it waits for; empty otherwise.
    pub reason: Box<str>,
}

/// Bytes of content by where they came from: fetched ones as they travelled, held ones as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceBytes {
    /// Fetched as patches.
    pub patch: u64,
    /// Fetched as chunks.
    pub chunk: u64,
    /// Fetched as the whole content.
    pub full: u64,
    /// Taken from what the agent held already.
    pub held: u64,
}

/// What an agent wants of the fleet's allowance for full downloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DownloadWish {
    /// Nothing.
    #[default]
    Nothing,
    /// To start, or to go on although its time ran out.
    Wanted,
    /// To go on: it downloads under a slot that it was granted.
    Held,
    /// To give its slot back.
    Done,
}
