//! What the compiler finds wrong.

use crate::content::MAX_CHANNELS_PER_GROUP;
use crate::document::MAX_DOCUMENT_BYTES;
use crate::id::{GroupId, KindName, PolicyName};
use crate::path::GroupPath;
use crate::settings::SettingsError;
use crate::snapshot::{MAX_POLICIES, MAX_SNAPSHOT_BYTES};

/// Most problems that are listed; the rest is counted. A root policy that fails everywhere must not make
/// an answer of megabytes.
pub const MAX_PROBLEMS: usize = 100;

/// A rule that what is in force for a group breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A setting in force is out of bounds.
    #[error("settings of group {path}: {source}")]
    Settings {
        /// The group.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// Which setting, and its bounds.
        source: SettingsError,
    },
    /// A policy names a place that a group above has locked, or replaces something above that place.
    /// An equal value is refused too: whether a change is accepted must not depend on values that others
    /// may change later.
    #[error(
        "policy {policy} of group {path} may not set {pointer:?} ({kind}): policy {owner_policy} of group \
         {owner_path} locks it"
    )]
    Locked {
        /// The group that assigns the refused policy.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// The refused policy.
        policy: PolicyName,
        /// Its kind.
        kind: KindName,
        /// The locked place, as text.
        pointer: String,
        /// The group whose policy has the lock.
        owner: GroupId,
        /// Its place.
        owner_path: GroupPath,
        /// The policy that has the lock.
        owner_policy: PolicyName,
    },
    /// A document in force does not satisfy the schema of its kind.
    #[error("{kind} of group {path} with policy {policy}: value at {pointer:?}: {message}")]
    Schema {
        /// The group that assigns the policy.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// The last policy of the overlay.
        policy: PolicyName,
        /// Its kind.
        kind: KindName,
        /// The value, as a JSON Pointer; empty for the whole document.
        pointer: String,
        /// What is wrong with it.
        message: String,
    },
    /// A document in force is larger than an item of a snapshot may be.
    #[error(
        "{kind} of group {path} with policy {policy} is {bytes} bytes long; at most {MAX_DOCUMENT_BYTES} are \
         allowed"
    )]
    DocumentTooLarge {
        /// The group that assigns the policy.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// The last policy of the overlay.
        policy: PolicyName,
        /// Its kind.
        kind: KindName,
        /// Its size as canonical JSON.
        bytes: usize,
    },
    /// All documents in force together do not fit one snapshot.
    #[error(
        "the snapshot of group {path} would be {bytes} bytes long in {kinds} kinds; at most \
         {MAX_SNAPSHOT_BYTES} bytes in {MAX_POLICIES} kinds are allowed"
    )]
    SnapshotTooLarge {
        /// The group.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// Size of the snapshot, rounded up.
        bytes: usize,
        /// Number of kinds in it.
        kinds: usize,
    },
    /// More channels than agents of a group may follow.
    #[error(
        "group {path} would follow {channels} channels, those of the groups above included; at most \
         {MAX_CHANNELS_PER_GROUP} are allowed"
    )]
    TooManyChannels {
        /// The group.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// How many channels.
        channels: usize,
    },
}

impl Problem {
    /// The group that has the problem.
    #[must_use]
    pub fn group(&self) -> &GroupId {
        match self {
            Self::Settings { group, .. }
            | Self::Locked { group, .. }
            | Self::Schema { group, .. }
            | Self::DocumentTooLarge { group, .. }
            | Self::SnapshotTooLarge { group, .. }
            | Self::TooManyChannels { group, .. } => group,
        }
    }

    /// The policy that has the problem, if one has.
    #[must_use]
    pub fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::Locked { policy, .. }
            | Self::Schema { policy, .. }
            | Self::DocumentTooLarge { policy, .. } => Some(policy),
            Self::Settings { .. } | Self::SnapshotTooLarge { .. } | Self::TooManyChannels { .. } => None,
        }
    }

    /// The place in the document, as a JSON Pointer, if there is one.
    #[must_use]
    pub fn pointer(&self) -> Option<&str> {
        match self {
            Self::Locked { pointer, .. } | Self::Schema { pointer, .. } => Some(pointer),
            Self::Settings { .. }
            | Self::DocumentTooLarge { .. }
            | Self::SnapshotTooLarge { .. }
            | Self::TooManyChannels { .. } => None,
        }
    }
}

/// The problems of a run: the first [`MAX_PROBLEMS`] in order of discovery, and how many there are in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    listed: Vec<Problem>,
    total: usize,
}

impl Problems {
    pub(super) fn push(&mut self, problem: Problem) {
        if self.listed.len() < MAX_PROBLEMS {
            self.listed.push(problem);
        }
        self.total += 1;
    }

    /// Those that are listed.
    #[must_use]
    pub fn listed(&self) -> &[Problem] {
        &self.listed
    }

    /// How many there are, listed or not.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}
