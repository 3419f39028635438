//! The catalogue in memory: a fold of the log, and changes that are decided on it.

use std::sync::Arc;
use std::time::Duration;

use domain::catalog::{Catalog, Entry as Object};
use domain::{Epoch, Revision};
use tokio::sync::watch;
use wire::DecodeError;
use wire::subject::StoreKey;

use super::{Change, ChangeInfo, CommitError, Entry, Log, LogEvent, ReadError};
use crate::nats::Nats;
use crate::ready::Condition;
use crate::{clock, ids};

/// How long a caller waits for the fold to reach the end of the log. The log reaches it within milliseconds;
/// a torn change takes a second to repair.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries to write a change while others write to the log. Each try sees their change first, so that this many
/// in a row mean a log that is written to without a pause.
const MAX_TRIES: u32 = 32;

/// Pause before another try: full jitter below this, the time of a commit.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Why the fold could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum CatchUpError {
    /// The end of the log is not known.
    #[error("the end of the catalogue's log is not known")]
    Read(#[from] ReadError),
    /// The fold is behind.
    #[error("the catalogue is behind its log and did not catch up within {} s", CATCH_UP_TIMEOUT.as_secs())]
    Behind,
}

/// Why a change was not made. `Refused` is what the decision said.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// The rules refuse it.
    #[error("the change is refused")]
    Refused(E),
    /// The state to decide on is not known.
    #[error("the catalogue cannot be read")]
    CatchUp(#[from] CatchUpError),
    /// An entry cannot be encoded.
    #[error("the change cannot be encoded")]
    Encode(#[from] wire::document::DocumentError),
    /// The log did not take it.
    #[error("the change was not stored")]
    Commit(#[source] CommitError),
    /// Others wrote before every try.
    #[error("the catalogue changed before each of {MAX_TRIES} tries: try again")]
    Contended,
}

/// The log cannot be followed any more: the connection was closed for good.
#[derive(Debug, thiserror::Error)]
#[error("the catalogue's log cannot be followed: the connection is closed")]
pub struct FollowError;

/// Who changes the catalogue and why: kept with the change.
#[derive(Debug, Clone, Default)]
pub struct Author {
    /// Who: a user or a service.
    pub actor: String,
    /// Why; may be empty.
    pub message: String,
    /// W3C trace id of the request; `None` if it was not traced.
    pub trace_id: Option<[u8; 16]>,
}

#[derive(Default)]
struct Folded {
    catalog: Arc<Catalog>,
    /// Whether all that was there at the start has been folded.
    loaded: bool,
}

/// The fold of the log, and the log that it is a fold of.
pub struct Catalogue {
    log: Log,
    read: ReadObject,
    folded: watch::Sender<Folded>,
}

/// Reads an object that stands under this key; `None` if it is not wanted.
pub type ReadObject = fn(&StoreKey, &[u8]) -> Option<Result<Object, DecodeError>>;

impl Catalogue {
    /// A fold of the objects that `read` wants. Empty until [`Catalogue::follow`] runs.
    #[must_use]
    pub fn new(nats: Nats, read: ReadObject) -> Self {
        Self { log: Log::new(nats), read, folded: watch::Sender::new(Folded::default()) }
    }

    /// Folds the log until `stop` resolves. `ready` is met while all of the log has been folded.
    ///
    /// # Errors
    /// [`FollowError`] if the connection was closed for good.
    pub async fn follow(
        &self,
        ready: Option<Condition>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), FollowError> {
        let mut follow = self.log.follow();
        let mut stop = std::pin::pin!(stop);
        loop {
            let event = tokio::select! {
                event = follow.next() => event.ok_or(FollowError)?,
                () = &mut stop => return Ok(()),
            };
            if let Some(ready) = &ready {
                match &event {
                    LogEvent::Change(_) => {}
                    LogEvent::Loaded(_) => ready.set_ready(),
                    LogEvent::Reset => ready.set_not_ready("is loading the catalogue"),
                    LogEvent::Missing => ready.set_not_ready("has no store of record"),
                }
            }
            self.folded.send_modify(|folded| folded.apply(event, self.read));
        }
    }

    /// Waits until everything has been folded that is in the log now. What is read after that is at least as
    /// new as everything that was written before the call, by any replica of any service.
    ///
    /// # Errors
    /// [`CatchUpError`] if the log cannot be read or the fold does not get there in time.
    pub async fn catch_up(&self) -> Result<(), CatchUpError> {
        let end = self.log.end().await?;
        self.reach(end).await
    }

    /// Waits until `revision` has been folded.
    ///
    /// # Errors
    /// [`CatchUpError::Behind`] if the fold does not get there in time.
    pub async fn reach(&self, revision: Revision) -> Result<(), CatchUpError> {
        let mut folded = self.folded.subscribe();
        let reached = folded.wait_for(|folded| folded.loaded && folded.catalog.revision() >= revision);
        match tokio::time::timeout(CATCH_UP_TIMEOUT, reached).await {
            Ok(reached) => reached.map(drop).map_err(|_| CatchUpError::Behind),
            Err(_) => Err(CatchUpError::Behind),
        }
    }

    /// Waits until all that was there at the start has been folded. The caller bounds the wait.
    pub async fn loaded(&self) {
        self.until(|_| true).await;
    }

    /// Waits until the epoch is another than `epoch`. The caller bounds the wait.
    pub async fn epoch_other_than(&self, epoch: Epoch) {
        self.until(|catalog| catalog.epoch() != epoch).await;
    }

    /// Waits until `reached` is true of the catalogue, once it is loaded. The caller bounds the wait.
    pub async fn until(&self, mut reached: impl FnMut(&Catalog) -> bool) {
        let mut folded = self.folded.subscribe();
        let changed = folded.wait_for(|folded| folded.loaded && reached(&folded.catalog));
        changed.await.expect("invariant: self keeps the sender alive");
    }

    /// Looks at the catalogue as far as it has been folded. `look` is short and does not block: the fold waits
    /// for it.
    pub fn look<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.folded.borrow().catalog)
    }

    /// The catalogue as far as it has been folded. It does not change any more: while the caller holds it, the
    /// next change copies what both share.
    #[must_use]
    pub fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.folded.borrow().catalog)
    }

    /// Writes what `decide` says of the newest catalogue, as one change; nothing if it says nothing. Decides again
    /// when somebody else wrote first.
    ///
    /// # Returns
    /// The revision of the change, which has been folded; that of the newest one if nothing was written.
    ///
    /// # Errors
    /// [`ChangeError`]. Nothing was written, unless its source says "unavailable": then it may have been.
    pub async fn change<E>(
        &self,
        author: &Author,
        mut decide: impl FnMut(&Catalog) -> Result<Vec<Object>, E>,
    ) -> Result<Revision, ChangeError<E>> {
        for _ in 0..MAX_TRIES {
            self.catch_up().await?;
            let (objects, expected) = self
                .look(|catalog| Ok::<_, E>((decide(catalog)?, catalog.revision())))
                .map_err(ChangeError::Refused)?;
            if objects.is_empty() {
                return Ok(expected);
            }
            if let Some(revision) = self.commit(author, &objects, expected).await? {
                return Ok(revision);
            }
        }
        Err(ChangeError::Contended)
    }

    /// Tries once to write objects that were decided on at the revision `expected`.
    ///
    /// # Returns
    /// The revision of the change, which has been folded; `None` if somebody else wrote first: decide again.
    ///
    /// # Errors
    /// [`ChangeError`], but for `Refused` and `Contended`.
    pub async fn commit<E>(
        &self,
        author: &Author,
        objects: &[Object],
        expected: Revision,
    ) -> Result<Option<Revision>, ChangeError<E>> {
        let entries = objects.iter().map(entry).collect::<Result<_, _>>()?;
        match self.log.commit(&info(author), entries, expected).await {
            Ok(revision) => {
                self.reach(revision).await?;
                Ok(Some(revision))
            }
            Err(CommitError::Conflict { .. }) => {
                tokio::time::sleep(ids::jitter(RETRY_PAUSE)).await;
                Ok(None)
            }
            Err(error) => Err(ChangeError::Commit(error)),
        }
    }
}

