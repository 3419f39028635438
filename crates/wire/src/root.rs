//! Trust roots and chains of them, between signed bytes and what may be trusted. The rules are in [`domain::trust`].

use std::collections::BTreeSet;

use bytes::Bytes;
use domain::trust::{self, ChainError, MAX_CHAIN, MAX_ROLE_KEYS, PublicKey, Role, Root};
use domain::{Digest, FleetId, Timestamp};
use ed25519_dalek::VerifyingKey;
use prost::Message as _;

use crate::agent::v1::{Envelope, RootChain, TrustRoot};
use crate::envelope::{self, EnvelopeError, TRUST_ROOT};
use crate::sign::{KeySet, SignError, Signer, public_key, verifying_key};
use crate::{DecodeError, decode};

/// Largest root: three roles of eight keys, a name and a few numbers.
pub const MAX_ROOT_BYTES: usize = 1536;
/// Most signatures of a root that are looked at: of all keys before a change and all after it.
pub const MAX_ROOT_SIGNATURES: usize = 2 * MAX_ROLE_KEYS;
/// Largest envelope of a root: with as many signatures.
pub const MAX_SIGNED_ROOT_BYTES: usize = MAX_ROOT_BYTES + 96 * MAX_ROOT_SIGNATURES;
/// Largest chain.
pub const MAX_CHAIN_BYTES: usize = MAX_CHAIN * (MAX_SIGNED_ROOT_BYTES + 8);

/// Why a root is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Its envelope, or its payload, is not what it should be.
    #[error("the root cannot be read")]
    Envelope(#[from] EnvelopeError),
    /// It does not follow.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The first root is another one than was pinned.
    #[error("the first root has the fingerprint {found}, not {pinned}")]
    Fingerprint {
        /// What it has.
        found: Digest,
        /// What was pinned.
        pinned: Digest,
    },
    /// A chain without roots, or with more than anybody keeps.
    #[error("the chain has {0} roots; 1 to {MAX_CHAIN} are good")]
    Length(usize),
}

impl From<DecodeError> for RootError {
    fn from(error: DecodeError) -> Self {
        Self::Envelope(EnvelopeError::Malformed(error))
    }
}

/// Bytes of a root as they are signed.
#[must_use]
pub fn encode(root: &Root) -> Vec<u8> {
    let keys = |role: &Role| role.keys().iter().map(|key| key.0.to_vec()).collect();
    TrustRoot {
        version: root.version,
        fleet: root.fleet.to_string(),
        director_keys: keys(&root.director),
        content_keys: keys(&root.content),
        content_threshold: root.content.threshold(),
        issued_at_ms: root.issued_at.0,
        expires_at_ms: root.expires_at.0,
        root_keys: keys(&root.root),
        root_threshold: root.root.threshold(),
        director_threshold: root.director.threshold(),
    }
    .encode_to_vec()
}

/// Reads a root. Who signed it is another question.
///
/// # Errors
/// [`DecodeError`] if it is too large or malformed, or breaks a rule of roots.
pub fn read(payload: &[u8]) -> Result<Root, DecodeError> {
    let message: TrustRoot = decode(payload, MAX_ROOT_BYTES)?;
    let role = |field, keys: &[Vec<u8>], threshold| {
        // Before anything is counted: a key that stands twice counts once, but nobody writes so many.
        if keys.len() > MAX_ROLE_KEYS {
            return Err(DecodeError::field(field, format!("has more than {MAX_ROLE_KEYS} keys")));
        }
        let keys = keys.iter().map(|key| verifying_key(field, key).map(|key| public_key(&key)));
        Ok(Role::new(keys.collect::<Result<Vec<PublicKey>, _>>()?, threshold))
    };
    let root = Root {
        fleet: FleetId::new(&message.fleet).map_err(|e| DecodeError::field("fleet", e))?,
        version: message.version,
        issued_at: Timestamp(message.issued_at_ms),
        expires_at: Timestamp(message.expires_at_ms),
        root: role("root_keys", &message.root_keys, message.root_threshold)?,
        director: role("director_keys", &message.director_keys, message.director_threshold)?,
        content: role("content_keys", &message.content_keys, message.content_threshold)?,
    };
    root.check().map_err(|error| DecodeError::field("root", format!("breaks a rule: {error}")))?;
    Ok(root)
}

