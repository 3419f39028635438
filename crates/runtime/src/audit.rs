//! Entries of the audit, written one after the other into the stream AUDIT by all replicas of all services: each
//! under the condition that the last one is the one it was made after.

use std::sync::Arc;

use domain::audit::{Asker, Entry, Head, What};
use domain::{Digest, Timestamp};
use tokio::sync::Mutex;
use wire::DecodeError;
use wire::subject::{STREAM_AUDIT, audit_entry};

use crate::clock;
use crate::nats::{Expect, GetError, Headers, Nats, PublishError};

/// Tries to write an entry while other replicas write theirs. Of two that write without a pause each is first half
/// of the time.
const MAX_TRIES: u32 = 32;

/// Refusals that are entered in a burst, and then in a second: who tries doors is told of, and cannot fill the audit.
const REFUSALS: (u32, u32) = (64, 2);

/// Why an entry was not written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The end of the audit cannot be read.
    #[error("the end of the audit cannot be read")]
    Read(#[from] GetError),
    /// The last entry is none.
    #[error("the last entry of the audit cannot be read: {STREAM_AUDIT} holds something else")]
    Broken(#[from] DecodeError),
    /// The stream did not take it.
    #[error("the entry cannot be written")]
    Write(#[source] PublishError),
    /// Others were first every time.
    #[error("others wrote to the audit {MAX_TRIES} times while this entry was tried")]
    Contended,
}

/// The end of the audit, as this replica knows it.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    sequence: u64,
    head: Option<Head>,
}

/// How many refusals may still be entered.
#[derive(Debug)]
struct Refusals {
    left: u32,
    since: Timestamp,
    left_out: u64,
}

/// Writes entries. Clones share what they know.
#[derive(Clone)]
pub struct Audit {
    nats: Nats,
    /// `None` until it was read, and after another replica wrote.
    end: Arc<Mutex<Option<End>>>,
    refusals: Arc<std::sync::Mutex<Refusals>>,
}

impl Audit {
    /// The audit behind this connection.
    #[must_use]
    pub fn new(nats: Nats) -> Self {
        let refusals = Refusals { left: REFUSALS.0, since: clock::now(), left_out: 0 };
        Self { nats, end: Arc::default(), refusals: Arc::new(std::sync::Mutex::new(refusals)) }
    }

    /// Enters something.
    ///
    /// # Returns
    /// The number of the entry.
    ///
    /// # Errors
    /// [`AuditError`]. Nothing was entered, unless its source says "unavailable": then it may have been.
    pub async fn enter(&self, asker: Asker, method: &str, what: What) -> Result<u64, AuditError> {
        let mut known = self.end.lock().await;
        for _ in 0..MAX_TRIES {
            let end = match *known {
                Some(end) => end,
                None => self.read().await?,
            };
            let (number, previous) = Head::next(end.head);
            let (asker, method, what) = (asker.clone(), method.to_owned(), what.clone());
            let bytes =
                wire::audit::encode(&Entry { number, previous, at: clock::now(), asker, method, what });
            let digest = Digest::of(&bytes);
            *known = None;
            let message = (Headers::new(), bytes.into());
            let expect = Expect::LastSubject(end.sequence);
            match self.nats.publish_cas(STREAM_AUDIT, &audit_entry(), message, expect).await {
                Ok(sequence) => {
                    *known = Some(End { sequence, head: Some(Head { number, digest }) });
                    return Ok(number);
                }
                Err(PublishError::Conflict { .. }) => {}
                Err(error) => return Err(AuditError::Write(error)),
            }
        }
        Err(AuditError::Contended)
    }

    async fn read(&self) -> Result<End, AuditError> {
        let last = self.nats.leader_get_last(STREAM_AUDIT, &audit_entry()).await?;
        let Some(last) = last else { return Ok(End::default()) };
        let entry = wire::audit::read(&last.payload)?;
        let head = Head { number: entry.number, digest: Digest::of(&last.payload) };
        Ok(End { sequence: last.sequence, head: Some(head) })
    }

    /// Enters a refusal, unless too many came. The next one that is entered says how many were left out.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn refused(
        &self,
        asker: Asker,
        method: &str,
        code: u32,
        message: String,
    ) -> Result<(), AuditError> {
        let left_out = {
            let mut refusals = self.refusals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match refusals.take(clock::now()) {
                Some(left_out) => left_out,
                None => return Ok(()),
            }
        };
        self.enter(asker, method, What::Refused { code, message, left_out }).await.map(drop)
    }
}

impl Refusals {
    /// Whether one more is entered; then, how many were left out before it.
    fn take(&mut self, now: Timestamp) -> Option<u64> {
        let seconds = u32::try_from(now.since(self.since).0 / 1_000).unwrap_or(u32::MAX);
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds.saturating_mul(REFUSALS.1)).min(REFUSALS.0);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out = self.left_out.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::audit::Chain;

    use super::*;
    use crate::live::Live;
    use crate::nats::{AUDIT, From};

    fn asker() -> Asker {
        Asker { name: "token:ci".into(), role: None, address: "127.0.0.1".into() }
    }

    #[tokio::test]
    async fn replicas_write_one_chain() {
        let live = Live::start().await;
        live.nats.ensure_stream(&AUDIT, 1).await.unwrap();
        let replicas = [0; 3].map(|_| Audit::new(live.nats.clone()));
        let write = |audit: Audit| async move {
            for _ in 0..10 {
                let what = What::Asked { request: Digest::of(b"x"), targets: Vec::new() };
                audit.enter(asker(), "m", what).await.unwrap();
            }
        };
        futures::future::join_all(replicas.map(write)).await;
        let mut follow =
            live.nats.follow(STREAM_AUDIT, wire::subject::pattern::AUDIT, From::Sequence(1), false);
        let mut chain = Chain::default();
        while let Some(crate::nats::Followed::Message(message)) = follow.next().await {
            let entry = wire::audit::read(&message.payload).unwrap();
            chain.take(entry.number, entry.previous, Digest::of(&message.payload)).unwrap();
        }
        assert_eq!(chain.end().unwrap().unwrap().number, 30);
    }

    #[test]
    fn refusals_are_bounded_and_counted() {
        let mut refusals = Refusals { left: REFUSALS.0, since: Timestamp(0), left_out: 0 };
        let taken = (0..100).filter(|_| refusals.take(Timestamp(500)).is_some()).count();
        assert_eq!(taken, 64);
        assert_eq!(refusals.take(Timestamp(1_000)), Some(36));
        assert_eq!(refusals.take(Timestamp(1_000)), Some(0));
        assert_eq!(refusals.take(Timestamp(1_999)), None);
        assert_eq!(refusals.take(Timestamp(u64::MAX)), Some(1));
        assert_eq!(refusals.left, REFUSALS.0 - 1, "a long silence gives no more than a burst");
    }
}
