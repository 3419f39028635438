//! Snapshots and assignments between their domain form and signed bytes.

use std::sync::Arc;

use bytes::Bytes;
use domain::content::{ChannelName, ContentItem, ContentRevision, MAX_CHANNELS_PER_GROUP};
use domain::settings::SettingsOverlay;
use domain::snapshot::{MAX_DOCUMENT_BYTES, MAX_POLICIES, MAX_SNAPSHOT_BYTES};
use domain::{
    AgentId, Assignment, Cursor, Digest, FleetId, GroupId, GroupPath, KindName, Mode, PolicyItem, Revision,
    Settings, Snapshot, Span, Timestamp,
};
use ed25519_dalek::SigningKey;
use prost::Message as _;

use crate::agent::v1::{self, Envelope};
use crate::envelope::{self, EnvelopeError};
use crate::sign::KeySet;
use crate::{DecodeError, decode, decode_shared};

/// Largest assignment: three ids and a few numbers.
pub const MAX_ASSIGNMENT_BYTES: usize = 1024;

/// Signs a snapshot.
#[must_use]
pub fn seal(snapshot: &Snapshot, key: &SigningKey) -> Envelope {
    envelope::seal(envelope::SNAPSHOT, encode(snapshot), key)
}

/// Bytes of a snapshot as they are signed. Compare with [`MAX_SNAPSHOT_BYTES`] before signing.
#[must_use]
pub fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let policies = snapshot.policies.iter().map(|item| v1::PolicyItem {
        kind: item.kind.to_string(),
        document: Bytes::copy_from_slice(&item.document),
        digest: item.digest.0.to_vec(),
        revision: item.revision.0,
    });
    let content = snapshot.content.iter().map(|item| v1::ContentItem {
        channel: item.channel.to_string(),
        content_revision: item.number.0,
        revision: item.revision.0,
        manifest: item.manifest.0.to_vec(),
        manifest_bytes: item.manifest_bytes,
        content_bytes: item.content_bytes,
    });
    v1::Snapshot {
        fleet: snapshot.fleet.to_string(),
        group: snapshot.group.to_string(),
        group_path: snapshot.path.to_string(),
        epoch: snapshot.cursor.epoch.0,
        revision: snapshot.cursor.revision.0,
        issued_at_ms: snapshot.issued_at.0,
        expires_at_ms: snapshot.expires_at.0,
        settings: Some(settings_message(&snapshot.settings)),
        policies: policies.collect(),
        content: content.collect(),
        trace_id: if snapshot.trace_id == [0; 16] { Vec::new() } else { snapshot.trace_id.to_vec() },
    }
    .encode_to_vec()
}

/// Checks the signature of an envelope, then reads the snapshot in it.
///
/// # Errors
/// [`EnvelopeError`]: untrusted, of another type, or signed but malformed.
pub fn open(envelope: &Envelope, trusted: &KeySet) -> Result<Snapshot, EnvelopeError> {
    let payload = envelope::open_threshold(envelope, envelope::SNAPSHOT, &trusted.keys, trusted.threshold)?;
    read(payload).map_err(EnvelopeError::Payload)
}

/// Reads a snapshot whose signature has been checked. The digest of each document is checked as well.
///
/// # Errors
/// [`DecodeError`] names the field.
pub fn read(payload: &Bytes) -> Result<Snapshot, DecodeError> {
    let message: v1::Snapshot = decode_shared(payload, MAX_SNAPSHOT_BYTES)?;
    if message.policies.len() > MAX_POLICIES {
        return Err(DecodeError::field("policies", format!("has more than {MAX_POLICIES} items")));
    }
    let policies: Vec<_> = message.policies.into_iter().map(read_item).collect::<Result<_, _>>()?;
    if !policies.is_sorted_by(|a, b| a.kind < b.kind) {
        return Err(DecodeError::field("policies", "is not ordered by kind, or names a kind twice"));
    }
    let content = read_content(message.content)?;
    let settings = message.settings.ok_or_else(|| DecodeError::field("settings", "is missing"))?;
    Ok(Snapshot {
        fleet: FleetId::new(&message.fleet).map_err(|e| DecodeError::field("fleet", e))?,
        group: GroupId::new(&message.group).map_err(|e| DecodeError::field("group", e))?,
        path: GroupPath::new(&message.group_path).map_err(|e| DecodeError::field("group_path", e))?,
        cursor: Cursor::new(message.epoch, message.revision),
        issued_at: Timestamp(message.issued_at_ms),
        expires_at: Timestamp(message.expires_at_ms),
        settings: read_settings(settings)?,
        policies,
        content,
        trace_id: read_trace_id(&message.trace_id)?,
    })
}

