//! Records of the registry (stream IDENTITY) between their domain form and stored bytes.

use domain::registry::{AgentKey, Gone, Registered, Registration};
use domain::token::{Claim, Uses};
use domain::{AgentId, Cursor, Digest, GroupId, Timestamp, TokenId};
use prost::Message as _;

use crate::agent::v1::Envelope;
use crate::join::{MAX_LABEL_BYTES, MAX_LABELS};
use crate::store::v1;
use crate::{DecodeError, decode};

/// Largest record of an agent: its labels, a few texts and a signed assignment.
pub const MAX_RECORD_BYTES: usize = 2 * MAX_LABELS * (MAX_LABEL_BYTES + 8) + 4096;
/// Largest record of a token's uses: a number, a digest, an id and a key.
pub const MAX_USES_BYTES: usize = 512;

/// A record of an agent, with its newest assignment as it was signed.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRecord {
    /// What the registry says.
    pub registered: Registered,
    /// Envelope(Assignment); `None` for a deleted agent. As stored: readers that obey it check it.
    pub assignment: Option<Envelope>,
}

/// Bytes of the record of an agent that is registered, with its signed assignment.
#[must_use]
pub fn encode_agent(agent: &Registration, assignment: Envelope) -> Vec<u8> {
    v1::AgentRecord {
        public_key: agent.key.to_string(),
        group: agent.group.to_string(),
        labels: agent.labels.clone().into_iter().collect(),
        hostname: agent.hostname.clone(),
        joined_at_ms: agent.joined_at.0,
        token: agent.token.to_string(),
        assignment_revision: agent.assignment.revision.0,
        assignment: Some(assignment),
        deleted_at_ms: 0,
        assignment_epoch: agent.assignment.epoch.0,
    }
    .encode_to_vec()
}

/// Bytes of the tombstone of an agent.
#[must_use]
pub fn encode_gone(gone: &Gone) -> Vec<u8> {
    v1::AgentRecord {
        public_key: gone.key.to_string(),
        // 0 would mean that the agent is there.
        deleted_at_ms: gone.deleted_at.0.max(1),
        assignment_revision: gone.assignment.revision.0,
        assignment_epoch: gone.assignment.epoch.0,
        ..v1::AgentRecord::default()
    }
    .encode_to_vec()
}

/// Reads the record of an agent.
///
/// # Errors
/// [`DecodeError`] names the field that is wrong.
pub fn read_agent(bytes: &[u8]) -> Result<AgentRecord, DecodeError> {
    let record: v1::AgentRecord = decode(bytes, MAX_RECORD_BYTES)?;
    let key = AgentKey::new(&record.public_key).map_err(|e| DecodeError::field("public_key", e))?;
    let assignment = Cursor::new(record.assignment_epoch, record.assignment_revision);
    if record.deleted_at_ms != 0 {
        let gone = Gone { key, deleted_at: Timestamp(record.deleted_at_ms), assignment };
        return Ok(AgentRecord { registered: Registered::Deleted(gone), assignment: None });
    }
    let registration = Registration {
        key,
        group: GroupId::new(&record.group).map_err(|e| DecodeError::field("group", e))?,
        labels: record.labels.into_iter().collect(),
        hostname: record.hostname,
        joined_at: Timestamp(record.joined_at_ms),
        token: TokenId::new(&record.token).map_err(|e| DecodeError::field("token", e))?,
        assignment,
    };
    let envelope = record.assignment.ok_or_else(|| DecodeError::field("assignment", "is missing"))?;
    Ok(AgentRecord { registered: Registered::Agent(registration), assignment: Some(envelope) })
}

/// Bytes of the uses of a token.
#[must_use]
pub fn encode_uses(uses: &Uses) -> Vec<u8> {
    v1::TokenUse {
        used: uses.used,
        secret_sha256: uses.secret_digest.0.to_vec(),
        last_agent: uses.last.agent.to_string(),
        last_key: uses.last.key.to_string(),
    }
    .encode_to_vec()
}

