//! What an agent does with a policy once its document is in place.

use std::future::Future;
use std::path::PathBuf;

use bytes::Bytes;
use domain::content::{ChannelName, ContentRevision};
use domain::{Digest, KindName};

/// A document that changed.
#[derive(Debug, Clone)]
pub struct PolicyChange {
    /// Its kind.
    pub kind: KindName,
    /// The effective document, canonical JSON; `None` if the agent's group has no policy of this kind any
    /// more.
    pub document: Option<Bytes>,
    /// The file that holds it, for storage on disk. Also set when the document is gone.
    pub file: Option<PathBuf>,
}

/// A channel whose content in force changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentChange {
    /// The channel.
    pub channel: ChannelName,
    /// Path that leads to the files in force, always the same for a channel. There is nothing behind it when the
    /// content is gone. What is made of the files belongs elsewhere: a file that is changed, or is not of the
    /// content, is drift and is repaired.
    pub dir: PathBuf,
    /// What is in force; `None` if nothing is any more.
    pub revision: Option<HeldRevision>,
}

/// A content that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldRevision {
    /// Its number in the channel.
    pub number: ContentRevision,
    /// SHA-256 of its manifest.
    pub manifest: Digest,
}

/// Puts policies and content into effect. Calls for policies come one at a time, in order of kind, and so do
/// calls for content; but one of each may run at a time, for policies never wait for content.
///
/// A handler may be called again with the same document: after a crash, and when drift was repaired. So it
/// brings the system to the state that the document describes, whatever state it is in.
pub trait Handler: Send + Sync + 'static {
    /// Whether this handler cares for a kind. For others the document in its place is the result.
    fn handles(&self, kind: &KindName) -> bool;

    /// Puts a document into effect. An error brings back the last known good of all kinds; its text is
    /// reported (at most its last 1,024 bytes). The handler bounds its own time.
    fn apply(&self, change: PolicyChange) -> impl Future<Output = Result<(), String>> + Send;

    /// Whether what was put into effect works. An error counts as one of [`Handler::apply`].
    fn check_health(&self, kind: &KindName) -> impl Future<Output = Result<(), String>> + Send;

    /// Puts a content into effect whose files are in place. An error brings back the last known good of the
    /// channel; as for policies it may be called again with the same content. Does nothing by itself.
    fn apply_content(&self, change: ContentChange) -> impl Future<Output = Result<(), String>> + Send {
        drop(change);
        std::future::ready(Ok(()))
    }

    /// Whether the content that was put into effect works. An error counts as one of [`Handler::apply_content`].
    /// It is well by itself.
    fn check_content(&self, change: &ContentChange) -> impl Future<Output = Result<(), String>> + Send {
        let _: &ContentChange = change;
        std::future::ready(Ok(()))
    }
}

/// The documents in place are the result.
impl Handler for () {
    fn handles(&self, _kind: &KindName) -> bool {
        false
    }

    async fn apply(&self, _change: PolicyChange) -> Result<(), String> {
        Ok(())
    }

    async fn check_health(&self, _kind: &KindName) -> Result<(), String> {
        Ok(())
    }
}
