//! The store of record: a log of changes in the stream POLICY.
//!
//! A message is one state of one object. A change is one atomic batch of them, written under the condition
//! that the log ends where the writer thinks it ends, so every change was decided on the whole catalogue.
//! Each message carries its change in its headers; a reader hands on whole changes only.
//!
//! The broker writes a batch message by message. If it is killed in the middle, the log can end with a torn
//! change. Nobody folds it, and before anything else is written it is repaired: a further change restates
//! what each touched object was before. Histories leave out both.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::Revision;
use tokio::time::Instant;
use wire::subject::{STREAM_POLICY, StoreKey, pattern};

use crate::nats::{ApiError, Follow, Followed, From, GetError, Nats, PublishError};

mod assemble;
mod catalogue;
mod entry;

pub use assemble::Change;
pub use catalogue::{Author, Catalogue, CatchUpError, ChangeError, FollowError, ReadObject};
pub use entry::{ChangeInfo, Entry, StoredEntry};

use assemble::Assembler;
use entry::{Batch, Read};

/// Entries of one change: what the server takes in one batch.
pub const MAX_ENTRIES: usize = 1000;

/// Bytes of all entries of one change. Bounds what the server holds for an open batch.
pub const MAX_CHANGE_BYTES: usize = 8 * 1024 * 1024;

/// Versions of one object that are kept: `max_msgs_per_subject` of the stream.
pub const MAX_HISTORY: u32 = crate::nats::POLICY.per_subject;

/// How long the rest of a change may take to appear before it counts as torn. Within a batch, the server
/// writes without a pause; replicas follow within milliseconds.
const TORN_AFTER: Duration = Duration::from_secs(1);

