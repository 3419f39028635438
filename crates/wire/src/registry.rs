//! Records of the registry (stream IDENTITY) between their domain form and stored bytes.

use domain::enrol::Reason;
use domain::registry::{AgentKey, Gone, Newcomer, Pending, Registered, Registration};
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
    /// Envelope(Assignment); `None` for an agent that waits for approval or was deleted. As stored: readers that obey it check it.
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
        placed_by: agent.reason.to_string(),
        pending: false,
    }
    .encode_to_vec()
}

/// Bytes of the record of an agent that waits for approval.
#[must_use]
pub fn encode_pending(pending: &Pending) -> Vec<u8> {
    let Newcomer { key, labels, hostname, token } = &pending.newcomer;
    v1::AgentRecord {
        public_key: key.to_string(),
        group: pending.group.to_string(),
        labels: labels.clone().into_iter().collect(),
        hostname: hostname.clone(),
        joined_at_ms: pending.asked_at.0,
        token: token.to_string(),
        placed_by: pending.reason.to_string(),
        pending: true,
        ..v1::AgentRecord::default()
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
        pending: gone.rejected,
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
        let deleted_at = Timestamp(record.deleted_at_ms);
        let gone = Gone { key, deleted_at, assignment, rejected: record.pending };
        return Ok(AgentRecord { registered: Registered::Deleted(gone), assignment: None });
    }
    let group = GroupId::new(&record.group).map_err(|e| DecodeError::field("group", e))?;
    let reason = match record.placed_by.as_str() {
        "" => Reason::Token,
        text => text.parse().map_err(|e| DecodeError::field("placed_by", e))?,
    };
    let newcomer = Newcomer {
        key,
        labels: record.labels.into_iter().collect(),
        hostname: record.hostname,
        token: TokenId::new(&record.token).map_err(|e| DecodeError::field("token", e))?,
    };
    let at = Timestamp(record.joined_at_ms);
    if record.pending {
        let pending = newcomer.pending((group, reason), at);
        return Ok(AgentRecord { registered: Registered::Pending(pending), assignment: None });
    }
    let registration =
        Registration { assignment, ..newcomer.registration((group, reason), assignment.epoch, at) };
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
        let place = (GroupId::new("web").unwrap(), Reason::Rule(32));
        let agent = newcomer.registration(place, Epoch(2), Timestamp(7));
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
    fn who_waits_has_no_assignment_and_who_was_rejected_stays_so() {
        let (agent, envelope) = agent(BTreeMap::from([("site".to_owned(), "north".to_owned())]));
        let Registration { key, labels, hostname, token, group, .. } = agent;
        let newcomer = Newcomer { key, labels, hostname, token };
        let pending = newcomer.pending((group, Reason::Asked), Timestamp(7));
        let bytes = encode_pending(&pending);
        let read = read_agent(&bytes).unwrap();
        assert_eq!(read, AgentRecord { registered: Registered::Pending(pending.clone()), assignment: None });
        // One with an assignment is none that waits, and counts as such.
        let mut both = v1::AgentRecord::decode(&bytes[..]).unwrap();
        both.assignment = Some(envelope);
        assert_eq!(read_agent(&both.encode_to_vec()).unwrap().assignment, None);
        let gone = pending.rejected(Timestamp(9));
        let read = read_agent(&encode_gone(&gone)).unwrap();
        assert_eq!(read, AgentRecord { registered: Registered::Deleted(gone), assignment: None });
    }

    #[test]
    fn records_from_before_there_were_reasons_are_read() {
        let (agent, envelope) = agent(BTreeMap::new());
        let mut record = v1::AgentRecord::decode(&encode_agent(&agent, envelope)[..]).unwrap();
        record.placed_by.clear();
        let read = read_agent(&record.encode_to_vec()).unwrap();
        assert_eq!(read.registered.agent().unwrap().reason, Reason::Token);
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
        check(&|r| r.placed_by = "rule".into(), "field placed_by is not a reason");
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
