//! Who a connection is to the broker: a key that never travels, and the claims that the broker checks.

use std::fmt;
use std::sync::Arc;

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use tokio::sync::watch;

/// A key and its claims. The claims may be replaced while the login is in use: each connection that is made from then
/// on shows the new ones.
#[derive(Clone)]
pub struct Login {
    key: Arc<KeyPair>,
    claims: watch::Receiver<Arc<str>>,
}

impl Login {
    /// A login whose claims stay.
    #[must_use]
    pub fn fixed(key: KeyPair, claims: impl Into<Arc<str>>) -> Self {
        // The receiver goes on to show the last value without its sender.
        let (_, claims) = watch::channel(claims.into());
        Self { key: Arc::new(key), claims }
    }

    /// The login of a credentials file; `None` if `text` is not one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (claims, seed) = wire::jwt::read_credentials_file(text)?;
        Some(Self::fixed(KeyPair::from_seed(seed).ok()?, claims))
    }

    /// A login that shows whatever claims are the newest.
    #[must_use]
    pub fn renewed(key: Arc<KeyPair>, claims: watch::Receiver<Arc<str>>) -> Self {
        Self { key, claims }
    }

    /// Its public key.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.key.public_key()
    }

    /// What the broker is answered when it asks who is there.
    pub(crate) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        auth.jwt = Some(self.claims.borrow().to_string());
        auth.signature = Some(self.key.sign(nonce).map_err(AuthError::new)?);
        Ok(auth)
    }
}

/// Shows no secret.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Login").field(&self.key.public_key()).finish()
    }
}
