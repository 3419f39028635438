//! Publishing into a stream, with compare-and-set and an acknowledgement.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;
use wire::subject::Subject;

use super::Nats;
use super::api::{API_TIMEOUT, ApiError, RETRY_PAUSE, parse};
use super::headers::Headers;
use super::request::RequestError;
use crate::telemetry::{Name, metrics};

/// How long a publish goes on while JetStream has no leader or the connection is down: longer than an
/// election, shorter than a caller waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

const EXPECTED_LAST_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_LAST: &str = "Nats-Expected-Last-Sequence";

/// The condition under which a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// None.
    Any,
    /// The last message of this subject has this sequence; 0: the subject has none.
    LastSubject(u64),
    /// The last message of the stream has this sequence.
    Last(u64),
}

impl Headers {
    /// With a condition.
    pub(crate) fn expecting(self, expect: Expect) -> Self {
        match expect {
            Expect::Any => self,
            Expect::LastSubject(sequence) => self.number(EXPECTED_LAST_SUBJECT, sequence),
            Expect::Last(sequence) => self.number(EXPECTED_LAST, sequence),
        }
    }
}

/// Why a message was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The condition does not hold: someone else wrote. Nothing was stored.
    #[error("{subject} was changed by someone else: expected {expected:?}, but the server says: {found}")]
    Conflict {
        /// The subject.
        subject: String,
        /// The condition.
        expected: Expect,
        /// The server's words.
        found: String,
    },
    /// Larger than the server or the stream takes. Nothing was stored.
    #[error("the message for {subject} is too large")]
    TooLarge {
        /// The subject.
        subject: String,
        /// What the server or client said.
        source: Box<ApiError>,
    },
    /// The stream is full or the disk is. Nothing was stored.
    #[error("the store is full: {subject} was not stored; free disk space or raise the stream's limits")]
    Full {
        /// The subject.
        subject: String,
        /// What the server said.
        source: Box<ApiError>,
    },
    /// No acknowledgement in time. The message may have been stored.
    #[error("no acknowledgement for {subject} within {} s; it may have been stored", PATIENCE.as_secs())]
    Unavailable {
        /// The subject.
        subject: String,
        /// The last try's failure.
        source: Box<ApiError>,
    },
    /// The server refused for another reason. Nothing was stored.
    #[error("{subject} was not stored")]
    Refused {
        /// The subject.
        subject: String,
        /// What the server said.
        source: Box<ApiError>,
    },
}

/// JetStream's code for a batch that it gave up: a message was lost on its way, or its disk did not take one. It does
/// not say which.
const BATCH_INCOMPLETE: u64 = 10_176;

impl PublishError {
    /// Whether the server gave a batch up and did not say why. A message by itself would be told.
    #[must_use]
    pub fn is_batch_given_up(&self) -> bool {
        match self {
            Self::Refused { source, .. } => {
                matches!(**source, ApiError::Refused { code: BATCH_INCOMPLETE, .. })
            }
            Self::Conflict { .. } | Self::TooLarge { .. } | Self::Full { .. } | Self::Unavailable { .. } => {
                false
            }
        }
    }
}

#[derive(Deserialize)]
struct Ack {
    seq: u64,
}

