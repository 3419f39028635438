//! Rules about how objects fit together, checked on the catalogue as it would be.

use std::collections::{BTreeMap, BTreeSet};

use super::{Current, MAX_GROUPS, MAX_KINDS, MAX_POLICY_OBJECTS, MAX_TOKENS, MAX_USERS_NAMED, Violation};
use crate::catalog::{Catalog, Entry, Group, MAX_CHANNELS, ObjectKey, Token, Versioned};
use crate::id::{GroupId, KindName, PolicyName};
use crate::path::GroupPath;

pub(super) struct Structure<'a> {
    pub(super) current: Current<'a>,
    pub(super) candidate: &'a Catalog,
    pub(super) entries: &'a [Entry],
}

impl Structure<'_> {
    /// Checks everything; answers whether the groups still form a tree.
    pub(super) fn check(&self, violations: &mut Vec<Violation>) -> bool {
        let before = violations.len();
        self.places(violations);
        self.parents(violations);
        let tree_holds = violations.len() == before;
        self.references(violations);
        self.deletions(violations);
        self.numbers(violations);
        tree_holds
    }

    fn written_groups(&self) -> impl Iterator<Item = &Group> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Group(group) => Some(&**group),
            Entry::Kind(_)
            | Entry::Policy(_)
            | Entry::Token(_)
            | Entry::ApiToken(_)
            | Entry::Epoch(_)
            | Entry::Channel(_)
            | Entry::Content(_)
            | Entry::Uploads(_)
            | Entry::Sweep(_)
            | Entry::Deleted { .. } => None,
        })
    }

    fn deleted(&self) -> impl Iterator<Item = &ObjectKey> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Deleted { key, .. } => Some(key),
            Entry::Group(_)
            | Entry::Kind(_)
            | Entry::Policy(_)
            | Entry::Token(_)
            | Entry::ApiToken(_)
            | Entry::Epoch(_)
            | Entry::Channel(_)
            | Entry::Content(_)
            | Entry::Uploads(_)
            | Entry::Sweep(_) => None,
        })
    }

    /// One group at a place. The index by place knows the last one written; the others are in its way.
    fn places(&self, violations: &mut Vec<Violation>) {
        let mut wanted: BTreeMap<&GroupPath, Vec<&GroupId>> = BTreeMap::new();
        for group in self.written_groups() {
            wanted.entry(&group.path).or_default().push(&group.id);
        }
        for (path, ids) in wanted {
            let there = self.current.catalog.group_at(path).map(|group| &group.value.id);
            // Whoever stands there stays, unless the change moves or deletes it.
            let stays =
                there.filter(|id| self.candidate.group(id).is_some_and(|group| group.value.path == *path));
            let holder = stays.unwrap_or(ids[0]);
            for id in ids.into_iter().filter(|id| *id != holder) {
                let (group, by) = (id.clone(), holder.clone());
                violations.push(Violation::PathTaken { group, path: path.clone(), by });
            }
        }
    }

    /// Every group has a parent. Only groups that the change writes, or that stood below one that it
    /// deletes, can lack one.
    fn parents(&self, violations: &mut Vec<Violation>) {
        let mut orphans: BTreeMap<GroupPath, Vec<GroupPath>> = BTreeMap::new();
        let mut suspects: BTreeSet<&GroupId> = self.written_groups().map(|group| &group.id).collect();
        for key in self.deleted() {
            let ObjectKey::Group(id) = key else { continue };
            let Some(gone) = self.current.catalog.group(id) else { continue };
            suspects
                .extend(self.current.catalog.subtree(&gone.value.path).iter().map(|group| &group.value.id));
        }
        for group in suspects.into_iter().filter_map(|id| self.candidate.group(id)) {
            let group = &*group.value;
            let Some(parent) = group.path.parent() else { continue };
            if self.candidate.group_at(&parent).is_some() {
                continue;
            }
            let from = self.current.catalog.group(&group.id).map(|before| before.value.path.clone());
            match from {
                Some(from) if from != group.path && group.path.is_within(&from) => {
                    let (group, to) = (group.id.clone(), group.path.clone());
                    violations.push(Violation::Cycle { group, from, to });
                }
                Some(_) if self.is_deleted(&parent) => {
                    orphans.entry(parent).or_default().push(group.path.clone());
                }
                Some(_) | None => {
                    let (group, path) = (group.id.clone(), group.path.clone());
                    violations.push(Violation::ParentMissing { group, path, parent });
                }
            }
        }
        for (path, mut children) in orphans {
            let Some(group) = self.current.catalog.group_at(&path) else { continue };
            let (group, total) = (group.value.id.clone(), children.len());
            children.sort();
            children.truncate(MAX_USERS_NAMED);
            violations.push(Violation::HasChildren { group, path, children, total });
        }
    }

    /// Whether the change deletes the group that stands at a place.
    fn is_deleted(&self, path: &GroupPath) -> bool {
        let there = self.current.catalog.group_at(path);
        there.is_some_and(|group| self.candidate.group(&group.value.id).is_none())
    }

    /// What written objects refer to exists, and a group has one policy of a kind.
    fn references(&self, violations: &mut Vec<Violation>) {
        for entry in self.entries {
            match entry {
                Entry::Group(group) => {
                    self.policies_of(group, violations);
                    self.content_of(group, violations);
                }
                Entry::Channel(channel) => self.channel(channel, violations),
                Entry::Content(revision) => self.revision(revision, violations),
                Entry::Policy(policy) if self.candidate.kind(&policy.kind).is_none() => {
                    let (user, needs) = (entry.key(), ObjectKey::Kind(policy.kind.clone()));
                    self.dangling(user, needs, violations);
                }
                Entry::Token(token) => {
                    for group in token.scope.named().filter(|group| self.candidate.group(group).is_none()) {
                        self.dangling(entry.key(), ObjectKey::Group(group.clone()), violations);
                    }
                }
                Entry::Policy(_)
                | Entry::ApiToken(_)
                | Entry::Kind(_)
                | Entry::Epoch(_)
                | Entry::Uploads(_)
                | Entry::Sweep(_)
                | Entry::Deleted { .. } => {}
            }
        }
    }

    /// A reference to what this change deletes is reported there, with all other users.
    pub(super) fn dangling(&self, user: ObjectKey, needs: ObjectKey, violations: &mut Vec<Violation>) {
        if !self.deleted().any(|key| *key == needs) {
            violations.push(Violation::Dangling { user, needs });
        }
    }

    fn policies_of(&self, group: &Group, violations: &mut Vec<Violation>) {
        let mut kinds: BTreeMap<&KindName, &PolicyName> = BTreeMap::new();
        for name in &group.policies {
            let Some(policy) = self.candidate.policy(name) else {
                let (user, needs) = (ObjectKey::Group(group.id.clone()), ObjectKey::Policy(name.clone()));
                self.dangling(user, needs, violations);
                continue;
            };
            if let Some(first) = kinds.insert(&policy.value.kind, name) {
                violations.push(Violation::TwoOfAKind {
                    group: group.id.clone(),
                    path: group.path.clone(),
                    kind: policy.value.kind.clone(),
                    first: first.clone(),
                    second: name.clone(),
                });
            }
        }
    }

    /// Nothing that is in use goes away.
    fn deletions(&self, violations: &mut Vec<Violation>) {
        for key in self.deleted() {
            let users: Vec<ObjectKey> = match key {
                ObjectKey::Kind(name) => {
                    let users = self.candidate.policies().filter(|policy| policy.value.kind == *name);
                    users.map(|policy| ObjectKey::Policy(policy.value.name.clone())).collect()
                }
                ObjectKey::Policy(name) => {
                    let users = self.candidate.groups().filter(|group| group.value.policies.contains(name));
                    users.map(|group| ObjectKey::Group(group.value.id.clone())).collect()
                }
                ObjectKey::Group(id) => {
                    self.agents_of(id, violations);
                    let gone = self.current.catalog.group(id).map(|group| &*group.value);
                    let uses =
                        |token: &&Versioned<Token>| gone.is_some_and(|group| token.value.scope.uses(group));
                    let users = self.candidate.tokens().filter(uses);
                    let users = users.map(|token| ObjectKey::Token(token.value.id.clone()));
                    // Who is bound to a group reaches nothing once it is gone, and another of its name later.
                    let bound = self.candidate.api_tokens();
                    let bound = bound.filter(|token| token.value.group.as_ref() == Some(id));
                    users.chain(bound.map(|token| ObjectKey::ApiToken(token.value.name.clone()))).collect()
                }
                ObjectKey::Channel(name) => self.channel_users(name),
                ObjectKey::Content(channel, number) => {
                    self.retired(channel, *number, violations);
                    Vec::new()
                }
                ObjectKey::Token(_)
                | ObjectKey::ApiToken(_)
                | ObjectKey::Epoch
                | ObjectKey::Uploads
                | ObjectKey::Sweep => Vec::new(),
            };
            if !users.is_empty() {
                let total = users.len();
                let users = users.into_iter().take(MAX_USERS_NAMED).collect();
                violations.push(Violation::InUse { key: key.clone(), users, total });
            }
        }
    }

    fn agents_of(&self, id: &GroupId, violations: &mut Vec<Violation>) {
        let agents = self.current.agents.get(id).copied().unwrap_or(0);
        let Some(group) = self.current.catalog.group(id) else { return };
        if agents > 0 {
            let path = group.value.path.clone();
            violations.push(Violation::HasAgents { group: id.clone(), path, agents });
        }
    }

    fn numbers(&self, violations: &mut Vec<Violation>) {
        let catalog = self.candidate;
        for (what, found, most) in [
            ("groups", catalog.group_count(), MAX_GROUPS),
            ("policies", catalog.policies().count(), MAX_POLICY_OBJECTS),
            ("kinds", catalog.kinds().count(), MAX_KINDS),
            ("tokens", catalog.tokens().count(), MAX_TOKENS),
            ("channels", catalog.channels().count(), MAX_CHANNELS),
        ] {
            if found > most {
                violations.push(Violation::TooManyObjects { what, found, most });
            }
        }
        self.content_numbers(violations);
    }
}
