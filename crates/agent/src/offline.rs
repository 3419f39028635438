//! Joining without asking the fleet: a request that is written to a file, and the bundle that comes back in one.

use domain::{Span, Timestamp};
use nkeys::KeyPair;
use wire::join::JoinToken;
use wire::offline::{OfflineError, open_bundle, seal_request};

use crate::join::{About, JoinError, Joined, Pinned, check, request_of};

/// Why a bundle does not let this machine in.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read, or nobody whom the machine trusts signed it.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// It is for another machine.
    #[error(
        "the bundle is for the key {theirs}, and this machine has the key {own}: each machine needs the bundle of its own request"
    )]
    OtherKey {
        /// The key in the bundle.
        theirs: String,
        /// The key of this machine.
        own: String,
    },
    /// It has been lying around.
    #[error("the bundle expired {} s ago: let somebody make another with `muster agent enrol`", .0.0 / 1000)]
    Expired(Span),
    /// What is in it does not hold.
    #[error("the bundle does not hold")]
    Join(#[from] JoinError),
}

/// The request of the holder of `key` to be let in with a token, as one line. It carries no secret.
///
/// # Errors
/// [`nkeys::error::Error`] if the pair holds no private key.
pub fn request(token: &JoinToken, key: &KeyPair, about: &About) -> Result<String, nkeys::error::Error> {
    seal_request(&request_of(token, &key.public_key(), about), key)
}

/// What a bundle comes to for the holder of `key` that pins a root.
///
/// # Errors
/// [`BundleError`].
pub fn accept(bundle: &str, pinned: &Pinned, key: &KeyPair, now: Timestamp) -> Result<Joined, BundleError> {
    let verified = open_bundle(bundle, &pinned.trust_root)?;
    if verified.key.as_str() != key.public_key() {
        return Err(BundleError::OtherKey { theirs: verified.key.to_string(), own: key.public_key() });
    }
    if now >= verified.expires_at {
        return Err(BundleError::Expired(now.since(verified.expires_at)));
    }
    Ok(check(pinned, key, verified.bundle)?)
}
