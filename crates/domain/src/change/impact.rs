//! What a plan means for one group, value by value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Current, Plan};
use crate::catalog::Catalog;
use crate::compile::Effective;
use crate::content::{ChannelName, ContentRevision, ContentTarget};
use crate::diff::{Difference, diff};
use crate::document::Pointer;
use crate::explain::{Explanation, Source, content_origin, explain};
use crate::id::{GroupId, KindName};
use crate::path::GroupPath;
use crate::settings::Settings;

/// One value that changes in a document in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueChange {
    /// Kind of the document.
    pub kind: KindName,
    /// Which value, before and after.
    pub difference: Difference,
    /// Who sets the value after the change, or did before, if it goes away.
    pub source: Option<Source>,
}

/// The content of one channel that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentChange {
    /// The channel.
    pub channel: ChannelName,
    /// The revision in force before; `None` if there was none.
    pub before: Option<ContentRevision>,
    /// The revision in force after; `None` if there is none.
    pub after: Option<ContentRevision>,
    /// Place of the group that assigns the channel after the change, or did before, if it is not assigned any
    /// more.
    pub set_by: Option<GroupPath>,
}

/// What changes for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impact {
    /// Settings in force before and after; `None` before if the group is new.
    pub settings: (Option<Settings>, Option<Settings>),
    /// Values of documents in force, in order of kind and pointer.
    pub values: Vec<ValueChange>,
    /// Content in force, in order of channel.
    pub content: Vec<ContentChange>,
}

impl Plan {
    /// What this plan means for one group.
    #[must_use]
    pub fn impact(&self, current: Current<'_>, group: &GroupId) -> Impact {
        let before = current.compiled.effective(group);
        let after = self.recompiled.updated().get(group).or(before);
        let settings =
            (before.map(|effective| *effective.settings()), after.map(|effective| *effective.settings()));
        let kinds_before = before.map(|effective| effective.kinds());
        let kinds_after = after.map(|effective| effective.kinds());
        let mut kinds: Vec<&KindName> =
            [kinds_before, kinds_after].into_iter().flatten().flat_map(|kinds| kinds.keys()).collect();
        kinds.sort();
        kinds.dedup();
        let mut values = Vec::new();
        for kind in kinds {
            let [old, new] = [kinds_before, kinds_after].map(|kinds| kinds.and_then(|kinds| kinds.get(kind)));
            let [old, new] = [old, new].map(|resolved| resolved.map(|resolved| resolved.document.value()));
            let differences = diff(old, new);
            if !differences.is_empty() {
                let sources = Sources::new(current.catalog, &self.candidate, group, kind);
                values.extend(differences.into_iter().map(|difference| sources.attach(kind, difference)));
            }
        }
        let content = content_changes(current.catalog, &self.candidate, group, [before, after]);
        Impact { settings, values, content }
    }
}

fn content_changes(
    catalog: &Catalog,
    candidate: &Catalog,
    group: &GroupId,
    sides: [Option<&Arc<Effective>>; 2],
) -> Vec<ContentChange> {
    let [before, after] = sides.map(|side| {
        let targets = side.into_iter().flat_map(|effective| effective.targets());
        targets.collect::<BTreeMap<&ChannelName, ContentTarget>>()
    });
    let channels: BTreeSet<&ChannelName> = before.keys().chain(after.keys()).copied().collect();
    let changed: Vec<&ChannelName> =
        channels.into_iter().filter(|channel| before.get(channel) != after.get(channel)).collect();
    if changed.is_empty() {
        return Vec::new();
    }
    let origin = |catalog: &Catalog| {
        let group = catalog.group(group);
        group.map(|group| content_origin(catalog, &group.value.path)).unwrap_or_default()
    };
    let (old, new) = (origin(catalog), origin(candidate));
    let change = |channel: &ChannelName| {
        let number = |side: &BTreeMap<&ChannelName, ContentTarget>| side.get(channel).map(|it| it.number);
        ContentChange {
            channel: channel.clone(),
            before: number(&before),
            after: number(&after),
            set_by: new.get(channel).or_else(|| old.get(channel)).map(|origin| origin.path.clone()),
        }
    };
    changed.into_iter().map(change).collect()
}

struct Sources {
    before: Option<Explanation>,
    after: Option<Explanation>,
}

impl Sources {
    fn new(before: &Catalog, after: &Catalog, group: &GroupId, kind: &KindName) -> Self {
        let one = |catalog: &Catalog| explain(catalog, group, Some(kind), &Pointer::root()).pop();
        Self { before: one(before), after: one(after) }
    }

    fn attach(&self, kind: &KindName, difference: Difference) -> ValueChange {
        let side = if difference.after.is_some() { &self.after } else { &self.before };
        let source = side.as_ref().and_then(|explanation| explanation.at(&difference.pointer));
        let source = source.map(|value| value.source.clone());
        ValueChange { kind: kind.clone(), difference, source }
    }
}

impl Impact {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.content.is_empty() && self.settings.0 == self.settings.1
    }

    /// Bytes that the values take as JSON: for callers that bound their answers.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        let bytes = |side: &Option<Value>| side.as_ref().map_or(0, |value| value.to_string().len());
        self.values.iter().map(|value| bytes(&value.difference.before) + bytes(&value.difference.after)).sum()
    }
}
