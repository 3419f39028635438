//! Signed envelopes: DSSE v1.0.2 pre-authentication encoding, Ed25519 (RFC 8032).
//!
//! Signatures cover the exact bytes that travel together with what they mean; they are checked before
//! the payload is parsed. `verify_strict` refuses the malleable and small-order cases that plain
//! verification lets through.

use bytes::Bytes;
use domain::Digest;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use prost::Message as _;

use crate::agent::v1::{Envelope, Signature as SignatureMessage, TrustRoot};
use crate::{DecodeError, decode, decode_shared};

/// Payload type of snapshots.
pub const SNAPSHOT: &str = "muster.agent.v1.Snapshot";
/// Payload type of assignments.
pub const ASSIGNMENT: &str = "muster.agent.v1.Assignment";
/// Payload type of join requests.
pub const JOIN_REQUEST: &str = "muster.agent.v1.JoinRequest";

/// Most signatures that are looked at, and most keys of a trust root.
pub const MAX_SIGNATURES: usize = 8;
/// Largest envelope: the largest snapshot and room for type and signatures.
pub const MAX_ENVELOPE_BYTES: usize = domain::snapshot::MAX_SNAPSHOT_BYTES + 2048;
/// Largest trust root: its keys and names are short.
pub const MAX_TRUST_ROOT_BYTES: usize = 1024;

/// Why an envelope is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The envelope cannot be read.
    #[error("the envelope cannot be read")]
    Malformed(#[source] DecodeError),
    /// It holds something else than expected.
    #[error("the envelope holds {found:?}, not {wanted:?}")]
    WrongType {
        /// What it says it holds; cut to 64 characters.
        found: String,
        /// What was wanted.
        wanted: &'static str,
    },
    /// No signature by a trusted key holds.
    #[error("no signature by a trusted key holds")]
    Untrusted,
    /// Signed by a trusted key, but the payload cannot be read.
    #[error("the signed payload cannot be read")]
    Payload(#[source] DecodeError),
}

/// The pre-authentication encoding of DSSE: `DSSEv1 len(type) type len(payload) payload`.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload_type.len() + payload.len() + 32);
    out.extend_from_slice(
        format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).as_bytes(),
    );
    out.extend_from_slice(payload);
    out
}

/// The first 8 bytes of the SHA-256 of a public key. Picks a key, proves nothing.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&Digest::of(key.as_bytes()).0[..8]);
    id
}

/// Signs a payload.
#[must_use]
pub fn seal(payload_type: &str, payload: Vec<u8>, key: &SigningKey) -> Envelope {
    seal_with(payload_type, payload, &key_id(&key.verifying_key()), |bytes| key.sign(bytes).to_bytes())
}

/// Signs a payload with a key that only signs, such as an nkey pair.
pub fn seal_with(
    payload_type: &str,
    payload: Vec<u8>,
    key_id: &[u8; 8],
    sign: impl FnOnce(&[u8]) -> [u8; 64],
) -> Envelope {
    let signature = sign(&pae(payload_type, &payload));
    Envelope {
        payload_type: payload_type.to_owned(),
        payload: payload.into(),
        signatures: vec![SignatureMessage {
            key_id: Bytes::copy_from_slice(key_id),
            signature: Bytes::copy_from_slice(&signature),
        }],
    }
}

/// Parses an envelope's frame. Nothing in it is trusted yet.
///
/// # Errors
/// [`EnvelopeError::Malformed`] if it is too large or not an envelope.
pub fn parse(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
    decode(bytes, MAX_ENVELOPE_BYTES).map_err(EnvelopeError::Malformed)
}

/// As [`parse`]; the envelope shares the memory of `bytes`.
///
/// # Errors
/// As [`parse`].
pub fn parse_shared(bytes: &Bytes) -> Result<Envelope, EnvelopeError> {
    decode_shared(bytes, MAX_ENVELOPE_BYTES).map_err(EnvelopeError::Malformed)
}

/// Checks an envelope against trusted keys and gives the payload that one of them signed.
///
/// # Errors
/// [`EnvelopeError`]; the payload has not been parsed in any of these cases.
pub fn open<'a>(
    envelope: &'a Envelope,
    wanted: &'static str,
    trusted: &[VerifyingKey],
) -> Result<&'a Bytes, EnvelopeError> {
    if envelope.payload.len() > MAX_ENVELOPE_BYTES {
        let size = envelope.payload.len();
        return Err(EnvelopeError::Malformed(DecodeError::TooLarge { size, limit: MAX_ENVELOPE_BYTES }));
    }
    if envelope.payload_type != wanted {
        let found = envelope.payload_type.chars().take(64).collect();
        return Err(EnvelopeError::WrongType { found, wanted });
    }
    let signed = pae(&envelope.payload_type, &envelope.payload);
    let holds = envelope.signatures.iter().take(MAX_SIGNATURES).any(|signature| {
        let Ok(bytes) = <[u8; 64]>::try_from(&signature.signature[..]) else { return false };
        let parsed = Signature::from_bytes(&bytes);
        trusted
            .iter()
            .filter(|key| key_id(key) == signature.key_id[..])
            .any(|key| key.verify_strict(&signed, &parsed).is_ok())
    });
    if holds { Ok(&envelope.payload) } else { Err(EnvelopeError::Untrusted) }
}

