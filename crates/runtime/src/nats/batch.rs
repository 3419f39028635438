//! Atomic batches: several messages stored together or not at all.
//!
//! The client library offers no such call. The protocol: each message carries the batch's id and its number
//! in it, and its condition; the last asks for the commit and gets the acknowledgement.

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;
use wire::subject::Subject;

use super::Nats;
use super::api::{API_TIMEOUT, ApiError, RETRY_PAUSE, parse};
use super::headers::Headers;
use super::publish::{Expect, PATIENCE, PublishError, is_conflict, measured, publish_failure};
use crate::telemetry::metrics;

/// Most messages of one batch: the server takes no more.
pub const MAX_BATCH_MESSAGES: usize = 1000;

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// One message of a batch.
#[derive(Debug, Clone)]
pub struct BatchMessage {
    /// Where it goes. All subjects of a batch belong to one stream.
    pub subject: Subject,
    /// Its headers.
    pub headers: Headers,
    /// Its payload.
    pub payload: Bytes,
}

#[derive(Deserialize)]
struct BatchAck {
    seq: u64,
    #[serde(default)]
    batch: String,
    #[serde(default)]
    count: usize,
}

impl Nats {
    /// Stores all messages, in this order and with nothing between them, if the stream's last sequence is
    /// `expected_last`; otherwise none. Tries once: after [`PublishError::Unavailable`] the caller looks what
    /// stands behind `expected_last`. A batch of one is an ordinary publish.
    ///
    /// # Returns
    /// The sequence of the last message: `expected_last` plus the number of messages.
    ///
    /// # Errors
    /// [`PublishError`], about the first message's subject.
    ///
    /// # Panics
    /// If there are no messages or more than 1,000: callers check their own, lower limits.
    pub async fn publish_batch(
        &self,
        mut messages: Vec<BatchMessage>,
        expected_last: u64,
    ) -> Result<u64, PublishError> {
        let expect = Expect::Last(expected_last);
        if let Some(first) = messages.first_mut() {
            first.headers = std::mem::take(&mut first.headers).expecting(expect);
        }
        self.store_batch(&messages, expect).await
    }

    /// Stores all messages, in this order and with nothing between them, if the condition of each holds;
    /// otherwise none. Where every write is synced to disk, a batch costs one sync: hundreds of messages are
    /// stored in the time of a few. Tries again for 10 s while JetStream has no leader. If a try got no answer
    /// but was stored, the next one is a conflict.
    ///
    /// # Returns
    /// The sequence of the last message; the others stand before it.
    ///
    /// # Errors
    /// [`PublishError`], about the first message's subject: the server does not say whose condition failed.
    ///
    /// # Panics
    /// If there are no messages or more than 1,000: callers check their own, lower limits.
    pub async fn publish_batch_each(
        &self,
        messages: Vec<(BatchMessage, Expect)>,
    ) -> Result<u64, PublishError> {
        let expected = messages.first().map_or(Expect::Any, |(_, expect)| *expect);
        let with_conditions = messages.into_iter().map(|(mut message, expect)| {
            message.headers = message.headers.expecting(expect);
            message
        });
        let messages: Vec<_> = with_conditions.collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.store_batch(&messages, expected).await {
                Err(PublishError::Unavailable { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_PAUSE / 5 + crate::ids::jitter(RETRY_PAUSE)).await;
                }
                settled => return settled,
            }
        }
    }

    async fn store_batch(&self, messages: &[BatchMessage], expected: Expect) -> Result<u64, PublishError> {
        let count = messages.len();
        assert!((1..=MAX_BATCH_MESSAGES).contains(&count), "a batch has 1 to 1,000 messages, not {count}");
        let subject = messages[0].subject.to_string();
        let clock = metrics::clock();
        let stored = match self.send_batch(messages).await {
            Ok(sequence) => Ok(sequence),
            Err(error) if is_conflict(&error) => {
                Err(PublishError::Conflict { subject, expected, found: error.to_string() })
            }
            Err(error) => Err(publish_failure(subject, error)),
        };
        measured(clock, "publish_batch", &stored);
        stored
    }

    async fn send_batch(&self, messages: &[BatchMessage]) -> Result<u64, ApiError> {
        let count = messages.len();
        let id = crate::ids::random_id();
        let mut number = 0;
        for BatchMessage { subject, headers, payload } in messages {
            let (headers, payload) = (headers.clone(), payload.clone());
            number += 1;
            if count == 1 {
                return self.publish_once(subject, headers, payload).await;
            }
            let marked = headers.text(BATCH_ID, &id).expect("invariant: a random id has no line break");
            let headers = marked.number(BATCH_SEQUENCE, number as u64);
            if number == 1 {
                // An empty reply: the batch is open. A refusal here says more than the commit's would.
                let opened = self.request(subject, headers, payload, API_TIMEOUT).await?;
                if !opened.payload.is_empty() {
                    parse::<serde::de::IgnoredAny>(subject.as_str(), &opened)?;
                }
            } else if number < count {
                self.publish(subject, headers, payload).await?;
            } else {
                let commit =
                    self.request(subject, headers.number(BATCH_COMMIT, 1), payload, API_TIMEOUT).await?;
                let ack = parse::<BatchAck>(subject.as_str(), &commit)?;
                if ack.batch == id && ack.count == count {
                    return Ok(ack.seq);
                }
                let description =
                    format!("acknowledged batch {:?} of {} messages, not ours", ack.batch, ack.count);
                return Err(ApiError::Refused { code: 0, description });
            }
        }
        unreachable!("invariant: the last message returns")
    }
}
