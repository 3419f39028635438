//! How an agent reaches the broker. The machine decides when; this does it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use domain::{AgentId, GroupId};
use futures::StreamExt;
use runtime::nats::{ConnectError, Connection, Link};
use runtime::tls::BrokerTls;
use tokio::sync::watch;
use wire::jwt::UserFacts;
use wire::subject::{self, Subject};
use wire::trace::{TRACEPARENT, TraceParent};

use crate::access::Access;

/// How long closing a connection may take to send what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Letters that tell replies apart, before their numbers.
const HEARTBEAT: char = 'h';
const FETCH: char = 'f';
const ROOT: char = 'r';

/// Something that came from the broker, or happened to the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The connection is up.
    Up,
    /// The connection is lost, or could not be made.
    Down {
        /// Whether the transport tries again by itself.
        retrying: bool,
        /// Why, for the log.
        why: String,
    },
    /// The server will stop.
    LameDuck,
    /// Messages may have been lost on the way to us.
    Missed,
    /// An envelope on the group's subject.
    Group(Heard),
    /// Bytes on the agent's own assignment subject.
    Assignment(Bytes),
    /// A heartbeat was answered; `None` if nobody listens.
    Beat(u64, Option<Heard>),
    /// A fetch was answered.
    Fetched(u64, Fetched),
    /// The question for a version of the trust root was answered.
    Root(u64, Fetched),
}

/// The answer to a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// An envelope, as the store has it.
    Envelope(Heard),
    /// The store has none.
    Empty,
    /// No answer that helps.
    Failed(String),
}

/// An envelope that came, or an answer that may have one in it, and what the message said beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The envelope, or the answer.
    pub payload: Bytes,
    /// Where in a trace the envelope was published. Nobody signs that, so it is a hint and no more.
    pub place: Option<TraceParent>,
}

impl From<Message> for Heard {
    fn from(message: Message) -> Self {
        let text = message.headers.as_ref().and_then(|headers| headers.get(TRACEPARENT));
        let place = text.and_then(|text| text.as_str().parse().ok());
        Self { payload: message.payload, place }
    }
}

/// One that says nothing else.
impl From<Bytes> for Heard {
    fn from(payload: Bytes) -> Self {
        Self { payload, place: None }
    }
}

/// A connection to the broker, made and ended at will. Sending never fails: what does not arrive is not
/// answered, and the machine notices that.
pub trait Transport: Send + 'static {
    /// Starts to connect, and to listen on the agent's inbox and its assignment subject. [`Event::Up`] or
    /// [`Event::Down`] follows within a bounded time.
    fn connect(&mut self);

    /// Flushes and closes, in the background of [`Transport::next`].
    fn disconnect(&mut self);

    /// Drops the connection and makes a new one.
    fn reconnect(&mut self) -> impl Future<Output = ()> + Send;

    /// Listens to a group's snapshots.
    fn subscribe(&mut self, group: &GroupId) -> impl Future<Output = ()> + Send;

    /// Stops to listen to a group.
    fn unsubscribe(&mut self) -> impl Future<Output = ()> + Send;

    /// Asks the store for a group's snapshot.
    fn fetch(&mut self, group: &GroupId, fetch: u64) -> impl Future<Output = ()> + Send;

    /// Asks the store for a version of the trust root.
    fn fetch_root(&mut self, version: u64) -> impl Future<Output = ()> + Send;

    /// Sends a heartbeat; 0 asks for no reply.
    fn send_heartbeat(&mut self, beat: u64, payload: Bytes) -> impl Future<Output = ()> + Send;

    /// The next event. Nothing is lost when the future is dropped before it is ready.
    fn next(&mut self) -> impl Future<Output = Event> + Send;

    /// Flushes and closes; bounded.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

type Connecting = Pin<Box<dyn Future<Output = Result<Session, String>> + Send>>;

/// Connections to NATS.
pub struct NatsTransport {
    connection: Connection,
    agent: AgentId,
    /// Where this session's replies arrive.
    replies: String,
    access: Option<Access>,
    /// The group that is listened to. The machine takes it that a subscription outlives a connection that is made anew.
    group: Option<GroupId>,
    /// Hears of new claims.
    renewed: Option<watch::Receiver<UserFacts>>,
    connecting: Option<Connecting>,
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    session: Option<Session>,
    pending: VecDeque<Event>,
}

struct Session {
    client: Client,
    link: watch::Receiver<Link>,
    seen: Link,
    inbox: Subscriber,
    assignments: Subscriber,
    group: Option<Subscriber>,
}

impl NatsTransport {
    /// How to verify the servers, if not as this machine verifies others.
    #[must_use]
    pub fn with_tls(mut self, tls: BrokerTls) -> Self {
        self.connection.tls = tls;
        self
    }

