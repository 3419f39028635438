//! The shell around the agent machine: one task that hears, asks the machine, and does what it says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::agent::{
    Beat, Effect, Generation, Identity, Input, Loaded, Machine, Note, Offer, Reason, Refusal, Source, Status,
    Timing,
};
use domain::content::DownloadWish;
use domain::{AgentId, Cursor, Span, Timestamp};
use prost::Message as _;
use runtime::Shutdown;
use runtime::clock::now;
use runtime::tls::BrokerTls;
use wire::agent::v1;
use wire::envelope;

use crate::access::Access;
use crate::content::ContentLink;
use crate::convert::{self, About};
use crate::handler::Handler;
use crate::note;
use crate::storage::{Proofs, Storage, View};
use crate::tasks::{Task, Tasks};
use crate::trail::Trail;
use crate::transport::{Event, Fetched, Heard, Transport};
use crate::trust::LiveTrust;

/// Longest sleep. The wall clock may jump while the agent sleeps; it looks at it at least this often.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Smallest time between two writes of what `muster-agent status` shows.
const SHOW_EVERY_MS: u64 = 500;
/// How long stopping waits for the step under way: a write ends in time, a handler is taken up at the next
/// start.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// How long the answer to the question for a trust root is waited for, and its way to the disk.
const ROOT_WITHIN: Span = Span::from_secs(30);

/// Called with each change worth a log line.
pub type Observer = Arc<dyn Fn(&AgentId, &Note) + Send + Sync>;

/// Who an agent is and whom it trusts, as learnt when it joined.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// The agent.
    pub agent: AgentId,
    /// Keys that may sign for its fleet.
    pub trust: LiveTrust,
    /// NATS URLs.
    pub servers: Vec<String>,
    /// How to verify those.
    pub tls: BrokerTls,
    /// `Envelope(Assignment)` as received with the join. A newer one in the durable state wins.
    pub assignment: Option<Bytes>,
    /// What it shows the broker; `None` for one that lets everyone in.
    pub access: Option<Access>,
}

/// What an agent is made of.
pub struct Parts<T, S, H> {
    /// Way to the broker.
    pub transport: T,
    /// Where it keeps what it applied.
    pub storage: Arc<S>,
    /// What it does with policies.
    pub handler: Arc<H>,
    /// What the storage held at the start.
    pub loaded: Loaded,
    /// Waits.
    pub timing: Timing,
    /// Host name, for people. At most 255 bytes are reported.
    pub hostname: String,
    /// Random number of this start.
    pub session: u64,
    /// Called with each change worth a log line, beside the log.
    pub observer: Option<Observer>,
    /// The way to its content; `None`: it ignores what content is assigned, at no cost.
    pub content: Option<ContentLink>,
}

/// One agent. It does nothing until [`Agent::run`].
pub struct Agent<T, S, H> {
    agent: AgentId,
    trust: LiveTrust,
    /// The next root that was asked for, and until when its answer is waited for.
    root_asked: Option<(u64, Timestamp)>,
    /// The newest version that somebody spoke of.
    root_hint: u64,
    first_assignment: Option<Bytes>,
    machine: Machine,
    transport: T,
    tasks: Tasks<S, H>,
    inputs: VecDeque<Input>,
    about: About,
    sequence: u64,
    observer: Option<Observer>,
    /// The last snapshot whose signature held: the same bytes need no second look.
    last_offer: Option<Arc<Offer>>,
    /// The last assignment whose signature held.
    last_assignment: Option<(Cursor, Bytes)>,
    connected: bool,
    /// The last try to reach the broker failed. One that was not needed does not count.
    offline: bool,
    last_reply: Option<Timestamp>,
    shown: Option<(Timestamp, Shown)>,
    content: Option<ContentLink>,
    /// The last heartbeat that asked for an allowance.
    asked: Option<u64>,
    trail: Trail,
}

/// What decides whether the view has changed.
#[derive(Clone, PartialEq)]
struct Shown {
    status: Status,
    active: Cursor,
    connected: bool,
    last_reply: Option<Timestamp>,
}

