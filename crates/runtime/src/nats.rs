//! NATS and JetStream, with the traps of the client and the server taken care of.
//!
//! [`Nats`] is a connection. Subjects are [`wire::subject::Subject`]s and headers are [`Headers`], so nothing
//! that a caller passes can be malformed. Every request has a timeout and leaves nothing behind when it
//! passes; every retry is bounded.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use tokio::sync::watch;
use wire::subject::Subject;

use crate::tasks::{Attached, attach};

mod api;
mod batch;
mod connect;
mod follow;
mod get;
mod headers;
mod login;
mod publish;
mod request;
mod snapshot;
mod streams;
mod subjects;

pub use api::ApiError;
pub use batch::{BatchMessage, MAX_BATCH_MESSAGES};
pub(crate) use connect::new_enough;
pub use connect::{ConnectError, Connection, Link, OLDEST_SERVER, connect_client, shown, without_login};
pub use follow::{Follow, Followed, From};
pub use get::{GetError, StreamMessage};
pub use headers::{HeaderError, Headers, escape, unescape};
pub use login::Login;
pub use publish::{Expect, PublishError};
pub use request::RequestError;
pub use snapshot::{Packed, SnapshotError};
pub use streams::{AUDIT, CONTENT, DESIRED, EVENTS, IDENTITY, POLICY, StreamError, StreamSpec, StreamState};
pub use subjects::SubjectPage;

/// A message as received.
pub use async_nats::Message;

/// Whether the broker itself sent this, as an answer whose reply subject the requester chose: anyone may have one sent
/// to any subject of its account.
#[must_use]
pub fn is_by_broker(message: &Message) -> bool {
    message.status.is_some()
        || message.headers.as_ref().is_some_and(|headers| headers.get("Nats-Stream").is_some())
}

/// How long [`Nats::close`] waits for what is queued to reach the server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to NATS. Clones share it; it lives until the last one is dropped or [`Nats::close`] is called.
#[derive(Clone)]
pub struct Nats(Arc<Inner>);

struct Inner {
    client: Client,
    router: request::Router,
    link: Arc<watch::Sender<Link>>,
    _lame_ducks: Attached,
}

impl Nats {
    /// Connects, and checks that the server is new enough. Reconnects by itself from then on.
    ///
    /// # Errors
    /// [`ConnectError`] when no server can be reached within the patience of `connection`, or one is too old.
    pub async fn connect(connection: &Connection) -> Result<Self, ConnectError> {
        let (client, link) = connect::connect(connection).await?;
        let router = request::Router::start(client.clone()).await.map_err(ConnectError::Replies)?;
        let leaving = connect::leave_lame_ducks(client.clone(), link.subscribe(), connection.backoff_cap);
        Ok(Self(Arc::new(Inner { client, router, link, _lame_ducks: attach(leaving) })))
    }

    /// Whether there is a connection right now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.client.connection_state() == async_nats::connection::State::Connected
    }

    /// What happened to the connection: for "resync now".
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.0.link.subscribe()
    }

    /// Version of the server.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.0.client.server_info().version
    }

    /// Largest message the server takes, headers included, in bytes.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.0.client.max_payload()
    }

    /// The client below, for what this type does not wrap. Never its `request`: that leaks on timeout.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Sends a request and waits for its first reply, at most `timeout`.
    ///
    /// # Errors
    /// [`RequestError`]; at once when there is no connection.
    pub async fn request(
        &self,
        subject: &Subject,
        headers: Headers,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.0.router.request(subject.as_str(), headers, payload, timeout).await
    }

    /// Publishes without waiting for anyone. It is queued: when the connection is down it is sent after the
    /// reconnect, so check [`Nats::is_connected`] before sending what would be stale by then.
    ///
    /// # Errors
    /// [`RequestError`] if the message is too large or the connection is closed.
    pub async fn publish(
        &self,
        subject: &Subject,
        headers: Headers,
        payload: Bytes,
    ) -> Result<(), RequestError> {
        self.publish_text(subject.as_str(), headers, payload).await
    }

    /// Answers a request. `reply` comes from the requester: the caller checks first that it lies in the
    /// requester's own inboxes ([`wire::subject::is_inbox_of`]).
    ///
    /// # Errors
    /// [`RequestError`] if the reply subject is not one, the message is too large or the connection is closed.
    pub async fn respond(&self, reply: &str, payload: Bytes) -> Result<(), RequestError> {
        self.publish_text(reply, Headers::new(), payload).await
    }

    async fn publish_text(
        &self,
        subject: &str,
        headers: Headers,
        payload: Bytes,
    ) -> Result<(), RequestError> {
        let target = request::publishable(subject)?;
        let client = &self.0.client;
        let sent = if headers.is_empty() {
            client.publish(target, payload).await
        } else {
            client.publish_with_headers(target, headers.into_inner(), payload).await
        };
        sent.map_err(|error| request::publish_error(client, subject.to_owned(), &error))
    }

    /// Subscribes to a pattern of [`wire::subject::pattern`] or to a subject's text. The subscription is made
    /// again after a reconnect; what was published in between is lost.
    ///
    /// # Errors
    /// The client's, if the pattern is malformed or the connection is closed.
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscriber, async_nats::SubscribeError> {
        self.0.client.subscribe(pattern.to_owned()).await
    }

    /// As [`Nats::subscribe`], sharing the messages with all subscribers of the same `queue` group.
    ///
    /// # Errors
    /// The client's, if the pattern is malformed or the connection is closed.
    pub async fn queue_subscribe(
        &self,
        pattern: &str,
        queue: &'static str,
    ) -> Result<Subscriber, async_nats::SubscribeError> {
        self.0.client.queue_subscribe(pattern.to_owned(), queue.to_owned()).await
    }

    /// Waits until the server has handled all that this connection subscribed to and published so far, at most
    /// `timeout`. (The client's own `flush` only waits for the socket.) Takes the permission to publish to the
    /// own inbox, which services have.
    ///
    /// # Errors
    /// [`RequestError`]; at once when there is no connection.
    pub async fn flush(&self, timeout: Duration) -> Result<(), RequestError> {
        self.0.router.echo(timeout).await
    }

    /// Writes out what is queued, within bounds, and closes the connection for all clones. The last thing a
    /// process does.
    pub async fn close(&self) {
        let flushed = tokio::time::timeout(CLOSE_TIMEOUT, self.0.client.flush()).await;
        if self.is_connected() && !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("closing the connection to NATS with messages unsent");
        }
        if tokio::time::timeout(CLOSE_TIMEOUT, self.0.client.drain()).await.is_err() {
            tracing::debug!("the connection to NATS did not drain in time");
        }
    }
}

#[cfg(test)]
mod tests;
