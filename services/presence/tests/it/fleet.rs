//! A broker, what policy and identity would have written, replicas of the service, and agents.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use domain::enrol::Reason;
use domain::registry::{AgentKey, Newcomer, Registration};
use domain::{
    AgentId, Cursor, Epoch, FleetId, GroupId, GroupPath, Mode, Revision, Settings, Snapshot, Span, Timestamp,
    TokenId,
};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;
use runtime::nats::{Connection, Expect, Headers, Nats};
use runtime::nats_server::{NatsServer, Setup};
use runtime::{Listener, ServiceArgs, ServiceContext, Shutdown, Tasks};
use tempfile::TempDir;
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use wire::agent::v1::{DownloadWish, Heartbeat, HeartbeatReply, ItemState, ItemStatus, StatusReport};
use wire::api::v1 as api;
use wire::api::v1::presence_service_client::PresenceServiceClient;
use wire::subject::{self, STREAM_DESIRED, STREAM_EVENTS, STREAM_IDENTITY, Subject, header};

/// Longest wait of these tests for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a heartbeat may take in these tests. The machines are shared; a lost one never comes.
const BEAT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Fleet {
    pub(crate) server: NatsServer,
    pub(crate) nats: Nats,
    pub(crate) key: SigningKey,
    _dir: TempDir,
}

pub(crate) struct Replica {
    context: ServiceContext,
    pub(crate) api: PresenceServiceClient<Channel>,
}

/// A replica in a runtime of its own. Dropped, it ends at once, as by SIGKILL.
pub(crate) struct Mortal {
    runtime: Option<tokio::runtime::Runtime>,
    _replica: Replica,
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Options of a replica in these tests: checkpoints are frequent.
pub(crate) fn config() -> presence::Config {
    presence::Config {
        checkpoint_interval: Duration::from_secs(1),
        snapshot_cache_mib: 1,
        max_full_downloads: 100,
        agent_heartbeat_limit: 0,
        download_grant: Duration::from_secs(60),
    }
}

impl Fleet {
    /// A broker with a pull group `web` at `/servers/web`, revision 5, where agents beat every second.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let binary = runtime::nats_server::find(None).await.unwrap();
        let server = NatsServer::start(Setup::new(binary, dir.path().join("nats"))).await.unwrap();
        let nats = Nats::connect(&Connection::service(vec![server.url()], "test")).await.unwrap();
        for spec in
            [runtime::nats::POLICY, runtime::nats::IDENTITY, runtime::nats::DESIRED, runtime::nats::EVENTS]
        {
            nats.ensure_stream(&spec, 1).await.unwrap();
        }
        let fleet = Self { server, nats, key: SigningKey::from_bytes(&[7; 32]), _dir: dir };
        fleet.head("web", "/servers/web", (Mode::Pull, 1_000), 5).await;
        fleet
    }

    /// Starts a replica and waits until it is ready.
    pub(crate) async fn replica(&self) -> Replica {
        self.replica_of(config()).await
    }

    /// The same with these options.
    pub(crate) async fn replica_of(&self, config: presence::Config) -> Replica {
        Replica::start(self.server.url(), config).await
    }

    /// A replica that can be killed.
    pub(crate) async fn mortal_replica(&self, config: presence::Config) -> Mortal {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let replica = runtime.spawn(Replica::start(self.server.url(), config)).await.unwrap();
        Mortal { runtime: Some(runtime), _replica: replica }
    }

    /// Publishes the head of a group, as policy does, with `offline_after` of two and a half intervals.
    pub(crate) async fn head(
        &self,
        group: &str,
        path: &str,
        (mode, interval_ms): (Mode, u64),
        revision: u64,
    ) {
        let snapshot = Snapshot {
            fleet: FleetId::new("main").unwrap(),
            group: GroupId::new(group).unwrap(),
            path: GroupPath::new(path).unwrap(),
            cursor: Cursor::new(1, revision),
            issued_at: Timestamp(1),
            expires_at: Timestamp(2),
            settings: Settings {
                mode,
                heartbeat_interval: Span(interval_ms),
                offline_after: Span(interval_ms * 5 / 2),
                content_spread: Span(0),
                content_rate_limit: None,
            },
            policies: vec![],
            content: vec![],
            trace_id: [0; 16],
        };
        let mode = if mode == Mode::Push { "push" } else { "pull" };
        let headers = Headers::new()
            .number(header::EPOCH, 1)
            .number(header::REVISION, revision)
            .number(header::HEARTBEAT_INTERVAL, interval_ms)
            .number(header::OFFLINE_AFTER, interval_ms * 5 / 2);
        let headers = headers.text(header::MODE, mode).unwrap().text(header::GROUP_PATH, path).unwrap();
        let payload = wire::encode(&wire::snapshot::seal(&snapshot, &self.key));
        self.publish(STREAM_DESIRED, &subject::desired_group(&snapshot.group), (headers, payload)).await;
    }