/// How long a commit goes on while JetStream has no leader.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause between tries of a commit: full jitter below this.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Why a change was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The log has moved on: decide again on its new state. Nothing was written.
    #[error("the catalogue changed after revision {expected}")]
    Conflict {
        /// The revision that the change was decided on.
        expected: Revision,
    },
    /// No entries, or more than fit. Nothing was written.
    #[error("the change has {entries} objects; 1 to {MAX_ENTRIES} fit into one: split it")]
    Entries {
        /// How many.
        entries: usize,
    },
    /// Too many bytes. Nothing was written.
    #[error("the change has {bytes} bytes; at most {MAX_CHANGE_BYTES} fit into one: split it")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// The stream did not take it. If the source says "unavailable", it may have been written.
    #[error("the change could not be written")]
    Publish(#[from] PublishError),
    /// The log could not be read to find out how it ends.
    #[error("the end of the log cannot be read")]
    Read(#[from] ReadError),
}

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A message could not be read.
    #[error("the store of record cannot be read")]
    Get(#[from] GetError),
    /// The stream could not be looked up.
    #[error("the stream of the store of record cannot be looked up")]
    Api(#[from] ApiError),
    /// The stream is gone.
    #[error("the stream {STREAM_POLICY} does not exist: was it deleted? Restore it from a backup")]
    Missing,
}

/// What happens while following the log.
#[derive(Debug)]
pub enum LogEvent {
    /// A whole change. Before [`LogEvent::Loaded`], objects that changed again later are missing in it; and a
    /// message that is no entry comes as a change without entries, so that the revision moves past it.
    Change(Change),
    /// All that was there at the start has been handed on; the log ends at this revision.
    Loaded(Revision),
    /// The stream was made again or went back: forget everything. The changes from the start follow.
    Reset,
    /// The stream does not exist.
    Missing,
}

/// The log of changes.
#[derive(Clone)]
pub struct Log {
    nats: Nats,
}

impl Log {
    /// The log behind this connection.
    #[must_use]
    pub fn new(nats: Nats) -> Self {
        Self { nats }
    }

    /// Follows the log: first the last state of every object, then every change.
    #[must_use]
    pub fn follow(&self) -> LogFollow {
        let follow = self.nats.follow(STREAM_POLICY, pattern::STORE, From::LastPerSubject, false);
        LogFollow { log: self.clone(), follow, assembler: Assembler::default(), ready: Vec::new() }
    }

    /// Follows the log and waits until all that is there has been read.
    ///
    /// # Returns
    /// The changes in order, the revision at which the log ends, and the follower for what comes.
    ///
    /// # Errors
    /// [`ReadError::Missing`] if the stream does not exist or the connection is closed. While JetStream does
    /// not answer it waits: the caller bounds that.
    pub async fn load(&self) -> Result<(Vec<Change>, Revision, LogFollow), ReadError> {
        let mut follow = self.follow();
        let mut changes = Vec::new();
        loop {
            match follow.next().await {
                Some(LogEvent::Change(change)) => changes.push(change),
                Some(LogEvent::Loaded(revision)) => return Ok((changes, revision, follow)),
                Some(LogEvent::Reset) => changes.clear(),
                Some(LogEvent::Missing) | None => return Err(ReadError::Missing),
            }
        }
    }

    /// Writes a change if the log ends at `expected`; all of it or nothing. `info.id` must be new: it is how a
    /// try without an answer is recognised.
    ///
    /// # Returns
    /// The revision of the change.
    ///
    /// # Errors
    /// [`CommitError`]. After [`CommitError::Conflict`] wait until the follower has caught up, decide again
    /// and commit again; the number of times is the caller's to bound.
    pub async fn commit(
        &self,
        info: &ChangeInfo,
        entries: Vec<Entry>,
        expected: Revision,
    ) -> Result<Revision, CommitError> {
        let count = entries.len();
        if !(1..=MAX_ENTRIES).contains(&count) {
            return Err(CommitError::Entries { entries: count });
        }
        let bytes = entries.iter().map(|entry| entry.body.len()).sum();
        if bytes > MAX_CHANGE_BYTES {
            return Err(CommitError::TooLarge { bytes });
        }
        let batch = Batch::of(info, entries);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.nats.publish_batch(batch.messages(), expected.0).await {
                Ok(last) => return Ok(Revision(last)),
                Err(PublishError::Conflict { .. }) => return self.settle(info, count, expected).await,
                Err(PublishError::Unavailable { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_PAUSE / 5 + crate::ids::jitter(RETRY_PAUSE)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The log has moved on: by an earlier try of the same change, by someone else, or by a torn change.
    async fn settle(
        &self,
        info: &ChangeInfo,
        count: usize,
        expected: Revision,
    ) -> Result<Revision, CommitError> {
        let last = expected.0 + count as u64;
        let stored = self.nats.message_at(STREAM_POLICY, last).await.map_err(ReadError::from)?;
        if let Some(Read::Entry(entry)) = stored.map(entry::read)
            && entry.change.id == info.id
        {
            return Ok(Revision(last));
        }
        self.repair().await?;
        Err(CommitError::Conflict { expected })
    }

    /// The versions of one object that the log keeps, oldest first, tombstones included; at most
    /// [`MAX_HISTORY`].
    ///
    /// # Errors
    /// [`ReadError`] if the stream does not answer.
    pub async fn history(&self, key: &StoreKey) -> Result<Vec<StoredEntry>, ReadError> {
        let messages = self.nats.direct_get_all(STREAM_POLICY, &key.subject(), MAX_HISTORY).await?;
        let entries: Vec<StoredEntry> =
            messages.into_iter().filter_map(|message| entry::read(message).entry()).collect();
        let torn: BTreeSet<u64> = entries.iter().filter_map(|entry| entry.repairs).collect();
        Ok(entries
            .into_iter()
            .filter(|entry| entry.repairs.is_none() && !torn.contains(&entry.sequence))
            .collect())
    }

    /// The change that wrote an entry at this place of the log, and its revision; `None` if there is none, or it was
    /// superseded more often than versions are kept.
    ///
    /// # Errors
    /// [`ReadError`] if the stream does not answer.
    pub async fn change_at(&self, place: Revision) -> Result<Option<(ChangeInfo, Revision)>, ReadError> {
        if place == Revision(0) {
            return Ok(None);
        }
        let message = self.nats.message_at(STREAM_POLICY, place.0).await?;
        let entry = message.and_then(|message| entry::read(message).entry());
        Ok(entry.map(|entry| (entry.change.clone(), entry.revision())))
    }

    /// Where the log ends now, as the stream's leader has it; a torn change included.
    ///
    /// # Errors
    /// [`ReadError`] if the stream does not answer or does not exist.
    pub async fn end(&self) -> Result<Revision, ReadError> {
        let state = self.nats.stream_state(STREAM_POLICY).await?.ok_or(ReadError::Missing)?;
        Ok(Revision(state.last_sequence))
    }

    /// If the log ends with a torn change, restates what its objects were before.
    async fn repair(&self) -> Result<(), CommitError> {
        let Some(torn) = self.torn_tail().await? else { return Ok(()) };
        tokio::time::sleep(TORN_AFTER).await;
        let Some(still) = self.torn_tail().await?.filter(|still| still.sequence == torn.sequence) else {
            return Ok(());
        };
        let first = still.sequence - u64::from(still.index);
        let mut restated = Vec::new();
        for sequence in first..=still.sequence {
            let message = self.nats.message_at(STREAM_POLICY, sequence).await.map_err(ReadError::from)?;
            let Some(entry) = message.and_then(|message| entry::read(message).entry()) else { continue };
            let before =
                self.history(&entry.key).await?.into_iter().rfind(|version| version.sequence < first);
            let body = before.map_or_else(entry::tombstone, |version| version.body);
            restated.push((Entry { key: entry.key, body }, sequence));
        }
        tracing::warn!(
            objects = restated.len(),
            revision = still.sequence,
            "the log ends with a torn change: undoing it"
        );
        let batch = Batch::repairing(&still, restated, crate::clock::now());
        match self.nats.publish_batch(batch.messages(), still.sequence).await {
            // A conflict: another replica has repaired it.
            Ok(_) | Err(PublishError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The last entry of the log if the rest of its change is missing.
    async fn torn_tail(&self) -> Result<Option<StoredEntry>, ReadError> {
        let end = self.end().await?;
        if end == Revision(0) {
            return Ok(None);
        }
        let last = self.nats.message_at(STREAM_POLICY, end.0).await?;
        let entry = last.and_then(|message| entry::read(message).entry());
        Ok(entry.filter(|entry| !entry.is_last()))
    }
}

/// A followed log. Stops when dropped.
pub struct LogFollow {
    log: Log,
    follow: Follow,
    assembler: Assembler,
    /// What is to be handed on, last first.
    ready: Vec<LogEvent>,
}

impl LogFollow {
    /// What happens next. `None` only when the connection was closed for good. Cancel-safe.
    pub async fn next(&mut self) -> Option<LogEvent> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some(event);
            }
            let followed = if self.assembler.is_open() {
                match tokio::time::timeout(TORN_AFTER, self.follow.next()).await {
                    Ok(followed) => followed?,
                    Err(_) => {
                        self.repair().await;
                        continue;
                    }
                }
            } else {
                self.follow.next().await?
            };
            let mut events = match followed {
                Followed::Message(message) => self.assembler.push(entry::read(message)),
                Followed::CaughtUp => self.assembler.caught_up(),
                Followed::Reset => {
                    self.assembler = Assembler::default();
                    vec![LogEvent::Reset]
                }
                Followed::Missing => vec![LogEvent::Missing],
            };
            events.reverse();
            self.ready = events;
        }
    }

    async fn repair(&self) {
        if let Err(error) = self.log.repair().await {
            tracing::warn!(error = %crate::log::chain(&error), "the end of the log cannot be repaired yet");
        }
    }
}

impl StoredEntry {
    /// The revision of the change that this belongs to.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.sequence - u64::from(self.index) + u64::from(self.count) - 1)
    }

    fn is_last(&self) -> bool {
        self.index + 1 == self.count
    }
}

#[cfg(test)]
mod tests;