/// An envelope with a root that nobody has signed yet.
#[must_use]
pub fn unsigned(root: &Root) -> Envelope {
    Envelope { payload_type: TRUST_ROOT.to_owned(), payload: encode(root).into(), signatures: Vec::new() }
}

/// Adds the signature of a key to the envelope of a root; one that it has already is made anew.
///
/// # Errors
/// [`SignError`] if the key does not sign.
pub fn sign(envelope: &mut Envelope, signer: &dyn Signer) -> Result<(), SignError> {
    let signed = envelope::seal_by(TRUST_ROOT, envelope.payload.to_vec(), signer)?;
    for signature in signed.signatures {
        envelope.signatures.retain(|known| known.key_id != signature.key_id);
        envelope.signatures.push(signature);
    }
    Ok(())
}

/// Reads the root in an envelope, without asking who signed it: to show it, or to sign it.
///
/// # Errors
/// [`EnvelopeError`] if it is of another type, or malformed.
pub fn look_into(envelope: &Envelope) -> Result<Root, EnvelopeError> {
    envelope::check_frame(envelope, TRUST_ROOT)?;
    read(&envelope.payload).map_err(EnvelopeError::Payload)
}

/// Which of these keys have signed an envelope.
#[must_use]
pub fn signers(envelope: &Envelope, keys: &BTreeSet<PublicKey>) -> BTreeSet<PublicKey> {
    let signed = envelope::pae(&envelope.payload_type, &envelope.payload);
    let holds = |key: &&PublicKey| {
        let key = VerifyingKey::from_bytes(&key.0);
        key.is_ok_and(|key| envelope::has_signed_among(MAX_ROOT_SIGNATURES, &key, envelope, &signed))
    };
    keys.iter().filter(holds).copied().collect()
}

/// A root that is trusted, and the envelope it came in.
#[derive(Debug, Clone, PartialEq)]
struct Link {
    root: Root,
    envelope: Envelope,
}

/// Roots that were verified, each by the one before it. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain(Vec<Link>);