    /// Says that a group is no more.
    pub(crate) async fn no_head(&self, group: &str, revision: u64) {
        let headers = Headers::new().number(header::EPOCH, 1).number(header::REVISION, revision);
        let subject = subject::desired_group(&GroupId::new(group).unwrap());
        self.publish(STREAM_DESIRED, &subject, (headers, Bytes::new())).await;
    }

    /// Says that every head up to a store revision is published.
    pub(crate) async fn compiled(&self, revision: u64) {
        let headers = Headers::new().number(header::EPOCH, 1).number(header::REVISION, revision);
        self.publish(STREAM_DESIRED, &subject::desired_compiled(), (headers, Bytes::new())).await;
    }

    /// Writes an agent's record, as identity does.
    pub(crate) async fn enrol(&self, agent: &str, group: &str, assignment: u64) {
        let id = AgentId::new(agent).unwrap();
        let record = Registration {
            group: GroupId::new(group).unwrap(),
            assignment: Cursor::new(1, assignment),
            ..registration()
        };
        let signed = record.assignment(FleetId::new("main").unwrap(), id.clone(), Timestamp(1));
        let envelope = wire::snapshot::seal_assignment(&signed, &self.key);
        let bytes = wire::registry::encode_agent(&record, envelope).into();
        self.publish(STREAM_IDENTITY, &subject::identity_agent(&id), (Headers::new(), bytes)).await;
    }

    pub(crate) async fn delete(&self, agent: &str) {
        let bytes = wire::registry::encode_gone(&registration().deleted(Timestamp(9))).into();
        let subject = subject::identity_agent(&AgentId::new(agent).unwrap());
        self.publish(STREAM_IDENTITY, &subject, (Headers::new(), bytes)).await;
    }

    pub(crate) async fn publish(&self, stream: &'static str, subject: &Subject, message: (Headers, Bytes)) {
        self.nats.publish_cas(stream, subject, message, Expect::Any).await.unwrap();
    }

    /// An agent with its own connection.
    pub(crate) async fn agent(&self, id: &str) -> Agent {
        let id = AgentId::new(id).unwrap();
        let nats = Nats::connect(&Connection::agent(vec![self.server.url()], &id)).await.unwrap();
        let replies = nats.subscribe(&format!("{}.*", subject::inbox_prefix(&id))).await.unwrap();
        nats.flush(PATIENCE).await.unwrap();
        let (session, wish) = (runtime::ids::random_u64(), DownloadWish::Unspecified);
        Agent { id, nats, replies, session, sequence: AtomicU64::new(0), revision: 0, assignment: 1, wish }
    }

    /// Transitions of an agent as stored: state before and after.
    pub(crate) async fn events(&self, agent: &str) -> Vec<(u32, u32)> {
        let subject = subject::events_presence(&AgentId::new(agent).unwrap());
        let stored = self.nats.direct_get_all(STREAM_EVENTS, &subject, 100).await.unwrap();
        let read = |bytes: &[u8]| wire::decode::<wire::store::v1::PresenceEvent>(bytes, 1000).unwrap();
        stored.iter().map(|message| read(&message.payload)).map(|event| (event.from, event.to)).collect()
    }
}

fn registration() -> Registration {
    let newcomer = Newcomer {
        key: AgentKey::new(format!("U{}", "A".repeat(55))).unwrap(),
        labels: [("site".to_owned(), "north".to_owned())].into(),
        hostname: "host".into(),
        token: TokenId::new("web").unwrap(),
    };
    newcomer.registration((GroupId::new("web").unwrap(), Reason::Token), Epoch(1), Timestamp(1))
}

