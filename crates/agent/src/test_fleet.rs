//! A fleet for tests: signs what agents obey, and answers them like a broker would.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use domain::agent::{Note, Offer, Timing};
use domain::settings::SettingsOverlay;
use domain::trust::{Role, Root};
use domain::{
    AgentId, Assignment, Cursor, Digest, FleetId, GroupId, GroupPath, KindName, Mode, PolicyItem, Revision,
    Snapshot, Span, Timestamp,
};
use ed25519_dalek::SigningKey;
use prost::Message as _;
use runtime::Shutdown;
use runtime::tls::BrokerTls;
use tokio::sync::watch;
use wire::root::Chain;
use wire::sign::{KeySet, public_key};

use crate::agent::{Agent, Enrolment, Parts};
use crate::handler::Handler;
use crate::storage::Storage;
use crate::transport::{Event, Fetched, Transport};
use crate::trust::LiveTrust;

/// How long a test waits for a state before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn director() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(crate) fn fleet() -> FleetId {
    FleetId::new("f").unwrap()
}

pub(crate) fn root_key() -> SigningKey {
    SigningKey::from_bytes(&[6; 32])
}

/// The first root, with one key a role.
pub(crate) fn root(content: &KeySet) -> Root {
    Root {
        fleet: fleet(),
        version: 1,
        issued_at: Timestamp(1),
        expires_at: Timestamp(u64::MAX),
        root: Role::of_one(public_key(&root_key().verifying_key())),
        director: Role::of_one(public_key(&director().verifying_key())),
        content: content.role(),
    }
}

/// The envelope of a root, signed with the root key.
pub(crate) fn signed_root(root: &Root) -> wire::agent::v1::Envelope {
    let mut envelope = wire::root::unsigned(root);
    wire::root::sign(&mut envelope, &root_key()).unwrap();
    envelope
}

pub(crate) fn trust_in(content: &KeySet) -> LiveTrust {
    LiveTrust::new(Chain::begin(signed_root(&root(content))).unwrap())
}

pub(crate) fn trust() -> LiveTrust {
    trust_in(&KeySet::default())
}

pub(crate) fn kind(name: &str) -> KindName {
    KindName::new(name).unwrap()
}

/// A snapshot of group `g`: push, one document for each pair.
pub(crate) fn snapshot(revision: u64, documents: &[(&str, &str)]) -> Snapshot {
    let overlay = SettingsOverlay {
        mode: Some(Mode::Push),
        heartbeat_interval: Some(Span::from_secs(2)),
        ..SettingsOverlay::default()
    };
    let item = |(name, document): &(&str, &str)| PolicyItem {
        kind: kind(name),
        revision: Revision(revision),
        document: document.as_bytes().into(),
        digest: Digest::of(document.as_bytes()),
    };
    let now = runtime::clock::now();
    Snapshot {
        fleet: fleet(),
        group: GroupId::new("g").unwrap(),
        path: GroupPath::new("/g").unwrap(),
        cursor: Cursor::new(1, revision),
        issued_at: now,
        expires_at: now + Span::from_secs(3600),
        settings: overlay.effective().unwrap(),
        policies: documents.iter().map(item).collect(),
        content: Vec::new(),
        trace_id: [0; 16],
    }
}

pub(crate) fn envelope(snapshot: &Snapshot) -> Bytes {
    wire::snapshot::seal(snapshot, &director()).encode_to_vec().into()
}

pub(crate) fn offer(snapshot: Snapshot) -> Arc<Offer> {
    let envelope = Arc::from(&envelope(&snapshot)[..]);
    Arc::new(Offer { snapshot, envelope })
}

pub(crate) fn enrolment() -> Enrolment {
    let assignment = Assignment {
        fleet: fleet(),
        agent: AgentId::new("a").unwrap(),
        group: GroupId::new("g").unwrap(),
        cursor: Cursor::new(1, 1),
        issued_at: Timestamp(1),
    };
    let assignment = wire::snapshot::seal_assignment(&assignment, &director()).encode_to_vec();
    let agent = AgentId::new("a").unwrap();
    let tls = BrokerTls::default();
    Enrolment {
        agent,
        trust: trust(),
        servers: Vec::new(),
        tls,
        assignment: Some(assignment.into()),
        access: None,
    }
}

/// A broker in memory: the head of the group, trust roots after the first, and what agents sent.
#[derive(Clone)]
pub(crate) struct Broker(
    Arc<watch::Sender<Option<Bytes>>>,
    Arc<Mutex<Vec<wire::agent::v1::Heartbeat>>>,
    Arc<Mutex<Vec<Bytes>>>,
);

