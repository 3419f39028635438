//! Following a stream: its messages in order, each once, through reconnects and restarts of the server.
//!
//! Behind it is an ephemeral push consumer that is made again whenever a gap, a silence or a reconnect gives
//! reason to. Services only: every consumer costs the cluster's meta leader an operation.

use std::time::Duration;

use async_nats::Subscriber;
use async_nats::jetstream::ErrorCode;
use bytes::Bytes;
use domain::Timestamp;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::api::ApiError;
use super::connect::Link;
use super::get::{GetError, StreamMessage};
use super::headers::Headers;
use super::{Message, Nats};
use crate::tasks::{Attached, attach};

/// Messages that wait for a slow follower. Behind them the server's flow control stops the flow.
const BUFFER: usize = 1024;

/// The server speaks at least this often.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(5);

/// Silence after which the consumer is taken for lost: two missed heartbeats and some delay.
const SILENCE: Duration = Duration::from_secs(12);

/// The server forgets a consumer that nobody listens to after this.
const INACTIVE: Duration = Duration::from_secs(30);

/// Pauses between tries to make the consumer: full jitter, doubling up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the last message of each subject, in the order they were stored, then all that is new.
    LastPerSubject,
    /// With this sequence.
    Sequence(u64),
}

/// What happens while following.
#[derive(Debug)]
pub enum Followed {
    /// The next message.
    Message(StreamMessage),
    /// All that was there at the start has been delivered. Once after the start and after each
    /// [`Followed::Reset`].
    CaughtUp,
    /// The stream was made again or went back to an older state: forget everything and fold again. The
    /// messages from the start follow.
    Reset,
    /// The stream does not exist. Said once until it is there again; then comes a [`Followed::Reset`].
    Missing,
}

/// A followed stream. Stops when dropped.
pub struct Follow {
    receiver: mpsc::Receiver<Followed>,
    _feeder: Attached,
}

impl Follow {
    /// What happens next. `None` only when the connection was closed for good.
    pub async fn next(&mut self) -> Option<Followed> {
        self.receiver.recv().await
    }
}

impl Nats {
    /// Follows the messages of `stream` whose subjects match `filter`. With `headers_only`, payloads are
    /// left out.
    #[must_use]
    pub fn follow(&self, stream: &'static str, filter: &str, from: From, headers_only: bool) -> Follow {
        self.follow_any(stream, &[filter], from, headers_only)
    }

    /// As [`Nats::follow`], for messages whose subjects match any of `filters`: at least one, none of which
    /// overlaps another. They come in the order of the stream.
    #[must_use]
    pub fn follow_any(
        &self,
        stream: &'static str,
        filters: &[&str],
        from: From,
        headers_only: bool,
    ) -> Follow {
        let (sender, receiver) = mpsc::channel(BUFFER);
        let mut feeder = Feeder {
            nats: self.clone(),
            link: self.link(),
            stream,
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
            from,
            headers_only,
            sender,
            created: None,
            position: 0,
            position_time: Timestamp(0),
            caught_up: false,
            missing: false,
        };
        Follow { receiver, _feeder: attach(async move { feeder.run().await }) }
    }
}

struct Feeder {
    nats: Nats,
    link: watch::Receiver<Link>,
    stream: &'static str,
    filters: Vec<String>,
    from: From,
    headers_only: bool,
    sender: mpsc::Sender<Followed>,
    /// When the followed stream was made.
    created: Option<String>,
    /// Sequence of the last message handed on.
    position: u64,
    /// When the server stored that message.
    position_time: Timestamp,
    caught_up: bool,
    missing: bool,
}

/// The follower is gone, or the connection closed for good.
struct Gone;

/// Why there is no consumer.
enum Obstacle {
    Gone,
    Api(ApiError),
}