fn read_item(item: v1::PolicyItem) -> Result<PolicyItem, DecodeError> {
    if item.document.len() > MAX_DOCUMENT_BYTES {
        return Err(DecodeError::field("document", format!("is larger than {MAX_DOCUMENT_BYTES} bytes")));
    }
    let digest = Digest::of(&item.document);
    if item.digest != digest.0 {
        return Err(DecodeError::field("digest", "does not match the document"));
    }
    Ok(PolicyItem {
        kind: KindName::new(&item.kind).map_err(|e| DecodeError::field("kind", e))?,
        revision: Revision(item.revision),
        document: Arc::from(&item.document[..]),
        digest,
    })
}

fn read_content(items: Vec<v1::ContentItem>) -> Result<Vec<ContentItem>, DecodeError> {
    if items.len() > MAX_CHANNELS_PER_GROUP {
        return Err(DecodeError::field("content", format!("has more than {MAX_CHANNELS_PER_GROUP} items")));
    }
    let items: Vec<_> = items.into_iter().map(read_content_item).collect::<Result<_, _>>()?;
    if !items.is_sorted_by(|a, b| a.channel < b.channel) {
        return Err(DecodeError::field("content", "is not ordered by channel, or names a channel twice"));
    }
    Ok(items)
}

fn read_content_item(item: v1::ContentItem) -> Result<ContentItem, DecodeError> {
    if item.content_revision == 0 {
        return Err(DecodeError::field("content_revision", "must not be 0"));
    }
    let manifest = item.manifest.try_into();
    Ok(ContentItem {
        channel: ChannelName::new(&item.channel).map_err(|e| DecodeError::field("channel", e))?,
        number: ContentRevision(item.content_revision),
        revision: Revision(item.revision),
        manifest: Digest(manifest.map_err(|_| DecodeError::field("manifest", "is not 32 bytes long"))?),
        manifest_bytes: item.manifest_bytes,
        content_bytes: item.content_bytes,
    })
}

fn read_trace_id(bytes: &[u8]) -> Result<[u8; 16], DecodeError> {
    if bytes.is_empty() {
        return Ok([0; 16]);
    }
    bytes.try_into().map_err(|_| DecodeError::field("trace_id", "is not 16 bytes long"))
}

/// Settings as agents read them.
#[must_use]
pub fn settings_message(settings: &Settings) -> v1::Settings {
    v1::Settings {
        mode: mode_message(settings.mode).into(),
        heartbeat_interval_ms: settings.heartbeat_interval.0,
        offline_after_ms: settings.offline_after.0,
        content_spread_ms: settings.content_spread.0,
        content_rate_limit: settings.content_rate_limit.unwrap_or(0),
    }
}

/// Mode as agents and the store write it.
#[must_use]
pub fn mode_message(mode: Mode) -> v1::Mode {
    match mode {
        Mode::Pull => v1::Mode::Pull,
        Mode::Push => v1::Mode::Push,
    }
}

/// Reads a mode; `None` for a number that means none.
#[must_use]
pub fn read_mode(mode: i32) -> Option<Mode> {
    match v1::Mode::try_from(mode) {
        Ok(v1::Mode::Pull) => Some(Mode::Pull),
        Ok(v1::Mode::Push) => Some(Mode::Push),
        Ok(v1::Mode::Unspecified) | Err(_) => None,
    }
}

fn read_settings(settings: v1::Settings) -> Result<Settings, DecodeError> {
    let mode = read_mode(settings.mode).ok_or_else(|| DecodeError::field("mode", "is not known"))?;
    let overlay = SettingsOverlay {
        mode: Some(mode),
        heartbeat_interval: Some(Span(settings.heartbeat_interval_ms)),
        offline_after: Some(Span(settings.offline_after_ms)),
        content_spread: Some(Span(settings.content_spread_ms)),
        content_rate_limit: Some(settings.content_rate_limit),
    };
    overlay.effective().map_err(|e| DecodeError::field("settings", e))
}

/// Signs an assignment.
#[must_use]
pub fn seal_assignment(assignment: &Assignment, key: &SigningKey) -> Envelope {
    envelope::seal(envelope::ASSIGNMENT, encode_assignment(assignment), key)
}

