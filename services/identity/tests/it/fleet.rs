//! A broker, replicas of the service on it, and machines that want to join.

use std::path::PathBuf;
use std::time::Duration;

use domain::catalog::{Entry as Object, Group};
use domain::{AgentId, Assignment, Cursor, GroupId, GroupPath, Timestamp};
use nkeys::KeyPair;
use runtime::nats::{Connection, Followed, From, Headers, Nats, StreamMessage};
use runtime::nats_server::{NatsServer, Setup};
use runtime::store::{ChangeInfo, Entry, Log};
use runtime::{Listener, ServiceArgs, ServiceContext, Shutdown, Tasks};
use tempfile::TempDir;
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use wire::agent::v1::join_reply::Outcome;
use wire::agent::v1::{JoinBundle, JoinError, JoinErrorCode, JoinRequest};
use wire::api::v1::identity_service_client::IdentityServiceClient;
use wire::api::v1::{CreateTokenRequest, JoinTokenSecret, Token};
use wire::join::JoinToken;
use wire::subject::{STREAM_DESIRED, STREAM_IDENTITY, desired_agent, enrol, identity_token};

/// Longest wait of these tests for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// When a machine that got no answer asks again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) struct Fleet {
    pub(crate) server: NatsServer,
    pub(crate) nats: Nats,
    key: PathBuf,
    _dir: TempDir,
}

pub(crate) struct Replica {
    context: ServiceContext,
    pub(crate) api: IdentityServiceClient<Channel>,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let binary = runtime::nats_server::find(None).await.unwrap();
        let server = NatsServer::start(Setup::new(binary, dir.path().join("nats"))).await.unwrap();
        let nats = Nats::connect(&Connection::service(vec![server.url()], "test")).await.unwrap();
        nats.ensure_stream(&runtime::nats::POLICY, 1).await.unwrap();
        let key = dir.path().join("director.key");
        for key in [&key, &key.with_file_name("root.key")] {
            runtime::keys::load_or_create(key).unwrap();
        }
        Self { server, nats, key, _dir: dir }
    }

    /// Starts a replica and waits until it is ready.
    pub(crate) async fn replica(&self) -> Replica {
        let args = ServiceArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            nats_url: vec![self.server.url()],
            tls: runtime::ListenerTlsArgs { insecure_plaintext: true, ..Default::default() },
            nats_tls: runtime::BrokerTlsArgs::default(),
            nats_creds: None,
            agent_servers: vec![],
            agent_ca_file: None,
            fleet: "main".parse().unwrap(),
            director_key: Some(self.key.clone()),
            content_keys: runtime::ContentKeyArgs::default(),
            access: runtime::access::AccessArgs { insecure_no_auth: true, ..Default::default() },
            trust: runtime::TrustArgs {
                root_key: Some(self.key.with_file_name("root.key")),
                ..runtime::TrustArgs::default()
            },
            stream_replicas: 1,
        };
        let context =
            ServiceContext::connect(&args, wire::access::Role::Identity, Tasks::new(Shutdown::new()))
                .await
                .unwrap();
        let mut routes = RoutesBuilder::default();
        identity::start(
            &identity::Config {
                enrol_parallel: 64,
                agent_claims_ttl: PATIENCE,
                agent_flood_ban: Duration::ZERO,
            },
            &context,
            &mut routes,
        )
        .await
        .unwrap();
        let listener = Listener::bind(args.listen, args.tls.security().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.address());
        context.serve(listener, routes);
        let ready = tokio::time::timeout(PATIENCE, context.readiness.ready()).await;
        assert!(ready.is_ok(), "not ready: {:?}", context.readiness.missing());
        Replica { context, api: IdentityServiceClient::connect(url).await.unwrap() }
    }

    /// Puts groups into the catalogue, as policy does.
    pub(crate) async fn groups(&self, groups: &[(&str, &str)]) {
        let log = Log::new(self.nats.clone());
        let entries = groups.iter().map(|(id, path)| {
            let group = Group::new(GroupId::new(id).unwrap(), GroupPath::new(path).unwrap());
            let object = Object::Group(group.into());
            let body = wire::catalog::encode(&object).unwrap().into();
            Entry { key: wire::catalog::store_key(&object.key()), body }
        });
        let info = ChangeInfo {
            id: runtime::ids::random_id().parse().unwrap(),
            actor: "test".into(),
            message: String::new(),
            time: Timestamp(1),
            trace_id: None,
        };
        let end = log.end().await.unwrap();
        log.commit(&info, entries.collect(), end).await.unwrap();
    }

    /// Uses of a token as stored.
    pub(crate) async fn used(&self, token: &str) -> u32 {
        let subject = identity_token(&token.parse().unwrap());
        let stored = self.nats.leader_get_last(STREAM_IDENTITY, &subject).await.unwrap();
        stored.map_or(0, |message| wire::registry::read_uses(&message.payload).unwrap().used)
    }

    /// The head of an agent.
    pub(crate) async fn head(&self, agent: &str) -> Option<StreamMessage> {
        let subject = desired_agent(&AgentId::new(agent).unwrap());
        self.nats.leader_get_last(STREAM_DESIRED, &subject).await.unwrap()
    }

    /// Waits until the head of an agent satisfies `wanted`.
    pub(crate) async fn head_becomes(
        &self,
        agent: &str,
        wanted: impl Fn(&StreamMessage) -> bool,
    ) -> StreamMessage {
        let subject = desired_agent(&AgentId::new(agent).unwrap());
        let mut follow = self.nats.follow(STREAM_DESIRED, subject.as_str(), From::LastPerSubject, false);
        let wait = async {
            loop {
                match follow.next().await.unwrap() {
                    Followed::Message(message) if wanted(&message) => return message,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the head is published")
    }

    /// The assignment in a head, checked as an agent checks it.
    pub(crate) fn assignment(&self, head: &StreamMessage) -> Assignment {
        let director = runtime::keys::load(&self.key).unwrap().verifying_key();
        let envelope = wire::envelope::parse(&head.payload).unwrap();
        wire::snapshot::open_assignment(&envelope, &director.into()).unwrap()
    }

    /// Sends bytes as a request to join and reads the outcome. Asks again when nobody answers, as agents do.
    pub(crate) async fn request(&self, payload: Vec<u8>) -> Outcome {
        let reply =
            format!("_INBOX_join.{}.{}", nkeys::KeyPair::new_user().public_key(), runtime::ids::random_id());
        let mut replies = self.nats.subscribe(&reply).await.unwrap();
        for _ in 0..PATIENCE.as_secs() / ASK_AGAIN.as_secs() {
            let ask = self.nats.client().publish_with_reply(
                enrol().to_string(),
                reply.clone(),
                payload.clone().into(),
            );
            ask.await.unwrap();
            if let Ok(answer) = tokio::time::timeout(ASK_AGAIN, futures::StreamExt::next(&mut replies)).await
            {
                let answer = answer.expect("the connection is open");
                assert_eq!(answer.status, None, "somebody listens");
                return wire::join::read_reply(&answer.payload).unwrap().outcome.unwrap();
            }
        }
        panic!("identity does not answer");
    }

    pub(crate) async fn join(&self, machine: &Machine, token: &str) -> Result<JoinBundle, JoinError> {
        match self.request(machine.request(token)).await {
            Outcome::Bundle(bundle) => Ok(bundle),
            Outcome::Error(error) => Err(error),
        }
    }

    /// Publishes what is no agent's doing.
    pub(crate) async fn publish(&self, subject: &wire::subject::Subject, payload: Vec<u8>) {
        let any = runtime::nats::Expect::Any;
        let message = (Headers::new(), payload.into());
        self.nats.publish_cas(STREAM_IDENTITY, subject, message, any).await.unwrap();
    }
}

impl Replica {
    /// Makes a token for a group.
    pub(crate) async fn token(&mut self, name: &str, group: &str, uses: u32) -> JoinTokenSecret {
        let details = Token { name: name.into(), group: group.into(), uses, ..Token::default() };
        let request = CreateTokenRequest { details: Some(details) };
        self.api.create_token(request).await.unwrap().into_inner()
    }

    pub(crate) async fn stop(self) {
        self.context.shutdown().request();
        self.context.finish().await.unwrap();
    }
}

/// A machine with its own key.
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) key: KeyPair,
    /// The group that it asks for.
    pub(crate) group: String,
}

