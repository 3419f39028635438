//! From the domain to messages of the API.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use domain::access::Sight;
use domain::catalog::{Catalog, Group, Keeper, Kind, Policy, Versioned};
use domain::compile::Effective;
use domain::content::{ChannelName, ContentPointer};
use domain::document::Document;
use domain::explain::{Explanation, SettingsOrigin, content_origin, settings_origin};
use domain::{GroupPath, Mode, PolicyName, Settings, SettingsOverlay};
use prost_types::Struct;
use serde_json::Value;
use wire::api::v1;
use wire::api::v1::content_reference::Which;

use crate::replica::Replica;

/// What stands for the origin of a setting that no group sets.
const DEFAULT: &str = "default";

/// A group of `catalog` with what is in force for it.
pub(super) fn group(
    replica: &Replica,
    catalog: &Catalog,
    effective: Option<&Arc<Effective>>,
    group: &Versioned<Group>,
) -> v1::Group {
    let (revision, group) = (group.revision, &*group.value);
    v1::Group {
        name: group.id.to_string(),
        path: group.path.to_string(),
        settings: Some(own_settings(&group.settings)),
        policies: group.policies.iter().map(ToString::to_string).collect(),
        labels: group.labels.as_map().clone().into_iter().collect(),
        effective_settings: effective.map(|effective| settings(effective.settings())),
        settings_origin: origin(catalog, &group.path),
        agents: replica.agents.of(&group.id),
        revision: revision.0,
        content: group.content.iter().map(|(channel, pointer)| reference(channel, pointer)).collect(),
        effective_content: content(catalog, &group.path),
        head_revision: replica.heads(|heads| heads.revision(&group.id)).0,
        manager: mark(group.manager.as_ref()),
    }
}

/// A kind.
pub(super) fn kind(kind: &Versioned<Kind>) -> v1::Kind {
    v1::Kind {
        name: kind.value.name.to_string(),
        schema: Some(structure(kind.value.schema.source())),
        revision: kind.revision.0,
        manager: mark(kind.value.manager.as_ref()),
    }
}

/// A mark of ownership; none is empty.
fn mark(manager: Option<&Keeper>) -> String {
    manager.map(Keeper::to_string).unwrap_or_default()
}

/// Paths of the groups that assign each policy, as far as the caller is told of them.
pub(super) fn users(catalog: &Catalog, sight: &Sight<'_>) -> BTreeMap<PolicyName, Vec<String>> {
    let mut users: BTreeMap<PolicyName, Vec<String>> = BTreeMap::new();
    for group in catalog.subtree(&GroupPath::root()) {
        if !sight.names(&group.value.path) {
            continue;
        }
        for name in &group.value.policies {
            users.entry(name.clone()).or_default().push(group.value.path.to_string());
        }
    }
    users
}

/// A policy and the groups that assign it.
pub(super) fn policy(users: &BTreeMap<PolicyName, Vec<String>>, policy: &Versioned<Policy>) -> v1::Policy {
    let groups = users.get(&policy.value.name).cloned().unwrap_or_default();
    v1::Policy { groups, revision: policy.revision.0, ..policy_alone(&policy.value) }
}

/// A policy without what only the catalogue knows.
pub(super) fn policy_alone(policy: &Policy) -> v1::Policy {
    v1::Policy {
        name: policy.name.to_string(),
        kind: policy.kind.to_string(),
        document: Some(structure(&policy.document)),
        locks: policy.locks.iter().map(ToString::to_string).collect(),
        generation: policy.generation,
        revision: 0,
        groups: Vec::new(),
        manager: mark(policy.manager.as_ref()),
    }
}

fn structure(document: &Document) -> Struct {
    object(document.value())
}

/// A JSON object as protobuf carries it.
pub(super) fn object(value: &Value) -> Struct {
    let carried = wire::document::to_struct(value).ok().flatten();
    carried.expect("invariant: documents are objects of bounded depth with exact numbers")
}

/// A value of a document as protobuf carries it.
pub(super) fn value(value: &Value) -> prost_types::Value {
    wire::document::to_proto_value(value)
        .expect("invariant: values of documents are of bounded depth with exact numbers")
}

/// Settings in force.
pub(super) fn settings(settings: &Settings) -> v1::Settings {
    own_settings(&SettingsOverlay {
        mode: Some(settings.mode),
        heartbeat_interval: Some(settings.heartbeat_interval),
        offline_after: Some(settings.offline_after),
        content_spread: Some(settings.content_spread),
        content_rate_limit: Some(settings.content_rate_limit.unwrap_or(0)),
    })
}

fn own_settings(settings: &SettingsOverlay) -> v1::Settings {
    let mode = |mode| match mode {
        Mode::Pull => v1::Mode::Pull.into(),
        Mode::Push => v1::Mode::Push.into(),
    };
    v1::Settings {
        mode: settings.mode.map(mode),
        heartbeat_interval: settings.heartbeat_interval.map(wire::time::to_duration),
        offline_after: settings.offline_after.map(wire::time::to_duration),
        content_spread: settings.content_spread.map(wire::time::to_duration),
        content_rate_limit: settings.content_rate_limit,
    }
}

fn reference(channel: &ChannelName, pointer: &ContentPointer) -> v1::ContentReference {
    let which = match pointer {
        ContentPointer::Stage(stage) => Which::Stage(stage.to_string()),
        ContentPointer::Revision(number) => Which::Revision(number.0),
    };
    v1::ContentReference { channel: channel.to_string(), which: Some(which) }
}

/// Content in force for the group at `path` and who assigns it, in order of channel.
pub(super) fn content(catalog: &Catalog, path: &GroupPath) -> Vec<v1::EffectiveContent> {
    let origin = content_origin(catalog, path);
    let shown = origin.iter().map(|(channel, origin)| v1::EffectiveContent {
        reference: Some(reference(channel, &origin.pointer)),
        revision: origin.number.map_or(0, |number| number.0),
        set_by: origin.path.to_string(),
    });
    shown.collect()
}

/// Where each setting comes from, by its name in JSON.
pub(super) fn origin(catalog: &Catalog, path: &GroupPath) -> HashMap<String, String> {
    let SettingsOrigin { mode, heartbeat_interval, offline_after, content_spread, content_rate_limit } =
        settings_origin(catalog, path);
    let named = [
        ("mode", mode),
        ("heartbeatInterval", heartbeat_interval),
        ("offlineAfter", offline_after),
        ("contentSpread", content_spread),
        ("contentRateLimit", content_rate_limit),
    ];
    let text = |path: Option<GroupPath>| path.map_or_else(|| DEFAULT.to_owned(), |path| path.to_string());
    named.into_iter().map(|(name, path)| (name.to_owned(), text(path))).collect()
}

/// The documents in force of one kind, explained.
pub(super) fn explanation(explanation: Explanation) -> v1::EffectiveDocument {
    let provenance = |explained: domain::explain::Explained| v1::Provenance {
        pointer: explained.pointer.to_string(),
        value: Some(value(&explained.value)),
        policy: explained.source.policy.to_string(),
        generation: explained.source.generation,
        revision: explained.source.revision.0,
        set_by: explained.source.path.to_string(),
        locked_by: explained.locked_by.map(|by| by.path.to_string()).unwrap_or_default(),
    };
    v1::EffectiveDocument {
        kind: explanation.kind.to_string(),
        document: Some(object(&explanation.document)),
        values: explanation.values.into_iter().map(provenance).collect(),
    }
}