impl Broker {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)), Arc::default(), Arc::default())
    }

    /// Publishes the next trust root; the first of them counts as version 2.
    pub(crate) fn publish_root(&self, bytes: Bytes) {
        self.2.lock().unwrap().push(bytes);
    }

    /// Publishes bytes as the group's head, and pushes them.
    pub(crate) fn publish(&self, bytes: Bytes) {
        self.0.send_replace(Some(bytes));
    }

    /// Publishes another root in the place of the last one.
    pub(crate) fn replace_root(&self, bytes: Bytes) {
        let mut roots = self.2.lock().unwrap();
        roots.pop();
        roots.push(bytes);
    }

    /// All heartbeats and reports so far.
    pub(crate) fn heard(&self) -> Vec<wire::agent::v1::Heartbeat> {
        self.1.lock().unwrap().clone()
    }

    pub(crate) fn transport(&self) -> MemoryTransport {
        let mut head = self.0.subscribe();
        head.mark_unchanged();
        MemoryTransport { broker: self.clone(), head, subscribed: false, events: VecDeque::new() }
    }
}

pub(crate) struct MemoryTransport {
    broker: Broker,
    head: watch::Receiver<Option<Bytes>>,
    subscribed: bool,
    events: VecDeque<Event>,
}

impl Transport for MemoryTransport {
    fn connect(&mut self) {
        self.events.push_back(Event::Up);
    }

    fn disconnect(&mut self) {
        self.subscribed = false;
    }

    async fn reconnect(&mut self) {}

    async fn subscribe(&mut self, _group: &GroupId) {
        self.subscribed = true;
    }

    async fn unsubscribe(&mut self) {
        self.subscribed = false;
    }

    async fn fetch(&mut self, _group: &GroupId, fetch: u64) {
        let head = self.head.borrow().clone();
        self.events.push_back(Event::Fetched(
            fetch,
            head.map_or(Fetched::Empty, |head| Fetched::Envelope(head.into())),
        ));
    }

    async fn fetch_root(&mut self, version: u64) {
        let at = usize::try_from(version).unwrap().checked_sub(2);
        let root = at.and_then(|at| self.broker.2.lock().unwrap().get(at).cloned());
        self.events.push_back(Event::Root(
            version,
            root.map_or(Fetched::Empty, |root| Fetched::Envelope(root.into())),
        ));
    }

    async fn send_heartbeat(&mut self, beat: u64, payload: Bytes) {
        self.broker.1.lock().unwrap().push(wire::heartbeat::read(&payload).unwrap());
        if beat > 0 {
            let root_version = 1 + self.broker.2.lock().unwrap().len() as u64;
            let reply = wire::agent::v1::HeartbeatReply {
                next_heartbeat_ms: 1000,
                root_version,
                ..Default::default()
            };
            self.events.push_back(Event::Beat(beat, Some(Bytes::from(reply.encode_to_vec()).into())));
        }
    }

    async fn next(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        while self.head.changed().await.is_ok() {
            let head = self.head.borrow_and_update().clone();
            if let Some(bytes) = head.filter(|_| self.subscribed) {
                return Event::Group(bytes.into());
            }
        }
        std::future::pending().await
    }

    async fn close(&mut self) {}
}

/// A running agent and what it noted.
pub(crate) struct Running {
    pub(crate) notes: watch::Receiver<Vec<Note>>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) fn start<S: Storage, H: Handler>(
        broker: &Broker,
        storage: Arc<S>,
        handler: Arc<H>,
        loaded: domain::agent::Loaded,
    ) -> Self {
        let (sender, notes) = watch::channel(Vec::new());
        let parts = Parts {
            transport: broker.transport(),
            storage,
            handler,
            loaded,
            timing: Timing { first_spread: Span(0), drift_every: Span(500), ..Timing::default() },
            hostname: "host".to_owned(),
            session: 1,
            observer: Some(Arc::new(move |_: &AgentId, note: &Note| {
                sender.send_modify(|all| all.push(note.clone()))
            })),
            content: None,
        };
        let shutdown = Shutdown::new();
        let task = tokio::spawn(Agent::new(enrolment(), parts).run(shutdown.clone()));
        Self { notes, shutdown, task }
    }

    /// Waits until a note that fits was made.
    pub(crate) async fn noted(&mut self, what: &str, fits: impl Fn(&Note) -> bool) {
        let found = self.notes.wait_for(|notes| notes.iter().any(&fits));
        let found = tokio::time::timeout(PATIENCE, found).await.map(|found| found.is_ok());
        assert_eq!(found, Ok(true), "{what}: {:?}", *self.notes.borrow());
    }

    pub(crate) async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap();
    }
}