impl Machine {
    pub(crate) fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), key: KeyPair::new_user(), group: String::new() }
    }

    /// The signed request to join with a token.
    pub(crate) fn request(&self, token: &str) -> Vec<u8> {
        let token = JoinToken::decode(token).unwrap();
        let request = JoinRequest {
            fleet: token.fleet.to_string(),
            token: token.token.to_string(),
            secret: token.secret.to_vec(),
            agent: self.id.clone(),
            public_key: self.key.public_key(),
            hostname: format!("{}.example.org", self.id),
            labels: [("site".to_owned(), "north".to_owned())].into(),
            agent_version: "0.1.0".into(),
            // 1970: a machine whose clock is not set may join.
            requested_at_ms: 0,
            trust_root_sha256: Vec::new(),
            group: self.group.clone(),
        };
        wire::encode(&wire::join::seal_request(&request, &self.key).unwrap()).to_vec()
    }
}

#[track_caller]
pub(crate) fn refused(outcome: Result<JoinBundle, JoinError>, code: JoinErrorCode, words: &str) {
    let error = outcome.expect_err("the join is refused");
    assert_eq!(error.code(), code, "{}", error.message);
    assert!(error.message.contains(words), "{}", error.message);
}

pub(crate) fn cursor(head: &StreamMessage) -> Cursor {
    let number = |name| head.headers.get_number(name).unwrap();
    Cursor::new(number("Muster-Epoch"), number("Muster-Revision"))
}
