//! Requests over many connections: in a closed loop, where each sends the next one when the last was answered, or at a pace.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::task::JoinSet;

use crate::stats::{float, percentile};

/// Connections of the closed loop.
pub const CONNECTIONS: usize = 64;
/// How long an answer may take before the run counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection that asks: where, and how to make the next payload.
pub struct Asker {
    client: Client,
    replies: Subscriber,
    subject: String,
    inbox: String,
    next: Box<dyn FnMut() -> Bytes + Send>,
}

/// What a closed loop reached.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Answers a second, over all connections.
    pub rate: f64,
    /// Time to an answer that half of them kept, in milliseconds.
    pub p50_ms: f64,
    /// Time to an answer that 99 % of them kept, in milliseconds.
    pub p99_ms: f64,
    /// Answers in all.
    pub answers: u64,
}

impl Asker {
    /// A connection that asks on `subject` and is answered on `inbox`.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn new(
        client: Client,
        subject: String,
        inbox: String,
        next: impl FnMut() -> Bytes + Send + 'static,
    ) -> Result<Self> {
        let replies = client.subscribe(inbox.clone()).await?;
        client.flush().await?;
        Ok(Self { client, replies, subject, inbox, next: Box::new(next) })
    }

    /// Asks once.
    ///
    /// # Errors
    /// When there is no answer in time, or nobody to answer.
    pub async fn ask(&mut self) -> Result<Bytes> {
        let payload = (self.next)();
        self.client.publish_with_reply(self.subject.clone(), self.inbox.clone(), payload).await?;
        let reply = tokio::time::timeout(ANSWER_TIMEOUT, self.replies.next()).await;
        let reply = reply.context("no answer in time")?.context("the connection is closed")?;
        ensure!(reply.status.is_none(), "nobody answers on {}", self.subject);
        Ok(reply.payload)
    }

    /// Asks until somebody answers: who answers may still be starting.
    ///
    /// # Errors
    /// When nobody does in time.
    pub async fn until_answered(&mut self) -> Result<()> {
        let begin = Instant::now();
        while let Err(error) = self.ask().await {
            ensure!(begin.elapsed() < ANSWER_TIMEOUT, "{error:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Its connection.
    #[must_use]
    pub fn into_client(self) -> Client {
        self.client
    }

    /// Asks until then; with a pace, at its times, from which an answer is timed also when the one before was late.
    async fn run(mut self, until: Instant, mut pace: Option<Pace>) -> Result<(Self, Vec<u32>)> {
        let mut times = Vec::new();
        loop {
            let begin = pace.map_or_else(Instant::now, |pace| pace.next);
            if begin >= until {
                return Ok((self, times));
            }
            if let Some(pace) = &mut pace {
                tokio::time::sleep_until(pace.next.into()).await;
                pace.next += pace.every;
            }
            self.ask().await?;
            times.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
}

/// When a connection asks.
#[derive(Debug, Clone, Copy)]
struct Pace {
    next: Instant,
    every: Duration,
}

/// Lets all connections ask for `time`, and gives them back.
///
/// # Errors
/// The first request that is not answered.
pub async fn closed_loop(askers: Vec<Asker>, time: Duration) -> Result<(Vec<Asker>, Load)> {
    run(askers, time, None).await
}

/// Lets each connection ask `every` so often for `time`, all evenly spread, and gives them back.
///
/// # Errors
/// The first request that is not answered.
pub async fn paced(askers: Vec<Asker>, time: Duration, every: Duration) -> Result<(Vec<Asker>, Load)> {
    run(askers, time, Some(every)).await
}

async fn run(askers: Vec<Asker>, time: Duration, every: Option<Duration>) -> Result<(Vec<Asker>, Load)> {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    let count = u32::try_from(askers.len())?;
    for (at, asker) in (0..count).zip(askers) {
        let pace = every.map(|every| Pace { next: begin + every / count * at, every });
        tasks.spawn(asker.run(begin + time, pace));
    }
    let (mut askers, mut times) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (asker, mut each) = done??;
        askers.push(asker);
        times.append(&mut each);
    }
    let elapsed = begin.elapsed();
    times.sort_unstable();
    let answers = u64::try_from(times.len())?;
    let at = |share| percentile(&times, share).map_or(0.0, |micros| f64::from(micros) / 1e3);
    let load =
        Load { rate: float(answers) / elapsed.as_secs_f64(), p50_ms: at(0.5), p99_ms: at(0.99), answers };
    Ok((askers, load))
}
