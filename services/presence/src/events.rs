//! Keeps transitions and checkpoints: stream EVENTS.
//!
//! Every replica writes what it sees. Replicas that saw the same beats see the same transitions at the same
//! times, so a message id of agent, state and time makes the stream keep one of them; where they differ it
//! keeps both, and a reader takes the last one. (Only services write to this stream, so message ids of
//! others cannot get in the way.)

use std::time::Duration;

use bytes::Bytes;
use domain::presence::State;
use domain::{AgentId, Timestamp};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use runtime::log::chain;
use runtime::nats::{Expect, Headers, PublishError};
use runtime::{Nats, Shutdown};
use tokio::sync::mpsc;
use wire::store::v1::PresenceEvent;
use wire::subject::{self, STREAM_EVENTS, Subject};

use crate::convert::state_number;

/// Transitions that wait to be stored: all of a fleet of 100,000 that falls silent at once. More are left out
/// and counted; states are not affected.
pub(crate) const MAX_WAITING: usize = 200_000;
/// Chunks of a checkpoint that wait to be stored. The next one is not made before there is room.
pub(crate) const MAX_CHUNKS: usize = 2;
/// Messages on the way to the stream at the same time: a batch for the server to write at once.
const MAX_OPEN: usize = 256;
/// How long what is left may take at the stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(4);

const MESSAGE_ID: &str = "Nats-Msg-Id";

/// A transition to be stored.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) agent: AgentId,
    pub(crate) at: Timestamp,
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) damped: u32,
}

/// A chunk of a checkpoint to be stored.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) number: u32,
    pub(crate) bytes: Bytes,
}

enum Write {
    Event(Event),
    Chunk(Chunk),
}

/// Stores until no more can come and all is stored, or until the stop has taken too long.
pub(crate) async fn run(
    nats: Nats,
    events: mpsc::Receiver<Event>,
    chunks: mpsc::Receiver<Chunk>,
    shutdown: Shutdown,
) {
    let late = async {
        shutdown.requested().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        () = store_all(&nats, events, chunks) => {}
        () = late => tracing::warn!("presence events are still unstored: stopping without them"),
    }
}

async fn store_all(nats: &Nats, mut events: mpsc::Receiver<Event>, mut chunks: mpsc::Receiver<Chunk>) {
    let mut open = FuturesUnordered::new();
    let (mut more_events, mut more_chunks) = (true, true);
    let mut failed = 0_u64;
    while more_events || more_chunks || !open.is_empty() {
        let room = open.len() < MAX_OPEN;
        tokio::select! {
            Some(outcome) = open.next() => {
                let Err(error) = outcome else { continue };
                let error: PublishError = error;
                failed += 1;
                // A line for each power of two: a store that is full refuses every event.
                if failed.is_power_of_two() {
                    tracing::warn!(error = %chain(&error), failed, "presence events could not be stored");
                }
            }
            chunk = chunks.recv(), if more_chunks && room => match chunk {
                Some(chunk) => open.push(store(nats, Write::Chunk(chunk))),
                None => more_chunks = false,
            },
            event = events.recv(), if more_events && room => match event {
                Some(event) => open.push(store(nats, Write::Event(event))),
                None => more_events = false,
            },
        }
    }
}

async fn store(nats: &Nats, write: Write) -> Result<(), PublishError> {
    match write {
        Write::Event(event) => {
            let id = format!("{} {} {}", event.agent, state_number(event.to), event.at.0);
            let headers = Headers::new().text(MESSAGE_ID, &id).expect("invariant: ids have no line break");
            let payload = wire::encode(&PresenceEvent {
                at_ms: event.at.0,
                from: state_number(event.from),
                to: state_number(event.to),
                damped: event.damped,
            });
            publish(nats, &subject::events_presence(&event.agent), (headers, payload)).await
        }
        Write::Chunk(chunk) => {
            let subject = subject::events_checkpoint(chunk.number);
            publish(nats, &subject, (Headers::new(), chunk.bytes)).await?;
            // The stream keeps a history of each subject; of checkpoints only the last one is of use.
            if let Err(error) = nats.keep_last(STREAM_EVENTS, &subject).await {
                tracing::debug!(error = %chain(&error), "older checkpoints could not be dropped");
            }
            Ok(())
        }
    }
}

async fn publish(nats: &Nats, subject: &Subject, message: (Headers, Bytes)) -> Result<(), PublishError> {
    nats.publish_cas(STREAM_EVENTS, subject, message, Expect::Any).await.map(drop)
}
