//! Heartbeats as they arrive: bounded before they are parsed, checked before anyone looks at them.

mod content;

use bytes::{BufMut as _, Bytes, BytesMut};
use domain::agent::ItemState;
use domain::{AgentId, Timestamp};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::agent::v1::{self, BeatBatch, Heartbeat, HeartbeatReply};
use crate::store::v1::PresenceCheckpoint;
use crate::{DecodeError, decode};

pub use content::{content_status, download_wish, read_content_status, read_download_wish};

/// Largest heartbeat: a full status of 256 items and 128 channels with the longest names takes 66 KiB, its
/// reasons up to [`MAX_REASONS_BYTES`] more. Larger ones are refused unread.
pub const MAX_HEARTBEAT_BYTES: usize = 128 * 1024;
/// Room that agents give to all reasons of a status together: enough for dozens of failures told in full.
pub const MAX_REASONS_BYTES: usize = 40 * 1024;
/// Largest reply: an envelope and a few numbers.
pub const MAX_REPLY_BYTES: usize = crate::envelope::MAX_ENVELOPE_BYTES + 4096;
/// Largest batch of shared heartbeats, and largest chunk of a checkpoint: the NATS default payload limit.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Most heartbeats in one shared batch.
pub const MAX_BATCH_BEATS: usize = 4096;
/// Longest reason for a failed item, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;
/// Longest host name (RFC 1035 allows 255 octets) and longest version text.
pub const MAX_TEXT_BYTES: usize = 255;

/// The state of an item as heartbeats carry it.
#[must_use]
pub fn item_state(state: ItemState) -> v1::ItemState {
    match state {
        ItemState::Offered => v1::ItemState::Offered,
        ItemState::Received => v1::ItemState::Received,
        ItemState::Verified => v1::ItemState::Verified,
        ItemState::Applied => v1::ItemState::Applied,
        ItemState::Healthy => v1::ItemState::Healthy,
        ItemState::Failed => v1::ItemState::Failed,
    }
}

/// Reads the state of an item; one that this version does not know counts as the first.
#[must_use]
pub fn read_item_state(state: i32) -> ItemState {
    match v1::ItemState::try_from(state).unwrap_or_default() {
        v1::ItemState::Unspecified | v1::ItemState::Offered => ItemState::Offered,
        v1::ItemState::Received => ItemState::Received,
        v1::ItemState::Verified => ItemState::Verified,
        v1::ItemState::Applied => ItemState::Applied,
        v1::ItemState::Healthy => ItemState::Healthy,
        v1::ItemState::Failed => ItemState::Failed,
    }
}

/// Reads a heartbeat.
///
/// # Errors
/// [`DecodeError`] if it is too large, malformed, or a list or text in it is too long.
pub fn read(bytes: &[u8]) -> Result<Heartbeat, DecodeError> {
    let heartbeat: Heartbeat = decode(bytes, MAX_HEARTBEAT_BYTES)?;
    check(&heartbeat)?;
    Ok(heartbeat)
}

fn check(heartbeat: &Heartbeat) -> Result<(), DecodeError> {
    let Some(status) = &heartbeat.status else { return Ok(()) };
    if status.items.len() > domain::snapshot::MAX_POLICIES {
        return Err(DecodeError::field("items", "has more than 256 entries"));
    }
    let too_long = |text: &str| text.len() > MAX_TEXT_BYTES;
    if too_long(&status.agent_version) || too_long(&status.hostname) || too_long(&status.last_refusal) {
        return Err(DecodeError::field("status", "has a text of more than 255 bytes"));
    }
    for item in &status.items {
        domain::KindName::new(&item.kind).map_err(|e| DecodeError::field("kind", e))?;
        if item.reason.len() > MAX_REASON_BYTES {
            return Err(DecodeError::field("reason", "is longer than 1024 bytes"));
        }
    }
    content::check(&status.content)
}

/// Reads a reply to a heartbeat.
///
/// # Errors
/// [`DecodeError`] if it is too large or malformed.
pub fn read_reply(bytes: &[u8]) -> Result<HeartbeatReply, DecodeError> {
    decode(bytes, MAX_REPLY_BYTES)
}

/// Bytes of a reply that carries envelopes as they were stored: they are copied once and never decoded.
#[must_use]
pub fn encode_reply(reply: &HeartbeatReply, snapshot: Option<&[u8]>, assignment: Option<&[u8]>) -> Bytes {
    let envelopes = [(SNAPSHOT_FIELD, snapshot), (ASSIGNMENT_FIELD, assignment)];
    let extra: usize = envelopes.iter().map(|(_, bytes)| bytes.map_or(0, |bytes| bytes.len() + 12)).sum();
    let mut out = BytesMut::with_capacity(reply.encoded_len() + extra);
    reply.encode(&mut out).expect("invariant: the buffer grows");
    for (field, bytes) in envelopes {
        if let Some(bytes) = bytes {
            put_bytes(&mut out, field, bytes);
        }
    }
    out.freeze()
}

