//! What the parts of one replica share.

use domain::catalog::Entry;
use runtime::registry::AgentCounts;
use runtime::serve::CALLS_GRACE;
use runtime::store::Catalogue;
use runtime::{Nats, Shutdown, Tasks};
use tokio::sync::{Notify, Semaphore, watch};
use wire::DecodeError;
use wire::subject::StoreKey;

use crate::Config;
use crate::census::Latest;
use crate::deltas::Board;
use crate::store::Store;

/// One replica of the service.
pub(crate) struct Replica {
    pub(crate) config: Config,
    pub(crate) catalogue: Catalogue,
    pub(crate) store: Store,
    pub(crate) agents: AgentCounts,
    /// The last census that presence published.
    pub(crate) census: Latest,
    /// Calls that take in chunks: each holds some memory.
    pub(crate) intakes: Semaphore,
    /// One garbage collection of this replica at a time.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    pub(crate) board: Board,
    /// There may be deltas to make.
    pub(crate) wake: Notify,
    /// Calls that are being answered.
    calls: watch::Sender<usize>,
    pub(crate) shutdown: Shutdown,
    pub(crate) tasks: Tasks,
}

/// A call that is being answered, until it is dropped.
pub(crate) struct Call<'a>(&'a watch::Sender<usize>);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

impl Replica {
    pub(crate) fn new(config: Config, nats: Nats, store: Store, tasks: Tasks) -> Self {
        Self {
            config,
            catalogue: Catalogue::new(nats, read),
            store,
            agents: AgentCounts::default(),
            census: Latest::default(),
            intakes: Semaphore::new(crate::upload::MAX_INTAKES),
            collecting: tokio::sync::Mutex::default(),
            board: Board::default(),
            wake: Notify::new(),
            calls: watch::Sender::new(0),
            shutdown: tasks.shutdown().clone(),
            tasks,
        }
    }

    /// Notes that a call is being answered.
    pub(crate) fn call(&self) -> Call<'_> {
        self.calls.send_modify(|calls| *calls += 1);
        Call(&self.calls)
    }

    /// Waits until stopping is requested and what runs then has had its time: for work that may hang in a broker that
    /// does not answer.
    pub(crate) async fn out_of_time(&self) {
        self.shutdown.requested().await;
        tokio::time::sleep(CALLS_GRACE).await;
    }

    /// Waits until stopping is requested and the calls that are open have had their time: they need the log to be
    /// followed.
    pub(crate) async fn stopped(&self) {
        self.shutdown.requested().await;
        let mut calls = self.calls.subscribe();
        let none = calls.wait_for(|calls| *calls == 0);
        if tokio::time::timeout(CALLS_GRACE, none).await.is_err() {
            tracing::warn!("stopping with calls that are not answered yet");
        }
    }
}

/// Reads what this service needs of the catalogue: channels and what is in them, and which group follows which.
fn read(key: &StoreKey, body: &[u8]) -> Option<Result<Entry, DecodeError>> {
    match key {
        StoreKey::Group(_) => Some(wire::catalog::read(key, body).map(without_policies)),
        StoreKey::Channel(_)
        | StoreKey::Content(..)
        | StoreKey::Uploads
        | StoreKey::Sweep
        | StoreKey::Epoch => Some(wire::catalog::read(key, body)),
        StoreKey::Kind(_) | StoreKey::Policy(_) | StoreKey::Token(_) | StoreKey::ApiToken(_) => None,
    }
}

/// A group without its policies, which are not read: this service never writes groups, and what it wants to know of
/// them has nothing to do with policies.
fn without_policies(entry: Entry) -> Entry {
    match entry {
        Entry::Group(group) => {
            let mut group = std::sync::Arc::unwrap_or_clone(group);
            group.policies.clear();
            Entry::Group(group.into())
        }
        other @ (Entry::Kind(_)
        | Entry::Policy(_)
        | Entry::Token(_)
        | Entry::ApiToken(_)
        | Entry::Epoch(_)
        | Entry::Channel(_)
        | Entry::Content(_)
        | Entry::Uploads(_)
        | Entry::Sweep(_)
        | Entry::Deleted { .. }) => other,
    }
}
