//! Why a change is refused.

use crate::catalog::{ContentUser, Keeper, ObjectKey, root_id};
use crate::change::MAX_ENTRIES;
use crate::compile::{MAX_PROBLEMS, Problem};
use crate::content::{ChannelName, ContentRevision};
use crate::id::{GroupId, KindName, PolicyName};
use crate::path::{GroupPath, MAX_DEPTH};
use crate::revision::Revision;

/// Most users of an object that a refusal names; it says how many there are.
pub const MAX_USERS_NAMED: usize = 10;

/// What kind of refusal a violation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The change itself is wrong: it can never be accepted as it stands.
    Invalid,
    /// An object to be deleted or updated is not there.
    NotFound,
    /// An object to be created is there.
    Exists,
    /// An object was changed since the caller read it.
    Stale,
    /// Somebody else keeps an object in order.
    Managed,
    /// The state of the fleet forbids it for now.
    Precondition,
    /// A bound of the fleet is reached.
    Exhausted,
}

/// A rule that a change breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More than [`MAX_ENTRIES`] entries; moving a group rewrites all below it.
    #[error("the change writes {0} objects; at most {MAX_ENTRIES} are allowed in one change")]
    TooManyEntries(usize),
    /// The change says two things about one object.
    #[error("{0} stands twice in the change")]
    Duplicate(ObjectKey),
    /// There is no such object to update or delete.
    #[error("{0} does not exist")]
    Missing(ObjectKey),
    /// There is such an object already.
    #[error("{0} exists already")]
    Exists(ObjectKey),
    /// The object was changed since.
    #[error("{key} is at revision {found}, not {expected}: somebody changed it since")]
    Stale {
        /// Which object.
        key: ObjectKey,
        /// What the caller expected.
        expected: Revision,
        /// What is there.
        found: Revision,
    },
    /// Somebody else keeps the object in order.
    #[error(
        "{key} is managed by {manager}: change it there{}, or take it over with `muster apply --take-over`",
        typed(manager, key)
    )]
    Managed {
        /// Which object.
        key: ObjectKey,
        /// Who.
        manager: Keeper,
    },
    /// The root was to be deleted.
    #[error("the root group cannot be deleted")]
    RootDeleted,
    /// The root was to be moved, or another group to be put at `/`.
    #[error("the root group cannot be moved: group {ROOT:?} is at / and no other is", ROOT = root_id().as_str())]
    RootMoved(GroupId),
    /// Another group is at that place.
    #[error("group {by:?} is at {path} already", by = by.as_str())]
    PathTaken {
        /// The group to be put there.
        group: GroupId,
        /// The place.
        path: GroupPath,
        /// The group that is there.
        by: GroupId,
    },
    /// No group is at the place above, neither now nor by this change.
    #[error("group {group:?} at {path} has no parent: there is no group at {parent}", group = group.as_str())]
    ParentMissing {
        /// The group.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// The place above.
        parent: GroupPath,
    },
    /// A group was to be moved below itself.
    #[error("group {group:?} cannot move from {from} to {to}: that is below itself", group = group.as_str())]
    Cycle {
        /// The group.
        group: GroupId,
        /// Its place.
        from: GroupPath,
        /// The place wanted.
        to: GroupPath,
    },
    /// A group below a moved one would be too deep.
    #[error("group {group:?} would move too deep: at most {MAX_DEPTH} segments are allowed", group = group.as_str())]
    TooDeep {
        /// The group that would be too deep.
        group: GroupId,
    },
    /// A group to be deleted has children.
    #[error("group at {path} has children: {}", named(children, *total))]
    HasChildren {
        /// The group.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// The first of its children.
        children: Vec<GroupPath>,
        /// How many there are.
        total: usize,
    },
    /// A group to be deleted has agents.
    #[error("group at {path} has {agents} agents: move or delete them first")]
    HasAgents {
        /// The group.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// How many agents are in it.
        agents: u64,
    },
    /// An object to be deleted is used by others.
    #[error("{key} is in use by {}", named(users, *total))]
    InUse {
        /// Which object.
        key: ObjectKey,
        /// The first of its users.
        users: Vec<ObjectKey>,
        /// How many there are.
        total: usize,
    },
    /// A revision to be retired is in use.
    #[error("revision {number} of channel {channel} is in use by {}{}", named(users, *total), way_out(users))]
    ContentInUse {
        /// The channel.
        channel: ChannelName,
        /// The revision.
        number: ContentRevision,
        /// The first of its users.
        users: Vec<ContentUser>,
        /// How many there are.
        total: usize,
    },
    /// A new revision has a number that was used before, or one beyond the channel's last.
    #[error(
        "revision {number} of channel {channel} cannot be new: numbers are not used again, and the next is {next}"
    )]
    ContentNumber {
        /// The channel.
        channel: ChannelName,
        /// The number.
        number: ContentRevision,
        /// The number that comes next.
        next: ContentRevision,
    },
    /// The content of a revision was to be changed.
    #[error(
        "the content of revision {number} of channel {channel} cannot be changed: push it as a new revision"
    )]
    ContentFixed {
        /// The channel.
        channel: ChannelName,
        /// The revision.
        number: ContentRevision,
    },
    /// An object refers to one that is not there.
    #[error("{user} needs {needs}, which does not exist{}", missing(needs))]
    Dangling {
        /// Which object.
        user: ObjectKey,
        /// What it needs.
        needs: ObjectKey,
    },
    /// Two policies of one kind at one group.
    #[error("group at {path} has two policies of kind {kind}: {first} and {second}")]
    TwoOfAKind {
        /// The group.
        group: GroupId,
        /// Its place.
        path: GroupPath,
        /// The kind.
        kind: KindName,
        /// One policy.
        first: PolicyName,
        /// The other.
        second: PolicyName,
    },
    /// The kind of a policy was to be changed.
    #[error("policy {policy:?} is of kind {kind}; the kind of a policy cannot be changed", policy = policy.as_str())]
    KindFixed {
        /// The policy.
        policy: PolicyName,
        /// Its kind.
        kind: KindName,
    },
    /// A bound on the number of objects.
    #[error("there would be {found} {what}; at most {most} are allowed")]
    TooManyObjects {
        /// Which objects.
        what: &'static str,
        /// How many there would be.
        found: usize,
        /// How many may be.
        most: usize,
    },
    /// What would be in force for a group breaks a rule.
    #[error(transparent)]
    Problem(#[from] Problem),
}

