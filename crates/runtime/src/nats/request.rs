//! Requests over one reply subscription. A reply that never comes leaves nothing behind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, Message, StatusCode, Subject};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Semaphore, oneshot};

use super::headers::Headers;
use crate::tasks::{Attached, attach};

/// Requests that may wait for their replies at once on a connection. Keeps the reply subscription far from
/// the 65,536 messages at which the client would drop some.
const MAX_WAITING: usize = 4096;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody listens on the subject, or JetStream has no leader for the moment.
    #[error("nobody answers on {subject}")]
    NoResponders {
        /// The subject.
        subject: String,
    },
    /// No reply in time. The request may have been served.
    #[error("no reply on {subject} within {} ms", timeout.as_millis())]
    TimedOut {
        /// The subject.
        subject: String,
        /// The time allowed.
        timeout: Duration,
    },
    /// There is no connection for the moment. The request was not sent.
    #[error("not connected to NATS")]
    Disconnected,
    /// The message is larger than the server accepts.
    #[error("the message for {subject} is larger than the server's limit of {limit} bytes")]
    TooLarge {
        /// The subject.
        subject: String,
        /// The server's limit, headers included.
        limit: usize,
    },
    /// The subject is not one that can be published to.
    #[error("{subject:?} is not a subject to publish to")]
    Subject {
        /// The text.
        subject: String,
    },
    /// The connection was closed for good.
    #[error("the connection to NATS is closed")]
    Closed,
}

/// Checks a subject to publish to: tokens of visible ASCII without wildcards, none of them empty. What comes
/// from `wire` always passes; JetStream API subjects are built here from names of streams and consumers.
pub(crate) fn publishable(subject: &str) -> Result<Subject, RequestError> {
    let fits = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>')
    };
    if subject.split('.').all(fits) {
        Ok(Subject::from(subject))
    } else {
        Err(RequestError::Subject { subject: subject.to_owned() })
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Message>>>>;

/// Matches replies to requests on one connection.
pub(crate) struct Router {
    client: Client,
    prefix: String,
    waiting: Waiting,
    permits: Semaphore,
    next: AtomicU64,
    _replies: Attached,
}

/// Forgets the request when it was answered, timed out or given up.
struct Place<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Router {
    pub(crate) async fn start(client: Client) -> Result<Self, async_nats::SubscribeError> {
        // The client's inbox is "<prefix>.<unique>": below it lie the replies of this connection only.
        let prefix = client.new_inbox();
        let mut replies = client.subscribe(format!("{prefix}.*")).await?;
        let waiting = Waiting::default();
        let routed = Arc::clone(&waiting);
        let task = attach(async move {
            while let Some(message) = replies.next().await {
                let id = message.subject.rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
                let mut waiting = routed.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(sender) = id.and_then(|id| waiting.remove(&id)) {
                    // The requester may have given up meanwhile; then nobody wants the reply.
                    drop(sender.send(message));
                }
            }
            routed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        let permits = Semaphore::new(MAX_WAITING);
        Ok(Self { client, prefix, waiting, permits, next: AtomicU64::new(1), _replies: task })
    }

    /// How many requests wait for replies.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    pub(crate) async fn request(
        &self,
        subject: &str,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let target = publishable(subject)?;
        let send = async |reply_to| self.publish(target, reply_to, headers, payload).await;
        let reply = self.exchange(subject, timeout, send).await?;
        if reply.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(RequestError::NoResponders { subject: subject.to_owned() });
        }
        Ok(reply)
    }

    /// Sends a message to ourselves and waits until it comes back. The server handles what a connection sends in
    /// its order, so it has handled all that was sent before.
    pub(crate) async fn echo(&self, timeout: Duration) -> Result<(), RequestError> {
        let send = async |inbox: Subject| {
            let shown = inbox.to_string();
            let sent = self.client.publish(inbox, Bytes::new()).await;
            sent.map_err(|error| publish_error(&self.client, shown, &error))
        };
        self.exchange(&self.prefix, timeout, send).await.map(drop)
    }

    async fn exchange(
        &self,
        subject: &str,
        timeout: Duration,
        send: impl AsyncFnOnce(Subject) -> Result<(), RequestError>,
    ) -> Result<Message, RequestError> {
        if self.client.connection_state() != async_nats::connection::State::Connected {
            // Queued requests would be sent after a reconnect, when nobody waits for them any more.
            return Err(RequestError::Disconnected);
        }
        let exchange = async {
            let _permit = self.permits.acquire().await.expect("invariant: the semaphore is never closed");
            let (sender, receiver) = oneshot::channel();
            let place = Place { waiting: &self.waiting, id: self.next.fetch_add(1, Ordering::Relaxed) };
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(place.id, sender);
            send(Subject::from(format!("{}.{}", self.prefix, place.id))).await?;
            receiver.await.map_err(|_| RequestError::Closed)
        };
        let late = |_| RequestError::TimedOut { subject: subject.to_owned(), timeout };
        tokio::time::timeout(timeout, exchange).await.map_err(late)?
    }

    async fn publish(
        &self,
        subject: Subject,
        reply_to: Subject,
        headers: Headers,
        payload: Bytes,
    ) -> Result<(), RequestError> {
        let shown = subject.to_string();
        let sent = if headers.is_empty() {
            self.client.publish_with_reply(subject, reply_to, payload).await
        } else {
            self.client.publish_with_reply_and_headers(subject, reply_to, headers.into_inner(), payload).await
        };
        sent.map_err(|error| publish_error(&self.client, shown, &error))
    }
}

pub(crate) fn publish_error(
    client: &Client,
    subject: String,
    error: &async_nats::PublishError,
) -> RequestError {
    use async_nats::client::PublishErrorKind as Kind;
    match error.kind() {
        Kind::MaxPayloadExceeded => RequestError::TooLarge { subject, limit: client.max_payload() },
        Kind::InvalidSubject => RequestError::Subject { subject },
        Kind::Send => RequestError::Closed,
    }
}
