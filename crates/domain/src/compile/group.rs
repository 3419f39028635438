//! One run of the compiler: group by group, parents first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Compiled, Effective, Followed, Lock, Problem, Recompiled, Resolved};
use crate::catalog::{Catalog, Group, Kind, Policy, Versioned};
use crate::content::{ChannelName, MAX_CHANNELS_PER_GROUP};
use crate::document::{EffectiveDocument, MAX_DOCUMENT_BYTES, touches};
use crate::id::{GroupId, KindName, PolicyName};
use crate::path::GroupPath;
use crate::schema::Failure;
use crate::settings::{Settings, SettingsOverlay};
use crate::snapshot::{MAX_POLICIES, MAX_SNAPSHOT_BYTES, content_digest};

/// Bytes of a snapshot beside its documents: ids, path, times, settings, signatures, rounded up.
const SNAPSHOT_FIXED_BYTES: usize = 4096;
/// Bytes of one item beside its document: kind, digest, revision, framing, rounded up.
const ITEM_FIXED_BYTES: usize = 128;

/// Bytes of one item of content: the longest name of a channel, digest, numbers, framing, rounded up.
const CONTENT_ITEM_BYTES: usize = 384;

/// An overlay made in this run: the inputs (kept, so that their addresses name them), the document and how
/// it fails its schema.
struct Overlaid {
    _base: Option<Arc<EffectiveDocument>>,
    document: Arc<EffectiveDocument>,
    failures: Arc<[Failure]>,
}

pub(super) struct Run<'a> {
    compiled: &'a Compiled,
    before: &'a Catalog,
    after: &'a Catalog,
    /// Siblings with the same policies over the same base share one document: by the addresses of both.
    overlays: BTreeMap<(usize, usize), Overlaid>,
    out: Recompiled,
}

fn address<T>(shared: &Arc<T>) -> usize {
    Arc::as_ptr(shared).addr()
}

fn is_same<T>(a: Option<&Versioned<T>>, b: Option<&Versioned<T>>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(&a.value, &b.value))
}

impl<'a> Run<'a> {
    pub(super) fn new(compiled: &'a Compiled, before: &'a Catalog, after: &'a Catalog) -> Self {
        Self { compiled, before, after, overlays: BTreeMap::new(), out: Recompiled::default() }
    }

    pub(super) fn finish(mut self, removed: BTreeSet<GroupId>) -> Recompiled {
        self.out.removed = removed;
        self.out
    }

    /// Compiles one group. Its parent was visited before, or did not change.
    pub(super) fn visit(&mut self, group: &Group) {
        self.out.visited += 1;
        let parent = self.parent(&group.path);
        let effective = self.effective(group, parent);
        let old = self.compiled.groups.get(&group.id);
        match old {
            Some(old) if Arc::ptr_eq(old, &effective) || old.is_same(&effective) => {}
            Some(_) | None => {
                self.out.updated.insert(group.id.clone(), effective);
            }
        }
    }

    fn parent(&self, path: &GroupPath) -> Option<Arc<Effective>> {
        let id = &self.after.group_at(&path.parent()?)?.value.id;
        self.out.updated.get(id).or_else(|| self.compiled.groups.get(id)).cloned()
    }

    fn effective(&mut self, group: &Group, parent: Option<Arc<Effective>>) -> Arc<Effective> {
        let own_settings = group.settings != SettingsOverlay::default();
        let is_bare = !own_settings && group.policies.is_empty() && group.content.is_empty();
        if let (Some(parent), true) = (&parent, is_bare) {
            return Arc::clone(parent);
        }
        let inherited = parent.as_ref().map(|parent| parent.overlay).unwrap_or_default();
        let overlay = group.settings.over(inherited);
        let settings = self.settings(group, overlay, parent.as_deref());
        let kinds = self.kinds(group, parent.as_deref());
        let channels = self.channels(group, parent.as_deref());
        self.check_size(group, &kinds, &channels);
        let policies = kinds.iter().map(|(kind, resolved)| (kind, &resolved.document.digest));
        let content = channels.iter().filter_map(|(name, followed)| Some((name, followed.target?)));
        let digest = content_digest(&settings, policies, content);
        Arc::new(Effective { overlay, settings, kinds, channels, digest })
    }