/// Bytes of an assignment as they are signed.
#[must_use]
pub fn encode_assignment(assignment: &Assignment) -> Vec<u8> {
    v1::Assignment {
        fleet: assignment.fleet.to_string(),
        agent: assignment.agent.to_string(),
        group: assignment.group.to_string(),
        epoch: assignment.cursor.epoch.0,
        revision: assignment.cursor.revision.0,
        issued_at_ms: assignment.issued_at.0,
    }
    .encode_to_vec()
}

/// Checks the signature of an envelope, then reads the assignment in it.
///
/// # Errors
/// [`EnvelopeError`]: untrusted, of another type, or signed but malformed.
pub fn open_assignment(envelope: &Envelope, trusted: &KeySet) -> Result<Assignment, EnvelopeError> {
    let payload = envelope::open_threshold(envelope, envelope::ASSIGNMENT, &trusted.keys, trusted.threshold)?;
    read_assignment(payload).map_err(EnvelopeError::Payload)
}

fn read_assignment(payload: &[u8]) -> Result<Assignment, DecodeError> {
    let message: v1::Assignment = decode(payload, MAX_ASSIGNMENT_BYTES)?;
    Ok(Assignment {
        fleet: FleetId::new(&message.fleet).map_err(|e| DecodeError::field("fleet", e))?,
        agent: AgentId::new(&message.agent).map_err(|e| DecodeError::field("agent", e))?,
        group: GroupId::new(&message.group).map_err(|e| DecodeError::field("group", e))?,
        cursor: Cursor::new(message.epoch, message.revision),
        issued_at: Timestamp(message.issued_at_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(channel: &str, number: u32) -> ContentItem {
        ContentItem {
            channel: ChannelName::new(channel).unwrap(),
            number: ContentRevision(number),
            revision: Revision(40),
            manifest: Digest([5; 32]),
            manifest_bytes: 1_000,
            content_bytes: 100_000_000,
        }
    }

    fn sample() -> Snapshot {
        let document: Arc<[u8]> = Arc::from(&br#"{"rules":{}}"#[..]);
        Snapshot {
            fleet: FleetId::new("main").unwrap(),
            group: GroupId::new("web").unwrap(),
            path: GroupPath::new("/servers/web").unwrap(),
            cursor: Cursor::new(1, 42),
            issued_at: Timestamp(1_000),
            expires_at: Timestamp(2_000),
            settings: SettingsOverlay::default().effective().unwrap(),
            policies: vec![PolicyItem {
                kind: KindName::new("firewall").unwrap(),
                revision: Revision(42),
                digest: Digest::of(&document),
                document,
            }],
            content: vec![content("definitions/ips", 9), content("rules", 1)],
            trace_id: [7; 16],
        }
    }

    #[test]
    fn snapshots_round_trip_through_an_envelope() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let envelope = seal(&sample(), &key);
        let bytes = envelope.encode_to_vec();
        let opened = open(&envelope::parse(&bytes).unwrap(), &key.verifying_key().into()).unwrap();
        assert_eq!(opened, sample());
    }

    #[test]
    fn signed_but_broken_snapshots_are_refused_by_field() {
        let check = |change: &dyn Fn(&mut v1::Snapshot), expected: &str| {
            let mut message = v1::Snapshot::decode(&encode(&sample())[..]).unwrap();
            change(&mut message);
            assert_eq!(read(&message.encode_to_vec().into()).unwrap_err().to_string(), expected);
        };
        check(&|m| m.policies[0].digest[0] ^= 1, "field digest does not match the document");
        check(&|m| m.settings = None, "field settings is missing");
        check(&|m| m.group.clear(), "field group must not be empty");
        check(&|m| m.trace_id = vec![1], "field trace_id is not 16 bytes long");
        check(&|m| m.content[0].channel = "a//b".into(), "field channel \"\" in it must not be empty");
        check(&|m| m.content[0].content_revision = 0, "field content_revision must not be 0");
        check(&|m| m.content[0].manifest.clear(), "field manifest is not 32 bytes long");
        check(&|m| m.content.swap(0, 1), "field content is not ordered by channel, or names a channel twice");
        check(&|m| m.content = vec![m.content[0].clone(); 65], "field content has more than 64 items");
        check(
            &|m| m.policies.push(m.policies[0].clone()),
            "field policies is not ordered by kind, or names a kind twice",
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = read(&Bytes::copy_from_slice(&bytes));
            let _ = read_assignment(&bytes);
        }
    }
}
