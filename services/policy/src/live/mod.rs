//! Live tests: real replicas of the service in this process, on a real `nats-server` of their own.

mod content;
mod faults;
mod managed;
mod many;
mod ways;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::access::{Caller, Reach, Role};
use domain::{Cursor, GroupId, Revision, Snapshot};
use runtime::nats::{Nats, StreamMessage};
use runtime::nats_server::{NatsServer, Setup, find};
use runtime::{ServiceArgs, ServiceContext, Shutdown, Tasks};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request, Status};
use wire::api::v1;
use wire::api::v1::content_reference::Which;
use wire::api::v1::policy_service_server::PolicyService as _;
use wire::api::v1::resource::Resource;
use wire::subject::{self, STREAM_DESIRED, header};

use crate::Config;
use crate::api::Api;
use crate::replica::Replica;

/// A request of an administrator.
pub(super) fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let (name, role) = ("token:test".to_owned(), Role::Admin);
    request.extensions_mut().insert(Caller { name, role, reach: Reach::Everywhere, until: None });
    request
}

/// Longest wait for any state. Reached only by a failure.
const SOON: Duration = Duration::from_secs(30);

/// A server and the key that all replicas share.
pub(super) struct Rig {
    pub(super) server: NatsServer,
    pub(super) nats: Nats,
    dir: TempDir,
}

/// A replica that runs.
pub(super) struct Running {
    pub(super) api: Api,
    pub(super) replica: Arc<Replica>,
    context: ServiceContext,
}

impl Rig {
    pub(super) async fn start() -> Self {
        let filter = std::env::var("MUSTER_LOG").unwrap_or_else(|_| "off".to_owned());
        let log = runtime::log::LogConfig { log_format: runtime::log::LogFormat::Text, log_level: filter };
        // The first test of the process starts the log for all.
        drop(runtime::log::init(&log));
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup::new(find(None).await.unwrap(), dir.path().join("nats"));
        let server = NatsServer::start(setup).await.unwrap();
        for key in ["director.key", "root.key"] {
            runtime::keys::load_or_create(&dir.path().join(key)).unwrap();
        }
        let connection = runtime::nats::Connection::service(vec![server.url()], "test");
        let nats = Nats::connect(&connection).await.unwrap();
        Self { server, nats, dir }
    }

