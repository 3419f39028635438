//! Entries of the catalogue (stream POLICY) between their domain form and stored bytes.

mod access;
mod content;
mod token;

use std::sync::Arc;

use domain::catalog::{Entry, Group, Keeper, Kind, Labels, Locks, ObjectKey, Policy};
use domain::document::{Document, Pointer};
use domain::schema::Schema;
use domain::{Epoch, GroupId, GroupPath, KindName, PolicyName, SettingsOverlay, Span};
use prost::Message as _;
use prost_types::Struct;

use crate::document::{DocumentError, from_struct, to_struct};
use crate::snapshot::{mode_message, read_mode};
use crate::store::v1::entry::Object;
use crate::store::v1::{
    Entry as Message, EpochState, GroupState, KindState, PolicyState, SettingsOverlay as SettingsMessage,
    Tombstone,
};
use crate::subject::StoreKey;
use crate::{DecodeError, decode};

/// Largest entry: what a NATS server accepts by default as one message.
pub const MAX_ENTRY_BYTES: usize = 1024 * 1024;

/// Where an object of the catalogue is stored.
#[must_use]
pub fn store_key(key: &ObjectKey) -> StoreKey {
    match key.clone() {
        ObjectKey::Epoch => StoreKey::Epoch,
        ObjectKey::Kind(name) => StoreKey::Kind(name),
        ObjectKey::Policy(name) => StoreKey::Policy(name),
        ObjectKey::Group(id) => StoreKey::Group(id),
        ObjectKey::Token(id) => StoreKey::Token(id),
        ObjectKey::ApiToken(name) => StoreKey::ApiToken(name),
        ObjectKey::Channel(name) => StoreKey::Channel(name),
        ObjectKey::Content(name, number) => StoreKey::Content(name, number),
        ObjectKey::Uploads => StoreKey::Uploads,
        ObjectKey::Sweep => StoreKey::Sweep,
    }
}

/// The object that is stored there.
#[must_use]
pub fn object_key(key: &StoreKey) -> ObjectKey {
    match key.clone() {
        StoreKey::Epoch => ObjectKey::Epoch,
        StoreKey::Kind(name) => ObjectKey::Kind(name),
        StoreKey::Policy(name) => ObjectKey::Policy(name),
        StoreKey::Group(id) => ObjectKey::Group(id),
        StoreKey::Token(id) => ObjectKey::Token(id),
        StoreKey::ApiToken(name) => ObjectKey::ApiToken(name),
        StoreKey::Channel(name) => ObjectKey::Channel(name),
        StoreKey::Content(name, number) => ObjectKey::Content(name, number),
        StoreKey::Uploads => ObjectKey::Uploads,
        StoreKey::Sweep => ObjectKey::Sweep,
    }
}

/// Bytes of an entry; they are stored under the [`store_key`] of its key.
///
/// # Errors
/// [`DocumentError`] for a document that is nested deeper than protobuf carries.
pub fn encode(entry: &Entry) -> Result<Vec<u8>, DocumentError> {
    let object = match entry {
        Entry::Group(group) => Object::Group(group_message(group)),
        Entry::Kind(kind) => Object::Kind(KindState {
            schema: to_struct(kind.schema.source().value())?,
            manager: mark(kind.manager.as_ref()),
        }),
        Entry::Policy(policy) => Object::Policy(PolicyState {
            kind: policy.kind.to_string(),
            document: to_struct(policy.document.value())?,
            locks: policy.locks.iter().map(Pointer::to_string).collect(),
            generation: policy.generation,
            manager: mark(policy.manager.as_ref()),
        }),
        Entry::Token(token) => Object::Token(token::token(token)),
        Entry::ApiToken(token) => Object::ApiToken(access::api_token(token)),
        Entry::Epoch(epoch) => Object::Epoch(EpochState { epoch: epoch.0 }),
        Entry::Channel(channel) => Object::Channel(content::channel(channel)),
        Entry::Content(revision) => Object::ContentRevision(content::revision(revision)),
        Entry::Uploads(uploads) => Object::Uploads(content::uploads(uploads)),
        Entry::Sweep(sweep) => Object::Sweep(content::sweep(sweep)),
        Entry::Deleted { generation, .. } => Object::Tombstone(Tombstone { generation: *generation }),
    };
    Ok(Message { object: Some(object) }.encode_to_vec())
}

