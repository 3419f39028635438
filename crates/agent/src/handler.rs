//! What an agent does with a policy once its document is in place.

use std::future::Future;
use std::path::PathBuf;

use bytes::Bytes;
use domain::KindName;

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

/// Puts policies into effect. Calls come one at a time, in order of kind.
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