/// Numbers of the fields that [`encode_reply`] and [`BatchWriter`] write themselves; a test holds them against
/// the generated code.
const SNAPSHOT_FIELD: u32 = 5;
const ASSIGNMENT_FIELD: u32 = 6;
const BATCH_BEATS_FIELD: u32 = 2;
const BEAT_AGENT_FIELD: u32 = 1;
const BEAT_RECEIVED_AT_FIELD: u32 = 2;
const BEAT_HEARTBEAT_FIELD: u32 = 3;
const BEAT_GRANTED_BY_FIELD: u32 = 4;

fn put_bytes(out: &mut BytesMut, field: u32, bytes: &[u8]) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

/// A [`BeatBatch`] that is written beat by beat, from heartbeats as they arrived.
#[derive(Debug)]
pub struct BatchWriter {
    replica: u64,
    beats: usize,
    body: BytesMut,
}

impl BatchWriter {
    /// An empty batch of the replica with this random id.
    #[must_use]
    pub fn new(replica: u64) -> Self {
        Self { replica, beats: 0, body: BytesMut::new() }
    }

    /// Adds a heartbeat: its bytes as they came, after [`read`] accepted them, and by which replica the agent
    /// holds a slot for a full download. False if the batch has no room for it; then it is unchanged.
    #[must_use]
    pub fn push(
        &mut self,
        agent: &AgentId,
        received_at: Timestamp,
        heartbeat: &[u8],
        granted_by: Option<u64>,
    ) -> bool {
        let id = agent.as_str().as_bytes();
        let lens = [id.len(), heartbeat.len()].map(|len| 1 + encoded_len_varint(len as u64) + len);
        let granted = granted_by.map_or(0, |_| 1 + size_of::<u64>());
        let len = lens.iter().sum::<usize>() + 1 + encoded_len_varint(received_at.0) + granted;
        if self.beats == MAX_BATCH_BEATS || self.body.len() + len + BATCH_SPARE_BYTES > MAX_BATCH_BYTES {
            return false;
        }
        encode_key(BATCH_BEATS_FIELD, WireType::LengthDelimited, &mut self.body);
        encode_varint(len as u64, &mut self.body);
        put_bytes(&mut self.body, BEAT_AGENT_FIELD, id);
        encode_key(BEAT_RECEIVED_AT_FIELD, WireType::Varint, &mut self.body);
        encode_varint(received_at.0, &mut self.body);
        put_bytes(&mut self.body, BEAT_HEARTBEAT_FIELD, heartbeat);
        if let Some(replica) = granted_by {
            encode_key(BEAT_GRANTED_BY_FIELD, WireType::SixtyFourBit, &mut self.body);
            self.body.put_u64_le(replica);
        }
        self.beats += 1;
        true
    }

    /// Heartbeats in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.beats
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.beats == 0
    }

    /// Bytes of the batch, which is empty afterwards.
    #[must_use]
    pub fn finish(&mut self, sent_at: Timestamp) -> Bytes {
        let frame = BeatBatch { replica: self.replica, beats: Vec::new(), sent_at_ms: sent_at.0 };
        self.beats = 0;
        let mut out = self.body.split();
        // Fields may come in any order.
        frame.encode(&mut out).expect("invariant: the buffer grows");
        out.freeze()
    }
}

/// Room in a batch for what is not a heartbeat: three keys, two numbers, a length.
const BATCH_SPARE_BYTES: usize = 64;

/// Who sent a batch, and when: a [`BeatBatch`] without its heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct BatchOrigin {
    /// As in [`BeatBatch`].
    #[prost(fixed64, tag = "1")]
    pub replica: u64,
    /// As in [`BeatBatch`].
    #[prost(uint64, tag = "3")]
    pub sent_at_ms: u64,
}

/// Reads who sent a batch, skipping its heartbeats: a replica hears its own batches as well.
///
/// # Errors
/// [`DecodeError`] if the batch is too large or malformed.
pub fn read_batch_origin(bytes: &[u8]) -> Result<BatchOrigin, DecodeError> {
    decode(bytes, MAX_BATCH_BYTES)
}

/// Reads a batch of heartbeats that another replica heard. Each is checked as if it had come directly.
///
/// # Errors
/// [`DecodeError`] if the batch is too large or malformed, or one of its heartbeats is.
pub fn read_batch(bytes: &[u8]) -> Result<BeatBatch, DecodeError> {
    let batch: BeatBatch = decode(bytes, MAX_BATCH_BYTES)?;
    if batch.beats.len() > MAX_BATCH_BEATS {
        return Err(DecodeError::field("beats", format!("has more than {MAX_BATCH_BEATS} entries")));
    }
    for beat in &batch.beats {
        domain::AgentId::new(&beat.agent).map_err(|e| DecodeError::field("agent", e))?;
        check(beat.heartbeat.as_ref().ok_or_else(|| DecodeError::field("heartbeat", "is missing"))?)?;
    }
    Ok(batch)
}

