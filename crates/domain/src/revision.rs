//! Revisions and epochs: everything handed out carries one, and receivers never go backwards.

use std::fmt;

/// Position in the store's log. A change gets the log position of its last entry; the snapshot of a group
/// carries the revision of the change that last altered its digest. So revisions of one fleet are
/// comparable with each other, rise with time and name the change that caused them. 0 means "none yet".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// Generation of the store. Rises when the control plane is restored from a backup, so that revisions
/// which repeat after the restore still count as newer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// What an agent has reached: epoch first, then revision. The ordering is that of the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// Generation of the store.
    pub epoch: Epoch,
    /// Revision within the epoch.
    pub revision: Revision,
}

impl Cursor {
    /// A cursor from raw numbers.
    #[must_use]
    pub const fn new(epoch: u64, revision: u64) -> Self {
        Self { epoch: Epoch(epoch), revision: Revision(revision) }
    }

    /// Before anything: older than every snapshot.
    pub const NONE: Self = Self::new(0, 0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.revision)
    }
}
