//! Keys: what signs, whose signatures count, and how public keys are written.

use base64::Engine as _;
use domain::trust::{PublicKey, Role};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::DecodeError;

/// Something that signs with one Ed25519 key: a file that was read, or a device that keeps its key to itself. It may
/// block for as long as a device takes.
pub trait Signer: Send + Sync {
    /// The key whose signatures these are.
    fn public_key(&self) -> VerifyingKey;

    /// Signs.
    ///
    /// # Errors
    /// [`SignError`] if the device refuses or cannot be reached.
    fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], SignError>;
}

/// A key did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {key} did not sign: {why}")]
pub struct SignError {
    /// The public key in hex.
    pub key: String,
    /// Why not.
    pub why: String,
}

impl Signer for SigningKey {
    fn public_key(&self) -> VerifyingKey {
        self.verifying_key()
    }

    fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.try_sign(bytes).expect("invariant: a key in memory signs").to_bytes())
    }
}

/// Keys that may sign something, and how many of them must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    /// The keys, each once. None: nothing is good.
    pub keys: Vec<VerifyingKey>,
    /// How many different ones must have signed; at least 1.
    pub threshold: usize,
}

impl Default for KeySet {
    fn default() -> Self {
        Self { keys: Vec::new(), threshold: 1 }
    }
}

impl From<VerifyingKey> for KeySet {
    fn from(key: VerifyingKey) -> Self {
        Self { keys: vec![key], threshold: 1 }
    }
}

impl KeySet {
    /// The keys of a role, ready to verify.
    ///
    /// # Errors
    /// [`DecodeError`] if one is no Ed25519 key that may be trusted.
    pub fn of(field: &'static str, role: &Role) -> Result<Self, DecodeError> {
        let keys = role.keys().iter().map(|key| verifying_key(field, &key.0)).collect::<Result<_, _>>()?;
        Ok(Self { keys, threshold: usize::try_from(role.threshold()).unwrap_or(usize::MAX).max(1) })
    }

    /// As a role.
    #[must_use]
    pub fn role(&self) -> Role {
        Role::new(self.keys.iter().map(public_key), u32::try_from(self.threshold).unwrap_or(u32::MAX))
    }
}

/// A public key as the domain has it.
#[must_use]
pub fn public_key(key: &VerifyingKey) -> PublicKey {
    PublicKey(key.to_bytes())
}

/// A public key that is fit to verify with.
///
/// # Errors
/// [`DecodeError`] if the bytes are none, or one under which anybody can sign.
pub fn verifying_key(field: &'static str, bytes: &[u8]) -> Result<VerifyingKey, DecodeError> {
    let bytes = <&[u8; 32]>::try_from(bytes).ok();
    let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(bytes).ok()).filter(|key| !key.is_weak());
    key.ok_or_else(|| DecodeError::field(field, "has a key that is not Ed25519"))
}

/// A public key as people pass it on: 64 hex digits.
#[must_use]
pub fn key_text(key: &PublicKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a public key in hex or base64.
///
/// # Errors
/// For people, after the words "the key".
pub fn parse_key(text: &str) -> Result<VerifyingKey, String> {
    let mut bytes = [0; 32];
    let hex = text.len() == 64
        && bytes.iter_mut().zip(text.as_bytes().chunks(2)).all(|(byte, digits)| {
            let value = std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
            value.map(|value| *byte = value).is_some()
        });
    if !hex {
        let base64 = &base64::engine::general_purpose::STANDARD_NO_PAD;
        let decoded = base64.decode(text.trim_end_matches('=')).unwrap_or_default();
        bytes =
            decoded.try_into().map_err(|_| "is neither 64 hex digits nor base64 of 32 bytes".to_owned())?;
    }
    verifying_key("key", &bytes).map_err(|_| "is no Ed25519 public key".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_read_in_hex_and_base64() {
        let key = SigningKey::from_bytes(&[1; 32]).verifying_key();
        let hex = key_text(&public_key(&key));
        let base64 = base64::engine::general_purpose::STANDARD.encode(key.as_bytes());
        for text in [hex.as_str(), &hex.to_uppercase(), &base64, base64.trim_end_matches('=')] {
            assert_eq!(parse_key(text), Ok(key), "{text}");
        }
        for text in ["", "+f", &hex[1..], &"é".repeat(32), &"0".repeat(64)] {
            assert!(parse_key(text).is_err(), "{text}");
        }
    }
}
