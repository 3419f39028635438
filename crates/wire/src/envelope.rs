//! Signed envelopes: DSSE v1.0.2 pre-authentication encoding, Ed25519 (RFC 8032).
//!
//! Signatures cover the exact bytes that travel together with what they mean; they are checked before
//! the payload is parsed. `verify_strict` refuses the malleable and small-order cases that plain
//! verification lets through.

use bytes::Bytes;
use domain::Digest;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::agent::v1::{Envelope, Signature as SignatureMessage};
use crate::sign::{self, SignError};
use crate::{DecodeError, decode, decode_shared};

/// Payload type of snapshots.
pub const SNAPSHOT: &str = "muster.agent.v1.Snapshot";
/// Payload type of assignments.
pub const ASSIGNMENT: &str = "muster.agent.v1.Assignment";
/// Payload type of manifests of content.
pub const MANIFEST: &str = "muster.agent.v1.Manifest";
/// Payload type of indexes of content.
pub const CONTENT_INDEX: &str = "muster.agent.v1.ContentIndex";
/// Payload type of trust roots.
pub const TRUST_ROOT: &str = "muster.agent.v1.TrustRoot";
/// Payload type of join requests.
pub const JOIN_REQUEST: &str = "muster.agent.v1.JoinRequest";
/// Payload type of requests for new claims.
pub const RENEW_REQUEST: &str = "muster.agent.v1.RenewRequest";
/// Type of the payload that says where the broker is.
pub const BROKER: &str = "muster.agent.v1.Broker";
/// Type of the payload of a join request that is carried by hand.
pub const OFFLINE_REQUEST: &str = "muster.agent.v1.OfflineRequest";
/// Type of the payload of what is carried back.
pub const OFFLINE_BUNDLE: &str = "muster.agent.v1.OfflineBundle";

/// Most signatures that are looked at, but for roots.
pub const MAX_SIGNATURES: usize = 8;
/// Largest envelope: the largest snapshot and room for type and signatures.
pub const MAX_ENVELOPE_BYTES: usize = domain::snapshot::MAX_SNAPSHOT_BYTES + 2048;

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
    /// Fewer trusted keys have signed it than must.
    #[error("{found} of {needed} signatures by different trusted keys hold")]
    TooFew {
        /// How many hold.
        found: usize,
        /// How many must.
        needed: usize,
    },
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

/// Signs a payload with a key that may refuse.
///
/// # Errors
/// [`SignError`] if it does.
pub fn seal_by(
    payload_type: &str,
    payload: Vec<u8>,
    signer: &dyn sign::Signer,
) -> Result<Envelope, SignError> {
    let signature = signer.sign(&pae(payload_type, &payload))?;
    Ok(seal_with(payload_type, payload, &key_id(&signer.public_key()), |_| signature))
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
    check_frame(envelope, wanted)?;
    let signed = pae(&envelope.payload_type, &envelope.payload);
    let holds = trusted.iter().any(|key| has_signed(key, envelope, &signed));
    if holds { Ok(&envelope.payload) } else { Err(EnvelopeError::Untrusted) }
}

/// Whether an envelope says that as many of these keys have signed it as must have: for what is kept where nobody else
/// writes, and would take long to verify. Proves nothing.
#[must_use]
pub fn claims(envelope: &Envelope, trusted: &sign::KeySet) -> bool {
    let claimed = |key: &&VerifyingKey| envelope.signatures.iter().any(|s| s.key_id[..] == key_id(key));
    trusted.keys.iter().filter(claimed).count() >= trusted.threshold.max(1)
}

/// As [`open`], for payloads that need the signatures of `threshold` different keys. A key that is listed
/// twice or signs twice counts once; a threshold of 0 counts as 1.
///
/// # Errors
/// [`EnvelopeError`]; the payload has not been parsed in any of these cases.
pub fn open_threshold<'a>(
    envelope: &'a Envelope,
    wanted: &'static str,
    trusted: &[VerifyingKey],
    threshold: usize,
) -> Result<&'a Bytes, EnvelopeError> {
    check_frame(envelope, wanted)?;
    let signed = pae(&envelope.payload_type, &envelope.payload);
    let found = distinct(trusted).iter().filter(|key| has_signed(key, envelope, &signed)).count();
    match threshold.max(1) {
        needed if found >= needed => Ok(&envelope.payload),
        _ if found == 0 => Err(EnvelopeError::Untrusted),
        needed => Err(EnvelopeError::TooFew { found, needed }),
    }
}