fn entry(object: &Object) -> Result<Entry, wire::document::DocumentError> {
    Ok(Entry { key: wire::catalog::store_key(&object.key()), body: wire::catalog::encode(object)?.into() })
}

fn info(author: &Author) -> ChangeInfo {
    ChangeInfo {
        id: ids::random_id().parse().expect("invariant: a random id is an id"),
        actor: author.actor.clone(),
        message: author.message.clone(),
        time: clock::now(),
        trace_id: author.trace_id,
    }
}

impl Folded {
    fn apply(&mut self, event: LogEvent, read: ReadObject) {
        match event {
            LogEvent::Change(change) => {
                let revision = change.revision;
                Arc::make_mut(&mut self.catalog).fold(objects(&change, read), revision);
            }
            LogEvent::Loaded(revision) => {
                Arc::make_mut(&mut self.catalog).fold([], revision);
                self.loaded = true;
            }
            LogEvent::Reset | LogEvent::Missing => *self = Self::default(),
        }
    }
}

/// The wanted objects of a change. One that cannot be read is passed over: it was written by a version that
/// knows more, or by something else, and the rest must go on.
fn objects(change: &Change, read: ReadObject) -> Vec<Object> {
    let objects = change.entries.iter().filter_map(|entry| {
        let object = read(&entry.key, &entry.body)?;
        object
            .inspect_err(|error| {
                let (subject, error) = (entry.key.subject(), crate::log::chain(error));
                let revision = change.revision.0;
                tracing::error!(%subject, revision, error, "an entry of the log cannot be read: passing over it");
            })
            .ok()
    });
    objects.collect()
}