    /// A transport for an agent that reaches `servers`. `session` is the random number of this start: two live
    /// sessions of one agent do not get each other's replies.
    #[must_use]
    pub fn new(servers: Vec<String>, agent: &AgentId, session: u64) -> Self {
        // The machine paces the attempts.
        let connection = Connection { patience: Duration::ZERO, ..Connection::agent(servers, agent) };
        Self {
            connection,
            agent: agent.clone(),
            replies: format!("{}.{session:x}", subject::inbox_prefix(agent)),
            access: None,
            group: None,
            renewed: None,
            connecting: None,
            closing: None,
            session: None,
            pending: VecDeque::new(),
        }
    }

    /// The same, which shows the broker what `access` has. It connects anew when that has changed.
    #[must_use]
    pub fn with_access(mut self, access: Option<Access>) -> Self {
        self.connection.login = access.as_ref().map(Access::login);
        self.renewed = access.as_ref().map(Access::changes);
        self.access = access;
        self
    }

    /// Whether the broker lets this agent hear of a group. If not, new claims are asked for; with them comes a new
    /// connection that listens to the group.
    fn may_hear_of(&self, group: &GroupId) -> bool {
        self.access.as_ref().is_none_or(|access| access.covers(group))
    }

    /// Moves to a connection with the new claims. Until that is there the old one stays.
    fn show_new_claims(&mut self) {
        if let Some(session) = self.session.take() {
            self.pending.push_back(Event::Down { retrying: true, why: "there are new claims".to_owned() });
            self.close_later(session);
        } else if self.connecting.is_none() {
            return;
        }
        self.open();
    }

    fn open(&mut self) {
        let (connection, agent, replies) =
            (self.connection.clone(), self.agent.clone(), self.replies.clone());
        let access = self.access.clone();
        let group = self.group.clone().filter(|group| self.may_hear_of(group));
        self.connecting = Some(Box::pin(async move {
            let opened = Session::open(connection, agent, replies, group).await;
            if let (Err(ConnectError::Refused { .. }), Some(access)) = (&opened, &access) {
                access.refused();
            }
            opened.map_err(|error| runtime::log::chain(&error))
        }));
    }

    fn close_later(&mut self, session: Session) {
        self.closing = Some(Box::pin(async move {
            let close = async {
                // Errors mean that the connection is gone already.
                let _flushed = session.client.flush().await;
                let _drained = session.client.drain().await;
            };
            let _in_time = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
        }));
    }

    fn lost(&mut self, why: impl Into<String>) -> Event {
        self.session = None;
        self.connecting = None;
        Event::Down { retrying: false, why: why.into() }
    }

    async fn publish(&mut self, to: Subject, reply: Option<String>, payload: Bytes) {
        let Some(session) = &self.session else { return };
        let to = String::from(to);
        let sent = match reply {
            Some(reply) => session.client.publish_with_reply(to, reply, payload).await,
            None => session.client.publish(to, payload).await,
        };
        if let Err(error) = sent {
            tracing::debug!(agent = %self.agent, %error, "cannot send");
        }
    }
}

impl Session {
    async fn open(
        connection: Connection,
        agent: AgentId,
        replies: String,
        group: Option<GroupId>,
    ) -> Result<Self, ConnectError> {
        let (client, link) = runtime::nats::connect_client(&connection).await?;
        let inbox = client.subscribe(format!("{replies}.*")).await.map_err(ConnectError::Replies)?;
        let own = String::from(subject::notify_agent(&agent));
        let assignments = client.subscribe(own).await.map_err(ConnectError::Replies)?;
        let group = match group {
            Some(group) => {
                let news = String::from(subject::notify_group(&group));
                Some(client.subscribe(news).await.map_err(ConnectError::Replies)?)
            }
            None => None,
        };
        // The event that reports this first connection may still be on its way.
        let mut seen = *link.borrow();
        seen.connected = true;
        seen.connections = seen.connections.max(1);
        Ok(Self { client, link, seen, inbox, assignments, group })
    }

    /// What changed of the connection since it was last looked at.
    fn changes(&mut self) -> Vec<Event> {
        let now = *self.link.borrow_and_update();
        let before = std::mem::replace(&mut self.seen, now);
        let mut events = Vec::new();
        let known = now.connections > 0;
        if before.connected && known && (!now.connected || now.connections > before.connections) {
            events.push(Event::Down { retrying: true, why: "the connection is lost".to_owned() });
        }
        if known && now.connected && (!before.connected || now.connections > before.connections) {
            events.push(Event::Up);
        }
        if !known {
            (self.seen.connected, self.seen.connections) = (true, before.connections);
        }
        if now.lame_ducks > before.lame_ducks {
            events.push(Event::LameDuck);
        }
        if now.drops > before.drops {
            events.push(Event::Missed);
        }
        events
    }

