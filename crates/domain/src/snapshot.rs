//! What an agent is told: the snapshot of its group, and which group it belongs to.

use std::sync::Arc;

use crate::content::{ChannelName, ContentItem, ContentTarget};
use crate::digest::Digest;
use crate::id::{AgentId, FleetId, GroupId, KindName};
use crate::path::GroupPath;
use crate::revision::{Cursor, Revision};
use crate::settings::Settings;
use crate::time::Timestamp;

/// Most policies (kinds) in one snapshot.
pub const MAX_POLICIES: usize = 256;
/// Largest effective document of one kind, in bytes of canonical JSON.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// Largest snapshot, in bytes as signed: fits the 1 MiB that a NATS server accepts by default, with its
/// envelope and headers.
pub const MAX_SNAPSHOT_BYTES: usize = 960 * 1024;

/// All that a group's agents should have, at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The fleet this is meant for.
    pub fleet: FleetId,
    /// The group this is meant for.
    pub group: GroupId,
    /// Where the group stands in the tree; for people.
    pub path: GroupPath,
    /// Epoch, and the revision of the change that last altered [`Snapshot::content_digest`].
    pub cursor: Cursor,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// After this the snapshot proves nothing about freshness.
    pub expires_at: Timestamp,
    /// Communication settings in force.
    pub settings: Settings,
    /// One item for each kind, ordered by kind.
    pub policies: Vec<PolicyItem>,
    /// Content assigned, one item for each channel, ordered by channel; at most
    /// [`crate::content::MAX_CHANNELS_PER_GROUP`].
    pub content: Vec<ContentItem>,
    /// W3C trace id of the change that caused this revision; zero if unknown.
    pub trace_id: [u8; 16],
}

/// The effective document of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyItem {
    /// The kind.
    pub kind: KindName,
    /// Revision of the change that last altered this item.
    pub revision: Revision,
    /// Canonical JSON: keys sorted, no insignificant white space.
    pub document: Arc<[u8]>,
    /// Digest of `document`.
    pub digest: Digest,
}

impl Snapshot {
    /// Digest of what an agent acts on: settings, documents and content, not when or why they were issued.
    #[must_use]
    pub fn content_digest(&self) -> Digest {
        let policies = self.policies.iter().map(|item| (&item.kind, &item.digest));
        let content = self.content.iter().map(|item| (&item.channel, item.target()));
        content_digest(&self.settings, policies, content)
    }
}

/// Digest of settings, documents (by kind and digest, in order of kind) and content (in order of channel).
#[must_use]
pub fn content_digest<'a>(
    settings: &Settings,
    policies: impl IntoIterator<Item = (&'a KindName, &'a Digest)>,
    content: impl IntoIterator<Item = (&'a ChannelName, ContentTarget)>,
) -> Digest {
    let content: Vec<(&ChannelName, ContentTarget)> = content.into_iter().collect();
    let numbers = [
        settings.mode as u64,
        settings.heartbeat_interval.0,
        settings.offline_after.0,
        settings.content_spread.0,
        settings.content_rate_limit.unwrap_or(0),
        // Tells where the content ends and the documents start.
        content.len() as u64,
    ]
    .map(u64::to_be_bytes);
    let lengths = content.iter().map(|(_, target)| {
        [u64::from(target.number.0), target.manifest_bytes, target.content_bytes].map(u64::to_be_bytes)
    });
    let lengths: Vec<[[u8; 8]; 3]> = lengths.collect();
    let mut parts: Vec<&[u8]> = numbers.iter().map(<[u8; 8]>::as_slice).collect();
    for ((channel, target), lengths) in content.iter().zip(&lengths) {
        parts.push(channel.as_str().as_bytes());
        parts.push(&target.manifest.0);
        parts.extend(lengths.iter().map(<[u8; 8]>::as_slice));
    }
    for (kind, digest) in policies {
        parts.push(kind.as_str().as_bytes());
        parts.push(&digest.0);
    }
    Digest::of_parts(parts)
}

/// Which group an agent belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The fleet.
    pub fleet: FleetId,
    /// The agent this is meant for.
    pub agent: AgentId,
    /// Its group.
    pub group: GroupId,
    /// Epoch of the registry, and a counter of this agent's assignments that only rises.
    pub cursor: Cursor,
    /// When it was signed.
    pub issued_at: Timestamp,
}