impl<T: Transport, S: Storage, H: Handler> Agent<T, S, H> {
    /// Puts an agent together.
    #[must_use]
    pub fn new(enrolment: Enrolment, parts: Parts<T, S, H>) -> Self {
        let Enrolment { agent, trust, assignment, .. } = enrolment;
        let identity = Identity { fleet: trust.fleet(), agent: agent.clone() };
        let mut hostname = parts.hostname;
        let cut = (0..=255.min(hostname.len())).rev().find(|at| hostname.is_char_boundary(*at)).unwrap_or(0);
        hostname.truncate(cut);
        Self {
            agent,
            trust,
            root_asked: None,
            root_hint: 0,
            first_assignment: assignment,
            machine: Machine::new(identity, parts.timing, parts.loaded),
            transport: parts.transport,
            tasks: Tasks::new(parts.storage, parts.handler),
            inputs: VecDeque::new(),
            about: About { session: parts.session, hostname },
            sequence: 0,
            observer: parts.observer,
            last_offer: None,
            last_assignment: None,
            connected: false,
            offline: false,
            last_reply: None,
            shown: None,
            content: parts.content,
            asked: None,
            trail: Trail::default(),
        }
    }

    /// Runs until the shutdown is requested, then closes the connection in order.
    pub async fn run(mut self, shutdown: Shutdown) {
        self.step(Input::Started).await;
        self.step(Input::RootAdopted(self.trust.adopted())).await;
        if let Some(bytes) = self.first_assignment.take() {
            self.hear_assignment(&bytes);
            self.work_off().await;
        }
        loop {
            let sleep = self.sleep();
            tokio::select! {
                () = shutdown.requested() => break,
                event = self.transport.next(), if self.tasks.has_room() => self.hear(event),
                inputs = self.tasks.next(), if !self.tasks.is_idle() => self.inputs.extend(inputs),
                inputs = news(&mut self.content) => self.inputs.extend(inputs),
                () = tokio::time::sleep(sleep) => self.inputs.push_back(Input::Tick),
            }
            self.work_off().await;
        }
        let unfinished = async {
            while !self.tasks.is_idle() {
                let _inputs = self.tasks.next().await;
            }
        };
        if tokio::time::timeout(STOP_WAIT, unfinished).await.is_err() {
            tracing::info!(agent = %self.agent, "stopping amid a handler; it is run again at the next start");
        }
        self.step(Input::Stop).await;
        self.transport.close().await;
    }

    fn sleep(&self) -> Duration {
        let now = now();
        let due = self.machine.next_deadline();
        // Tasks under way end by themselves; what they leave to show is shown then.
        let show =
            self.shown.as_ref().filter(|_| self.is_unshown()).map(|(at, _)| Timestamp(at.0 + SHOW_EVERY_MS));
        let wait = due.into_iter().chain(show).min().map_or(MAX_SLEEP, |due| due.since(now).into());
        wait.min(MAX_SLEEP)
    }

    async fn step(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.work_off().await;
    }

