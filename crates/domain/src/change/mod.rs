//! Changes: from what somebody wants to what is written, or to a refusal that names all that is wrong.
//!
//! The planner is pure. It takes the catalogue as it is and a list of operations in any order, and gives
//! the complete plan: the entries to write, in one atomic batch, and what they mean for every group. A dry
//! run is the same plan, not executed.

mod content;
mod impact;
mod own;
mod plan;
mod structure;
mod violation;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use impact::{ContentChange, Impact, ValueChange};
pub use own::{Claim, own};
pub use plan::{Plan, Touched, plan};
pub use violation::{Class, MAX_USERS_NAMED, Refusal, Violation};

use crate::catalog::{
    Catalog, Channel, Entry, Group, Kind, ObjectKey, Policy, StoredRevision, Sweep, Token, Uploads,
};
use crate::compile::Compiled;
use crate::id::GroupId;
use crate::revision::{Epoch, Revision};

/// Most entries of one change: what an atomic batch of the store can hold.
pub const MAX_ENTRIES: usize = 1000;
/// Most groups of a fleet. A change of the root recompiles all of them while its caller waits.
pub const MAX_GROUPS: usize = 100_000;
/// Most policies of a fleet: one for each group.
pub const MAX_POLICY_OBJECTS: usize = 100_000;
/// Most kinds of a fleet: a snapshot holds one item of each.
pub const MAX_KINDS: usize = crate::snapshot::MAX_POLICIES;
/// Most tokens of a fleet.
pub const MAX_TOKENS: usize = 100_000;

/// What must be true of an object for an operation to go ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    #[default]
    Any,
    /// There is no such object.
    Absent,
    /// The object was last written by the change of this revision.
    At(Revision),
}

/// What is wanted of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This group. One that stands elsewhere moves, and all below it with it.
    Group(Group),
    /// This kind.
    Kind(Kind),
    /// This policy; its generation is given by the planner.
    Policy(Policy),
    /// This token.
    Token(Token),
    /// This generation of the store. Never goes down.
    Epoch(Epoch),
    /// This channel. Its last revision never goes down: the planner sees to that.
    Channel(Channel),
    /// This revision of a channel. Of one that is there already, only label, note and pin may change.
    Content(StoredRevision),
    /// These uploads under way, and no others.
    Uploads(Uploads),
    /// This garbage collection.
    Sweep(Sweep),
    /// That the object goes away.
    Deleted(ObjectKey),
}

impl Wanted {
    /// Which object this is about.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Group(group) => ObjectKey::Group(group.id.clone()),
            Self::Kind(kind) => ObjectKey::Kind(kind.name.clone()),
            Self::Policy(policy) => ObjectKey::Policy(policy.name.clone()),
            Self::Token(token) => ObjectKey::Token(token.id.clone()),
            Self::Epoch(_) => ObjectKey::Epoch,
            Self::Channel(channel) => ObjectKey::Channel(channel.name.clone()),
            Self::Content(content) => ObjectKey::Content(content.channel.clone(), content.number),
            Self::Uploads(_) => ObjectKey::Uploads,
            Self::Sweep(_) => ObjectKey::Sweep,
            Self::Deleted(key) => key.clone(),
        }
    }
}

/// One wish, and under which condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What is wanted.
    pub wanted: Wanted,
    /// What must be true for it.
    pub expect: Expect,
}

impl From<Wanted> for Operation {
    fn from(wanted: Wanted) -> Self {
        Self { wanted, expect: Expect::Any }
    }
}

/// What a plan starts from.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// The catalogue.
    pub catalog: &'a Catalog,
    /// The state compiled from it.
    pub compiled: &'a Compiled,
    /// How many agents are in each group itself; groups without any may be absent.
    pub agents: &'a BTreeMap<GroupId, u64>,
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Created,
    /// It existed and changes.
    Updated,
    /// It is as wanted already.
    Unchanged,
    /// It goes away.
    Deleted,
}

/// The entry that an operation comes to, with what it does; no entry if all is as wanted already.
fn entry(catalog: &Catalog, wanted: &Wanted) -> (Action, Option<Entry>) {
    let put = |before: Option<bool>, entry: Entry| match before {
        None => (Action::Created, Some(entry)),
        Some(false) => (Action::Updated, Some(entry)),
        Some(true) => (Action::Unchanged, None),
    };
    match wanted {
        Wanted::Group(group) => put(
            catalog.group(&group.id).map(|before| *before.value == *group),
            Entry::Group(Arc::new(group.clone())),
        ),
        Wanted::Kind(kind) => put(
            catalog.kind(&kind.name).map(|before| *before.value == *kind),
            Entry::Kind(Arc::new(kind.clone())),
        ),
        Wanted::Policy(policy) => put(
            catalog.policy(&policy.name).map(|before| before.value.says_the_same(policy)),
            Entry::Policy(Arc::new(Policy {
                generation: catalog.next_generation(&policy.name),
                ..policy.clone()
            })),
        ),
        Wanted::Token(token) => put(
            catalog.token(&token.id).map(|before| *before.value == *token),
            Entry::Token(Arc::new(token.clone())),
        ),
        Wanted::Epoch(epoch) => put(Some(*epoch <= catalog.epoch()), Entry::Epoch(*epoch)),
        Wanted::Channel(channel) => {
            let last = catalog.last_content_number(&channel.name).max(channel.last_revision);
            let channel = Channel { last_revision: last, ..channel.clone() };
            let before = catalog.channel(&channel.name).map(|before| *before.value == channel);
            put(before, Entry::Channel(Arc::new(channel)))
        }
        Wanted::Content(content) => put(
            catalog
                .content_revision(&content.channel, content.number)
                .map(|before| *before.value == *content),
            Entry::Content(Arc::new(content.clone())),
        ),
        Wanted::Uploads(uploads) => {
            put(Some(catalog.uploads().eq(uploads.iter())), Entry::Uploads(Arc::new(uploads.clone())))
        }
        Wanted::Sweep(sweep) => put(catalog.sweep().map(|before| before == sweep), Entry::Sweep(*sweep)),
        Wanted::Deleted(key) => {
            let entry = Entry::Deleted { key: key.clone(), generation: generation(catalog, key) };
            (Action::Deleted, Some(entry))
        }
    }
}

/// What the tombstone of an object counts.
fn generation(catalog: &Catalog, key: &ObjectKey) -> u64 {
    match key {
        ObjectKey::Policy(name) => catalog.next_generation(name),
        ObjectKey::Channel(name) => catalog.last_content_number(name).0.into(),
        ObjectKey::Group(_)
        | ObjectKey::Kind(_)
        | ObjectKey::Token(_)
        | ObjectKey::ApiToken(_)
        | ObjectKey::Content(..)
        | ObjectKey::Uploads
        | ObjectKey::Sweep
        | ObjectKey::Epoch => 0,
    }
}