impl Nats {
    /// Publishes into whatever stream keeps `subject`, under a condition, and waits for the acknowledgement.
    /// Tries again for 10 s while JetStream has no leader. If a try got no answer but its message was stored,
    /// the next try finds its own bytes there and takes that for its success.
    ///
    /// # Returns
    /// The sequence of the stored message.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish_cas(
        &self,
        stream: &'static str,
        subject: &Subject,
        message: (Headers, Bytes),
        expect: Expect,
    ) -> Result<u64, PublishError> {
        let clock = metrics::clock();
        let published = self.publish_until(stream, subject, message, expect).await;
        measured(clock, "publish", &published);
        published
    }

    async fn publish_until(
        &self,
        stream: &'static str,
        subject: &Subject,
        (headers, payload): (Headers, Bytes),
        expect: Expect,
    ) -> Result<u64, PublishError> {
        let headers = headers.expecting(expect);
        let deadline = Instant::now() + PATIENCE;
        let mut in_doubt = false;
        loop {
            let error = match self.publish_once(subject, headers.clone(), payload.clone()).await {
                Ok(sequence) => return Ok(sequence),
                Err(error) => error,
            };
            if is_conflict(&error) {
                if in_doubt
                    && let Some(sequence) = self.stored_already(stream, subject, &payload, expect).await
                {
                    return Ok(sequence);
                }
                let found = error.to_string();
                return Err(PublishError::Conflict { subject: subject.to_string(), expected: expect, found });
            }
            if !error.is_temporary() || Instant::now() >= deadline {
                return Err(publish_failure(subject.to_string(), error));
            }
            in_doubt |= matches!(error, ApiError::Request(RequestError::TimedOut { .. }));
            tokio::time::sleep(RETRY_PAUSE / 5 + crate::ids::jitter(RETRY_PAUSE)).await;
        }
    }

    /// Deletes all messages of `subject` but the last: for what is written over and over in a stream that keeps
    /// a history of other subjects.
    ///
    /// # Errors
    /// [`ApiError`] if JetStream does not answer or refuses.
    pub async fn keep_last(&self, stream: &'static str, subject: &Subject) -> Result<(), ApiError> {
        let body = serde_json::json!({"filter": subject.as_str(), "keep": 1});
        let _: serde_json::Value = self.api(&format!("STREAM.PURGE.{stream}"), &body).await?;
        Ok(())
    }

    /// Publishes once, without a second try.
    pub(crate) async fn publish_once(
        &self,
        subject: &Subject,
        headers: Headers,
        payload: Bytes,
    ) -> Result<u64, ApiError> {
        let reply = self.request(subject, headers, payload, API_TIMEOUT).await?;
        parse::<Ack>(subject.as_str(), &reply).map(|ack| ack.seq)
    }

    async fn stored_already(
        &self,
        stream: &'static str,
        subject: &Subject,
        payload: &Bytes,
        expect: Expect,
    ) -> Option<u64> {
        let last = self.leader_get_last(stream, subject).await.ok()??;
        let after = match expect {
            Expect::Any => 0,
            Expect::LastSubject(sequence) | Expect::Last(sequence) => sequence,
        };
        (last.payload == *payload && last.sequence > after).then_some(last.sequence)
    }
}

/// Enters how long a publish took.
pub(super) fn measured(
    clock: Option<std::time::Instant>,
    operation: &'static str,
    published: &Result<u64, PublishError>,
) {
    let outcome = match published {
        Ok(_) => "ok",
        Err(PublishError::Conflict { .. }) => "conflict",
        Err(
            PublishError::TooLarge { .. }
            | PublishError::Full { .. }
            | PublishError::Unavailable { .. }
            | PublishError::Refused { .. },
        ) => "failed",
    };
    metrics::since(Name::ClientOperation, clock, &["nats", operation, outcome]);
}

pub(crate) fn is_conflict(error: &ApiError) -> bool {
    error.is(ErrorCode::STREAM_WRONG_LAST_SEQUENCE)
        || error.is(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

/// JetStream's codes for a full disk or account (10047, 10002) and for a store that failed to write (10077).
const FULL: [u64; 3] = [10_047, 10_002, 10_077];

pub(crate) fn publish_failure(subject: String, error: ApiError) -> PublishError {
    let too_large = error.is(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
        || matches!(error, ApiError::Request(RequestError::TooLarge { .. }));
    let full = matches!(&error, ApiError::Refused { code, .. } if FULL.contains(code));
    let temporary = error.is_temporary();
    let source = Box::new(error);
    match (too_large, full, temporary) {
        (true, _, _) => PublishError::TooLarge { subject, source },
        (_, true, _) => PublishError::Full { subject, source },
        (_, _, true) => PublishError::Unavailable { subject, source },
        (false, false, false) => PublishError::Refused { subject, source },
    }
}
