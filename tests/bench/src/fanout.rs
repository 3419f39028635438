//! The floors of W1: raw NATS carries one message to N connections, each of which sends one message back.
//!
//! *Republish*: the message is stored and the broker republishes it to plain subscriptions, as Muster does. In a
//! second form each connection verifies and decodes a signed snapshot before it answers.
//! *Durable*: each connection has a durable consumer of its own with explicit acknowledgement.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::stream::{Config, Republish, StorageType, Stream};
use async_nats::{Client, Subscriber, jetstream};
use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use futures::StreamExt as _;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::clients;
use crate::sample;
use crate::stats::percentile;

/// Subject of plain messages in the file stream, after its first token.
pub const PLAIN: &str = "group.plain";
/// Subject of signed snapshots in the file stream, after its first token.
pub const SIGNED: &str = "group.signed";
/// Size of the message that each connection sends back: a plain status.
const ACK_BYTES: usize = 64;
/// How long one round may take before it counts as failed.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);
/// Subscriptions and consumers: room for the stream's own ones beside those of the agents.
const SPARE_CONSUMERS: usize = 16;

/// When the answers to one message were counted, from the moment it was published.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// When half of them were there.
    pub half: Duration,
    /// When all were.
    pub last: Duration,
}

/// N connections to a broker, and one that counts their answers.
pub struct Fanout {
    broker: Broker,
    publisher: Client,
    collector: Client,
    answers: Subscriber,
    clients: Vec<Client>,
    tasks: JoinSet<()>,
    memory_before: u64,
}

impl Fanout {
    /// Starts a broker and connects `count` clients, paced.
    ///
    /// # Errors
    /// When the broker or a connection fails.
    pub async fn start(program: &Path, count: usize) -> Result<Self> {
        let broker = Broker::start(program).await?;
        let publisher = clients::connect(broker.url(), "publisher").await?;
        let collector = clients::connect(broker.url(), "collector").await?;
        let answers = collector.subscribe("answer.*").await?;
        collector.flush().await?;
        let memory_before = broker.resident_bytes();
        let url = broker.url().to_owned();
        let clients = clients::paced(count, |n| {
            let url = url.clone();
            async move { clients::connect(&url, &format!("agent-{n}")).await }
        })
        .await?;
        Ok(Self { broker, publisher, collector, answers, clients, tasks: JoinSet::new(), memory_before })
    }

    /// Memory of the broker for each connection so far, in bytes.
    #[must_use]
    pub fn broker_bytes_each(&self) -> u64 {
        let grown = self.broker.resident_bytes().saturating_sub(self.memory_before);
        grown / u64::try_from(self.clients.len().max(1)).unwrap_or(u64::MAX)
    }

    /// Processor time that the broker has used, in milliseconds of one core.
    #[must_use]
    pub fn broker_ms(&self) -> f64 {
        self.broker.processor_ms()
    }

    /// Subscribes every connection to what the broker republishes from a file stream: to [`PLAIN`] messages, and
    /// to [`SIGNED`] ones that it checks with `key` before it answers.
    ///
    /// # Errors
    /// When the stream or a subscription cannot be made.
    pub async fn subscribe_to_republished(&mut self, key: VerifyingKey) -> Result<()> {
        let republish = Republish {
            source: "desired.>".to_owned(),
            destination: "notify.>".to_owned(),
            headers_only: false,
        };
        let stream = Config {
            name: "DESIRED".to_owned(),
            subjects: vec!["desired.>".to_owned()],
            max_messages_per_subject: 1,
            storage: StorageType::File,
            allow_direct: true,
            republish: Some(republish),
            ..Config::default()
        };
        jetstream::new(self.publisher.clone()).create_stream(stream).await?;
        for (n, client) in self.clients.iter().enumerate() {
            let plain = client.subscribe(format!("notify.{PLAIN}")).await?;
            self.tasks.spawn(answer(client.clone(), plain, n, Duty::Answer));
            let signed = client.subscribe(format!("notify.{SIGNED}")).await?;
            self.tasks.spawn(answer(client.clone(), signed, n, Duty::Check(key)));
        }
        self.flush().await
    }