fn group_message(group: &Group) -> GroupState {
    GroupState {
        path: group.path.to_string(),
        settings: Some(SettingsMessage {
            mode: group.settings.mode.map(|mode| mode_message(mode).into()),
            heartbeat_interval_ms: group.settings.heartbeat_interval.map(|span| span.0),
            offline_after_ms: group.settings.offline_after.map(|span| span.0),
            content_spread_ms: group.settings.content_spread.map(|span| span.0),
            content_rate_limit: group.settings.content_rate_limit,
        }),
        policies: group.policies.iter().map(PolicyName::to_string).collect(),
        labels: group.labels.as_map().clone().into_iter().collect(),
        content: content::references(&group.content),
        manager: mark(group.manager.as_ref()),
    }
}

/// A mark of ownership; none is empty.
fn mark(manager: Option<&Keeper>) -> String {
    manager.map(Keeper::to_string).unwrap_or_default()
}

fn read_mark(text: &str) -> Result<Option<Keeper>, DecodeError> {
    let mark = (!text.is_empty()).then(|| Keeper::new(text));
    mark.transpose().map_err(|error| DecodeError::field("manager", error))
}

/// Reads the entry that is stored under `key`.
///
/// # Errors
/// [`DecodeError`] if the bytes are no entry, or one of another object.
pub fn read(key: &StoreKey, bytes: &[u8]) -> Result<Entry, DecodeError> {
    let message: Message = decode(bytes, MAX_ENTRY_BYTES)?;
    let object = message.object.ok_or_else(|| DecodeError::field("object", "is missing"))?;
    match (key, object) {
        (key, Object::Tombstone(Tombstone { generation })) => {
            Ok(Entry::Deleted { key: object_key(key), generation })
        }
        (StoreKey::Group(id), Object::Group(state)) => read_group(id.clone(), state),
        (StoreKey::Kind(name), Object::Kind(state)) => read_kind(name.clone(), state),
        (StoreKey::Policy(name), Object::Policy(state)) => read_policy(name.clone(), state),
        (StoreKey::Token(id), Object::Token(state)) => token::read_token(id.clone(), state),
        (StoreKey::ApiToken(name), Object::ApiToken(state)) => access::read_api_token(name.clone(), state),
        (StoreKey::Epoch, Object::Epoch(state)) => Ok(Entry::Epoch(Epoch(state.epoch))),
        (StoreKey::Channel(name), Object::Channel(state)) => content::read_channel(name.clone(), state),
        (StoreKey::Content(name, number), Object::ContentRevision(state)) => {
            content::read_revision(name.clone(), *number, state)
        }
        (StoreKey::Uploads, Object::Uploads(state)) => content::read_uploads(state),
        (StoreKey::Sweep, Object::Sweep(state)) => Ok(content::read_sweep(state)),
        (
            StoreKey::Group(_)
            | StoreKey::Kind(_)
            | StoreKey::Policy(_)
            | StoreKey::Token(_)
            | StoreKey::ApiToken(_)
            | StoreKey::Channel(_)
            | StoreKey::Content(..)
            | StoreKey::Uploads
            | StoreKey::Sweep
            | StoreKey::Epoch,
            Object::Group(_)
            | Object::Kind(_)
            | Object::Policy(_)
            | Object::Token(_)
            | Object::ApiToken(_)
            | Object::Channel(_)
            | Object::ContentRevision(_)
            | Object::Uploads(_)
            | Object::Sweep(_)
            | Object::Epoch(_),
        ) => Err(DecodeError::field("object", "is of another kind than its subject says")),
    }
}

fn read_group(id: GroupId, state: GroupState) -> Result<Entry, DecodeError> {
    let settings = state.settings.unwrap_or_default();
    let mode = |mode| read_mode(mode).ok_or_else(|| DecodeError::field("mode", "is not known"));
    let policies = state.policies.iter().map(PolicyName::new).collect::<Result<_, _>>();
    Ok(Entry::Group(Arc::new(Group {
        id,
        path: GroupPath::new(&state.path).map_err(|e| DecodeError::field("path", e))?,
        settings: SettingsOverlay {
            mode: settings.mode.map(mode).transpose()?,
            heartbeat_interval: settings.heartbeat_interval_ms.map(Span),
            offline_after: settings.offline_after_ms.map(Span),
            content_spread: settings.content_spread_ms.map(Span),
            content_rate_limit: settings.content_rate_limit,
        },
        policies: policies.map_err(|e| DecodeError::field("policies", e))?,
        content: content::read_references(state.content)?,
        labels: Labels::new(state.labels.into_iter().collect())
            .map_err(|e| DecodeError::field("labels", e))?,
        manager: read_mark(&state.manager)?,
    })))
}