    fn settings(&mut self, group: &Group, overlay: SettingsOverlay, parent: Option<&Effective>) -> Settings {
        // What the group inherits as it is was checked, and reported, where it was set.
        if let (Some(parent), true) = (parent, group.settings == SettingsOverlay::default()) {
            return parent.settings;
        }
        overlay.effective().unwrap_or_else(|source| {
            self.out.problems.push(Problem::Settings {
                group: group.id.clone(),
                path: group.path.clone(),
                source,
            });
            let default =
                || SettingsOverlay::default().effective().expect("invariant: defaults are in bounds");
            parent.map_or_else(default, |parent| parent.settings)
        })
    }

    fn kinds(&mut self, group: &Group, parent: Option<&Effective>) -> Arc<BTreeMap<KindName, Resolved>> {
        let inherited = parent.map(|parent| Arc::clone(&parent.kinds)).unwrap_or_default();
        if group.policies.is_empty() {
            return inherited;
        }
        let mut kinds = (*inherited).clone();
        for name in &group.policies {
            let Some(policy) = self.after.policy(name) else { continue };
            let policy = Arc::clone(&policy.value);
            let base = inherited.get(&policy.kind);
            self.check_locks(group, &policy, base);
            let document = self.document(group, &policy, base);
            let locks = locks(group, &policy, base);
            kinds.insert(policy.kind.clone(), Resolved { document, locks });
        }
        Arc::new(kinds)
    }

    fn channels(
        &mut self,
        group: &Group,
        parent: Option<&Effective>,
    ) -> Arc<BTreeMap<ChannelName, Followed>> {
        let inherited = parent.map(|parent| Arc::clone(&parent.channels)).unwrap_or_default();
        if group.content.is_empty() {
            return inherited;
        }
        let mut channels = (*inherited).clone();
        for (name, pointer) in &group.content {
            let target = self.after.content_at(name, pointer).map(|revision| revision.value.target());
            channels.insert(name.clone(), Followed { pointer: pointer.clone(), target });
        }
        if channels.len() > MAX_CHANNELS_PER_GROUP {
            let (group, path) = (group.id.clone(), group.path.clone());
            self.out.problems.push(Problem::TooManyChannels { group, path, channels: channels.len() });
        }
        Arc::new(channels)
    }

    fn check_locks(&mut self, group: &Group, policy: &Policy, base: Option<&Resolved>) {
        let Some(base) = base else { return };
        for lock in base.locks.iter() {
            if !touches(Some(base.document.value()), policy.document.value(), &lock.pointer) {
                continue;
            }
            let owner_path = self.after.group(&lock.group).map(|owner| owner.value.path.clone());
            self.out.problems.push(Problem::Locked {
                group: group.id.clone(),
                path: group.path.clone(),
                policy: policy.name.clone(),
                kind: policy.kind.clone(),
                pointer: lock.pointer.to_string(),
                owner: lock.group.clone(),
                owner_path: owner_path.unwrap_or_else(GroupPath::root),
                owner_policy: lock.policy.clone(),
            });
        }
    }

    fn document(
        &mut self,
        group: &Group,
        policy: &Arc<Policy>,
        base: Option<&Resolved>,
    ) -> Arc<EffectiveDocument> {
        let kind = self.after.kind(&policy.kind);
        let kind_is_same = is_same(self.before.kind(&policy.kind), kind);
        if kind_is_same && let Some(document) = self.unchanged(group, policy, base) {
            return document;
        }
        let base = base.map(|base| Arc::clone(&base.document));
        let names = (base.as_ref().map_or(0, address), address(policy));
        let overlaid = self.overlays.entry(names).or_insert_with(|| overlay(base, policy, kind));
        let (document, failures) = (Arc::clone(&overlaid.document), Arc::clone(&overlaid.failures));
        self.report(group, policy, &document, &failures);
        // Equal bytes keep their old place in memory, so that nothing further down counts as changed.
        let old = self.compiled.groups.get(&group.id).and_then(|old| old.kinds.get(&policy.kind));
        match old {
            Some(old) if old.document.digest() == document.digest() => Arc::clone(&old.document),
            Some(_) | None => document,
        }
    }