    /// Gives every connection a durable consumer of its own on a second stream.
    ///
    /// # Errors
    /// When the stream, a consumer or a subscription cannot be made.
    pub async fn subscribe_to_consumers(&mut self) -> Result<Duration> {
        let consumers = self.clients.len() + SPARE_CONSUMERS;
        let stream = Config {
            name: "DURABLE".to_owned(),
            subjects: vec!["durable.>".to_owned()],
            max_messages_per_subject: 1,
            storage: StorageType::File,
            max_consumers: i32::try_from(consumers).context("too many consumers")?,
            ..Config::default()
        };
        let stream = jetstream::new(self.publisher.clone()).create_stream(stream).await?;
        for (n, client) in self.clients.iter().enumerate() {
            let updates = client.subscribe(format!("deliver.{n}")).await?;
            self.tasks.spawn(answer(client.clone(), updates, n, Duty::Acknowledge));
        }
        self.flush().await?;
        let begin = Instant::now();
        let stream = Arc::new(stream);
        clients::paced(self.clients.len(), |n| make_consumer(Arc::clone(&stream), n)).await?;
        Ok(begin.elapsed())
    }

    /// Closes all connections, then ends the broker.
    ///
    /// # Errors
    /// When connections do not close.
    pub async fn stop(mut self) -> Result<()> {
        self.tasks.shutdown().await;
        let own = [self.publisher, self.collector];
        clients::close(self.clients.into_iter().chain(own).collect()).await
    }

    /// All subscriptions have reached the broker.
    async fn flush(&self) -> Result<()> {
        clients::paced(self.clients.len(), |n| {
            let client = self.clients[n].clone();
            async move { Ok(client.flush().await?) }
        })
        .await?;
        Ok(())
    }

    /// Publishes one message to the given subject, stored, and waits for all answers.
    ///
    /// # Errors
    /// When an answer is missing after a minute.
    pub async fn round(&mut self, subject: String, payload: Bytes) -> Result<Round> {
        let context = jetstream::new(self.publisher.clone());
        let count = self.clients.len();
        let begin = Instant::now();
        let stored = context.publish(subject, payload).await?;
        let mut times = Vec::with_capacity(count);
        let counting = async {
            while times.len() < count {
                self.answers.next().await.context("the collector lost its connection")?;
                times.push(begin.elapsed());
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(ROUND_TIMEOUT, counting).await.context("not every connection answered")??;
        stored.await?;
        let half = percentile(&times, 0.5).unwrap_or_default();
        Ok(Round { half, last: times.last().copied().unwrap_or_default() })
    }
}

async fn make_consumer(stream: Arc<Stream>, n: usize) -> Result<()> {
    let config = push::Config {
        durable_name: Some(format!("agent-{n}")),
        deliver_subject: format!("deliver.{n}"),
        filter_subject: "durable.group.plain".to_owned(),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ack_policy: AckPolicy::Explicit,
        ..push::Config::default()
    };
    stream.create_consumer(config).await?;
    Ok(())
}

/// What a raw agent does for each message: one answer, and before it...
#[derive(Clone, Copy)]
enum Duty {
    /// nothing;
    Answer,
    /// verify and decode the signed snapshot in it;
    Check(VerifyingKey),
    /// acknowledge it to the broker.
    Acknowledge,
}

async fn answer(client: Client, mut updates: Subscriber, n: usize, duty: Duty) {
    let subject = format!("answer.{n}");
    let payload = Bytes::from(vec![b'y'; ACK_BYTES]);
    while let Some(update) = updates.next().await {
        match (duty, update.reply) {
            (Duty::Check(key), _) if sample::open(&update.payload, key).is_err() => continue,
            (Duty::Acknowledge, Some(reply)) => {
                drop(client.publish(reply, Bytes::from_static(b"+ACK")).await)
            }
            (Duty::Answer | Duty::Check(_) | Duty::Acknowledge, _) => {}
        }
        // A failure is seen by the collector, which misses the answer.
        drop(client.publish(subject.clone(), payload.clone()).await);
    }
}
