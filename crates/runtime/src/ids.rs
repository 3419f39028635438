//! Random values: ids, session numbers and secrets. The domain never draws one itself.

use rand::RngExt;

/// Characters of a random id: all of them may stand in an id, a subject token and a URL.
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Length of [`random_id`]: 20 characters carry 103 bits, so that two of 2^40 ids meet with a chance below
/// one in eight million.
pub const RANDOM_ID_CHARS: usize = 20;

/// A random id of [`RANDOM_ID_CHARS`] characters of `[a-z0-9]`: usable as any `domain` id.
#[must_use]
pub fn random_id() -> String {
    random_text(RANDOM_ID_CHARS)
}

/// `chars` random characters of `[a-z0-9]`.
#[must_use]
pub fn random_text(chars: usize) -> String {
    let mut rng = rand::rng();
    (0..chars).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// Random bytes from a cryptographically secure generator that the operating system seeds.
#[must_use]
pub fn random_secret<const BYTES: usize>() -> [u8; BYTES] {
    let mut secret = [0; BYTES];
    rand::rng().fill(&mut secret[..]);
    secret
}

/// A random number that is never 0 (0 means "none" on the wire).
#[must_use]
pub fn random_u64() -> u64 {
    rand::rng().random_range(1..=u64::MAX)
}

/// A random part of `span`: full jitter, so that many callers with one `span` spread evenly over it.
#[must_use]
pub fn jitter(span: std::time::Duration) -> std::time::Duration {
    span.mul_f64(rand::rng().random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_valid_ids_and_differ() {
        let ids: std::collections::BTreeSet<String> = (0..1000).map(|_| random_id()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            domain::AgentId::new(&id).expect("a random id is an id");
        }
    }

    #[test]
    fn secrets_differ() {
        assert_ne!(random_secret::<32>(), random_secret::<32>());
    }
}