impl Chain {
    /// Begins a chain with a root that its own keys have signed.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn begin(envelope: Envelope) -> Result<Self, RootError> {
        let root = look_into(&envelope)?;
        trust::begins(&root, &signers(&envelope, root.root.keys()))?;
        Ok(Self(vec![Link { root, envelope }]))
    }

    /// Adds the root that follows. What the trusted keys have not signed is not parsed.
    ///
    /// # Errors
    /// [`RootError`]; the chain stays as it was.
    pub fn follow(&mut self, envelope: Envelope) -> Result<(), RootError> {
        if self.0.len() >= MAX_CHAIN {
            return Err(RootError::Length(MAX_CHAIN + 1));
        }
        envelope::check_frame(&envelope, TRUST_ROOT)?;
        let trusted = self.newest();
        let old = signers(&envelope, trusted.root.keys());
        trust::lets_follow(trusted, &old)?;
        let root = read(&envelope.payload).map_err(EnvelopeError::Payload)?;
        let own = signers(&envelope, root.root.keys());
        trust::follows(trusted, &root, &old.union(&own).copied().collect())?;
        self.0.push(Link { root, envelope });
        Ok(())
    }

    /// As [`Chain::follow`], from bytes.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn follow_bytes(&mut self, bytes: &[u8]) -> Result<(), RootError> {
        self.follow(parse(bytes)?)
    }

    /// Reads a chain whose first root the caller trusts for having it from where it has it.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn read(bytes: &[u8]) -> Result<Self, RootError> {
        let chain: RootChain = decode(bytes, MAX_CHAIN_BYTES)?;
        if !(1..=MAX_CHAIN).contains(&chain.roots.len()) {
            return Err(RootError::Length(chain.roots.len()));
        }
        let mut roots = chain.roots.into_iter();
        let first = roots.next().ok_or(RootError::Length(0))?;
        let mut chain = Self::begin(first)?;
        roots.try_for_each(|root| chain.follow(root))?;
        Ok(chain)
    }

    /// Reads a chain that must begin with the root of this fingerprint.
    ///
    /// # Errors
    /// [`RootError`]; the fingerprint is compared before anything of a root is parsed.
    pub fn read_pinned(bytes: &[u8], pinned: &Digest) -> Result<Self, RootError> {
        let message: RootChain = decode(bytes, MAX_CHAIN_BYTES)?;
        let first = message.roots.first().ok_or(RootError::Length(0))?;
        let found = Digest::of(&first.payload);
        if found != *pinned {
            return Err(RootError::Fingerprint { found, pinned: *pinned });
        }
        Self::read(bytes)
    }

    /// Bytes of the chain.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.encode_from(0)
    }

    /// Bytes of the chain from a version on; of its last root at least.
    #[must_use]
    pub fn encode_from(&self, version: u64) -> Bytes {
        let skip = self.0.iter().take_while(|link| link.root.version < version).count();
        let roots = self.0.iter().skip(skip.min(self.0.len().saturating_sub(1)));
        crate::encode(&RootChain { roots: roots.map(|link| link.envelope.clone()).collect() })
    }

    /// The newest root.
    ///
    /// # Panics
    /// Never: a chain has a root.
    #[must_use]
    pub fn newest(&self) -> &Root {
        &self.0.last().expect("invariant: a chain has a root").root
    }

    /// All roots, oldest first.
    pub fn roots(&self) -> impl DoubleEndedIterator<Item = &Root> {
        self.0.iter().map(|link| &link.root)
    }

    /// The envelopes with their versions, oldest first.
    pub fn envelopes(&self) -> impl Iterator<Item = (u64, &Envelope)> {
        self.0.iter().map(|link| (link.root.version, &link.envelope))
    }

    /// The fingerprint of the first root.
    ///
    /// # Panics
    /// Never: a chain has a root.
    #[must_use]
    pub fn first_fingerprint(&self) -> Digest {
        Digest::of(&self.0.first().expect("invariant: a chain has a root").envelope.payload)
    }

    /// The fingerprint of the newest root: what a join token pins.
    ///
    /// # Panics
    /// Never: a chain has a root.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.0.last().expect("invariant: a chain has a root").envelope.payload)
    }

    /// The version of the root with this fingerprint.
    #[must_use]
    pub fn version_of(&self, fingerprint: &Digest) -> Option<u64> {
        let mut links = self.0.iter();
        links.find(|link| Digest::of(&link.envelope.payload) == *fingerprint).map(|link| link.root.version)
    }

    /// What an agent has to know of it.
    ///
    /// # Panics
    /// Never: a chain has a root.
    #[must_use]
    pub fn adopted(&self) -> trust::Adopted {
        let roots: Vec<Root> = self.roots().cloned().collect();
        trust::Adopted::of(&roots).expect("invariant: a chain has a root")
    }
}

/// Parses the envelope of a root.
///
/// # Errors
/// [`RootError`] if it is too large or no envelope.
pub fn parse(bytes: &[u8]) -> Result<Envelope, RootError> {
    Ok(decode(bytes, MAX_SIGNED_ROOT_BYTES)?)
}

/// The keys of a root, ready to verify with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Version of the root.
    pub version: u64,
    /// The fleet the keys speak for.
    pub fleet: FleetId,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// Keys that sign snapshots and assignments.
    pub directors: KeySet,
    /// Keys that sign content.
    pub content: KeySet,
}

impl From<&Root> for Trust {
    fn from(root: &Root) -> Self {
        let keys = |role| KeySet::of("keys", role).expect("invariant: the keys of a root were read as keys");
        Self {
            version: root.version,
            fleet: root.fleet.clone(),
            expires_at: root.expires_at,
            directors: keys(&root.director),
            content: keys(&root.content),
        }
    }
}

const _: () = assert!(envelope::MAX_SIGNATURES == MAX_ROLE_KEYS, "each key of a role may have signed");

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