/// The keys in their order, each once: a key that is listed twice must not count twice.
fn distinct(keys: &[VerifyingKey]) -> Vec<VerifyingKey> {
    let mut distinct: Vec<VerifyingKey> = Vec::with_capacity(keys.len());
    for key in keys {
        if !distinct.contains(key) {
            distinct.push(*key);
        }
    }
    distinct
}

/// What can be refused before a signature is looked at.
pub(crate) fn check_frame(envelope: &Envelope, wanted: &'static str) -> Result<(), EnvelopeError> {
    if envelope.payload.len() > MAX_ENVELOPE_BYTES {
        let size = envelope.payload.len();
        return Err(EnvelopeError::Malformed(DecodeError::TooLarge { size, limit: MAX_ENVELOPE_BYTES }));
    }
    if envelope.payload_type != wanted {
        let found = envelope.payload_type.chars().take(64).collect();
        return Err(EnvelopeError::WrongType { found, wanted });
    }
    Ok(())
}

/// Whether one of the first [`MAX_SIGNATURES`] signatures is this key's and holds.
fn has_signed(key: &VerifyingKey, envelope: &Envelope, signed: &[u8]) -> bool {
    has_signed_among(MAX_SIGNATURES, key, envelope, signed)
}

/// Whether one of the first signatures is this key's and holds.
pub(crate) fn has_signed_among(first: usize, key: &VerifyingKey, envelope: &Envelope, signed: &[u8]) -> bool {
    let id = key_id(key);
    let looked_at = envelope.signatures.iter().take(first);
    looked_at.filter(|signature| signature.key_id[..] == id).any(|signature| {
        let bytes = <[u8; 64]>::try_from(&signature.signature[..]);
        bytes.is_ok_and(|bytes| key.verify_strict(signed, &Signature::from_bytes(&bytes)).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

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
    fn a_threshold_counts_different_keys() {
        let [a, b, c] = [1, 2, 3].map(|seed| key(seed).verifying_key());
        let envelope = |seeds: &[u8]| {
            let each = seeds.iter().map(|seed| seal(MANIFEST, b"payload".to_vec(), &key(*seed)));
            let signatures = each.flat_map(|sealed| sealed.signatures).collect();
            Envelope { payload_type: MANIFEST.into(), payload: b"payload"[..].into(), signatures }
        };
        let check = |seeds: &[u8], trusted: &[VerifyingKey], threshold, expected: Result<(), &str>| {
            let envelope = envelope(seeds);
            let got = open_threshold(&envelope, MANIFEST, trusted, threshold);
            let got = got.map(|payload| assert_eq!(payload, &b"payload"[..])).map_err(|e| e.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{seeds:?} of {}", trusted.len());
        };
        check(&[1], &[a], 1, Ok(()));
        check(&[1], &[a], 0, Ok(()));
        check(&[3, 2, 1], &[a, b, c], 2, Ok(()));
        check(&[9, 1, 8, 2], &[a, b, c], 2, Ok(()));
        let one_of_two = Err("1 of 2 signatures by different trusted keys hold");
        check(&[1], &[a, b, c], 2, one_of_two);
        check(&[1, 1], &[a, b, c], 2, one_of_two);
        check(&[1, 1], &[a, a], 2, one_of_two);
        check(&[1, 9], &[a, b], 2, one_of_two);
        check(&[9, 9, 9, 9, 9, 9, 9, 1, 2], &[a, b], 2, one_of_two);
        check(&[], &[a], 0, Err("no signature by a trusted key holds"));
        check(&[1], &[], 0, Err("no signature by a trusted key holds"));
        let other = open_threshold(&envelope(&[1]), CONTENT_INDEX, &[a], 1).map(|_| ());
        assert!(matches!(other, Err(EnvelopeError::WrongType { .. })));
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

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(envelope) = parse(&bytes) {
                let _ = open(&envelope, SNAPSHOT, &[key(1).verifying_key()]);
            }
        }
    }
}
