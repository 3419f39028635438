//! How far a caller reaches, and what that comes to for each object of the catalogue.
//!
//! A caller that is bound to a group sees and changes that group and those below it. Policies and channels stand
//! in no tree: a bound caller sees those that are assigned there or inherited from above, changes a policy only if
//! nobody outside has it, and makes a new one only together with its first assignment. Everything else belongs to
//! the whole fleet.

use std::collections::BTreeSet;

use crate::catalog::{Catalog, Group, ObjectKey, Policy};
use crate::change::{Operation, Wanted};
use crate::content::ChannelName;
use crate::enrol::{Scope, default_path};
use crate::id::{GroupId, PolicyName};
use crate::path::GroupPath;

/// Where a caller may do what its role allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// In the whole fleet.
    Everywhere,
    /// In this group and those below it, wherever it stands. Nowhere once it is deleted.
    Under(GroupId),
}

/// Why a bound caller may not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfReach {
    /// A place outside.
    #[error("{path} lies outside of {top}, which is as far as you reach: ask someone who reaches further")]
    Place {
        /// Where.
        path: GroupPath,
        /// What the caller is bound to.
        top: GroupPath,
    },
    /// A group that stands outside. Neither its name nor its place is told.
    #[error(
        "a group of the change stands outside of {0}, which is as far as you reach: ask someone who reaches further"
    )]
    Elsewhere(GroupPath),
    /// An object that others outside have or share.
    #[error("{key} is not {top}'s alone, and you reach no further: ask someone who does")]
    Shared {
        /// Which object.
        key: ObjectKey,
        /// What the caller is bound to.
        top: GroupPath,
    },
    /// A new policy that no group of the change assigns.
    #[error("{key} has to be assigned to a group of {top} in the change that makes it")]
    Unassigned {
        /// Which policy.
        key: ObjectKey,
        /// What the caller is bound to.
        top: GroupPath,
    },
    /// The group that the caller is bound to is gone.
    #[error("you are bound to group {id:?}, which does not exist any more: ask for access anew", id = .0.as_str())]
    Nowhere(GroupId),
}

impl Reach {
    /// What the caller sees of a catalogue. One pass over its groups for a bound caller.
    #[must_use]
    pub fn sight<'a>(&'a self, catalog: &'a Catalog) -> Sight<'a> {
        let extent = match self {
            Self::Everywhere => Extent::All,
            Self::Under(id) => match catalog.group(id) {
                None => Extent::Nowhere(id),
                Some(top) => Extent::Part(Part::of(catalog, &top.value.path)),
            },
        };
        Sight { catalog, extent }
    }

    /// Whether a group that stands at `path` is within reach.
    #[must_use]
    pub fn holds(&self, catalog: &Catalog, path: &GroupPath) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Under(id) => catalog.group(id).is_some_and(|top| path.is_within(&top.value.path)),
        }
    }

    /// Whether a group is within reach; one that does not exist is not, but for who reaches everything.
    #[must_use]
    pub fn holds_group(&self, catalog: &Catalog, group: &GroupId) -> bool {
        *self == Self::Everywhere
            || catalog.group(group).is_some_and(|group| self.holds(catalog, &group.value.path))
    }
}

/// What a caller sees of one catalogue.
#[derive(Debug)]
pub struct Sight<'a> {
    catalog: &'a Catalog,
    extent: Extent<'a>,
}

#[derive(Debug)]
enum Extent<'a> {
    All,
    Part(Part<'a>),
    Nowhere(&'a GroupId),
}

/// A part of the tree, and who assigns what in it.
#[derive(Debug)]
struct Part<'a> {
    top: &'a GroupPath,
    /// Policies assigned within.
    within: BTreeSet<&'a PolicyName>,
    /// Policies assigned outside.
    outside: BTreeSet<&'a PolicyName>,
    /// Policies that are inherited from above.
    above: BTreeSet<&'a PolicyName>,
    /// Channels assigned within or above.
    channels: BTreeSet<&'a ChannelName>,
}

