//! API tokens as their bearers hold them: one string of secret and name.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::{ApiTokenName, Digest};

/// What every API token starts with; names its version.
pub const PREFIX: &str = "mat1_";
/// Length of the secret, in bytes: 256 bits cannot be guessed, so a plain hash protects it.
pub const SECRET_BYTES: usize = 32;
/// Longest API token, in characters: secret, the longest name and the sum, in base64.
pub const MAX_CHARS: usize =
    PREFIX.len() + (SECRET_BYTES + domain::id::MAX_ID_BYTES + SUM_BYTES).div_ceil(3) * 4;
/// Bytes of the digest that ends a token, so that a cut one is noticed before it is sent.
const SUM_BYTES: usize = 4;

/// An API token with its secret. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken {
    /// Public part.
    pub name: ApiTokenName,
    /// Secret part.
    pub secret: [u8; SECRET_BYTES],
}

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BearerToken").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a text is not an API token. Never repeats any part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// Does not start with [`PREFIX`].
    #[error("an API token starts with {PREFIX:?}; copy it whole from `muster api-token create`")]
    Prefix,
    /// Cut, or changed on the way.
    #[error("the API token is damaged or cut; copy it whole from `muster api-token create`")]
    Damaged,
}

impl BearerToken {
    /// The token as one string.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = [&self.secret[..], self.name.as_str().as_bytes()].concat();
        let sum = Digest::of(&bytes);
        bytes.extend_from_slice(&sum.0[..SUM_BYTES]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`BearerError`] says what is wrong without repeating the secret.
    pub fn decode(text: &str) -> Result<Self, BearerError> {
        let body = text.strip_prefix(PREFIX).ok_or(BearerError::Prefix)?;
        if text.len() > MAX_CHARS {
            return Err(BearerError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| BearerError::Damaged)?;
        let (message, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or(BearerError::Damaged)?;
        if Digest::of(message).0[..SUM_BYTES] != *sum {
            return Err(BearerError::Damaged);
        }
        let (secret, name) = message.split_first_chunk::<SECRET_BYTES>().ok_or(BearerError::Damaged)?;
        let name = std::str::from_utf8(name).ok().and_then(|name| ApiTokenName::new(name).ok());
        Ok(Self { name: name.ok_or(BearerError::Damaged)?, secret: *secret })
    }

    /// SHA-256 of the secret: what is stored.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str) -> BearerToken {
        BearerToken { name: ApiTokenName::new(name).unwrap(), secret: [7; SECRET_BYTES] }
    }

    #[test]
    fn tokens_round_trip_and_show_no_secret() {
        for name in ["a", "ci-deploy", &"n".repeat(64)] {
            let text = token(name).encode();
            assert!(text.starts_with("mat1_") && text.len() <= MAX_CHARS, "{text}");
            assert_eq!(BearerToken::decode(&text), Ok(token(name)));
        }
        assert_eq!(format!("{:?}", token("ci")), "BearerToken { name: ApiTokenName(ci), .. }");
    }

    #[test]
    fn a_damaged_token_is_noticed() {
        let text = token("ci").encode();
        for at in PREFIX.len()..text.len() {
            assert_eq!(BearerToken::decode(&text[..at]), Err(BearerError::Damaged), "cut at {at}");
        }
        assert_eq!(BearerToken::decode("mjt1_abc"), Err(BearerError::Prefix));
        assert_eq!(BearerToken::decode(&format!("mat1_{}", "A".repeat(100_000))), Err(BearerError::Damaged));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(mat1_)?.{0,200}") {
            let _ = BearerToken::decode(&text);
        }
    }
}