fn named<T: std::fmt::Display>(some: &[T], total: usize) -> String {
    let mut text = some.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
    if total > some.len() {
        text.push_str(&format!(" and {} more", total - some.len()));
    }
    text
}

/// What to do about an object that is not there.
fn missing(needs: &ObjectKey) -> String {
    match needs {
        ObjectKey::Channel(name) => {
            format!(": push a first revision with `muster content push {name} PATH`")
        }
        ObjectKey::Content(name, _) => {
            format!(": `muster content show {name}` lists the revisions that are there")
        }
        ObjectKey::Epoch
        | ObjectKey::Kind(_)
        | ObjectKey::Policy(_)
        | ObjectKey::Group(_)
        | ObjectKey::Token(_)
        | ObjectKey::ApiToken(_)
        | ObjectKey::Uploads
        | ObjectKey::Sweep => String::new(),
    }
}

/// What to type where a managed object is kept.
fn typed(manager: &Keeper, key: &ObjectKey) -> String {
    manager.way_out(key).map(|way| format!(" (`{way}`)")).unwrap_or_default()
}

/// What to do about a revision that is in use.
fn way_out(users: &[ContentUser]) -> &'static str {
    match users {
        [ContentUser::Pin] => ": unpin it first",
        _ => "",
    }
}

impl Violation {
    /// What kind of refusal this is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Missing(_) => Class::NotFound,
            Self::Exists(_) => Class::Exists,
            Self::Stale { .. } => Class::Stale,
            Self::Managed { .. } => Class::Managed,
            Self::RootDeleted
            | Self::PathTaken { .. }
            | Self::HasChildren { .. }
            | Self::HasAgents { .. }
            | Self::InUse { .. }
            | Self::ContentInUse { .. } => Class::Precondition,
            Self::TooManyObjects { .. } => Class::Exhausted,
            Self::TooManyEntries(_)
            | Self::Duplicate(_)
            | Self::RootMoved(_)
            | Self::ParentMissing { .. }
            | Self::Cycle { .. }
            | Self::TooDeep { .. }
            | Self::Dangling { .. }
            | Self::TwoOfAKind { .. }
            | Self::KindFixed { .. }
            | Self::ContentNumber { .. }
            | Self::ContentFixed { .. }
            | Self::Problem(_) => Class::Invalid,
        }
    }

    /// The object that the violation is about; `None` if it is about the change as a whole.
    #[must_use]
    pub fn key(&self) -> Option<ObjectKey> {
        match self {
            Self::TooManyEntries(_) | Self::TooManyObjects { .. } => None,
            Self::Duplicate(key) | Self::Missing(key) | Self::Exists(key) => Some(key.clone()),
            Self::Stale { key, .. }
            | Self::Managed { key, .. }
            | Self::InUse { key, .. }
            | Self::Dangling { user: key, .. } => Some(key.clone()),
            Self::RootDeleted => Some(ObjectKey::Group(root_id())),
            Self::RootMoved(group)
            | Self::PathTaken { group, .. }
            | Self::ParentMissing { group, .. }
            | Self::Cycle { group, .. }
            | Self::TooDeep { group }
            | Self::HasChildren { group, .. }
            | Self::HasAgents { group, .. }
            | Self::TwoOfAKind { group, .. } => Some(ObjectKey::Group(group.clone())),
            Self::ContentInUse { channel, number, .. }
            | Self::ContentNumber { channel, number, .. }
            | Self::ContentFixed { channel, number } => Some(ObjectKey::Content(channel.clone(), *number)),
            Self::KindFixed { policy, .. } => Some(ObjectKey::Policy(policy.clone())),
            Self::Problem(problem) => Some(match problem.policy() {
                Some(policy) => ObjectKey::Policy(policy.clone()),
                None => ObjectKey::Group(problem.group().clone()),
            }),
        }
    }
}

/// All that is wrong with a change. Nothing of it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", summary(violations, *total))]
pub struct Refusal {
    /// The first [`MAX_PROBLEMS`] violations; at least one.
    pub violations: Vec<Violation>,
    /// How many there are.
    pub total: usize,
}

fn summary(violations: &[Violation], total: usize) -> String {
    match violations {
        [] => "the change is refused".to_owned(),
        [only] if total == 1 => only.to_string(),
        [first, ..] => format!("{first} (and {} more)", total - 1),
    }
}

impl Refusal {
    pub(super) fn new(mut violations: Vec<Violation>, problems: usize) -> Self {
        let total = violations.len() + problems;
        violations.truncate(MAX_PROBLEMS);
        Self { violations, total }
    }

    /// The class of the whole refusal: that which asks most of the caller (wrong before stale).
    #[must_use]
    pub fn class(&self) -> Class {
        self.violations.iter().map(Violation::class).min().unwrap_or(Class::Invalid)
    }
}
