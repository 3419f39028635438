//! Joining by hand, for machines that cannot ask on [`crate::subject::enrol`]: the request that a machine writes, and the
//! bundle that it gets. Each is one line of text.

use domain::registry::AgentKey;
use domain::{Digest, Timestamp};
use nkeys::KeyPair;
use prost::Message as _;

use crate::agent::v1::{Envelope, JoinBundle, JoinRequest, OfflineBundle, OfflineFile};
use crate::armour::{self, Broken};
use crate::envelope::{self, EnvelopeError, OFFLINE_BUNDLE, OFFLINE_REQUEST};
use crate::join::{self, MAX_REPLY_BYTES, MAX_REQUEST_BYTES, VerifiedRequest};
use crate::root::{Chain, RootError, Trust};
use crate::sign::{SignError, Signer};
use crate::{DecodeError, decode};

/// What every request begins with; names its version.
pub const REQUEST_PREFIX: &str = "mjr1_";
/// What every bundle begins with; names its version.
pub const BUNDLE_PREFIX: &str = "mjb1_";
/// Longest request, in characters: base64 makes four of three bytes.
pub const MAX_REQUEST_CHARS: usize = MAX_REQUEST_BYTES * 2;
/// Longest bundle, in characters.
pub const MAX_BUNDLE_CHARS: usize = MAX_REPLY_BYTES * 2;

/// Why a request or a bundle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfflineError {
    /// It begins otherwise.
    #[error("{what} starts with {prefix:?}; give the file that `{maker}` wrote")]
    Prefix {
        /// What was to be read.
        what: &'static str,
        /// What it starts with.
        prefix: &'static str,
        /// What writes it.
        maker: &'static str,
    },
    /// Cut, or changed on the way.
    #[error("{0} is damaged or cut: carry the file over once more")]
    Damaged(&'static str),
    /// The request, or what signed it.
    #[error("the request cannot be used")]
    Request(#[source] EnvelopeError),
    /// The trust roots do not lead back to what the machine pins.
    #[error("the bundle is not from the fleet of the join token that the request was made with")]
    Roots(#[from] RootError),
    /// The bundle, or what signed it.
    #[error("the bundle cannot be used")]
    Bundle(#[source] EnvelopeError),
}

/// A bundle that director keys signed to which a pinned root leads.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedBundle {
    /// The key that it is for.
    pub key: AgentKey,
    /// From when on it counts no more.
    pub expires_at: Timestamp,
    /// What a join is answered, with the chain of roots.
    pub bundle: JoinBundle,
}

/// Signs a request with the agent's own key. It carries no secret: who hands it in has the right to let machines in.
///
/// # Errors
/// [`nkeys::error::Error`] if the pair holds no private key.
pub fn seal_request(request: &JoinRequest, key: &KeyPair) -> Result<String, nkeys::error::Error> {
    let request = JoinRequest { secret: Vec::new(), ..request.clone() };
    let envelope = join::seal(OFFLINE_REQUEST, &request, key)?;
    Ok(armour::encode(REQUEST_PREFIX, envelope.encode_to_vec()))
}

/// Reads a request: the machine proves that it holds the key it names.
///
/// # Errors
/// [`OfflineError`]: damaged, too large, malformed, or the signature does not hold.
pub fn open_request(text: &str) -> Result<VerifiedRequest, OfflineError> {
    let bytes = armour::decode(REQUEST_PREFIX, text, MAX_REQUEST_CHARS).map_err(|broken| match broken {
        Broken::Prefix => OfflineError::Prefix {
            what: "a request to join",
            prefix: REQUEST_PREFIX,
            maker: "muster-agent request",
        },
        Broken::Damaged => OfflineError::Damaged("the request to join"),
    })?;
    let open = || {
        let envelope: Envelope = decode(&bytes, MAX_REQUEST_BYTES).map_err(EnvelopeError::Malformed)?;
        join::open_as(&envelope, OFFLINE_REQUEST, 0)
    };
    open().map_err(OfflineError::Request)
}

/// Signs what a machine gets, with the chain of roots from the one that it pins.
///
/// # Errors
/// [`SignError`] if the key does not sign.
pub fn seal_bundle(
    (key, expires_at): (&AgentKey, Timestamp),
    bundle: JoinBundle,
    signer: &dyn Signer,
) -> Result<String, SignError> {
    let trust_root = bundle.trust_root;
    let message = OfflineBundle {
        public_key: key.to_string(),
        expires_at_ms: expires_at.0,
        bundle: Some(JoinBundle { trust_root: Vec::new(), ..bundle }),
    };
    let envelope = envelope::seal_by(OFFLINE_BUNDLE, message.encode_to_vec(), signer)?;
    let file = OfflineFile { trust_root, bundle: Some(envelope) };
    Ok(armour::encode(BUNDLE_PREFIX, file.encode_to_vec()))
}

/// Reads a bundle for who pins a root. Nothing of it is believed before the roots lead to a key that signed it.
///
/// # Errors
/// [`OfflineError`]. Whether it has expired is for the caller to say, who has a clock.
pub fn open_bundle(text: &str, pinned: &Digest) -> Result<VerifiedBundle, OfflineError> {
    let bytes = armour::decode(BUNDLE_PREFIX, text, MAX_BUNDLE_CHARS).map_err(|broken| match broken {
        Broken::Prefix => {
            OfflineError::Prefix { what: "a bundle", prefix: BUNDLE_PREFIX, maker: "muster agent enrol" }
        }
        Broken::Damaged => OfflineError::Damaged("the bundle"),
    })?;
    let malformed = |error| OfflineError::Bundle(EnvelopeError::Malformed(error));
    let file: OfflineFile = decode(&bytes, MAX_REPLY_BYTES).map_err(malformed)?;
    let chain = Chain::read_pinned(&file.trust_root, pinned)?;
    let directors = Trust::from(chain.newest()).directors;
    let envelope = file.bundle.ok_or_else(|| malformed(DecodeError::field("bundle", "is missing")))?;
    let open = || {
        let payload =
            envelope::open_threshold(&envelope, OFFLINE_BUNDLE, &directors.keys, directors.threshold)?;
        let field = |name, problem: &str| EnvelopeError::Payload(DecodeError::field(name, problem));
        let message: OfflineBundle = decode(payload, MAX_REPLY_BYTES).map_err(EnvelopeError::Payload)?;
        let key = AgentKey::new(&message.public_key).map_err(|e| field("public_key", &e.to_string()))?;
        let bundle = message.bundle.ok_or_else(|| field("bundle", "is missing"))?;
        let expires_at = Timestamp(message.expires_at_ms);
        Ok(VerifiedBundle { key, expires_at, bundle: JoinBundle { trust_root: file.trust_root, ..bundle } })
    };
    open().map_err(OfflineError::Bundle)
}

#[cfg(test)]
mod tests;
