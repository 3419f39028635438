//! Public keys of a provider (RFC 7517, 7518, 8037).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;

use crate::token::Algorithm;

/// Most keys of a provider: those of today, of yesterday and of tomorrow, of each kind.
pub const MAX_KEYS: usize = 64;
/// Bytes of a coordinate on P-256, and of a key of Ed25519.
const BYTES_256: usize = 32;
/// Bytes of a coordinate on P-384.
const BYTES_384: usize = 48;
/// How a point begins that is given by both of its coordinates.
const UNCOMPRESSED: u8 = 4;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// They are no set of keys.
    #[error("they are not in the form of a JWK set")]
    Form(#[from] serde_json::Error),
    /// There are too many.
    #[error("there are {0}, and at most {MAX_KEYS} are looked at")]
    TooMany(usize),
    /// None of them is of use here.
    #[error("none of them is for RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA")]
    None,
}

/// The keys of a provider that signatures can be verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    /// The one algorithm that it is for, if that is said.
    algorithm: Option<Algorithm>,
    public: Public,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Raw {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Reads a JWK set. Keys for encryption and of kinds that are not used here are left out.
    ///
    /// # Errors
    /// [`KeysError`] if it is none, or nothing is left.
    pub fn read(set: &[u8]) -> Result<Self, KeysError> {
        let set: Set = serde_json::from_slice(set)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeysError::TooMany(set.keys.len()));
        }
        let raw = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = raw.filter_map(Key::read).collect();
        if keys.is_empty() { Err(KeysError::None) } else { Ok(Self(keys)) }
    }

    /// Whether one of the keys may have made a signature, by what the token says of it. Without a name there must be
    /// one key only that fits, so that nobody chooses.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<FoundKey<'_>> {
        let named = |key: &&Key| id.is_none_or(|id| key.id.as_deref() == Some(id));
        let mut fitting = self.0.iter().filter(named).filter(|key| key.fits(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(FoundKey { key, algorithm }),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }
}

/// A key and what it is used for.
pub(crate) struct FoundKey<'a> {
    key: &'a Key,
    algorithm: Algorithm,
}

impl FoundKey<'_> {
    /// Whether it made this signature.
    pub(crate) fn verifies(&self, message: &[u8], signed: &[u8]) -> bool {
        let plain = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signed).is_ok()
        };
        match (&self.key.public, self.algorithm) {
            (Public::Rsa { n, e }, algorithm) => algorithm
                .rsa()
                .is_some_and(|rsa| RsaPublicKeyComponents { n, e }.verify(rsa, message, signed).is_ok()),
            (Public::P256(point), Algorithm::Es256) => plain(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Public::P384(point), Algorithm::Es384) => plain(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Public::Ed25519(key), Algorithm::EdDsa) => plain(&signature::ED25519, key),
            (Public::P256(_) | Public::P384(_) | Public::Ed25519(_), _) => false,
        }
    }
}

impl Key {
    fn read(raw: Raw) -> Option<Self> {
        if raw.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        // A key for an algorithm that is not used here is not used for another one either.
        let algorithm = raw.alg.as_deref().map(|name| Algorithm::named(name).ok_or(())).transpose().ok()?;
        let public = match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("RSA", _) => Public::Rsa { n: number(&raw.n?)?, e: number(&raw.e?)? },
            ("EC", Some("P-256")) => Public::P256(point(&raw.x?, &raw.y?, BYTES_256)?),
            ("EC", Some("P-384")) => Public::P384(point(&raw.x?, &raw.y?, BYTES_384)?),
            ("OKP", Some("Ed25519")) => Public::Ed25519(bytes(&raw.x?, BYTES_256)?),
            _ => return None,
        };
        Some(Self { id: raw.kid, algorithm, public })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let kind = match &self.public {
            Public::Rsa { .. } => algorithm.rsa().is_some(),
            Public::P256(_) => algorithm == Algorithm::Es256,
            Public::P384(_) => algorithm == Algorithm::Es384,
            Public::Ed25519(_) => algorithm == Algorithm::EdDsa,
        };
        kind && self.algorithm.is_none_or(|only| only == algorithm)
    }
}

fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    // Some write a zero in front; the number is the same.
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn bytes(text: &str, length: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == length)
}

fn point(x: &str, y: &str, length: usize) -> Option<Vec<u8>> {
    Some([vec![UNCOMPRESSED], bytes(x, length)?, bytes(y, length)?].concat())
}