/// The trust root of a fleet with one director key, and its exact bytes.
#[must_use]
pub fn trust_root(fleet: &domain::FleetId, director: &VerifyingKey) -> Vec<u8> {
    TrustRoot { version: 1, fleet: fleet.to_string(), director_keys: vec![director.to_bytes().to_vec()] }
        .encode_to_vec()
}

/// A trust root that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Rises with each rotation.
    pub version: u64,
    /// The fleet the keys speak for.
    pub fleet: domain::FleetId,
    /// Keys that may sign snapshots and assignments.
    pub directors: Vec<VerifyingKey>,
}

/// Reads a trust root.
///
/// # Errors
/// [`DecodeError`] if it is too large, malformed, has no key, too many or broken ones.
pub fn read_trust_root(bytes: &[u8]) -> Result<Trust, DecodeError> {
    let root: TrustRoot = decode(bytes, MAX_TRUST_ROOT_BYTES)?;
    let fleet = domain::FleetId::new(&root.fleet).map_err(|e| DecodeError::field("fleet", e))?;
    if root.director_keys.is_empty() || root.director_keys.len() > MAX_SIGNATURES {
        return Err(DecodeError::field("director_keys", format!("must have 1 to {MAX_SIGNATURES} keys")));
    }
    let directors = root
        .director_keys
        .iter()
        .map(|bytes| {
            <&[u8; 32]>::try_from(&bytes[..])
                .ok()
                .and_then(|bytes| VerifyingKey::from_bytes(bytes).ok())
                .filter(|key| !key.is_weak())
                .ok_or_else(|| DecodeError::field("director_keys", "has a key that is not Ed25519"))
        })
        .collect::<Result<_, _>>()?;
    Ok(Trust { version: root.version, fleet, directors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    /// The example of the DSSE specification.
    #[test]
    fn pae_matches_the_specification() {
        let encoded = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn opens_only_what_a_trusted_key_signed_for_this_use() {
        let good = seal(SNAPSHOT, b"payload".to_vec(), &key(1));
        let trusted = [key(1).verifying_key(), key(2).verifying_key()];
        assert_eq!(open(&good, SNAPSHOT, &trusted).unwrap(), &b"payload"[..]);

        let check = |envelope: &Envelope, wanted, expected: &str| {
            assert_eq!(open(envelope, wanted, &trusted).unwrap_err().to_string(), expected);
        };
        let untrusted = "no signature by a trusted key holds";
        check(
            &good,
            ASSIGNMENT,
            "the envelope holds \"muster.agent.v1.Snapshot\", not \"muster.agent.v1.Assignment\"",
        );
        check(&seal(SNAPSHOT, b"payload".to_vec(), &key(3)), SNAPSHOT, untrusted);
        check(&Envelope { payload: Bytes::from_static(b"other"), ..good.clone() }, SNAPSHOT, untrusted);
        check(&Envelope { signatures: vec![], ..good.clone() }, SNAPSHOT, untrusted);
        let retyped = Envelope { payload_type: ASSIGNMENT.into(), ..good.clone() };
        check(&retyped, ASSIGNMENT, untrusted);
        let mut renamed = good;
        renamed.signatures[0].key_id = Bytes::copy_from_slice(&key_id(&key(2).verifying_key()));
        check(&renamed, SNAPSHOT, untrusted);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused_or_changes_nothing() {
        let trusted = [key(1).verifying_key()];
        let bytes = seal(SNAPSHOT, b"payload".to_vec(), &key(1)).encode_to_vec();
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            let Ok(envelope) = parse(&flipped) else { continue };
            if let Ok(payload) = open(&envelope, SNAPSHOT, &trusted) {
                assert_eq!(payload, &b"payload"[..], "bit {at}");
            }
        }
    }

    #[test]
    fn size_is_checked_before_parsing() {
        let error = parse(&vec![0; MAX_ENVELOPE_BYTES + 1]).unwrap_err();
        assert!(matches!(error, EnvelopeError::Malformed(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn trust_roots() {
        let fleet = domain::FleetId::new("main").unwrap();
        let bytes = trust_root(&fleet, &key(1).verifying_key());
        assert_eq!(read_trust_root(&bytes).unwrap().directors, [key(1).verifying_key()]);
        assert!(read_trust_root(&[]).is_err());
        let weak = TrustRoot { version: 1, fleet: "main".into(), director_keys: vec![vec![0; 32]] };
        assert!(read_trust_root(&weak.encode_to_vec()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(envelope) = parse(&bytes) {
                let _ = open(&envelope, SNAPSHOT, &[key(1).verifying_key()]);
            }
            let _ = read_trust_root(&bytes);
        }
    }
}
