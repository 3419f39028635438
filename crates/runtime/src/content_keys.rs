//! The keys that sign content: the one that this process signs with, and all that roots made here name.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ed25519_dalek::VerifyingKey;
use wire::envelope::MAX_SIGNATURES;
use wire::sign::{KeySet, Signer, parse_key};

use crate::keys::{self, KeyError};

/// Options for the keys of content.
#[derive(Debug, Clone, Args)]
#[group(id = "content-keys")]
pub struct ContentKeyArgs {
    /// File of the key that signs content. All replicas of content share it. `musterd all` keeps one in its data
    /// directory if none is given.
    #[arg(long, env = "MUSTER_CONTENT_KEY", value_name = "FILE")]
    pub content_key: Option<PathBuf>,

    /// Public keys for the role content of trust roots that this process makes with --root-key, beside that of
    /// --content-key: 32 bytes in hex or base64, separated by commas. Content logs its own at its start.
    #[arg(long, env = "MUSTER_CONTENT_PUBLIC_KEY", value_name = "KEY", value_delimiter = ',', value_parser = parse_key)]
    pub content_public_key: Vec<VerifyingKey>,

    /// How many different keys of the role content must have signed a content before agents accept it, in trust
    /// roots that this process makes with --root-key.
    #[arg(long, env = "MUSTER_CONTENT_THRESHOLD", value_name = "N", default_value_t = 1)]
    pub content_threshold: u8,
}

impl Default for ContentKeyArgs {
    fn default() -> Self {
        Self { content_key: None, content_public_key: Vec::new(), content_threshold: 1 }
    }
}

/// Why the keys for content cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContentKeysError {
    /// The key file cannot be used.
    #[error("the content key cannot be used")]
    Key(#[from] KeyError),
    /// More keys than a trust root holds.
    #[error("there are {0} content keys; at most {MAX_SIGNATURES} are allowed")]
    TooMany(usize),
    /// Content that needs no signature, or more than anybody can give.
    #[error(
        "--content-threshold {threshold} with {keys} content keys: it must be from 1 to the number of keys (--content-key, --content-public-key)"
    )]
    Threshold {
        /// What was asked for.
        threshold: u8,
        /// How many keys there are.
        keys: usize,
    },
}

/// The keys for content that one process was given.
#[derive(Clone)]
pub struct ContentKeys {
    /// The key that this process signs with, if it has one.
    pub signing: Option<Arc<dyn Signer>>,
    /// What roots that are made here say of content.
    pub trust: KeySet,
}

impl ContentKeys {
    /// Loads the key and puts the trusted ones together: ordered, so that processes with the same keys make the
    /// same trust root.
    ///
    /// # Errors
    /// [`ContentKeysError`] if the file cannot be used, or the number of keys does not fit.
    pub fn load(args: &ContentKeyArgs) -> Result<Self, ContentKeysError> {
        let signing = args.content_key.as_deref().map(keys::signer).transpose()?;
        let own = signing.as_ref().map(|key| key.public_key());
        let mut trusted: Vec<VerifyingKey> = args.content_public_key.iter().copied().chain(own).collect();
        trusted.sort_by_key(VerifyingKey::to_bytes);
        trusted.dedup();
        let (keys, threshold) = (trusted.len(), args.content_threshold);
        if keys > MAX_SIGNATURES {
            return Err(ContentKeysError::TooMany(keys));
        }
        if !(1..=keys.max(1)).contains(&usize::from(threshold)) {
            return Err(ContentKeysError::Threshold { threshold, keys });
        }
        Ok(Self { signing, trust: KeySet { keys: trusted, threshold: threshold.into() } })
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    fn public(seed: u8) -> VerifyingKey {
        SigningKey::from_bytes(&[seed; 32]).verifying_key()
    }

    #[test]
    fn the_order_of_keys_makes_no_difference_and_none_counts_twice() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("content.key");
        let own = keys::load_or_create(&file).unwrap().verifying_key();
        let load = |public: &[VerifyingKey], content_threshold| {
            let content_public_key = public.to_vec();
            let args =
                ContentKeyArgs { content_key: Some(file.clone()), content_public_key, content_threshold };
            ContentKeys::load(&args).map(|keys| keys.trust)
        };
        let trust = load(&[public(1), public(2), own], 3).unwrap();
        assert_eq!((trust.keys.len(), trust.threshold), (3, 3));
        assert_eq!(load(&[public(2), public(1), public(1)], 3).unwrap(), trust);
        let refused = |public: &[VerifyingKey], threshold| load(public, threshold).unwrap_err().to_string();
        assert!(refused(&[own], 2).contains("--content-threshold 2 with 1 content keys"));
        assert!(refused(&[], 0).contains("must be from 1"));
        let many: Vec<VerifyingKey> = (1..=8).map(public).collect();
        assert!(refused(&many, 1).contains("9 content keys"));
    }
}
