//! The objects of a fleet's catalogue. A value that exists was checked on its own; whether objects fit
//! together is the planner's question ([`crate::change`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::Keeper;
use crate::content::{ChannelName, ContentPointer};
use crate::digest::Digest;
use crate::document::{Document, Pointer};
use crate::enrol::Scope;
use crate::id::{GroupId, IdError, KindName, PolicyName, TokenId};
use crate::path::{GroupPath, PathError};
use crate::schema::Schema;
use crate::settings::SettingsOverlay;
use crate::time::Timestamp;

/// Most labels of one group.
pub const MAX_LABELS: usize = 32;
/// Longest key of a label, in bytes.
pub const MAX_LABEL_KEY_BYTES: usize = 64;
/// Longest value of a label, in bytes.
pub const MAX_LABEL_VALUE_BYTES: usize = 256;
/// Most locks of one policy. Each is compared with every policy further down.
pub const MAX_LOCKS: usize = 64;

/// Why labels are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// More than [`MAX_LABELS`].
    #[error("there are {0} labels; at most {MAX_LABELS} are allowed")]
    TooMany(usize),
    /// A key that is empty, too long or not of `[A-Za-z0-9._/-]`.
    #[error("label key {0:?} must be 1 to {MAX_LABEL_KEY_BYTES} of A-Z, a-z, 0-9, '.', '_', '-' and '/'")]
    Key(String),
    /// A value that is too long or has control characters.
    #[error(
        "the value of label {0:?} must be at most {MAX_LABEL_VALUE_BYTES} bytes without control characters"
    )]
    Value(String),
}

/// Free labels: for people and selectors, without meaning to agents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks number, keys and values.
    ///
    /// # Errors
    /// [`LabelError`] names the first label that is wrong.
    pub fn new(labels: BTreeMap<String, String>) -> Result<Self, LabelError> {
        if labels.len() > MAX_LABELS {
            return Err(LabelError::TooMany(labels.len()));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        for (key, value) in &labels {
            if key.is_empty() || key.len() > MAX_LABEL_KEY_BYTES || !key.bytes().all(plain) {
                return Err(LabelError::Key(key.chars().take(MAX_LABEL_KEY_BYTES).collect()));
            }
            if value.len() > MAX_LABEL_VALUE_BYTES || value.chars().any(char::is_control) {
                return Err(LabelError::Value(key.clone()));
            }
        }
        Ok(Self(labels))
    }

    /// The labels in order of key.
    #[must_use]
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// A group: a node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, stable when it moves.
    pub id: GroupId,
    /// Its place.
    pub path: GroupPath,
    /// What it sets itself.
    pub settings: SettingsOverlay,
    /// Policies assigned here, at most one of a kind.
    pub policies: BTreeSet<PolicyName>,
    /// Content assigned here; overrides what the groups above assign of the same channel. At most
    /// [`crate::content::MAX_CHANNELS_PER_GROUP`] are in force for one group.
    pub content: BTreeMap<ChannelName, ContentPointer>,
    /// Free labels.
    pub labels: Labels,
    /// Who keeps it in order; `None`: nobody.
    pub manager: Option<Keeper>,
}

/// How people name a group: by its place or by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRef {
    /// By its place, `/servers/web`.
    Path(GroupPath),
    /// By its id, `servers-web`.
    Id(GroupId),
}

/// Why a text names no group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupRefError {
    /// Nothing.
    #[error("must be the path or the name of a group")]
    Empty,
    /// It starts like a path and is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It is no id.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl FromStr for GroupRef {
    type Err = GroupRefError;
    fn from_str(text: &str) -> Result<Self, GroupRefError> {
        match text.chars().next() {
            None => Err(GroupRefError::Empty),
            Some('/') => Ok(Self::Path(GroupPath::new(text)?)),
            Some(_) => Ok(Self::Id(GroupId::new(text)?)),
        }
    }
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// Id of the root group.
pub const ROOT: &str = "root";

impl Group {
    /// The root as it is before anyone changed it.
    #[must_use]
    pub fn root() -> Self {
        Self::new(root_id(), GroupPath::root())
    }

    /// A group that sets and assigns nothing.
    #[must_use]
    pub fn new(id: GroupId, path: GroupPath) -> Self {
        Self {
            id,
            path,
            settings: SettingsOverlay::default(),
            policies: BTreeSet::new(),
            content: BTreeMap::new(),
            labels: Labels::default(),
            manager: None,
        }
    }
}

/// Id of the root group.
#[must_use]
pub fn root_id() -> GroupId {
    GroupId::new(ROOT).expect("invariant: the root's id is an id")
}

/// A policy kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: KindName,
    /// What documents of this kind satisfy.
    pub schema: Schema,
    /// Who keeps it in order; `None`: nobody.
    pub manager: Option<Keeper>,
}

/// The locks of a policy: places that groups further down may not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locks(BTreeSet<Pointer>);

/// More than [`MAX_LOCKS`] locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {0} locks; at most {MAX_LOCKS} are allowed")]
pub struct TooManyLocks(pub usize);

impl Locks {
    /// Checks the number.
    ///
    /// # Errors
    /// [`TooManyLocks`].
    pub fn new(locks: BTreeSet<Pointer>) -> Result<Self, TooManyLocks> {
        if locks.len() > MAX_LOCKS { Err(TooManyLocks(locks.len())) } else { Ok(Self(locks)) }
    }

    /// The locked places in order.
    pub fn iter(&self) -> impl Iterator<Item = &Pointer> {
        self.0.iter()
    }

    /// Whether nothing is locked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A policy: a named document of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// Its kind; fixed once created.
    pub kind: KindName,
    /// The overlay.
    pub document: Document,
    /// Places that groups further down may not change.
    pub locks: Locks,
    /// Counts the versions of this policy from 1, deletions included. The planner gives it; what a caller
    /// puts here has no effect.
    pub generation: u64,
    /// Who keeps it in order; `None`: nobody.
    pub manager: Option<Keeper>,
}

impl Policy {
    /// Whether both say the same, whatever their generation.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.name, &self.kind, &self.document, &self.locks, &self.manager)
            == (&other.name, &other.kind, &other.document, &other.locks, &other.manager)
    }
}

/// An enrolment token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub id: TokenId,
    /// Whom it lets in where.
    pub scope: Scope,
    /// How many agents may join with it.
    pub uses: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// SHA-256 of the secret.
    pub secret_digest: Digest,
    /// Who keeps it in order; `None`: nobody.
    pub manager: Option<Keeper>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(labels: &[(&str, &str)], expected: Result<(), &str>) {
        let map = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let got = Labels::new(map).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn labels_are_bounded() {
        check(&[("example.com/site", "Köln 1"), ("a", "")], Ok(()));
        let keys = "must be 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-' and '/'";
        check(&[("", "x")], Err(&format!("label key \"\" {keys}")));
        check(&[("a b", "x")], Err(&format!("label key \"a b\" {keys}")));
        let values = "must be at most 256 bytes without control characters";
        check(&[("a", "x\r\ny")], Err(&format!("the value of label \"a\" {values}")));
        check(&[("a", &"x".repeat(257))], Err(&format!("the value of label \"a\" {values}")));
        let many: Vec<String> = (0..33).map(|i| format!("k{i}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|k| (k.as_str(), "")).collect();
        check(&many, Err("there are 33 labels; at most 32 are allowed"));
    }
}