impl Replica {
    async fn start(url: String, config: presence::Config) -> Self {
        let args = ServiceArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            nats_url: vec![url],
            tls: runtime::ListenerTlsArgs { insecure_plaintext: true, ..Default::default() },
            nats_tls: runtime::BrokerTlsArgs::default(),
            nats_creds: None,
            agent_servers: vec![],
            agent_ca_file: None,
            fleet: FleetId::new("main").unwrap(),
            director_key: None,
            content_keys: runtime::ContentKeyArgs::default(),
            access: runtime::access::AccessArgs { insecure_no_auth: true, ..Default::default() },
            trust: runtime::TrustArgs::default(),
            stream_replicas: 1,
        };
        let context =
            ServiceContext::connect(&args, wire::access::Role::Presence, Tasks::new(Shutdown::new()))
                .await
                .unwrap();
        let mut routes = RoutesBuilder::default();
        presence::start(&config, &context, &mut routes).await.unwrap();
        let listener = Listener::bind(args.listen, args.tls.security().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.address());
        context.serve(listener, routes);
        let ready = tokio::time::timeout(PATIENCE, context.readiness.ready()).await;
        assert!(ready.is_ok(), "not ready: {:?}", context.readiness.missing());
        Self { context, api: PresenceServiceClient::connect(url).await.unwrap() }
    }

    pub(crate) async fn get(&mut self, agent: &str) -> Option<api::Agent> {
        let request = api::GetAgentRequest { name: agent.into() };
        self.api.get_agent(request).await.ok().map(tonic::Response::into_inner)
    }

    /// Waits until this replica sees an agent as wanted.
    pub(crate) async fn sees(&mut self, agent: &str, wanted: impl Fn(&api::Agent) -> bool) -> api::Agent {
        let mut last = None;
        let wait = async {
            loop {
                last = self.get(agent).await;
                if let Some(found) = last.clone().filter(|found| wanted(found)) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, wait).await.ok();
        seen.unwrap_or_else(|| panic!("never seen: {last:?}"))
    }

    /// Waits until this replica sees an agent in a state.
    pub(crate) async fn sees_state(&mut self, agent: &str, state: api::PresenceState) -> api::Agent {
        self.sees(agent, |found| found.state() == state).await
    }

    /// Stops in order.
    pub(crate) async fn stop(self) {
        self.context.shutdown().request();
        self.context.finish().await.unwrap();
    }
}

/// An agent that beats when told to.
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) nats: Nats,
    replies: Subscriber,
    session: u64,
    sequence: AtomicU64,
    /// Revision it runs.
    pub(crate) revision: u64,
    /// Assignment it obeys.
    pub(crate) assignment: u64,
    /// What its heartbeats say of the allowance for full downloads.
    pub(crate) wish: DownloadWish,
}

impl Agent {
    pub(crate) fn heartbeat(&self, status: Option<StatusReport>) -> Heartbeat {
        Heartbeat {
            session: self.session,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            epoch: 1,
            revision: self.revision,
            assignment_epoch: 1,
            assignment_revision: self.assignment,
            status,
            download: self.wish.into(),
        }
    }

    /// Sends bytes as a heartbeat with a reply subject.
    pub(crate) async fn send(&self, payload: Bytes, reply: String) {
        let subject = subject::heartbeat(&self.id).to_string();
        self.nats.client().publish_with_reply(subject, reply, payload).await.unwrap();
    }

    /// One heartbeat; `None` if nobody answers.
    pub(crate) async fn try_beat(&mut self, status: Option<StatusReport>) -> Option<HeartbeatReply> {
        let heartbeat = self.heartbeat(status);
        let reply = format!("{}.{}", subject::inbox_prefix(&self.id), heartbeat.sequence);
        self.send(wire::encode(&heartbeat), reply.clone()).await;
        loop {
            let message = tokio::time::timeout(BEAT_TIMEOUT, self.replies.next()).await.ok()??;
            if message.subject.as_str() == reply {
                let answered = message.status.is_none();
                return answered.then(|| wire::heartbeat::read_reply(&message.payload).unwrap());
            }
        }
    }

    pub(crate) async fn beat(&mut self, status: Option<StatusReport>) -> HeartbeatReply {
        self.try_beat(status).await.expect("the heartbeat is answered")
    }

    /// A report that asks for no answer.
    pub(crate) async fn report(&self, status: StatusReport) {
        let subject = subject::heartbeat(&self.id);
        let payload = wire::encode(&self.heartbeat(Some(status)));
        self.nats.publish(&subject, Headers::new(), payload).await.unwrap();
    }

    /// The next reply, whatever it answers; `None` if none comes in a moment.
    pub(crate) async fn any_reply(&mut self) -> Option<HeartbeatReply> {
        let message = tokio::time::timeout(Duration::from_secs(2), self.replies.next()).await.ok()??;
        Some(wire::heartbeat::read_reply(&message.payload).unwrap())
    }
}

/// A status: one item at `revision`, failed for a reason or healthy.
pub(crate) fn status(mode: wire::agent::v1::Mode, revision: u64, failure: Option<&str>) -> StatusReport {
    let state = if failure.is_some() { ItemState::Failed } else { ItemState::Healthy };
    let item = ItemStatus {
        kind: "firewall".into(),
        state: state.into(),
        revision,
        reason: failure.unwrap_or_default().into(),
    };
    StatusReport {
        agent_version: "1.2.3".into(),
        mode: mode.into(),
        items: vec![item],
        seen_epoch: 1,
        seen_revision: revision,
        hostname: "web-1.example.org".into(),
        ..StatusReport::default()
    }
}

/// The revision of the snapshot in a reply, checked as an agent checks it.
pub(crate) fn offered(fleet: &Fleet, reply: &HeartbeatReply) -> Option<(GroupId, Revision)> {
    let envelope = reply.snapshot.as_ref()?;
    let snapshot = wire::snapshot::open(envelope, &fleet.key.verifying_key().into()).unwrap();
    Some((snapshot.group, snapshot.cursor.revision))
}
