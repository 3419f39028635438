//! Signed tokens (RFC 7515, 7519), verified and not interpreted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
};
use serde::Deserialize;
use serde_json::Value;

use crate::keys::Keys;

/// Longest token, in bytes: it travels in a header, and those are bounded alike.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Longest name of an algorithm, type or key that is read.
const MAX_NAME_BYTES: usize = 256;
/// What a token may say that it is: nothing, a token, or an access token (RFC 9068). Providers sign other things with
/// the same keys for the same audience, such as the news that somebody logged out.
const TYPES: [&str; 3] = ["JWT", "at+jwt", "application/at+jwt"];

/// How a token is signed. There are no others, above all none with a shared secret, for which a public key could be
/// taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, PKCS #1, SHA-256.
    Rs256,
    /// RSA, PKCS #1, SHA-384.
    Rs384,
    /// RSA, PKCS #1, SHA-512.
    Rs512,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// RSA, PSS, SHA-384.
    Ps384,
    /// RSA, PSS, SHA-512.
    Ps512,
    /// ECDSA on P-256, SHA-256.
    Es256,
    /// ECDSA on P-384, SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }

    /// Its parameters, if it is one of RSA.
    pub(crate) fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
            Self::Es256 | Self::Es384 | Self::EdDsa => None,
        }
    }
}

/// Why a text is no token that a provider signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not the form of one.
    #[error("the token is not a signed JWT of at most {MAX_TOKEN_BYTES} bytes")]
    Form,
    /// It is signed in a way that does not count.
    #[error(
        "the token is signed with {0:?}: RS256 to RS512, PS256 to PS512, ES256, ES384 and EdDSA count here"
    )]
    Algorithm(String),
    /// It is a token for something else.
    #[error("the token is a {0:?}, which lets nobody in")]
    Type(String),
    /// It asks for what is not understood.
    #[error("the token has critical headers, and none is understood here")]
    Critical,
    /// There is no such key.
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature of the token is wrong")]
    Signature,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// A token whose signature was not looked at yet. No `Debug`, so that it is not printed by accident.
#[derive(Clone)]
pub struct Token<'a> {
    algorithm: Algorithm,
    key: Option<String>,
    signed: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Whether a text looks like a token at all: three parts with dots between them.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Reads what is needed to verify a token, and nothing of what it claims.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Form);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
        let header: Header = json(header)?;
        let short = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= MAX_NAME_BYTES);
        if header.alg.len() > MAX_NAME_BYTES || !short(&header.kid) || !short(&header.typ) {
            return Err(TokenError::Form);
        }
        let algorithm = Algorithm::named(&header.alg).ok_or(TokenError::Algorithm(header.alg))?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        if let Some(kind) = header.typ
            && !TYPES.iter().any(|known| known.eq_ignore_ascii_case(&kind))
        {
            return Err(TokenError::Type(kind));
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Form)?;
        Ok(Self { algorithm, key: header.kid, signed, claims, signature })
    }

    /// What it claims, for which nobody vouches: to tell apart what is refused, or is one's own.
    #[must_use]
    pub fn unverified(&self) -> Option<Value> {
        json(self.claims).ok()
    }

    /// Whether one of the keys may have signed it.
    #[must_use]
    pub fn has_key_in(&self, keys: &Keys) -> bool {
        keys.find(self.key.as_deref(), self.algorithm).is_some()
    }

    /// What it claims, if one of the keys signed it.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, keys: &Keys) -> Result<Value, TokenError> {
        let key = keys.find(self.key.as_deref(), self.algorithm).ok_or(TokenError::UnknownKey)?;
        if !key.verifies(self.signed.as_bytes(), &self.signature) {
            return Err(TokenError::Signature);
        }
        json(self.claims)
    }
}

fn json<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Form)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Form)
}

#[cfg(test)]
mod tests;
