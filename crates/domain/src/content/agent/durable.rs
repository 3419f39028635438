//! What an agent remembers of its content: what is good, what is on trial, what failed. The shell keeps a
//! [`Durable`] on disk and writes it before it acts.

use std::collections::BTreeMap;

use crate::agent::Reason;
use crate::content::{ChannelName, ContentItem, SourceBytes};
use crate::digest::Digest;
use crate::revision::Revision;

/// Times a content is switched on, or taken away, before the agent takes it that the content is what kills it.
pub const MAX_STARTS: u32 = 3;
/// Most failed contents that are remembered, oldest forgotten first: two for each channel that may be assigned.
/// Each takes at most about 1 KiB.
pub const MAX_FAILED: usize = 2 * crate::content::MAX_CHANNELS_PER_GROUP;

/// What must survive a crash. The shell writes it whole when it gets
/// [`Effect::Persist`](super::Effect::Persist).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durable {
    /// Channels of which something is held or under way. At most
    /// [`MAX_REPORTED_CHANNELS`](crate::content::MAX_REPORTED_CHANNELS).
    pub channels: BTreeMap<ChannelName, ChannelState>,
    /// Contents that failed, oldest first; not tried again until they change. At most [`MAX_FAILED`].
    pub failed: Vec<Failed>,
}

/// One channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelState {
    /// The last content that proved healthy.
    pub good: Option<Good>,
    /// What is on trial, if anything.
    pub applying: Option<Applying>,
    /// The content that was good before: kept, as long as nothing else needs its room, because the way back to it
    /// is the shortest there is.
    pub previous: Option<ContentItem>,
    /// The content whose download has begun: after a restart it goes on without waiting for its turn again.
    pub begun: Option<Digest>,
}

/// A content that proved healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Good {
    /// As assigned.
    pub item: ContentItem,
    /// Where its bytes came from.
    pub bytes: SourceBytes,
}

/// A content that is switched on, or taken away, and has not proved healthy yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applying {
    /// As assigned; `None` when the channel is taken away.
    pub item: Option<ContentItem>,
    /// Where its bytes came from.
    pub bytes: SourceBytes,
    /// How often it was started. An agent that dies each time gives up after [`MAX_STARTS`].
    pub starts: u32,
}

/// A content that failed. Not tried again while channel, revision and manifest stay the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The channel.
    pub channel: ChannelName,
    /// Revision of the item.
    pub revision: Revision,
    /// The manifest.
    pub manifest: Digest,
    /// Why.
    pub reason: Reason,
}

impl Failed {
    fn is_of(&self, item: &ContentItem) -> bool {
        (&self.channel, self.revision, self.manifest) == (&item.channel, item.revision, item.manifest)
    }
}

impl Durable {
    /// Why an item failed before, if it did and has not changed.
    #[must_use]
    pub fn failure_of(&self, item: &ContentItem) -> Option<&Reason> {
        self.failed.iter().find(|failed| failed.is_of(item)).map(|failed| &failed.reason)
    }

    /// Remembers a failure, once.
    pub fn remember(&mut self, item: &ContentItem, reason: Reason) {
        self.failed.retain(|failed| !failed.is_of(item));
        if self.failed.len() >= MAX_FAILED {
            self.failed.remove(0);
        }
        let (channel, revision, manifest) = (item.channel.clone(), item.revision, item.manifest);
        self.failed.push(Failed { channel, revision, manifest, reason });
    }

    /// The last content of a channel that proved healthy.
    #[must_use]
    pub fn good(&self, channel: &ChannelName) -> Option<&Good> {
        self.channels.get(channel)?.good.as_ref()
    }
}
