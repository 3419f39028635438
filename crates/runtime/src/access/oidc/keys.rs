//! The keys of the provider: fetched now and then, and when a token names one that is not known.

use std::sync::Arc;
use std::time::Duration;

use domain::Span;
use domain::access::oidc::{KeyAge, REFRESH_EVERY};
use oidc::{Http, Issuer, Keys, Provider, ProviderError, Token};
use tokio::sync::{Notify, Semaphore, watch};

use crate::clock;
use crate::tasks::Shutdown;

/// Time to fetch the document of the provider and its keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for that, at most.
const WAIT: Duration = Duration::from_secs(6);
/// Calls that wait at the same time.
const WAITING: usize = 64;

/// Why it cannot be told whether a token is good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysUnknown {
    /// The provider cannot be asked.
    #[error("the keys of the OpenID provider cannot be fetched: {0}")]
    Unreachable(String),
    /// The key is not known, and the provider was asked a moment ago.
    #[error(
        "the key of the token is not known, and its issuer was asked a moment ago: try again in {} s",
        wait.0.div_ceil(1_000)
    )]
    Asked {
        /// How long.
        wait: Span,
    },
    /// So many calls wait for keys already.
    #[error("too many calls wait for the keys of the OpenID provider: try again")]
    Busy,
}

#[derive(Default)]
struct State {
    age: KeyAge,
    keys: Option<Arc<Keys>>,
    /// Whether a fetch is under way.
    fetching: bool,
    /// Fetches that have ended.
    rounds: u64,
    /// Why the last one failed.
    problem: Option<String>,
}

impl State {
    /// The keys, if they count and one of them may have made the token.
    fn fitting(&self, token: &Token<'_>) -> Option<Arc<Keys>> {
        self.counting().filter(|keys| token.has_key_in(keys))
    }

    fn counting(&self) -> Option<Arc<Keys>> {
        self.keys.clone().filter(|_| self.age.counts(clock::now()))
    }
}

/// The keys, kept up to date. Clones share them.
#[derive(Clone)]
pub(super) struct KeyRing {
    state: Arc<watch::Sender<State>>,
    wanted: Arc<Notify>,
    waiting: Arc<Semaphore>,
}

impl Default for KeyRing {
    fn default() -> Self {
        let state = Arc::new(watch::Sender::new(State::default()));
        Self { state, wanted: Arc::default(), waiting: Arc::new(Semaphore::new(WAITING)) }
    }
}

impl KeyRing {
    /// Fetches keys when they are due and when they are wanted, until the shutdown. What fails leaves those before.
    pub(super) async fn follow(&self, http: &Http, issuer: &Issuer, shutdown: &Shutdown) {
        loop {
            let age = self.state.borrow().age;
            // A clock that is set far back does not put it off for ever.
            let due = age.due().since(clock::now()).min(REFRESH_EVERY);
            let wanted = tokio::select! {
                () = tokio::time::sleep(due.into()) => false,
                () = self.wanted.notified() => true,
                () = shutdown.requested() => return,
            };
            let now = clock::now();
            if wanted && age.may_fetch(now).is_err() {
                continue;
            }
            self.state.send_modify(|state| {
                state.age.tries(now);
                state.fetching = true;
            });
            let fetched = tokio::select! {
                fetched = fetch(http, issuer) => fetched,
                () = shutdown.requested() => return,
            };
            self.state.send_modify(|state| state.take(fetched));
        }
    }

    /// Keys with one among them that may have made the token. The provider is asked if there is none.
    pub(super) async fn with_key_of(&self, token: &Token<'_>) -> Result<Arc<Keys>, KeysUnknown> {
        let mut states = self.state.subscribe();
        let rounds = {
            let state = states.borrow_and_update();
            if let Some(keys) = state.fitting(token) {
                return Ok(keys);
            }
            match state.age.may_fetch(clock::now()) {
                Err(_) if state.fetching => {}
                Err(wait) => return Err(state.not_now(wait)),
                Ok(()) => {}
            }
            state.rounds
        };
        let _turn = self.waiting.try_acquire().map_err(|_| KeysUnknown::Busy)?;
        self.wanted.notify_one();
        let over = tokio::time::timeout(WAIT, states.wait_for(|state| state.rounds > rounds)).await;
        let late = || KeysUnknown::Unreachable(format!("no answer within {} s", WAIT.as_secs()));
        let state = over.map_err(|_| late())?.map_err(|_| late())?;
        match (&state.problem, state.counting()) {
            (None, Some(keys)) => Ok(keys),
            (Some(problem), _) => Err(KeysUnknown::Unreachable(problem.clone())),
            (None, None) => Err(late()),
        }
    }
}

impl State {
    fn not_now(&self, wait: Span) -> KeysUnknown {
        match &self.problem {
            Some(problem) => KeysUnknown::Unreachable(problem.clone()),
            None => KeysUnknown::Asked { wait },
        }
    }

    fn take(&mut self, fetched: Result<Keys, String>) {
        self.fetching = false;
        self.rounds += 1;
        match fetched {
            Ok(keys) => {
                if self.keys.as_deref() != Some(&keys) {
                    tracing::info!("fetched new keys of the OpenID provider");
                }
                self.age.fetches(clock::now());
                self.keys = Some(Arc::new(keys));
                self.problem = None;
            }
            Err(problem) => {
                // Once for each cause: it is tried again every few seconds.
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        problem,
                        "the keys of the OpenID provider cannot be fetched; those before go on"
                    );
                }
                self.problem = Some(problem);
            }
        }
    }
}

async fn fetch(http: &Http, issuer: &Issuer) -> Result<Keys, String> {
    let fetched = async {
        let provider = Provider::discover(http, issuer).await?;
        provider.keys(http).await
    };
    match tokio::time::timeout(FETCH_TIMEOUT, fetched).await {
        Ok(fetched) => fetched.map_err(|error: ProviderError| crate::log::chain(&error)),
        Err(_) => Err(format!("it did not answer within {} s", FETCH_TIMEOUT.as_secs())),
    }
}
