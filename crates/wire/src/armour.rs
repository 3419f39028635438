//! Bytes that people carry as one line of text: a prefix that names what it is and its version, base64url, and the first
//! bytes of their SHA-256, so that what was cut or mistyped is noticed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::Digest;

/// Bytes of the digest at the end.
const SUM_BYTES: usize = 4;

/// Why a text is not the line that it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It begins otherwise.
    Prefix,
    /// Cut, longer than any, or changed on the way.
    Damaged,
}

pub(crate) fn encode(prefix: &str, mut bytes: Vec<u8>) -> String {
    let sum = Digest::of(&bytes);
    bytes.extend_from_slice(&sum.0[..SUM_BYTES]);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Reads a line of at most `limit` characters behind the prefix.
pub(crate) fn decode(prefix: &str, text: &str, limit: usize) -> Result<Vec<u8>, Broken> {
    let body = text.trim().strip_prefix(prefix).ok_or(Broken::Prefix)?;
    if body.len() > limit {
        return Err(Broken::Damaged);
    }
    let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| Broken::Damaged)?;
    let (message, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or(Broken::Damaged)?;
    match Digest::of(message).0[..SUM_BYTES] == *sum {
        true => Ok(message.to_vec()),
        false => Err(Broken::Damaged),
    }
}