    async fn next(&mut self) -> Option<Vec<Event>> {
        let Self { link, inbox, assignments, group, .. } = self;
        let group = async {
            match group {
                Some(group) => group.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = link.changed() => changed.ok().map(|()| self.changes()),
            reply = inbox.next() => reply.map(|reply| answer(reply).into_iter().collect()),
            message = assignments.next() => message.map(|message| said(message, |message| Event::Assignment(message.payload))),
            message = group => message.map(|message| said(message, |message| Event::Group(message.into()))),
        }
    }
}

/// An empty message says that there is nothing any more: the group or the agent was deleted. What is in force
/// stays, so there is nothing to do.
fn said(message: Message, event: fn(Message) -> Event) -> Vec<Event> {
    if message.payload.is_empty() { Vec::new() } else { vec![event(message)] }
}

/// Reads a reply by the last token of its subject. What is no reply of ours is dropped.
fn answer(message: Message) -> Option<Event> {
    let token = message.subject.rsplit('.').next()?;
    let number = token.get(1..)?.parse().ok()?;
    let nobody = message.status == Some(StatusCode::NO_RESPONDERS);
    match token.chars().next()? {
        HEARTBEAT => Some(Event::Beat(number, (!nobody).then(|| message.into()))),
        FETCH => Some(Event::Fetched(number, stored(message))),
        ROOT => Some(Event::Root(number, stored(message))),
        _ => None,
    }
}

/// The answer to a Direct Get.
fn stored(message: Message) -> Fetched {
    match message.status {
        None | Some(StatusCode::OK) if message.payload.is_empty() => Fetched::Empty,
        None | Some(StatusCode::OK) => Fetched::Envelope(message.into()),
        Some(StatusCode::NOT_FOUND) => Fetched::Empty,
        Some(status) => Fetched::Failed(format!("the store answered with status {status}")),
    }
}

impl Transport for NatsTransport {
    fn connect(&mut self) {
        self.pending.clear();
        self.session = None;
        self.group = None;
        self.open();
    }

    fn disconnect(&mut self) {
        self.connecting = None;
        self.pending.clear();
        if let Some(session) = self.session.take() {
            self.close_later(session);
        }
    }

    async fn reconnect(&mut self) {
        if let Some(session) = &self.session
            && let Err(error) = session.client.force_reconnect().await
        {
            tracing::debug!(agent = %self.agent, %error, "cannot reconnect");
        }
    }

    async fn subscribe(&mut self, group: &GroupId) {
        self.group = Some(group.clone());
        if !self.may_hear_of(group) {
            return;
        }
        let Some(session) = &mut self.session else { return };
        match session.client.subscribe(String::from(subject::notify_group(group))).await {
            Ok(subscriber) => session.group = Some(subscriber),
            Err(error) => {
                let why = format!("cannot subscribe: {error}");
                let lost = self.lost(why);
                self.pending.push_back(lost);
            }
        }
    }

    async fn unsubscribe(&mut self) {
        self.group = None;
        let Some(mut subscriber) = self.session.as_mut().and_then(|session| session.group.take()) else {
            return;
        };
        if let Err(error) = subscriber.unsubscribe().await {
            tracing::debug!(agent = %self.agent, %error, "cannot unsubscribe");
        }
    }

    async fn fetch(&mut self, group: &GroupId, fetch: u64) {
        if !self.may_hear_of(group) {
            let why = "the claims for the broker are of another group; new ones are asked for".to_owned();
            self.pending.push_back(Event::Fetched(fetch, Fetched::Failed(why)));
            return;
        }
        let from = subject::direct_get(subject::STREAM_DESIRED, &subject::desired_group(group));
        self.publish(from, Some(format!("{}.{FETCH}{fetch}", self.replies)), Bytes::new()).await;
    }

    async fn fetch_root(&mut self, version: u64) {
        let from = subject::direct_get(subject::STREAM_DESIRED, &subject::desired_root(version));
        self.publish(from, Some(format!("{}.{ROOT}{version}", self.replies)), Bytes::new()).await;
    }

    async fn send_heartbeat(&mut self, beat: u64, payload: Bytes) {
        let reply = (beat > 0).then(|| format!("{}.{HEARTBEAT}{beat}", self.replies));
        self.publish(subject::heartbeat(&self.agent), reply, payload).await;
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            let (connecting, closing, session) = (&mut self.connecting, &mut self.closing, &mut self.session);
            let renewed = &mut self.renewed;
            tokio::select! {
                opened = optional(connecting.as_mut()) => {
                    self.connecting = None;
                    match opened {
                        Ok(session) => {
                            self.session = Some(session);
                            return Event::Up;
                        }
                        Err(why) => return self.lost(why),
                    }
                }
                () = optional(closing.as_mut()) => self.closing = None,
                () = changed(renewed.as_mut()) => self.show_new_claims(),
                events = async { match session { Some(session) => session.next().await, None => std::future::pending().await } } => {
                    match events {
                        // A handful: one wake-up reports each kind of change once.
                        Some(events) => self.pending.extend(events),
                        None => return self.lost("the connection is closed"),
                    }
                }
            }
        }
    }

    async fn close(&mut self) {
        self.disconnect();
        if let Some(closing) = self.closing.take() {
            closing.await;
        }
    }
}

/// Waits for new claims. Where there are none, for ever.
async fn changed(claims: Option<&mut watch::Receiver<UserFacts>>) {
    let Some(claims) = claims else { return std::future::pending().await };
    if claims.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Waits for a future that may not be there: then for ever.
async fn optional<T>(future: Option<&mut Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