    /// Connects a replica that does nothing yet.
    pub(super) async fn replica(&self, snapshot_validity: Duration) -> Running {
        let args = ServiceArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            nats_url: vec![self.server.url()],
            tls: runtime::ListenerTlsArgs { insecure_plaintext: true, ..Default::default() },
            nats_tls: runtime::BrokerTlsArgs::default(),
            nats_creds: None,
            agent_servers: Vec::new(),
            agent_ca_file: None,
            fleet: "test".parse().unwrap(),
            director_key: Some(self.dir.path().join("director.key")),
            content_keys: runtime::content_keys::ContentKeyArgs::default(),
            access: runtime::access::AccessArgs::default(),
            trust: runtime::TrustArgs {
                root_key: Some(self.dir.path().join("root.key")),
                ..runtime::TrustArgs::default()
            },
            stream_replicas: 1,
        };
        let context = ServiceContext::connect(&args, wire::access::Role::Policy, Tasks::new(Shutdown::new()))
            .await
            .unwrap();
        let replica = Arc::new(crate::replica(&Config { snapshot_validity }, &context).unwrap());
        Running { api: Api(Arc::clone(&replica)), replica, context }
    }

    /// A replica that is ready, of a store that has begun.
    pub(super) async fn run(&self) -> Running {
        self.run_for(Duration::from_secs(3600)).await
    }

    /// A replica that is ready, whose snapshots are good for so long.
    pub(super) async fn run_for(&self, validity: Duration) -> Running {
        let running = self.replica(validity).await;
        crate::spawn(&running.replica, &running.context);
        soon(running.context.readiness.ready()).await;
        // A change may come before the entry with which a store begins. Here it does not: tests count revisions.
        soon(crate::change::reach(&running.replica, Revision(1))).await.unwrap();
        running
    }

    /// The message of a group's head.
    pub(super) async fn message(&self, group: &str) -> Option<StreamMessage> {
        let subject = subject::desired_group(&id(group));
        self.nats.leader_get_last(STREAM_DESIRED, &subject).await.unwrap()
    }

    /// The head of a group as an agent reads it.
    pub(super) async fn head(&self, replica: &Replica, group: &str) -> Option<Snapshot> {
        let message = self.message(group).await?;
        let envelope = wire::envelope::parse(&message.payload).ok()?;
        wire::snapshot::open(&envelope, &replica.roots.directors()).ok()
    }

    /// Waits until every head up to this revision is published.
    pub(super) async fn marked(&self, revision: u64) -> Cursor {
        soon(async {
            loop {
                let subject = subject::desired_compiled();
                let marker = self.nats.leader_get_last(STREAM_DESIRED, &subject).await.unwrap();
                let number = |name| marker.as_ref().and_then(|marker| marker.headers.get_number(name));
                let cursor = Cursor::new(
                    number(header::EPOCH).unwrap_or_default(),
                    number(header::REVISION).unwrap_or_default(),
                );
                if cursor.revision.0 >= revision {
                    return cursor;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Deletes a stream, as an accident would.
    pub(super) async fn delete_stream(&self, stream: &str) {
        let call = format!("$JS.API.STREAM.DELETE.{stream}");
        self.nats.client().request(call, "".into()).await.unwrap();
    }
}

impl Running {
    pub(super) async fn apply(&self, resources: &[Value]) -> Result<v1::ApplyResponse, Status> {
        let resources = resources.iter().map(resource).collect();
        let request =
            v1::ApplyRequest { resources, message: "test".to_owned(), ..v1::ApplyRequest::default() };
        self.api.apply(asked(request)).await.map(tonic::Response::into_inner)
    }

    /// Applies and gives the revision.
    pub(super) async fn applied(&self, resources: &[Value]) -> u64 {
        self.apply(resources).await.unwrap().result.unwrap().revision
    }

    pub(super) async fn group(&self, group: &str) -> Result<v1::Group, Status> {
        let request = v1::GetGroupRequest { group: group.to_owned(), min_revision: 0 };
        self.api.get_group(asked(request)).await.map(tonic::Response::into_inner)
    }

    pub(super) fn revision(&self) -> Revision {
        self.replica.current().map(|view| view.revision()).unwrap_or_default()
    }

    pub(super) fn request_stop(&self) {
        self.context.shutdown().request();
    }

    /// Stops in order.
    pub(super) async fn stop(self) {
        self.request_stop();
        self.context.finish().await.unwrap();
    }
}

pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("the state is reached in time")
}

/// Waits until a question is answered with yes.
pub(super) async fn until(mut question: impl AsyncFnMut() -> bool) {
    soon(async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub(super) fn id(group: &str) -> GroupId {
    GroupId::new(group).unwrap()
}

/// A resource from `{"group": name, "path": …}`, `{"kind": …, "schema": …}`, `{"policy": …, "of": …}`,
/// `{"token": …, "in": …}` or `{"release": …, "channel": …}`.
fn resource(object: &Value) -> v1::Resource {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let list = |field: &str| -> Vec<String> {
        let items = object[field].as_array().into_iter().flatten();
        items.map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let structure = |field: &str| wire::document::to_struct(&object[field]).unwrap();
    let resource = if object["policy"].is_string() {
        Resource::Policy(v1::Policy {
            name: text("policy"),
            kind: text("of"),
            document: structure("document"),
            locks: list("locks"),
            ..v1::Policy::default()
        })
    } else if object["kind"].is_string() {
        Resource::Kind(v1::Kind { name: text("kind"), schema: structure("schema"), ..v1::Kind::default() })
    } else if object["token"].is_string() {
        Resource::Token(v1::Token { name: text("token"), group: text("in"), ..v1::Token::default() })
    } else if object["release"].is_string() {
        Resource::ContentRelease(v1::ContentRelease {
            name: text("release"),
            channel: text("channel"),
            stage: text("stage"),
            revision: u32::try_from(object["revision"].as_u64().unwrap()).unwrap(),
        })
    } else {
        let mode = match object["mode"].as_str() {
            Some("push") => Some(v1::Mode::Push.into()),
            Some(_) => Some(v1::Mode::Pull.into()),
            None => None,
        };
        Resource::Group(v1::Group {
            name: text("group"),
            path: text("path"),
            settings: Some(v1::Settings {
                mode,
                content_rate_limit: object["rate"].as_u64(),
                ..v1::Settings::default()
            }),
            policies: list("policies"),
            content: object["content"].as_object().into_iter().flatten().map(reference).collect(),
            ..v1::Group::default()
        })
    };
    v1::Resource { resource: Some(resource) }
}

fn reference((channel, which): (&String, &Value)) -> v1::ContentReference {
    let which = match which {
        Value::String(stage) => Which::Stage(stage.clone()),
        number => Which::Revision(u32::try_from(number.as_u64().unwrap()).unwrap()),
    };
    v1::ContentReference { channel: channel.clone(), which: Some(which) }
}

/// A kind, a policy at `/servers` that locks `/rules/ssh`, and `/servers/web` with one of its own.
pub(super) fn servers() -> Vec<Value> {
    let action = json!({"enum": ["allow", "deny"]});
    vec![
        json!({"group": "", "path": "/servers/web", "policies": ["web"]}),
        json!({"group": "servers", "path": "/servers", "policies": ["base"], "mode": "push"}),
        base("deny"),
        json!({"policy": "web", "of": "firewall", "document": {"rules": {"http": "allow"}}}),
        json!({"kind": "firewall", "schema": {"properties": {"rules": {"additionalProperties": action}}}}),
    ]
}

pub(super) fn base(action: &str) -> Value {
    json!({"policy": "base", "of": "firewall", "document": {"rules": {"ssh": action}}, "locks": ["/rules/ssh"]})
}

/// The documents of a snapshot by kind.
pub(super) fn documents(snapshot: &Snapshot) -> BTreeMap<String, Value> {
    let document =
        |item: &domain::PolicyItem| (item.kind.to_string(), serde_json::from_slice(&item.document).unwrap());
    snapshot.policies.iter().map(document).collect()
}
