//! The compiler: from the catalogue to what each group's agents should have.
//!
//! It is incremental. A change recompiles the groups that it touches and those below them, and of those
//! only what differs: groups with equal inputs share one document in memory, and a group that adds
//! nothing of its own shares all that its parent has.

mod group;
mod problem;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use problem::{MAX_PROBLEMS, Problem, Problems};

use crate::catalog::{Catalog, Group, ObjectKey};
use crate::content::{ChannelName, ContentPointer, ContentTarget};
use crate::digest::Digest;
use crate::document::{EffectiveDocument, Pointer};
use crate::id::{GroupId, KindName, PolicyName};
use crate::path::GroupPath;
use crate::settings::{Settings, SettingsOverlay};
use group::Run;

/// A lock in force: who says that a place may not be changed further down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The place.
    pub pointer: Pointer,
    /// The group that assigns the policy.
    pub group: GroupId,
    /// The policy that has the lock.
    pub policy: PolicyName,
}

/// The document in force of one kind, and the locks on it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The overlay of all policies of the kind from the root to the group.
    pub document: Arc<EffectiveDocument>,
    /// Locks that bind the groups further down, from the root down.
    pub locks: Arc<[Lock]>,
}

impl Resolved {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.document, &other.document) && self.locks == other.locks
    }
}

/// The content in force of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// What the group, or the nearest above it that says so, assigns.
    pub pointer: ContentPointer,
    /// What that comes to; `None` while the stage names nothing.
    pub target: Option<ContentTarget>,
}

/// What the agents of a group should have.
#[derive(Debug)]
pub struct Effective {
    overlay: SettingsOverlay,
    settings: Settings,
    kinds: Arc<BTreeMap<KindName, Resolved>>,
    channels: Arc<BTreeMap<ChannelName, Followed>>,
    digest: Digest,
}

impl Effective {
    /// Settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Documents in force, in order of kind.
    #[must_use]
    pub fn kinds(&self) -> &BTreeMap<KindName, Resolved> {
        &self.kinds
    }

    /// Channels that the group follows, in order of name.
    #[must_use]
    pub fn channels(&self) -> &BTreeMap<ChannelName, Followed> {
        &self.channels
    }

    /// The content that agents should have, in order of channel.
    pub fn targets(&self) -> impl Iterator<Item = (&ChannelName, ContentTarget)> {
        self.channels.iter().filter_map(|(name, followed)| Some((name, followed.target?)))
    }

    /// Digest of settings, documents and content; equal to [`crate::Snapshot::content_digest`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
            && self.overlay == other.overlay
            && (Arc::ptr_eq(&self.channels, &other.channels) || self.channels == other.channels)
            && (Arc::ptr_eq(&self.kinds, &other.kinds)
                || (self.kinds.len() == other.kinds.len()
                    && self.kinds.values().zip(other.kinds.values()).all(|(a, b)| a.is_same(b))))
    }
}

/// What a change does to the compiled state.
#[derive(Debug, Default)]
pub struct Recompiled {
    updated: BTreeMap<GroupId, Arc<Effective>>,
    removed: BTreeSet<GroupId>,
    visited: usize,
    problems: Problems,
}

impl Recompiled {
    /// Groups for which something new is in force, or something differs in any way, locks included.
    #[must_use]
    pub fn updated(&self) -> &BTreeMap<GroupId, Arc<Effective>> {
        &self.updated
    }

    /// Groups that are no more.
    #[must_use]
    pub fn removed(&self) -> &BTreeSet<GroupId> {
        &self.removed
    }

    /// How many groups were looked at: those that the change touches and all below them.
    #[must_use]
    pub fn visited(&self) -> usize {
        self.visited
    }

    /// What must not be: a change with problems is refused as a whole.
    #[must_use]
    pub fn problems(&self) -> &Problems {
        &self.problems
    }
}

/// The compiled state of all groups of a catalogue.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    groups: BTreeMap<GroupId, Arc<Effective>>,
}