    /// The document that this group had of the kind before, if the same policy was laid over the same base.
    fn unchanged(
        &self,
        group: &Group,
        policy: &Arc<Policy>,
        base: Option<&Resolved>,
    ) -> Option<Arc<EffectiveDocument>> {
        let same = |name: &PolicyName| {
            self.before.policy(name).is_some_and(|before| Arc::ptr_eq(&before.value, policy))
        };
        let before = self.before.group(&group.id)?;
        if !before.value.policies.contains(&policy.name) || !same(&policy.name) {
            return None;
        }
        let parent = before.value.path.parent().and_then(|path| self.before.group_at(&path));
        let parent = parent.and_then(|parent| self.compiled.groups.get(&parent.value.id));
        let old_base = parent.and_then(|parent| parent.kinds.get(&policy.kind));
        let base_is_same = match (old_base, base) {
            (Some(old), Some(new)) => Arc::ptr_eq(&old.document, &new.document),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let old = self.compiled.groups.get(&group.id)?.kinds.get(&policy.kind)?;
        base_is_same.then(|| Arc::clone(&old.document))
    }

    fn report(&mut self, group: &Group, policy: &Policy, document: &EffectiveDocument, failures: &[Failure]) {
        let bytes = document.bytes().len();
        if bytes > MAX_DOCUMENT_BYTES {
            self.out.problems.push(Problem::DocumentTooLarge {
                group: group.id.clone(),
                path: group.path.clone(),
                policy: policy.name.clone(),
                kind: policy.kind.clone(),
                bytes,
            });
        }
        for failure in failures {
            self.out.problems.push(Problem::Schema {
                group: group.id.clone(),
                path: group.path.clone(),
                policy: policy.name.clone(),
                kind: policy.kind.clone(),
                pointer: failure.pointer.clone(),
                message: failure.message.clone(),
            });
        }
    }

    /// What the group only inherits was checked, and reported, where it was assigned.
    fn check_size(
        &mut self,
        group: &Group,
        kinds: &BTreeMap<KindName, Resolved>,
        channels: &BTreeMap<ChannelName, Followed>,
    ) {
        if group.policies.is_empty() && group.content.is_empty() {
            return;
        }
        let item = |resolved: &Resolved| resolved.document.bytes().len() + ITEM_FIXED_BYTES;
        let documents: usize = kinds.values().map(item).sum();
        let bytes = SNAPSHOT_FIXED_BYTES + documents + channels.len() * CONTENT_ITEM_BYTES;
        if bytes > MAX_SNAPSHOT_BYTES || kinds.len() > MAX_POLICIES {
            let (group, path) = (group.id.clone(), group.path.clone());
            self.out.problems.push(Problem::SnapshotTooLarge { group, path, bytes, kinds: kinds.len() });
        }
    }
}

fn overlay(
    base: Option<Arc<EffectiveDocument>>,
    policy: &Policy,
    kind: Option<&Versioned<Kind>>,
) -> Overlaid {
    let document = EffectiveDocument::overlay(base.as_deref(), &policy.document);
    let failures = kind.map(|kind| kind.value.schema.failures(document.value())).unwrap_or_default();
    Overlaid { _base: base, document: Arc::new(document), failures: failures.into() }
}

fn locks(group: &Group, policy: &Policy, base: Option<&Resolved>) -> Arc<[Lock]> {
    let inherited = base.map(|base| Arc::clone(&base.locks)).unwrap_or_default();
    if policy.locks.is_empty() {
        return inherited;
    }
    let own = policy.locks.iter().map(|pointer| Lock {
        pointer: pointer.clone(),
        group: group.id.clone(),
        policy: policy.name.clone(),
    });
    inherited.iter().cloned().chain(own).collect()
}