/// Reads a chunk of a checkpoint. Each heartbeat in it is checked as if it had come from its agent.
///
/// # Errors
/// [`DecodeError`] if the chunk is too large or malformed, or a record in it is.
pub fn read_checkpoint(bytes: &[u8]) -> Result<PresenceCheckpoint, DecodeError> {
    let checkpoint: PresenceCheckpoint = decode(bytes, MAX_BATCH_BYTES)?;
    for record in &checkpoint.agents {
        AgentId::new(&record.agent).map_err(|e| DecodeError::field("agent", e))?;
        check(record.heartbeat.as_ref().ok_or_else(|| DecodeError::field("heartbeat", "is missing"))?)?;
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::agent::v1::{ItemStatus, StatusReport};

    fn with_status(status: StatusReport) -> Vec<u8> {
        Heartbeat { status: Some(status), ..Heartbeat::default() }.encode_to_vec()
    }

    #[test]
    fn bounds_hold() {
        assert!(read(&[]).is_ok());
        let long = "x".repeat(300);
        for (status, expected) in [
            (
                StatusReport { hostname: long, ..StatusReport::default() },
                "field status has a text of more than 255 bytes",
            ),
            (
                StatusReport { items: vec![ItemStatus::default(); 257], ..StatusReport::default() },
                "field items has more than 256 entries",
            ),
            (
                StatusReport { items: vec![ItemStatus::default()], ..StatusReport::default() },
                "field kind must not be empty",
            ),
        ] {
            assert_eq!(read(&with_status(status)).unwrap_err().to_string(), expected);
        }
        assert!(matches!(read(&vec![0; MAX_HEARTBEAT_BYTES + 1]), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn batches_are_what_the_generated_code_reads() {
        let agent = AgentId::new("a".repeat(64)).unwrap();
        let heartbeat = Heartbeat { session: 7, sequence: 300, revision: u64::MAX, ..Heartbeat::default() };
        let mut batch = BatchWriter::new(9);
        for received_at in [1, u64::MAX] {
            let granted_by = Some(received_at).filter(|id| *id > 1);
            assert!(batch.push(&agent, Timestamp(received_at), &heartbeat.encode_to_vec(), granted_by));
        }
        let bytes = batch.finish(Timestamp(5));
        assert!(batch.is_empty());
        let read = read_batch(&bytes).unwrap();
        assert_eq!((read.replica, read.sent_at_ms, read.beats.len()), (9, 5, 2));
        for (beat, received_at_ms) in read.beats.iter().zip([1, u64::MAX]) {
            assert_eq!(beat.agent, agent.as_str());
            assert_eq!((beat.received_at_ms, beat.heartbeat.as_ref()), (received_at_ms, Some(&heartbeat)));
            assert_eq!(beat.granted_by, if received_at_ms > 1 { received_at_ms } else { 0 });
        }
        let origin = read_batch_origin(&bytes).unwrap();
        assert_eq!(origin, BatchOrigin { replica: 9, sent_at_ms: 5 });
    }

    #[test]
    fn a_full_batch_takes_no_more_and_can_be_read() {
        let agent = AgentId::new("a").unwrap();
        for (size, expected) in [(20, MAX_BATCH_BEATS), (MAX_HEARTBEAT_BYTES, 7)] {
            let mut bytes = Heartbeat { session: 1, ..Heartbeat::default() }.encode_to_vec();
            // An unknown field that fills the heartbeat up.
            bytes.extend_from_slice(&[0xfa, 0x07]);
            let fill = size - bytes.len() - 3;
            encode_varint(fill as u64, &mut bytes);
            bytes.resize(bytes.len() + fill, 0);
            let mut batch = BatchWriter::new(1);
            while batch.push(&agent, Timestamp(1 << 40), &bytes, Some(1)) {}
            assert_eq!(batch.len(), expected);
            assert_eq!(read_batch(&batch.finish(Timestamp(1))).unwrap().beats.len(), expected);
        }
    }

    #[test]
    fn stored_envelopes_travel_in_replies_as_they_are() {
        let envelope = |text: &'static str| crate::agent::v1::Envelope {
            payload_type: text.into(),
            payload: Bytes::from_static(&[1; 300]),
            signatures: Vec::new(),
        };
        let reply = HeartbeatReply { server_time_ms: 4, want_status: true, ..HeartbeatReply::default() };
        let (snapshot, assignment) = (envelope("s"), envelope("a"));
        let bytes = encode_reply(&reply, Some(&snapshot.encode_to_vec()), Some(&assignment.encode_to_vec()));
        let expected =
            HeartbeatReply { snapshot: Some(snapshot), assignment: Some(assignment), ..reply.clone() };
        assert_eq!(read_reply(&bytes).unwrap(), expected);
        assert_eq!(read_reply(&encode_reply(&reply, None, None)).unwrap(), reply);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = read(&bytes);
            let _ = read_batch(&bytes);
            let _ = read_batch_origin(&bytes);
            let _ = read_checkpoint(&bytes);
            let _ = read_reply(&bytes);
        }
    }
}