impl Compiled {
    /// Compiles everything. Total: where a rule is broken, the problem is listed and in force is what
    /// the overlay gives without the rule.
    #[must_use]
    pub fn full(catalog: &Catalog) -> (Self, Problems) {
        let mut compiled = Self::default();
        let root = ObjectKey::Group(crate::catalog::root_id());
        let recompiled = compiled.recompile(&Catalog::new(), catalog, &[root]);
        let problems = recompiled.problems.clone();
        compiled.adopt(recompiled);
        (compiled, problems)
    }

    /// What is in force for a group.
    #[must_use]
    pub fn effective(&self, id: &GroupId) -> Option<&Arc<Effective>> {
        self.groups.get(id)
    }

    /// What is in force for every group, in order of group.
    pub fn all(&self) -> impl Iterator<Item = (&GroupId, &Arc<Effective>)> {
        self.groups.iter()
    }

    /// What changes when `before` (what `self` was compiled from) becomes `after` by writing `changed`.
    #[must_use]
    pub fn recompile(&self, before: &Catalog, after: &Catalog, changed: &[ObjectKey]) -> Recompiled {
        let tops = tops(after, changed);
        let mut run = Run::new(self, before, after);
        for top in &tops {
            for group in after.subtree(top) {
                run.visit(&group.value);
            }
        }
        let removed = changed.iter().filter_map(|key| match key {
            ObjectKey::Group(id) if after.group(id).is_none() => Some(id.clone()),
            ObjectKey::Group(_)
            | ObjectKey::Epoch
            | ObjectKey::Kind(_)
            | ObjectKey::Policy(_)
            | ObjectKey::Token(_)
            | ObjectKey::ApiToken(_)
            | ObjectKey::Channel(_)
            | ObjectKey::Content(..)
            | ObjectKey::Uploads
            | ObjectKey::Sweep => None,
        });
        let removed = removed.collect();
        run.finish(removed)
    }

    /// Takes over what [`Compiled::recompile`] found.
    pub fn adopt(&mut self, recompiled: Recompiled) {
        for id in &recompiled.removed {
            self.groups.remove(id);
        }
        self.groups.extend(recompiled.updated);
    }
}

/// The highest groups that a change touches: none of them lies below another.
fn tops(catalog: &Catalog, changed: &[ObjectKey]) -> BTreeSet<GroupPath> {
    let mut policies: BTreeSet<&PolicyName> = BTreeSet::new();
    let mut kinds: BTreeSet<&KindName> = BTreeSet::new();
    let mut channels: BTreeSet<&ChannelName> = BTreeSet::new();
    let mut paths: BTreeSet<GroupPath> = BTreeSet::new();
    for key in changed {
        match key {
            ObjectKey::Group(id) => paths.extend(catalog.group(id).map(|group| group.value.path.clone())),
            ObjectKey::Policy(name) => {
                policies.insert(name);
            }
            ObjectKey::Kind(name) => {
                kinds.insert(name);
            }
            ObjectKey::Channel(name) | ObjectKey::Content(name, _) => {
                channels.insert(name);
            }
            ObjectKey::Uploads
            | ObjectKey::Sweep
            | ObjectKey::Token(_)
            | ObjectKey::ApiToken(_)
            | ObjectKey::Epoch => {}
        }
    }
    if !kinds.is_empty() {
        let of_kind = catalog.policies().filter(|policy| kinds.contains(&policy.value.kind));
        policies.extend(of_kind.map(|policy| &policy.value.name));
    }
    if !policies.is_empty() {
        let uses = |group: &Group| group.policies.iter().any(|name| policies.contains(name));
        paths.extend(catalog.groups().filter(|g| uses(&g.value)).map(|group| group.value.path.clone()));
    }
    for name in channels {
        paths.extend(catalog.followers(name).map(|group| group.value.path.clone()));
    }
    let below_another = |path: &GroupPath| {
        std::iter::successors(path.parent(), GroupPath::parent).any(|p| paths.contains(&p))
    };
    paths.iter().filter(|path| !below_another(path)).cloned().collect()
}
