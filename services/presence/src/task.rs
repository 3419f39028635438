//! The task that owns the fleet: takes everything in, answers heartbeats, and leaves in order.

use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use domain::Timestamp;
use futures::{FutureExt as _, StreamExt as _};
use runtime::nats::{Follow, Followed, From, Message};
use runtime::telemetry::{Name, metrics};
use runtime::{Condition, Nats, Shutdown};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use wire::subject::{QUEUE_PRESENCE, STREAM_DESIRED, STREAM_EVENTS, STREAM_IDENTITY, pattern};

use crate::checkpoint::Loaded;
use crate::fleet::{Fleet, Refused, Reply};
use crate::leave::{Leaving, Stage};
use crate::queries::Query;
use crate::sharing::INTRODUCTION;

/// How often time passes: half of the pause in which heartbeats are shared.
const STEP: Duration = Duration::from_millis(50);
/// Heartbeats taken in a row before everything else has its turn: some milliseconds of work.
const MAX_IN_A_ROW: usize = 512;
/// Longest wait for a message to go to the broker and back: many times what it takes.
const ROUND_TRIP: Duration = Duration::from_millis(500);
/// How often what was refused is reported.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Why the fleet cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// A subscription failed.
    #[error("cannot subscribe to {pattern}")]
    Subscribe { pattern: &'static str, source: async_nats::SubscribeError },
    /// The connection was closed for good.
    #[error("{0} do not arrive any more: the connection is closed")]
    Closed(&'static str),
}

/// The ways in.
pub(crate) struct Inlets {
    registry: Follow,
    heads: Follow,
    beats: Subscriber,
    queries: mpsc::Receiver<Query>,
}

/// Runs until the shutdown: loads, serves, leaves.
pub(crate) async fn run(
    (nats, agents): (Nats, Nats),
    mut fleet: Fleet,
    queries: mpsc::Receiver<Query>,
    (ready, shutdown): (Condition, Shutdown),
) -> Result<(), FleetError> {
    let subscribed = nats.subscribe(pattern::BEATS).await;
    let mut inlets = Inlets {
        registry: nats.follow(STREAM_IDENTITY, pattern::IDENTITY_AGENTS, From::LastPerSubject, false),
        heads: nats.follow_any(
            STREAM_DESIRED,
            &[pattern::DESIRED_GROUPS, pattern::DESIRED_COMPILED],
            From::LastPerSubject,
            true,
        ),
        beats: subscribed.map_err(|source| FleetError::Subscribe { pattern: pattern::BEATS, source })?,
        queries,
    };
    let before = tokio::select! {
        loaded = load(&nats, &mut fleet, &mut inlets, &ready) => loaded?,
        () = shutdown.requested() => return Ok(()),
    };
    let mut server =
        Server { nats, agents, fleet, taken: 0, reported: Refused::default(), report_at: Instant::now() };
    server.introduce(&mut inlets).await?;
    server.fleet.begin(before);
    let subscribed = server.agents.queue_subscribe(pattern::HEARTBEATS, QUEUE_PRESENCE).await;
    let mut heartbeats =
        subscribed.map_err(|source| FleetError::Subscribe { pattern: pattern::HEARTBEATS, source })?;
    // Ready means that heartbeats come here. Without a connection they will, as soon as there is one.
    drop(server.agents.flush(ROUND_TRIP).await);
    ready.set_ready();
    server.serve(&mut inlets, &mut heartbeats, &shutdown).await?;
    ready.set_not_ready("is stopping");
    server.leave(&mut inlets, heartbeats).await;
    Ok(())
}

/// Reads the registry, the heads, and what was known before a restart. An agent that beat before this were
/// done would be told that it is unknown. Returns when the last checkpoint was taken.
async fn load(
    nats: &Nats,
    fleet: &mut Fleet,
    inlets: &mut Inlets,
    ready: &Condition,
) -> Result<Option<Timestamp>, FleetError> {
    ready.set_not_ready("is reading the registry");
    loop {
        let event = inlets.registry.next().await.ok_or(FleetError::Closed("records of agents"))?;
        let done = matches!(event, Followed::CaughtUp);
        let now = fleet.clock.now();
        fleet.registry(event, now);
        if done {
            break;
        }
    }
    ready.set_not_ready("is reading the heads");
    loop {
        let event = inlets.heads.next().await.ok_or(FleetError::Closed("heads"))?;
        let done = matches!(event, Followed::CaughtUp);
        let now = fleet.clock.now();
        fleet.head(event, now);
        if done {
            break;
        }
    }
    ready.set_not_ready("is reading the last checkpoint");
    let mut chunks = nats.follow(STREAM_EVENTS, pattern::EVENTS_CHECKPOINT, From::LastPerSubject, false);
    let mut loaded = Loaded::default();
    loop {
        match chunks.next().await.ok_or(FleetError::Closed("checkpoints"))? {
            Followed::Message(message) => match wire::heartbeat::read_checkpoint(&message.payload) {
                Ok(chunk) => loaded.add(chunk),
                Err(error) => {
                    let error = runtime::log::chain(&error);
                    tracing::warn!(subject = message.subject, error, "a checkpoint is malformed: ignored");
                }
            },
            Followed::CaughtUp => break,
            Followed::Reset => loaded = Loaded::default(),
            Followed::Missing => {}
        }
    }
    // Deadlines count from now on, not from the start of the loading.
    fleet.listen();
    let taken_at = loaded.taken_at();
    let records = loaded.restore(&mut fleet.machine);
    tracing::info!(agents = fleet.machine.len(), records, "the fleet is loaded");
    Ok(taken_at)
}

/// Something for the fleet. `None` inside: the connection was closed for good.
enum Input {
    Step,
    Heartbeat(Option<Message>),
    Batch(Option<Message>),
    Registry(Option<Followed>),
    Head(Option<Followed>),
    Query(Query),
    Stop,
}

/// The next thing to do. Drops nothing when it is dropped.
async fn next(
    inlets: &mut Inlets,
    steps: &mut Interval,
    heartbeats: &mut Subscriber,
    stop: &Shutdown,
) -> Input {
    tokio::select! {
        message = heartbeats.next() => Input::Heartbeat(message),
        message = inlets.beats.next() => Input::Batch(message),
        _ = steps.tick() => Input::Step,
        event = inlets.registry.next() => Input::Registry(event),
        event = inlets.heads.next() => Input::Head(event),
        Some(query) = inlets.queries.recv() => Input::Query(query),
        () = stop.requested() => Input::Stop,
    }
}

struct Server {
    nats: Nats,
    /// Where heartbeats come from.
    agents: Nats,
    fleet: Fleet,
    /// Heartbeats that came from the subscription.
    taken: u64,
    reported: Refused,
    report_at: Instant,
}

impl Server {
    /// Shows itself to the other replicas and listens who is there.
    async fn introduce(&mut self, inlets: &mut Inlets) -> Result<(), FleetError> {
        let listened = tokio::time::sleep(INTRODUCTION.into());
        let mut listened = std::pin::pin!(listened);
        self.step().await;
        loop {
            tokio::select! {
                message = inlets.beats.next() => {
                    let message = message.ok_or(FleetError::Closed("heartbeats of other replicas"))?;
                    let now = self.fleet.hear_now();
                    self.fleet.batch(&message.payload, now);
                    self.fleet.pass_on(false);
                }
                () = &mut listened => return Ok(()),
            }
        }
    }

    async fn serve(
        &mut self,
        inlets: &mut Inlets,
        heartbeats: &mut Subscriber,
        shutdown: &Shutdown,
    ) -> Result<(), FleetError> {
        let mut steps = tokio::time::interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let input = next(inlets, &mut steps, heartbeats, shutdown).await;
            if matches!(input, Input::Stop) {
                return Ok(());
            }
            self.take(input, heartbeats).await?;
        }
    }

    async fn take(&mut self, input: Input, heartbeats: &mut Subscriber) -> Result<(), FleetError> {
        let heard_here = !matches!(input, Input::Batch(_));
        match input {
            Input::Heartbeat(message) => {
                let message = message.ok_or(FleetError::Closed("heartbeats"))?;
                self.take_heartbeats(message, heartbeats).await;
            }
            Input::Batch(message) => {
                let message = message.ok_or(FleetError::Closed("heartbeats of other replicas"))?;
                let now = self.fleet.hear_now();
                self.fleet.batch(&message.payload, now);
            }
            Input::Registry(event) => {
                let event = event.ok_or(FleetError::Closed("records of agents"))?;
                let now = self.fleet.clock.now();
                let reply = self.fleet.registry(event, now);
                self.send(reply).await;
            }
            Input::Head(event) => {
                let now = self.fleet.clock.now();
                self.fleet.head(event.ok_or(FleetError::Closed("heads"))?, now);
            }
            Input::Query(query) => self.fleet.query(query),
            Input::Step => self.step().await,
            Input::Stop => {}
        }
        self.fleet.pass_on(heard_here);
        Ok(())
    }

    /// Takes a heartbeat, and those that have arrived behind it.
    async fn take_heartbeats(&mut self, first: Message, heartbeats: &mut Subscriber) {
        let now = self.fleet.hear_now();
        let mut message = Some(first);
        for _ in 0..MAX_IN_A_ROW {
            let Some(heartbeat) = message else { break };
            self.heartbeat(heartbeat, now).await;
            message = heartbeats.next().now_or_never().flatten();
        }
        if let Some(last) = message {
            self.heartbeat(last, now).await;
        }
        for agent in std::mem::take(&mut self.fleet.flooding) {
            // It is noticed again soon if it goes on.
            let told =
                self.nats.client().publish(String::from(wire::subject::flood(&agent)), Bytes::new()).await;
            tracing::warn!(%agent, told = told.is_ok(), "this agent floods: identity is told to shut it out for a while");
        }
    }

    async fn heartbeat(&mut self, message: Message, now: Timestamp) {
        self.taken += 1;
        let clock = metrics::clock();
        let reply = self.fleet.heartbeat(message, now);
        metrics::since(Name::Process, clock, &["nats", "process", "svc.heartbeat.{agent}"]);
        if reply.is_some() {
            self.send(reply).await;
            metrics::since(Name::HeartbeatLag, clock, &[]);
        }
    }

    async fn send(&self, replies: impl IntoIterator<Item = Reply>) {
        for Reply { to, bytes } in replies {
            if let Err(error) = self.agents.client().publish(to, bytes).await {
                // The agent asks again.
                tracing::debug!(%error, "the answer to a heartbeat could not be sent");
            }
        }
    }

    /// Time passes.
    async fn step(&mut self) {
        let now = self.fleet.clock.now();
        self.fleet.measure(now);
        let replies = self.fleet.pass_time(now);
        self.send(replies).await;
        // What waits for a connection would be old when it is there.
        if self.nats.is_connected() {
            let due = self.fleet.sharing.due(now);
            let batches: Vec<Bytes> = self.fleet.full_batches.drain(..).chain(due).collect();
            for batch in batches {
                if let Err(error) = self.nats.client().publish(pattern::BEATS, batch).await {
                    tracing::debug!(%error, "heartbeats could not be shared");
                }
            }
            if let Some(census) = self.fleet.census(now)
                && let Err(error) = self.nats.client().publish(pattern::CENSUS, census).await
            {
                tracing::debug!(%error, "the census of content could not be told");
            }
        } else {
            self.fleet.full_batches.clear();
        }
        self.report();
    }

    /// Says what was refused, at most once every [`REPORT_EVERY`].
    fn report(&mut self) {
        if self.report_at.elapsed() < REPORT_EVERY || self.fleet.refused == self.reported {
            return;
        }
        let Refused { malformed, nameless, foreign_reply, over_quota, misdirected, batches, offers, events } =
            self.fleet.refused;
        tracing::warn!(
            malformed,
            nameless,
            foreign_reply,
            over_quota,
            misdirected,
            batches,
            answers_without_envelope = offers,
            events_not_stored = events,
            "heartbeats or events were refused since the start"
        );
        (self.reported, self.report_at) = (self.fleet.refused, Instant::now());
    }

    /// Goes on serving until something is over. False if no more heartbeats can come.
    async fn serve_until(
        &mut self,
        over: impl Future<Output = ()>,
        inlets: &mut Inlets,
        heartbeats: &mut Subscriber,
        steps: &mut Interval,
    ) -> bool {
        let never = Shutdown::new();
        let mut over = std::pin::pin!(over);
        loop {
            let input = tokio::select! {
                input = next(inlets, steps, heartbeats, &never) => input,
                () = &mut over => return true,
            };
            if matches!(input, Input::Heartbeat(None)) || self.take(input, heartbeats).await.is_err() {
                return false;
            }
        }
    }

    /// Leaves the queue group without losing a heartbeat, then writes down what is known.
    async fn leave(&mut self, inlets: &mut Inlets, mut heartbeats: Subscriber) {
        let mut steps = tokio::time::interval(STEP);
        let mut leaving = Leaving::new(self.taken);
        while let Some(Stage { last, until }) = leaving.next(self.taken) {
            let asked = match last {
                Some(last) => heartbeats.unsubscribe_after(last).await,
                None => heartbeats.unsubscribe().await,
            };
            let over = tokio::time::sleep(until);
            if asked.is_err() || !self.serve_until(over, inlets, &mut heartbeats, &mut steps).await {
                break;
            }
        }
        for (agent, message) in self.fleet.newcomers.all() {
            let now = self.fleet.clock.now();
            let reply = self.fleet.answer_newcomer(agent, message, now);
            self.send(reply).await;
        }
        self.step().await;
        self.fleet.pass_on(true);
        if self.fleet.sharing.writes() {
            for chunk in self.fleet.last_chunks() {
                drop(self.fleet.out.chunks.send(chunk).await);
            }
        }
    }
}
