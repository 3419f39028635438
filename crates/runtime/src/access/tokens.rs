//! The API tokens of the catalogue, as the gate knows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::ApiTokenName;
use domain::access::ApiToken;
use domain::catalog::Entry;
use tokio::sync::{Semaphore, watch};
use wire::DecodeError;
use wire::subject::{STREAM_POLICY, StoreKey, pattern};

use crate::nats::{Followed, From, GetError, Nats, StreamMessage};
use crate::ready::Condition;
use crate::tasks::Shutdown;

/// Names that are looked up in the store at the same time. They are looked up only where they are not known, so
/// that somebody who makes names up costs the store no more than this.
const LOOK_UPS: usize = 4;

/// Why it cannot be told whose a token is.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookUpError {
    /// Not all tokens have been read yet.
    #[error("the API tokens are not loaded yet: try again")]
    Loading,
    /// So many unknown names are being looked up already.
    #[error("too many unknown API tokens are being looked up: try again")]
    Busy,
    /// The store does not answer.
    #[error("the API token cannot be looked up")]
    Get(#[from] GetError),
    /// What is stored is broken.
    #[error("the stored API token is broken")]
    Broken(#[from] DecodeError),
}

/// The stream cannot be followed any more.
#[derive(Debug, thiserror::Error)]
#[error("the API tokens cannot be followed: the connection is closed")]
pub(super) struct FollowError;

#[derive(Default)]
struct Known {
    tokens: BTreeMap<ApiTokenName, Arc<ApiToken>>,
    loaded: bool,
}

/// All tokens, kept up to date. Clones share them.
#[derive(Clone)]
pub(super) struct Tokens {
    nats: Nats,
    known: Arc<watch::Sender<Known>>,
    look_ups: Arc<Semaphore>,
}

impl Tokens {
    pub(super) fn new(nats: Nats) -> Self {
        let known = Arc::new(watch::Sender::new(Known::default()));
        Self { nats, known, look_ups: Arc::new(Semaphore::new(LOOK_UPS)) }
    }

    /// Follows the catalogue until the shutdown. Tokens are changed one at a time, so that single messages are
    /// whole changes.
    pub(super) async fn follow(&self, ready: &Condition, shutdown: &Shutdown) -> Result<(), FollowError> {
        let mut follow =
            self.nats.follow(STREAM_POLICY, pattern::STORE_API_TOKENS, From::LastPerSubject, false);
        loop {
            let followed = tokio::select! {
                followed = follow.next() => followed.ok_or(FollowError)?,
                () = shutdown.requested() => return Ok(()),
            };
            self.known.send_modify(|known| match followed {
                Followed::Message(message) => known.take(&message),
                Followed::CaughtUp => {
                    known.loaded = true;
                    ready.set_ready();
                }
                Followed::Reset | Followed::Missing => {
                    *known = Known::default();
                    ready.set_not_ready("is loading the API tokens");
                }
            });
        }
    }

    /// The token of a name. One that is not known yet may have been made a moment ago by another replica, so the
    /// store is asked.
    pub(super) async fn find(&self, name: &ApiTokenName) -> Result<Option<Arc<ApiToken>>, LookUpError> {
        {
            let known = self.known.borrow();
            if !known.loaded {
                return Err(LookUpError::Loading);
            }
            if let Some(token) = known.tokens.get(name) {
                return Ok(Some(Arc::clone(token)));
            }
        }
        let _turn = self.look_ups.try_acquire().map_err(|_| LookUpError::Busy)?;
        let key = StoreKey::ApiToken(name.clone());
        let stored = self.nats.leader_get_last(STREAM_POLICY, &key.subject()).await?;
        let Some(stored) = stored else { return Ok(None) };
        Ok(token(wire::catalog::read(&key, &stored.payload)?))
    }
}

impl Known {
    fn take(&mut self, message: &StreamMessage) {
        let Some(key @ StoreKey::ApiToken(name)) = &StoreKey::parse(&message.subject) else { return };
        match wire::catalog::read(key, &message.payload).map(token) {
            Ok(Some(token)) => {
                self.tokens.insert(name.clone(), token);
            }
            Ok(None) => {
                self.tokens.remove(name);
            }
            Err(error) => {
                // What cannot be read lets nobody in.
                self.tokens.remove(name);
                tracing::error!(%name, error = crate::log::chain(&error), "a stored API token cannot be read");
            }
        }
    }
}

fn token(entry: Entry) -> Option<Arc<ApiToken>> {
    match entry {
        Entry::ApiToken(token) => Some(token),
        _ => None,
    }
}
