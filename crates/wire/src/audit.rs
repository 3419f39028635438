//! Entries of the audit between their domain form and stored bytes, and what a request is about.

use domain::audit::{Asker, Entry, MAX_TARGETS, MAX_TEXT_BYTES, What};
use domain::{Digest, Timestamp};
use prost::Message as _;

use crate::store::v1::audit_entry::What as Stored;
use crate::store::v1::{AuditAsked, AuditEnded, AuditEntry, AuditRefused};
use crate::{DecodeError, decode};

/// Largest entry: texts and names are cut.
pub const MAX_ENTRY_BYTES: usize = 32 * 1024;

/// Bytes of an entry.
#[must_use]
pub fn encode(entry: &Entry) -> Vec<u8> {
    let what = match &entry.what {
        What::Asked { request, targets } => Stored::Asked(AuditAsked {
            request_sha256: request.0.to_vec(),
            targets: targets.iter().take(MAX_TARGETS).map(|target| cut(target)).collect(),
        }),
        What::Ended { asked, code, message, revision } => Stored::Ended(AuditEnded {
            asked: *asked,
            code: *code,
            message: cut(message),
            revision: *revision,
        }),
        What::Refused { code, message, left_out } => {
            Stored::Refused(AuditRefused { code: *code, message: cut(message), left_out: *left_out })
        }
    };
    AuditEntry {
        number: entry.number,
        previous_sha256: entry.previous.0.to_vec(),
        at_ms: entry.at.0,
        actor: cut(&entry.asker.name),
        role: entry.asker.role.map(|role| role.to_string()).unwrap_or_default(),
        address: cut(&entry.asker.address),
        method: cut(&entry.method),
        what: Some(what),
    }
    .encode_to_vec()
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

/// Reads an entry.
///
/// # Errors
/// [`DecodeError`] if the bytes are none.
pub fn read(bytes: &[u8]) -> Result<Entry, DecodeError> {
    let entry: AuditEntry = decode(bytes, MAX_ENTRY_BYTES)?;
    let digest = |field, bytes: Vec<u8>| {
        let bytes = bytes.try_into().map_err(|_| DecodeError::field(field, "is not 32 bytes long"))?;
        Ok::<_, DecodeError>(Digest(bytes))
    };
    let what = match entry.what.ok_or_else(|| DecodeError::field("what", "is missing"))? {
        Stored::Asked(asked) => {
            What::Asked { request: digest("request_sha256", asked.request_sha256)?, targets: asked.targets }
        }
        Stored::Ended(AuditEnded { asked, code, message, revision }) => {
            What::Ended { asked, code, message, revision }
        }
        Stored::Refused(AuditRefused { code, message, left_out }) => {
            What::Refused { code, message, left_out }
        }
    };
    let role = Some(entry.role).filter(|role| !role.is_empty());
    let role = role.map(|role| role.parse()).transpose();
    Ok(Entry {
        number: entry.number,
        previous: digest("previous_sha256", entry.previous_sha256)?,
        at: Timestamp(entry.at_ms),
        asker: Asker {
            name: entry.actor,
            role: role.map_err(|error| DecodeError::field("role", error))?,
            address: entry.address,
        },
        method: entry.method,
        what,
    })
}

#[cfg(feature = "describe")]
pub use targets::targets;

#[cfg(feature = "describe")]
mod targets;

#[cfg(test)]
mod tests {
    use domain::access::Role;

    use super::*;

    fn entry(what: What) -> Entry {
        let asker = Asker { name: "token:ci".into(), role: Some(Role::Admin), address: "::1".into() };
        let method = "muster.api.v1.PolicyService/Apply".into();
        Entry { number: 7, previous: Digest([1; 32]), at: Timestamp(5), asker, method, what }
    }

    fn samples() -> [Entry; 3] {
        [
            entry(What::Asked { request: Digest([2; 32]), targets: vec!["/servers".into()] }),
            entry(What::Ended { asked: 6, code: 3, message: "no".into(), revision: 9 }),
            entry(What::Refused { code: 7, message: "role".into(), left_out: 4 }),
        ]
    }

    #[test]
    fn entries_round_trip_within_their_bound() {
        for sample in samples() {
            assert_eq!(read(&encode(&sample)), Ok(sample));
        }
        let long = "ü".repeat(5_000);
        let asker = Asker { name: long.clone(), role: None, address: long.clone() };
        let what = What::Asked { request: Digest([2; 32]), targets: vec![long.clone(); 1_000] };
        let largest = encode(&Entry { asker, method: long, ..entry(what) });
        assert!(largest.len() <= MAX_ENTRY_BYTES && read(&largest).is_ok(), "{}", largest.len());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..300)) {
            let _ = read(&bytes);
        }

        #[test]
        fn every_flipped_bit_is_another_entry(at in 0usize..2_000, sample in 0usize..3) {
            let mut bytes = encode(&samples()[sample]);
            let digest = Digest::of(&bytes);
            let at = at % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            proptest::prop_assert_ne!(Digest::of(&bytes), digest);
        }
    }
}