fn read_document(field: &'static str, document: Option<Struct>) -> Result<serde_json::Value, DecodeError> {
    let document = document.ok_or_else(|| DecodeError::field(field, "is missing"))?;
    from_struct(document).map_err(|e| DecodeError::field(field, e))
}

fn read_kind(name: KindName, state: KindState) -> Result<Entry, DecodeError> {
    let schema = Schema::new(read_document("schema", state.schema)?);
    let schema = schema.map_err(|e| DecodeError::field("schema", e))?;
    Ok(Entry::Kind(Arc::new(Kind { name, schema, manager: read_mark(&state.manager)? })))
}

fn read_policy(name: PolicyName, state: PolicyState) -> Result<Entry, DecodeError> {
    let document = Document::new(read_document("document", state.document)?);
    let locks = state.locks.iter().map(Pointer::new).collect::<Result<_, _>>();
    let locks = Locks::new(locks.map_err(|e| DecodeError::field("locks", e))?);
    Ok(Entry::Policy(Arc::new(Policy {
        name,
        kind: KindName::new(&state.kind).map_err(|e| DecodeError::field("kind", e))?,
        document: document.map_err(|e| DecodeError::field("document", e))?,
        locks: locks.map_err(|e| DecodeError::field("locks", e))?,
        generation: state.generation,
        manager: read_mark(&state.manager)?,
    })))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use domain::Mode;
    use serde_json::json;

    use domain::document::MAX_JSON_DEPTH;

    use super::*;

    fn samples() -> Vec<Entry> {
        let schema = json!({"type": "object", "properties": {"rules": {"type": "object"}}});
        let labels = BTreeMap::from([("example.com/site".to_owned(), "north".to_owned())]);
        let settings = SettingsOverlay {
            mode: Some(Mode::Push),
            heartbeat_interval: Some(Span(60_000)),
            ..SettingsOverlay::default()
        };
        let mut group = Group::new(GroupId::new("web").unwrap(), GroupPath::new("/servers/web").unwrap());
        group.settings = settings;
        group.policies = BTreeSet::from([PolicyName::new("base").unwrap()]);
        group.labels = Labels::new(labels).unwrap();
        group.content = content::tests::followed();
        let policy = Policy {
            name: PolicyName::new("base").unwrap(),
            kind: KindName::new("firewall").unwrap(),
            document: Document::new(json!({"rules": {"a/b": [1, null, "x"]}})).unwrap(),
            locks: Locks::new(BTreeSet::from([Pointer::new("/rules/a~1b").unwrap()])).unwrap(),
            generation: 7,
            manager: Some(Keeper::new("kubernetes:default").unwrap()),
        };
        let manager = Some(Keeper::new("terraform").unwrap());
        let schema = Schema::new(schema).unwrap();
        let kind = Kind { name: KindName::new("firewall").unwrap(), schema, manager };
        let gone = ObjectKey::Policy(policy.name.clone());
        let mut samples = content::tests::samples();
        samples.splice(
            0..0,
            [
                Entry::Group(Arc::new(group)),
                Entry::Group(Arc::new(Group::root())),
                Entry::Kind(Arc::new(kind)),
                Entry::Policy(Arc::new(policy)),
                token::tests::sample(),
                access::tests::sample(),
                Entry::Epoch(Epoch(2)),
                Entry::Deleted { key: gone, generation: 8 },
            ],
        );
        samples
    }

    #[test]
    fn entries_round_trip_under_their_key_only() {
        for entry in samples() {
            let key = store_key(&entry.key());
            assert_eq!(object_key(&key), entry.key());
            let bytes = encode(&entry).unwrap();
            assert_eq!(read(&key, &bytes).unwrap(), entry);
            for other in samples().iter().map(|other| store_key(&other.key())) {
                let misplaced = std::mem::discriminant(&other) != std::mem::discriminant(&key);
                let deleted = matches!(entry, Entry::Deleted { .. });
                assert_eq!(read(&other, &bytes).is_err(), misplaced && !deleted, "{other:?} {entry:?}");
            }
        }
    }

    #[test]
    fn the_deepest_document_is_carried() {
        let deep = (1..MAX_JSON_DEPTH).fold(json!({}), |inner, _| json!({ "d": inner }));
        let Entry::Policy(policy) = samples().remove(3) else { panic!("the sample is a policy") };
        let entry =
            Entry::Policy(Arc::new(Policy { document: Document::new(deep).unwrap(), ..(*policy).clone() }));
        assert_eq!(read(&store_key(&entry.key()), &encode(&entry).unwrap()).unwrap(), entry);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..300)) {
            for key in samples().iter().map(|entry| store_key(&entry.key())) {
                let _ = read(&key, &bytes);
            }
        }
    }
}
