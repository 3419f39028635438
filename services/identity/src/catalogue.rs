//! The part of the catalogue that this service decides on: groups, tokens and the epoch.

use std::time::Duration;

use domain::Revision;
use domain::catalog::{Catalog, Entry as Object};
use runtime::nats::Nats;
use runtime::store::{Change, ChangeInfo, CommitError, Entry, Log, LogEvent, ReadError};
use runtime::{Shutdown, clock, ids};
use tokio::sync::watch;
use wire::subject::StoreKey;

/// How long a caller waits for the fold to reach the end of the log. The log reaches it within milliseconds;
/// a torn change takes a second to repair.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries to write a change while others write to the log. Each try sees their change first, so that this many
/// in a row mean a log that is written to without a pause.
const MAX_TRIES: u32 = 16;

/// Pause before another try: full jitter below this, the time of a commit.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Who changes the catalogue when an operator asks this service to. Operators have no names yet.
const ACTOR: &str = "operator";

/// Why the fold could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatchUpError {
    /// The end of the log is not known.
    #[error("the end of the catalogue's log is not known")]
    Read(#[from] ReadError),
    /// The fold is behind.
    #[error("the catalogue is behind its log and did not catch up within {} s", CATCH_UP_TIMEOUT.as_secs())]
    Behind,
}

/// Why a change was not made. `Refused` is what the decision said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError<E> {
    /// The rules refuse it.
    #[error("the change is refused")]
    Refused(E),
    /// The state to decide on is not known.
    #[error("the catalogue cannot be read")]
    CatchUp(#[from] CatchUpError),
    /// The entry cannot be encoded.
    #[error("the change cannot be encoded")]
    Encode(#[from] wire::document::DocumentError),
    /// The log did not take it.
    #[error("the change was not stored")]
    Commit(#[source] CommitError),
    /// Others wrote before every try.
    #[error("the catalogue changed before each of {MAX_TRIES} tries: try again")]
    Contended,
}

#[derive(Default)]
struct Folded {
    catalog: Catalog,
    /// Whether all that was there at the start has been folded.
    loaded: bool,
}

/// The fold, and the log that it is a fold of.
pub(crate) struct Catalogue {
    log: Log,
    folded: watch::Sender<Folded>,
}

/// The connection was closed for good while the log was followed.
#[derive(Debug, thiserror::Error)]
#[error("the catalogue's log cannot be followed: the connection is closed")]
pub(crate) struct FollowError;

impl Catalogue {
    pub(crate) fn new(nats: Nats) -> Self {
        Self { log: Log::new(nats), folded: watch::Sender::new(Folded::default()) }
    }

    /// Folds the log until the shutdown.
    pub(crate) async fn follow(&self, shutdown: &Shutdown) -> Result<(), FollowError> {
        let mut follow = self.log.follow();
        loop {
            let event = tokio::select! {
                event = follow.next() => event.ok_or(FollowError)?,
                () = shutdown.requested() => return Ok(()),
            };
            self.folded.send_modify(|folded| folded.apply(event));
        }
    }

    /// Waits until everything has been folded that is in the log now. What is read after that is at least as
    /// new as everything that was written before the call, by any replica of any service.
    pub(crate) async fn catch_up(&self) -> Result<(), CatchUpError> {
        let end = self.log.end().await?;
        self.reach(end).await
    }

    async fn reach(&self, revision: Revision) -> Result<(), CatchUpError> {
        let mut folded = self.folded.subscribe();
        let reached = folded.wait_for(|folded| folded.loaded && folded.catalog.revision() >= revision);
        match tokio::time::timeout(CATCH_UP_TIMEOUT, reached).await {
            Ok(reached) => reached.map(drop).map_err(|_| CatchUpError::Behind),
            Err(_) => Err(CatchUpError::Behind),
        }
    }

    /// Waits until all that was there at the start has been folded. The caller bounds the wait.
    pub(crate) async fn loaded(&self) {
        let mut folded = self.folded.subscribe();
        folded.wait_for(|folded| folded.loaded).await.expect("invariant: self keeps the sender alive");
    }

    /// Waits until the epoch is another than `epoch`.
    pub(crate) async fn epoch_other_than(&self, epoch: domain::Epoch) {
        let mut folded = self.folded.subscribe();
        let changed = folded.wait_for(|folded| folded.loaded && folded.catalog.epoch() != epoch);
        changed.await.expect("invariant: self keeps the sender alive");
    }

    /// Looks at the catalogue as far as it has been folded. `look` is short and does not block: the fold waits
    /// for it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.folded.borrow().catalog)
    }

    /// Writes one entry to the log: what `decide` says of the newest catalogue. Decides again when somebody
    /// else wrote first.
    pub(crate) async fn change<E>(
        &self,
        message: &str,
        mut decide: impl FnMut(&Catalog) -> Result<Object, E>,
    ) -> Result<Revision, ChangeError<E>> {
        for _ in 0..MAX_TRIES {
            self.catch_up().await?;
            let (object, expected) = self
                .look(|catalog| Ok::<_, E>((decide(catalog)?, catalog.revision())))
                .map_err(ChangeError::Refused)?;
            let entry = Entry {
                key: wire::catalog::store_key(&object.key()),
                body: wire::catalog::encode(&object)?.into(),
            };
            match self.log.commit(&info(message), vec![entry], expected).await {
                Ok(revision) => {
                    self.reach(revision).await?;
                    return Ok(revision);
                }
                Err(CommitError::Conflict { .. }) => tokio::time::sleep(ids::jitter(RETRY_PAUSE)).await,
                Err(error) => return Err(ChangeError::Commit(error)),
            }
        }
        Err(ChangeError::Contended)
    }
}

fn info(message: &str) -> ChangeInfo {
    ChangeInfo {
        id: ids::random_id().parse().expect("invariant: a random id is an id"),
        actor: ACTOR.to_owned(),
        message: message.to_owned(),
        time: clock::now(),
        trace_id: None,
    }
}

impl Folded {
    fn apply(&mut self, event: LogEvent) {
        match event {
            LogEvent::Change(change) => self.catalog.fold(objects(&change), change.revision),
            LogEvent::Loaded(revision) => {
                self.catalog.fold([], revision);
                self.loaded = true;
            }
            LogEvent::Reset | LogEvent::Missing => *self = Self::default(),
        }
    }
}

/// The objects of a change that this service needs. Kinds and policies are large and none of its business.
fn objects(change: &Change) -> Vec<Object> {
    let wanted = |key: &StoreKey| match key {
        StoreKey::Group(_) | StoreKey::Token(_) | StoreKey::Epoch => true,
        StoreKey::Kind(_) | StoreKey::Policy(_) => false,
    };
    let entries = change.entries.iter().filter(|entry| wanted(&entry.key));
    entries
        .filter_map(|entry| {
            let read = wire::catalog::read(&entry.key, &entry.body);
            read.inspect_err(|error| {
                let (subject, error) = (entry.key.subject(), runtime::log::chain(error));
                tracing::error!(%subject, revision = change.revision.0, error, "an entry of the log is broken: ignored");
            })
            .ok()
        })
        .collect()
}