impl std::convert::From<Gone> for Obstacle {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl std::convert::From<ApiError> for Obstacle {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// A consumer as made.
struct Consumer {
    name: String,
    messages: Subscriber,
    /// The stream's last sequence when it was made.
    target: u64,
    /// Number of the last message it delivered.
    delivered: u64,
}

#[derive(Deserialize)]
struct Created {
    num_pending: u64,
}

impl Feeder {
    async fn run(&mut self) {
        let mut pause = RETRY.0;
        loop {
            self.link.mark_unchanged();
            let connections = self.link.borrow().connections;
            match self.make_consumer().await {
                Ok(mut consumer) => {
                    pause = RETRY.0;
                    if self.feed(&mut consumer, connections).await.is_err() {
                        return;
                    }
                    self.forget(consumer).await;
                }
                Err(Obstacle::Gone) => return,
                Err(Obstacle::Api(error)) => {
                    let text = crate::log::chain(&error);
                    if error.is_temporary() || self.missing {
                        tracing::debug!(stream = self.stream, error = text, "cannot follow the stream yet");
                    } else {
                        tracing::warn!(stream = self.stream, error = text, "cannot follow the stream");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(RETRY.0 / 2 + crate::ids::jitter(pause)) => {}
                        () = self.sender.closed() => return,
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    async fn say(&self, event: Followed) -> Result<(), Gone> {
        self.sender.send(event).await.map_err(|_| Gone)
    }

    async fn make_consumer(&mut self) -> Result<Consumer, Obstacle> {
        let Some(state) = self.nats.stream_state(self.stream).await? else {
            if !self.missing {
                self.missing = true;
                tracing::warn!(stream = self.stream, "the stream does not exist");
                self.say(Followed::Missing).await?;
            }
            let description = "the stream does not exist".to_owned();
            return Err(ApiError::Refused { code: ErrorCode::STREAM_NOT_FOUND.0, description }.into());
        };
        let other = self.created.as_ref().is_some_and(|created| *created != state.created);
        let back = state.last_sequence < self.position || self.rewritten().await?;
        if other || self.missing || back {
            tracing::warn!(stream = self.stream, "the stream was made again or went back: starting over");
            (self.position, self.caught_up, self.missing) = (0, false, false);
            self.say(Followed::Reset).await?;
        }
        self.created = Some(state.created);
        let inbox = self.nats.client().new_inbox();
        let messages = self.nats.subscribe(&inbox).await.map_err(|_| Gone)?;
        let name = crate::ids::random_id();
        let call = format!("CONSUMER.CREATE.{}.{name}", self.stream);
        let created: Created = self.nats.api(&call, &self.config(&name, &inbox)).await?;
        if created.num_pending == 0 {
            self.note_caught_up().await?;
        }
        Ok(Consumer { name, messages, target: state.last_sequence, delivered: 0 })
    }

    /// Whether another message stands where the last one stood that was handed on: an older store was restored,
    /// or lost its end, and has grown again. If nothing stands there any more, there is no telling.
    async fn rewritten(&self) -> Result<bool, ApiError> {
        if self.position == 0 {
            return Ok(false);
        }
        match self.nats.message_at(self.stream, self.position).await {
            Ok(message) => Ok(message.is_some_and(|message| message.time != self.position_time)),
            Err(GetError::Api { source, .. }) => Err(source),
            Err(_) => Ok(true),
        }
    }

    fn config(&self, name: &str, inbox: &str) -> serde_json::Value {
        let start = match (self.position, self.from) {
            (0, From::LastPerSubject) => None,
            (0, From::Sequence(sequence)) => Some(sequence.max(1)),
            (position, _) => Some(position + 1),
        };
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut config = json!({
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": if start.is_some() { "by_start_sequence" } else { "last_per_subject" },
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "headers_only": self.headers_only,
            "flow_control": true,
            "idle_heartbeat": nanos(IDLE_HEARTBEAT),
            "inactive_threshold": nanos(INACTIVE),
            "mem_storage": true,
            "num_replicas": 1,
        });
        match &self.filters[..] {
            [filter] => config["filter_subject"] = filter.as_str().into(),
            filters => config["filter_subjects"] = filters.into(),
        }
        if let Some(sequence) = start {
            config["opt_start_seq"] = sequence.into();
        }
        json!({"stream_name": self.stream, "config": config})
    }

    /// Hands messages on until the consumer has to be made again.
    async fn feed(&mut self, consumer: &mut Consumer, connections: u64) -> Result<(), Gone> {
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout(SILENCE, consumer.messages.next()) => message,
                changed = self.link.changed() => {
                    changed.map_err(|_| Gone)?;
                    if self.link.borrow().connections == connections {
                        continue;
                    }
                    tracing::debug!(stream = self.stream, "reconnected: following again");
                    return Ok(());
                }
                () = self.sender.closed() => return Err(Gone),
            };
            let Ok(message) = message else {
                tracing::debug!(stream = self.stream, "the consumer went silent: following again");
                return Ok(());
            };
            let message = message.ok_or(Gone)?;
            let in_order = match message.status {
                Some(_) => self.control(consumer, &message).await?,
                None => self.deliver(consumer, message).await?,
            };
            if !in_order {
                tracing::debug!(stream = self.stream, position = self.position, "gap: following again");
                return Ok(());
            }
        }
    }

    /// Idle heartbeats and flow control. False if a message is missing.
    async fn control(&mut self, consumer: &Consumer, message: &Message) -> Result<bool, Gone> {
        let headers = message.headers.clone().map(Headers::from).unwrap_or_default();
        if message.status != Some(async_nats::StatusCode::IDLE_HEARTBEAT) {
            // The consumer was deleted, its stream too, or something else that a new one will find out.
            return Ok(false);
        }
        let stalled = headers.get("Nats-Consumer-Stalled");
        let answer_to = message.reply.as_ref().map(|reply| reply.as_str()).or(stalled);
        if let Some(answer_to) = answer_to {
            // If this cannot be sent, the silence that follows makes a new consumer.
            drop(self.nats.respond(answer_to, Bytes::new()).await);
        }
        let sent = headers.get_number("Nats-Last-Consumer").unwrap_or(consumer.delivered);
        if sent == consumer.delivered && headers.get("Nats-Last-Stream").is_some() {
            self.note_caught_up().await?;
        }
        Ok(sent <= consumer.delivered)
    }

    /// An ordinary message. False if one before it is missing.
    async fn deliver(&mut self, consumer: &mut Consumer, message: Message) -> Result<bool, Gone> {
        let Some(place) = message.reply.as_ref().and_then(|reply| Place::parse(reply)) else {
            tracing::warn!(stream = self.stream, subject = %message.subject, "a message without its place: ignored");
            return Ok(true);
        };
        if place.delivered != consumer.delivered + 1 {
            return Ok(false);
        }
        consumer.delivered = place.delivered;
        self.position = place.sequence;
        self.position_time = Timestamp(place.time_ns / 1_000_000);
        let message = StreamMessage {
            subject: message.subject.to_string(),
            sequence: place.sequence,
            time: self.position_time,
            headers: message.headers.map(Headers::from).unwrap_or_default(),
            payload: message.payload,
        };
        self.say(Followed::Message(message)).await?;
        if place.pending == 0 || place.sequence >= consumer.target {
            self.note_caught_up().await?;
        }
        Ok(true)
    }

    async fn note_caught_up(&mut self) -> Result<(), Gone> {
        if self.caught_up {
            return Ok(());
        }
        self.caught_up = true;
        self.say(Followed::CaughtUp).await
    }

    /// Tells the server that the consumer is not needed any more. It would find out by itself.
    async fn forget(&self, consumer: Consumer) {
        if self.nats.is_connected() {
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, consumer.name);
            drop(self.nats.publish_text(&subject, Headers::new(), Bytes::new()).await);
        }
    }
}

/// Where a message stands, from the reply subject that the server gives it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    sequence: u64,
    delivered: u64,
    time_ns: u64,
    pending: u64,
}

impl Place {
    /// `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<delivered>.<time>.<pending>`, or with a domain
    /// and an account after `ACK` and more tokens at the end.
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let first = match tokens.len() {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let number = |at: usize| tokens.get(first + at)?.parse().ok();
        Some(Self { sequence: number(0)?, delivered: number(1)?, time_ns: number(2)?, pending: number(3)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_place_are_read() {
        let place = Some(Place { sequence: 7, delivered: 3, time_ns: 1_700_000_000_000_000_000, pending: 2 });
        assert_eq!(Place::parse("$JS.ACK.DESIRED.c1.1.7.3.1700000000000000000.2"), place);
        assert_eq!(Place::parse("$JS.ACK._.hash.DESIRED.c1.1.7.3.1700000000000000000.2.token"), place);
        for bad in ["", "$JS.ACK", "$JS.ACK.a.b", "$JS.ACK.a.b.1.x.3.4.5", "_INBOX.a.b"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