impl<'a> Part<'a> {
    fn of(catalog: &'a Catalog, top: &'a GroupPath) -> Self {
        let mut part = Self {
            top,
            within: BTreeSet::new(),
            outside: BTreeSet::new(),
            above: BTreeSet::new(),
            channels: BTreeSet::new(),
        };
        for group in catalog.groups() {
            let group = &*group.value;
            let (within, above) = (group.path.is_within(top), top.is_within(&group.path));
            if within {
                part.within.extend(&group.policies);
            } else {
                part.outside.extend(&group.policies);
            }
            if above {
                part.above.extend(&group.policies);
            }
            if within || above {
                part.channels.extend(group.content.keys());
            }
        }
        part
    }

    fn place(&self, path: &GroupPath) -> Result<(), OutOfReach> {
        if path.is_within(self.top) {
            return Ok(());
        }
        Err(OutOfReach::Place { path: path.clone(), top: self.top.clone() })
    }

    fn shared(&self, key: ObjectKey) -> OutOfReach {
        OutOfReach::Shared { key, top: self.top.clone() }
    }
}

impl Sight<'_> {
    /// Whether the caller sees the group at `path`.
    #[must_use]
    pub fn group(&self, path: &GroupPath) -> bool {
        match &self.extent {
            Extent::All => true,
            Extent::Part(part) => path.is_within(part.top),
            Extent::Nowhere(_) => false,
        }
    }

    /// Whether the caller is told that the group at `path` assigns something: one within reach, or one above, from
    /// which it is inherited.
    #[must_use]
    pub fn names(&self, path: &GroupPath) -> bool {
        match &self.extent {
            Extent::All => true,
            Extent::Part(part) => path.is_within(part.top) || part.top.is_within(path),
            Extent::Nowhere(_) => false,
        }
    }

    /// Whether the caller sees a policy.
    #[must_use]
    pub fn policy(&self, name: &PolicyName) -> bool {
        match &self.extent {
            Extent::All => true,
            Extent::Part(part) => part.within.contains(name) || part.above.contains(name),
            Extent::Nowhere(_) => false,
        }
    }

    /// Whether the caller sees a channel.
    #[must_use]
    pub fn channel(&self, name: &ChannelName) -> bool {
        match &self.extent {
            Extent::All => true,
            Extent::Part(part) => part.channels.contains(name),
            Extent::Nowhere(_) => false,
        }
    }

    /// The highest place that the caller sees; `None` if it sees nothing.
    #[must_use]
    pub fn top(&self) -> Option<GroupPath> {
        match &self.extent {
            Extent::All => Some(GroupPath::root()),
            Extent::Part(part) => Some(part.top.clone()),
            Extent::Nowhere(_) => None,
        }
    }

    /// Whether the caller may make a change, whatever its plan would come to: asked before it is planned, so that
    /// a refusal tells nothing of what lies outside.
    ///
    /// # Errors
    /// [`OutOfReach`] names the first object that is out of reach.
    pub fn check(&self, operations: &[Operation]) -> Result<(), OutOfReach> {
        match &self.extent {
            Extent::All => Ok(()),
            Extent::Nowhere(id) => Err(OutOfReach::Nowhere((*id).clone())),
            Extent::Part(part) => {
                operations.iter().try_for_each(|it| self.operation(part, &it.wanted, operations))
            }
        }
    }

    fn operation(&self, part: &Part<'_>, wanted: &Wanted, all: &[Operation]) -> Result<(), OutOfReach> {
        let catalog = self.catalog;
        let unless = |fine: bool| if fine { Ok(()) } else { Err(part.shared(wanted.key())) };
        let within = |scope: &Scope| {
            let mut paths = scope.named().filter_map(|group| path_of(catalog, all, group));
            (scope.group().is_some() || default_path().is_within(part.top))
                && paths.all(|path| path.is_within(part.top))
        };
        match wanted {
            Wanted::Group(group) => self.place(part, group, all),
            Wanted::Kind(kind) => unless(catalog.kind(&kind.name).is_some_and(|old| *old.value == *kind)),
            Wanted::Policy(policy) => self.document(part, policy, all),
            Wanted::Token(token) => {
                let old = catalog.token(&token.id).map(|old| &old.value.scope);
                unless(old.into_iter().chain([&token.scope]).all(within))
            }
            Wanted::Channel(channel) => {
                let same = catalog.channel(&channel.name).is_some_and(|old| *old.value == *channel);
                unless(same && self.channel(&channel.name))
            }
            Wanted::Epoch(_) | Wanted::Content(_) | Wanted::Uploads(_) | Wanted::Sweep(_) => unless(false),
            Wanted::Deleted(ObjectKey::Group(id)) => {
                let Some(group) = catalog.group(id) else { return Ok(()) };
                unless(group.value.path.is_within(part.top) && group.value.path != *part.top)
            }
            Wanted::Deleted(ObjectKey::Token(id)) => {
                let scope = catalog.token(id).map(|token| &token.value.scope);
                unless(scope.is_none_or(within))
            }
            Wanted::Deleted(_) => unless(false),
        }
    }

    /// A group is within before and after, and is given only what the caller sees.
    fn place(&self, part: &Part<'_>, group: &Group, all: &[Operation]) -> Result<(), OutOfReach> {
        let before = self.catalog.group(&group.id).map(|before| &*before.value);
        if before.is_some_and(|before| !before.path.is_within(part.top)) {
            return Err(OutOfReach::Elsewhere(part.top.clone()));
        }
        part.place(&group.path)?;
        let made = |name: &PolicyName| {
            let in_change = |it: &Operation| matches!(&it.wanted, Wanted::Policy(it) if it.name == *name);
            self.catalog.policy(name).is_none() && all.iter().any(in_change)
        };
        for name in &group.policies {
            let had = before.is_some_and(|before| before.policies.contains(name));
            if !had && !self.policy(name) && !made(name) {
                return Err(part.shared(ObjectKey::Policy(name.clone())));
            }
        }
        match group.content.keys().find(|name| !self.channel(name)) {
            None => Ok(()),
            Some(name) => Err(part.shared(ObjectKey::Channel(name.clone()))),
        }
    }

    /// A policy is the caller's if nobody outside has it and somebody within has.
    fn document(&self, part: &Part<'_>, policy: &Policy, all: &[Operation]) -> Result<(), OutOfReach> {
        let (name, key) = (&policy.name, || ObjectKey::Policy(policy.name.clone()));
        let Some(before) = self.catalog.policy(name) else {
            let assigns =
                |it: &Operation| matches!(&it.wanted, Wanted::Group(group) if group.policies.contains(name));
            // Under a name that was used before lies the history of another policy.
            if self.catalog.next_generation(name) > 1 {
                return Err(part.shared(key()));
            }
            return if all.iter().any(assigns) {
                Ok(())
            } else {
                Err(OutOfReach::Unassigned { key: key(), top: part.top.clone() })
            };
        };
        let own = part.within.contains(name) && !part.outside.contains(name);
        let same = self.policy(name) && before.value.says_the_same(policy);
        if own || same { Ok(()) } else { Err(part.shared(key())) }
    }
}

/// Where a group stands that exists or is made by the change.
fn path_of<'a>(catalog: &'a Catalog, all: &'a [Operation], id: &GroupId) -> Option<&'a GroupPath> {
    let made = all.iter().find_map(|it| {
        let Wanted::Group(group) = &it.wanted else { return None };
        (group.id == *id).then_some(&group.path)
    });
    made.or_else(|| catalog.group(id).map(|group| &group.value.path))
}

#[cfg(test)]
mod tests;
