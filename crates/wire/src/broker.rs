//! Where agents find the broker and who vouches for it, as the control plane signs it for those that have joined.

use domain::{FleetId, Timestamp};
use prost::Message as _;

use crate::agent::v1::{self, Envelope};
use crate::envelope::{self, BROKER, EnvelopeError};
use crate::join::{BrokerTrust, MAX_SERVERS};
use crate::sign::KeySet;
use crate::{DecodeError, decode};

/// Largest payload: eight servers and four CAs.
const MAX_BROKER_BYTES: usize = 12 * 1024;

/// The broker, as of some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// The fleet this is meant for.
    pub fleet: FleetId,
    /// When it was signed: a later one counts more.
    pub issued_at: Timestamp,
    /// NATS URLs; at least one.
    pub servers: Vec<String>,
    /// How to verify them.
    pub trust: BrokerTrust,
}

/// Bytes of it as they are signed.
#[must_use]
pub fn encode(broker: &Broker) -> Vec<u8> {
    v1::Broker {
        fleet: broker.fleet.to_string(),
        issued_at_ms: broker.issued_at.0,
        servers: broker.servers.clone(),
        cas: broker.trust.cas.clone(),
        tls_first: broker.trust.tls_first,
    }
    .encode_to_vec()
}

/// Checks the signatures of an envelope, then reads what is in it.
///
/// # Errors
/// [`EnvelopeError`]: untrusted, of another type, or signed but malformed.
pub fn open(envelope: &Envelope, trusted: &KeySet) -> Result<Broker, EnvelopeError> {
    let payload = envelope::open_threshold(envelope, BROKER, &trusted.keys, trusted.threshold)?;
    read(payload).map_err(EnvelopeError::Payload)
}

fn read(payload: &[u8]) -> Result<Broker, DecodeError> {
    let message: v1::Broker = decode(payload, MAX_BROKER_BYTES)?;
    if message.servers.is_empty() || message.servers.len() > MAX_SERVERS {
        return Err(DecodeError::field("servers", format!("must have 1 to {MAX_SERVERS} entries")));
    }
    Ok(Broker {
        fleet: FleetId::new(&message.fleet).map_err(|e| DecodeError::field("fleet", e))?,
        issued_at: Timestamp(message.issued_at_ms),
        servers: message.servers,
        trust: BrokerTrust::read(message.cas, message.tls_first)?,
    })
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn only_what_a_trusted_key_signed_is_read() {
        let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let broker = |servers: usize, cas: usize| Broker {
            fleet: FleetId::new("main").unwrap(),
            issued_at: Timestamp(7),
            servers: vec!["tls://nats.example:4222".to_owned(); servers],
            trust: BrokerTrust { cas: vec![vec![7; 2048]; cas], tls_first: true },
        };
        let sealed = |broker: &Broker, key: &SigningKey| envelope::seal(BROKER, encode(broker), key);
        let trusted = KeySet::from(key.verifying_key());
        for good in [broker(1, 0), broker(8, 4)] {
            assert_eq!(open(&sealed(&good, &key), &trusted), Ok(good));
        }
        assert_eq!(open(&sealed(&broker(1, 1), &other), &trusted), Err(EnvelopeError::Untrusted));
        for bad in [broker(0, 1), broker(9, 1), broker(1, 5)] {
            assert!(matches!(open(&sealed(&bad, &key), &trusted), Err(EnvelopeError::Payload(_))));
        }
        let swapped =
            Envelope { payload_type: envelope::ASSIGNMENT.to_owned(), ..sealed(&broker(1, 1), &key) };
        assert!(matches!(open(&swapped, &trusted), Err(EnvelopeError::WrongType { .. })));
    }
}
