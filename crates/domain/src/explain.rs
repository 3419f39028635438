//! Why a group has what it has: for each value in force, who set it and who locks it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::catalog::{Catalog, Group, Policy, Versioned};
use crate::content::{ChannelName, ContentPointer, ContentRevision};
use crate::document::{EffectiveDocument, Pointer, Provenance};
use crate::id::{GroupId, KindName, PolicyName};
use crate::path::GroupPath;
use crate::revision::Revision;

/// The policy that set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The policy.
    pub policy: PolicyName,
    /// Its generation.
    pub generation: u64,
    /// Revision of the change that wrote that generation.
    pub revision: Revision,
    /// The group that assigns it.
    pub group: GroupId,
    /// Place of that group.
    pub path: GroupPath,
}

/// One leaf value of a document in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Where.
    pub pointer: Pointer,
    /// The value.
    pub value: Value,
    /// Who set it.
    pub source: Source,
    /// Who locks it, or something above it, against groups further down: the first from the root.
    pub locked_by: Option<Source>,
}

/// The document in force of one kind, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The kind.
    pub kind: KindName,
    /// The whole document.
    pub document: Value,
    /// Its leaves in order of pointer, as far as they were asked for.
    pub values: Vec<Explained>,
}

impl Explanation {
    /// Who set what stands, or would stand, at a place: for a value that went away, nobody.
    #[must_use]
    pub fn at(&self, pointer: &Pointer) -> Option<&Explained> {
        // A leaf has no leaf below it, so if one holds the place, it is the last that does not come after it.
        let after = self.values.partition_point(|value| value.pointer <= *pointer);
        let last = self.values.get(after.checked_sub(1)?)?;
        pointer.is_within(&last.pointer).then_some(last)
    }
}

/// Explains the documents in force for a group: all kinds, or the one asked for. Values are those at
/// `pointer` and below it, or the array that the place is in. Empty if there is no such group.
#[must_use]
pub fn explain(
    catalog: &Catalog,
    group: &GroupId,
    kind: Option<&KindName>,
    pointer: &Pointer,
) -> Vec<Explanation> {
    let Some(group) = catalog.group(group) else { return Vec::new() };
    let mut layers: BTreeMap<&KindName, Vec<Layer<'_>>> = BTreeMap::new();
    for group in catalog.line(&group.value.path) {
        for policy in group.value.policies.iter().filter_map(|name| catalog.policy(name)) {
            if kind.is_none_or(|kind| *kind == policy.value.kind) {
                layers.entry(&policy.value.kind).or_default().push(Layer { group: &group.value, policy });
            }
        }
    }
    layers.into_iter().map(|(kind, layers)| explain_kind(kind, &layers, pointer)).collect()
}

struct Layer<'a> {
    group: &'a Group,
    policy: &'a Versioned<Policy>,
}

impl Layer<'_> {
    fn source(&self) -> Source {
        Source {
            policy: self.policy.value.name.clone(),
            generation: self.policy.value.generation,
            revision: self.policy.revision,
            group: self.group.id.clone(),
            path: self.group.path.clone(),
        }
    }

    fn locks(&self, pointer: &Pointer) -> bool {
        self.policy.value.locks.iter().any(|lock| pointer.is_within(lock))
    }
}

fn explain_kind(kind: &KindName, layers: &[Layer<'_>], pointer: &Pointer) -> Explanation {
    let mut provenance = Provenance::default();
    let mut document: Option<EffectiveDocument> = None;
    for (index, layer) in layers.iter().enumerate() {
        let patch = &layer.policy.value.document;
        provenance.overlay(patch.value(), index);
        document = Some(EffectiveDocument::overlay(document.as_ref(), patch));
    }
    let document = document.map(|document| document.value().clone()).unwrap_or_default();
    let asked = |at: &Pointer| at.is_within(pointer) || pointer.is_within(at);
    let explained = |(at, layer): (Pointer, usize)| {
        Some(Explained {
            value: at.resolve(&document)?.clone(),
            source: layers.get(layer)?.source(),
            locked_by: layers.iter().find(|layer| layer.locks(&at)).map(Layer::source),
            pointer: at,
        })
    };
    let values = provenance.leaves().into_iter().filter(|(at, _)| asked(at)).filter_map(explained).collect();
    Explanation { kind: kind.clone(), document, values }
}

/// Content in force for a group, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentOrigin {
    /// What is assigned.
    pub pointer: ContentPointer,
    /// The revision that this comes to now; `None` while the stage names nothing.
    pub number: Option<ContentRevision>,
    /// Place of the group that assigns it.
    pub path: GroupPath,
}

/// Which group assigns each channel that the group at `path` follows.
#[must_use]
pub fn content_origin(catalog: &Catalog, path: &GroupPath) -> BTreeMap<ChannelName, ContentOrigin> {
    let mut origin = BTreeMap::new();
    for group in catalog.line(path) {
        for (channel, pointer) in &group.value.content {
            let number = catalog.content_at(channel, pointer).map(|revision| revision.value.number);
            let (pointer, path) = (pointer.clone(), group.value.path.clone());
            origin.insert(channel.clone(), ContentOrigin { pointer, number, path });
        }
    }
    origin
}

/// Where each setting in force comes from: the group that sets it, or `None` for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsOrigin {
    /// Push or pull.
    pub mode: Option<GroupPath>,
    /// Time between heartbeats.
    pub heartbeat_interval: Option<GroupPath>,
    /// Silence after which an agent counts as offline.
    pub offline_after: Option<GroupPath>,
    /// Window over which downloads of content start.
    pub content_spread: Option<GroupPath>,
    /// Most bytes of content in a second.
    pub content_rate_limit: Option<GroupPath>,
}

/// Where each setting of the group at `path` comes from.
#[must_use]
pub fn settings_origin(catalog: &Catalog, path: &GroupPath) -> SettingsOrigin {
    let mut origin = SettingsOrigin::default();
    for group in catalog.line(path) {
        let (own, path) = (&group.value.settings, &group.value.path);
        let set = |is_set: bool, place: &mut Option<GroupPath>| {
            if is_set {
                *place = Some(path.clone());
            }
        };
        set(own.mode.is_some(), &mut origin.mode);
        set(own.heartbeat_interval.is_some(), &mut origin.heartbeat_interval);
        set(own.offline_after.is_some(), &mut origin.offline_after);
        set(own.content_spread.is_some(), &mut origin.content_spread);
        set(own.content_rate_limit.is_some(), &mut origin.content_rate_limit);
    }
    origin
}