/// Reads the uses of a token.
///
/// # Errors
/// [`DecodeError`] names the field that is wrong.
pub fn read_uses(bytes: &[u8]) -> Result<Uses, DecodeError> {
    let uses: v1::TokenUse = decode(bytes, MAX_USES_BYTES)?;
    let digest = uses.secret_sha256.try_into();
    Ok(Uses {
        used: uses.used,
        secret_digest: Digest(
            digest.map_err(|_| DecodeError::field("secret_sha256", "is not 32 bytes long"))?,
        ),
        last: Claim {
            agent: AgentId::new(&uses.last_agent).map_err(|e| DecodeError::field("last_agent", e))?,
            key: AgentKey::new(&uses.last_key).map_err(|e| DecodeError::field("last_key", e))?,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::registry::Newcomer;
    use domain::{Epoch, FleetId};
    use ed25519_dalek::SigningKey;

    use super::*;

    fn agent(labels: BTreeMap<String, String>) -> (Registration, Envelope) {
        let id = AgentId::new("web-1").unwrap();
        let newcomer = Newcomer {
            key: AgentKey::new(format!("U{}", "A".repeat(55))).unwrap(),
            labels,
            hostname: "h".repeat(255),
            token: TokenId::new("t".repeat(64)).unwrap(),
        };
        let agent = newcomer.registration(GroupId::new("web").unwrap(), Epoch(2), Timestamp(7));
        let assignment = agent.assignment(FleetId::new("main").unwrap(), id, Timestamp(8));
        let envelope = crate::snapshot::seal_assignment(&assignment, &SigningKey::from_bytes(&[1; 32]));
        (agent, envelope)
    }

    #[test]
    fn the_largest_record_round_trips() {
        let labels = (0..MAX_LABELS).map(|n| (format!("{n:0128}"), "v".repeat(MAX_LABEL_BYTES)));
        let (agent, envelope) = agent(labels.collect());
        let read = read_agent(&encode_agent(&agent, envelope.clone())).unwrap();
        assert_eq!(read.registered, Registered::Agent(agent));
        assert_eq!(read.assignment, Some(envelope));
    }

    #[test]
    fn tombstones_stay_tombstones() {
        let (agent, _) = agent(BTreeMap::new());
        for (deleted_at, expected) in [(0, 1), (9, 9)] {
            let gone = agent.deleted(Timestamp(deleted_at));
            let read = read_agent(&encode_gone(&gone)).unwrap();
            let expected = Gone { deleted_at: Timestamp(expected), ..gone };
            assert_eq!(read, AgentRecord { registered: Registered::Deleted(expected), assignment: None });
        }
    }

    #[test]
    fn uses_round_trip() {
        let (agent, _) = agent(BTreeMap::new());
        let last = Claim { agent: AgentId::new("a".repeat(64)).unwrap(), key: agent.key };
        let uses = Uses { used: u32::MAX, secret_digest: Digest([7; 32]), last };
        assert_eq!(read_uses(&encode_uses(&uses)).unwrap(), uses);
    }

    #[test]
    fn broken_records_are_refused_by_field() {
        let check = |change: &dyn Fn(&mut v1::AgentRecord), expected: &str| {
            let (agent, envelope) = agent(BTreeMap::new());
            let mut record = v1::AgentRecord::decode(&encode_agent(&agent, envelope)[..]).unwrap();
            change(&mut record);
            let error = read_agent(&record.encode_to_vec()).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check(&|r| r.public_key.clear(), "field public_key is not the public key");
        check(&|r| r.group = "a.b".into(), "field group has the character '.'");
        check(&|r| r.assignment = None, "field assignment is missing");
        check(&|r| r.hostname = "h".repeat(MAX_RECORD_BYTES), "is ");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..300)) {
            let _ = read_agent(&bytes);
            let _ = read_uses(&bytes);
        }
    }
}