    /// Passes all inputs to the machine and does what it says.
    async fn work_off(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            for effect in self.machine.handle(now(), rand::random(), input) {
                self.carry_out(effect).await;
            }
        }
        self.follow_roots().await;
        if let Some(content) = &self.content {
            content.tell(&self.machine, self.offline);
        }
        self.show();
    }

    async fn carry_out(&mut self, effect: Effect) {
        self.trail.effect(&self.agent, &effect);
        match effect {
            Effect::Connect => self.transport.connect(),
            Effect::Disconnect => {
                self.connected = false;
                self.transport.disconnect();
            }
            Effect::Reconnect => self.transport.reconnect().await,
            Effect::Subscribe(group) => self.transport.subscribe(&group).await,
            Effect::Unsubscribe(_) => self.transport.unsubscribe().await,
            Effect::FetchSnapshot { group, fetch } => self.transport.fetch(&group, fetch).await,
            Effect::SendHeartbeat(beat) | Effect::SendStatus(beat) => self.send(&beat).await,
            Effect::Persist { ticket } => {
                let durable = Box::new(self.machine.durable().clone());
                let proofs = self.proofs();
                self.do_task(Task::Persist { ticket, durable, proofs });
            }
            Effect::Stage(offer) => self.do_task(Task::Stage(offer)),
            Effect::Activate(id) => self.do_task(Task::Activate(id)),
            Effect::RevertTo(id) => self.do_task(Task::Revert(id)),
            Effect::Refresh(offer) => self.do_task(Task::Refresh(offer)),
            Effect::Repair(kinds) => self.do_task(Task::Repair(kinds)),
            Effect::CheckDrift => self.do_task(Task::CheckDrift),
            Effect::Prune { keep } => self.do_task(Task::Prune(keep)),
            Effect::RunHandlers(changes) => self.do_task(Task::RunHandlers(changes)),
            Effect::CheckHealth(kinds) => self.do_task(Task::CheckHealth(kinds)),
            Effect::Note(note) => {
                note::log(&self.agent, &note);
                if let Some(observer) = &self.observer {
                    observer(&self.agent, &note);
                }
            }
        }
    }

    fn do_task(&mut self, task: Task) {
        self.tasks.push(task, &mut self.inputs);
    }

    async fn send(&mut self, beat: &Beat) {
        self.sequence += 1;
        if beat.beat > 0 {
            let asks = matches!(beat.download, DownloadWish::Wanted | DownloadWish::Held);
            self.asked = asks.then_some(beat.beat);
        }
        let payload = convert::heartbeat(beat, self.sequence, &self.about);
        self.transport.send_heartbeat(beat.beat, payload.into()).await;
    }

    /// Signed bytes that prove what the durable state is about to say.
    fn proofs(&self) -> Proofs {
        let durable = self.machine.durable();
        let is_floor = |offer: &Arc<Offer>| {
            let floor = durable.floors.of(&offer.snapshot.group);
            floor.is_some_and(|floor| floor.cursor == offer.snapshot.cursor)
        };
        let placed = durable.assignment.as_ref().map(|placement| placement.cursor);
        Proofs {
            snapshot: self.last_offer.as_ref().filter(|offer| is_floor(offer)).cloned(),
            assignment: self
                .last_assignment
                .clone()
                .filter(|(at, _)| Some(*at) == placed)
                .map(|(_, bytes)| bytes),
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Up => {
                self.connected = true;
                self.offline = false;
                // What was asked before this connection is answered to nobody.
                self.root_asked = None;
                self.inputs.push_back(Input::Connected);
            }
            Event::Down { retrying, why } => {
                self.connected = false;
                self.offline = true;
                tracing::info!(agent = %self.agent, %why, retrying, "not connected");
                self.inputs.push_back(Input::Disconnected { retrying });
            }
            Event::LameDuck => self.inputs.push_back(Input::LameDuck),
            Event::Missed => self.inputs.push_back(Input::Resync),
            Event::Group(heard) => self.hear_snapshot(&heard, Source::Notify),
            Event::Assignment(bytes) => self.hear_assignment(&bytes),
            Event::Beat(beat, Some(heard)) => self.hear_reply(beat, &heard),
            Event::Beat(beat, None) => self.inputs.push_back(Input::HeartbeatFailed { beat }),
            Event::Root(version, fetched) => self.hear_root(version, fetched),
            Event::Fetched(_, Fetched::Envelope(heard)) => self.hear_snapshot(&heard, Source::Fetch),
            Event::Fetched(fetch, Fetched::Empty) => {
                self.inputs.push_back(Input::FetchDone { fetch, result: Ok(()) });
            }
            Event::Fetched(fetch, Fetched::Failed(why)) => {
                self.inputs.push_back(Input::FetchDone { fetch, result: Err(Reason::new(why)) });
            }
        }
    }

    fn hear_snapshot(&mut self, Heard { payload: bytes, place }: &Heard, source: Source) {
        let known = self.last_offer.as_ref().filter(|known| known.envelope[..] == bytes[..]);
        let offer = match known {
            Some(offer) => Ok(Arc::clone(offer)),
            None => {
                let from = Trail::clock();
                let opened = self.open_snapshot(bytes);
                if let Ok(offer) = &opened {
                    self.trail.verified(offer, *place, from);
                }
                opened
            }
        };
        self.inputs.push_back(match offer {
            Ok(offer) => {
                self.last_offer = Some(Arc::clone(&offer));
                Input::SnapshotReceived { offer, source }
            }
            Err(refusal) => Input::EnvelopeRefused { refusal, source },
        });
    }

    fn open_snapshot(&self, bytes: &Bytes) -> Result<Arc<Offer>, Refusal> {
        let opened = envelope::parse_shared(bytes)
            .and_then(|envelope| wire::snapshot::open(&envelope, &self.trust.now().directors));
        match opened {
            Ok(snapshot) => Ok(Arc::new(Offer { snapshot, envelope: Arc::from(&bytes[..]) })),
            Err(error) => {
                tracing::debug!(agent = %self.agent, error = %runtime::log::chain(&error), "envelope refused");
                Err(convert::refusal(&error))
            }
        }
    }

    fn hear_assignment(&mut self, bytes: &Bytes) {
        let opened = envelope::parse(bytes)
            .and_then(|envelope| wire::snapshot::open_assignment(&envelope, &self.trust.now().directors));
        self.inputs.push_back(match opened {
            Ok(assignment) => {
                if self.last_assignment.as_ref().is_none_or(|(known, _)| assignment.cursor > *known) {
                    // A copy: what arrived is part of a buffer of the connection, many times as large.
                    self.last_assignment = Some((assignment.cursor, Bytes::copy_from_slice(bytes)));
                }
                Input::AssignmentReceived(assignment)
            }
            Err(error) => {
                Input::EnvelopeRefused { refusal: convert::refusal(&error), source: Source::Notify }
            }
        });
    }

    /// The envelopes first, so that the machine knows what it has when it looks at the rest.
    fn hear_reply(&mut self, beat: u64, Heard { payload: bytes, place }: &Heard) {
        let heard = match convert::reply(beat, bytes) {
            Ok(heard) if heard.error.is_empty() => heard,
            Ok(heard) => {
                tracing::warn!(agent = %self.agent, error = heard.error, "presence did not take the heartbeat");
                self.inputs.push_back(Input::HeartbeatFailed { beat });
                return;
            }
            Err(error) => {
                tracing::debug!(agent = %self.agent, %error, "the reply to a heartbeat cannot be read");
                self.inputs.push_back(Input::HeartbeatFailed { beat });
                return;
            }
        };
        self.last_reply = Some(now());
        self.root_hint = heard.root_version;
        if let Some(content) = self.content.as_ref().filter(|_| self.asked == Some(beat)) {
            content.answered(heard.download_granted);
        }
        let encode = |envelope: v1::Envelope| Bytes::from(envelope.encode_to_vec());
        if let Some(envelope) = heard.assignment {
            self.hear_assignment(&encode(envelope));
        }
        if let Some(envelope) = heard.snapshot {
            self.hear_snapshot(&Heard { payload: encode(envelope), place: *place }, Source::Heartbeat);
        }
        self.inputs.push_back(Input::HeartbeatReplied(heard.reply));
    }

    /// Asks for the root after the one that is obeyed, if there is said to be one. One at a time: each is verified with
    /// the one before it.
    async fn follow_roots(&mut self) {
        let version = self.trust.now().version;
        let waits = self.root_asked.is_some_and(|(asked, until)| asked > version && now() < until);
        if waits || !self.connected || self.root_hint <= version {
            return;
        }
        self.root_asked = Some((version + 1, now() + ROOT_WITHIN));
        self.transport.fetch_root(version + 1).await;
    }

    fn hear_root(&mut self, version: u64, fetched: Fetched) {
        if self.root_asked.is_none_or(|(asked, _)| asked != version) || version <= self.trust.now().version {
            return;
        }
        let bytes = match fetched {
            Fetched::Envelope(heard) => heard.payload,
            Fetched::Empty | Fetched::Failed(_) => return self.forget_root(),
        };
        let mut chain = self.trust.chain();
        match chain.follow_bytes(&bytes) {
            Ok(()) => self.do_task(Task::AdoptRoot(Box::new(chain), self.trust.clone())),
            Err(error) => {
                tracing::warn!(agent = %self.agent, version, error = %runtime::log::chain(&error), "a trust root is refused");
                self.forget_root();
                self.inputs
                    .push_back(Input::EnvelopeRefused { refusal: Refusal::Root, source: Source::Heartbeat });
            }
        }
    }

    /// There is no next root that could be adopted. The next heartbeat says again whether there is one.
    fn forget_root(&mut self) {
        (self.root_asked, self.root_hint) = (None, 0);
    }

    fn is_unshown(&self) -> bool {
        !S::INLINE
            && self.shown.as_ref().is_none_or(|(_, shown)| {
                shown.connected != self.connected
                    || shown.last_reply != self.last_reply
                    || shown.active != self.machine.active().map_or(Cursor::NONE, |active| active.cursor)
                    || shown.status != *self.machine.status()
            })
    }

    /// Shows how the agent fares, when that changed and the last time is long enough ago.
    fn show(&mut self) {
        let now = now();
        let too_soon = self.shown.as_ref().is_some_and(|(at, _)| now.since(*at).0 < SHOW_EVERY_MS);
        if too_soon || !self.is_unshown() || !self.tasks.has_room() {
            return;
        }
        let active = self.machine.active().map_or(Cursor::NONE, |active: &Generation| active.cursor);
        let status = self.machine.status().clone();
        let view = View {
            fleet: self.trust.fleet(),
            agent: self.agent.clone(),
            group: self.machine.placement().map(|placement| placement.group.clone()),
            active,
            settings: self.machine.settings(),
            connected: self.connected,
            last_reply: self.last_reply,
            status: status.clone(),
        };
        let (connected, last_reply) = (self.connected, self.last_reply);
        self.shown = Some((now, Shown { status, active, connected, last_reply }));
        self.do_task(Task::Show(Box::new(view)));
    }
}

/// Waits for news of content: for ever where there is none.
async fn news(content: &mut Option<ContentLink>) -> Vec<Input> {
    match content {
        Some(content) => content.next().await,
        None => std::future::pending().await,
    }
}
