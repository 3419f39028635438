//! Heartbeats as they arrive: bounded before they are parsed, checked before anyone looks at them.

use crate::agent::v1::{BeatBatch, Heartbeat, HeartbeatReply};
use crate::{DecodeError, decode};

/// Largest heartbeat: a full status of 256 items with short reasons. Larger ones are refused unread.
pub const MAX_HEARTBEAT_BYTES: usize = 64 * 1024;
/// Largest reply: an envelope and a few numbers.
pub const MAX_REPLY_BYTES: usize = crate::envelope::MAX_ENVELOPE_BYTES + 4096;
/// Largest batch of shared heartbeats: the NATS default payload limit.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Most heartbeats in one shared batch.
pub const MAX_BATCH_BEATS: usize = 4096;
/// Longest reason for a failed item, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;
/// Longest host name (RFC 1035 allows 255 octets) and longest version text.
pub const MAX_TEXT_BYTES: usize = 255;

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
    Ok(())
}

/// Reads a reply to a heartbeat.
///
/// # Errors
/// [`DecodeError`] if it is too large or malformed.
pub fn read_reply(bytes: &[u8]) -> Result<HeartbeatReply, DecodeError> {
    decode(bytes, MAX_REPLY_BYTES)
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

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = read(&bytes);
            let _ = read_batch(&bytes);
            let _ = read_reply(&bytes);
        }
    }
}
