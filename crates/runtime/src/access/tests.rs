//! The gate before a real service, on a real store.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;

use domain::ApiTokenName;
use tonic::Code;
use tonic::service::RoutesBuilder;
use tonic::transport::Endpoint;
use wire::api_token::{BearerToken, SECRET_BYTES};

use super::*;
use crate::live::{Live, soon};
use crate::nats::{AUDIT, POLICY};
use crate::{Listener, Shutdown};

/// A method that every role may use; nothing serves it, so that who gets past the gate hears `Unimplemented`.
const METHOD: &str = "/muster.api.v1.AccessService/WhoAmI";
/// One that takes the right to change.
const CHANGE: &str = "/muster.api.v1.PolicyService/Apply";

struct Rig {
    live: Live,
    address: SocketAddr,
    tasks: Tasks,
}

impl Rig {
    async fn start(args: &AccessArgs) -> Self {
        let live = Live::start().await;
        live.nats.ensure_stream(&POLICY, 1).await.unwrap();
        live.nats.ensure_stream(&AUDIT, 1).await.unwrap();
        let (tasks, readiness) = (Tasks::new(Shutdown::new()), Readiness::new());
        let gate = Gate::start(args, &live.nats, &tasks, &readiness);
        let listener =
            Listener::bind("127.0.0.1:0".parse().unwrap(), crate::Security::Plaintext).await.unwrap();
        let address = listener.address();
        let (routes, stop) = (gate.guard(RoutesBuilder::default().routes()), tasks.shutdown().clone());
        let ready = readiness.clone();
        tasks.spawn("serve", async move { listener.serve(routes, &[], ready, stop).await });
        soon(readiness.ready()).await;
        Self { live, address, tasks }
    }

    /// What a caller with this header hears.
    async fn call(&self, method: &'static str, header: Option<&str>) -> Status {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        let codec = tonic_prost_codec();
        let answer: Result<tonic::Response<()>, Status> =
            client.unary(request, axum::http::uri::PathAndQuery::from_static(method), codec).await;
        answer.unwrap_err()
    }

    async fn code(&self, method: &'static str, header: Option<&str>) -> Code {
        self.call(method, header).await.code()
    }
}

fn tonic_prost_codec() -> impl tonic::codec::Codec<Encode = (), Decode = ()> {
    tonic_prost::ProstCodec::default()
}

fn bearer(name: &str) -> BearerToken {
    BearerToken {
        name: ApiTokenName::new(name).unwrap(),
        secret: crate::ids::random_secret::<SECRET_BYTES>(),
    }
}

fn header(token: &BearerToken) -> String {
    format!("Bearer {}", token.encode())
}

#[tokio::test]
async fn only_who_proves_who_it_is_gets_past_the_gate() {
    let rig = Rig::start(&AccessArgs::default()).await;
    let token = bearer("ana");
    // It is stored after the gate has read all tokens, and good at once.
    store_token(&rig.live.nats, &token, Role::Viewer).await.unwrap();
    assert_eq!(rig.code(METHOD, Some(&header(&token))).await, Code::Unimplemented);
    assert_eq!(rig.code(CHANGE, Some(&header(&token))).await, Code::PermissionDenied);
    assert_eq!(
        rig.code("/muster.api.v1.PolicyService/Nothing", Some(&header(&token))).await,
        Code::Unimplemented
    );
    let guess = BearerToken { secret: [0; SECRET_BYTES], ..token.clone() };
    for wrong in [
        None,
        Some(header(&guess)),
        Some(header(&bearer("nobody"))),
        Some("Bearer mat1_".to_owned()),
        Some(format!("Basic {}", token.encode())),
        Some(token.encode()),
    ] {
        assert_eq!(rig.code(METHOD, wrong.as_deref()).await, Code::Unauthenticated, "{wrong:?}");
    }
    rig.tasks.shutdown().request();
    rig.tasks.finish().await.unwrap();
}

#[tokio::test]
async fn bad_credentials_lock_a_peer_out_for_a_while() {
    let rig = Rig::start(&AccessArgs::default()).await;
    let token = bearer("ana");
    store_token(&rig.live.nats, &token, Role::Viewer).await.unwrap();
    let bad = header(&bearer("nobody"));
    let mut tries = 0;
    while rig.code(METHOD, Some(&bad)).await == Code::Unauthenticated {
        tries += 1;
        assert!(tries < 100, "nobody is ever locked out");
    }
    let refused = rig.call(METHOD, Some(&header(&token))).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "a right one is not looked at either");
    assert!(refused.message().contains("wait"), "{refused}");
    soon(async {
        while rig.code(METHOD, Some(&header(&token))).await != Code::Unimplemented {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Who has come in starts anew.
    assert_eq!(rig.code(METHOD, Some(&bad)).await, Code::Unauthenticated);
    rig.tasks.shutdown().request();
    rig.tasks.finish().await.unwrap();
}

#[tokio::test]
async fn an_open_gate_is_for_loopback() {
    let open = AccessArgs { insecure_no_auth: true, ..AccessArgs::default() };
    let error = open.check("0.0.0.0:1".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("--insecure-no-auth") && error.contains("0.0.0.0:1"), "{error}");
    assert!(open.check("[::1]:1".parse().unwrap()).is_ok());
    let rig = Rig::start(&open).await;
    assert_eq!(rig.code(CHANGE, None).await, Code::Unimplemented);
    rig.tasks.shutdown().request();
    rig.tasks.finish().await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_kept_elsewhere_is_found_again_and_one_that_is_lent_ends() {
    let rig = Rig::start(&AccessArgs::default()).await;
    let nats = &rig.live.nats;
    let (kept, other) = (bearer("operator"), bearer("operator"));
    let hold = async |token, new| hold_token(nats, token, Role::Operator, new).await.unwrap();
    // Something is in the store, so that it was not lost.
    store_token(nats, &bearer("ana"), Role::Admin).await.unwrap();
    assert_eq!(hold(&kept, false).await, Held::Revoked);
    assert_eq!(hold(&kept, true).await, Held::Stored);
    assert_eq!(hold(&kept, true).await, Held::Known);
    assert_eq!(hold(&kept, false).await, Held::Known);
    assert_eq!(hold(&other, true).await, Held::Other);
    assert_eq!(rig.code(CHANGE, Some(&header(&kept))).await, Code::Unimplemented);
    take_back_token(nats, &kept.name).await.unwrap();
    assert_eq!(hold(&kept, false).await, Held::Revoked);

    let lent = bearer("test");
    lend_token(nats, &lent, Role::Operator, domain::Span::from_secs(1)).await.unwrap();
    soon(async {
        while rig.code(CHANGE, Some(&header(&lent))).await != Code::Unauthenticated {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // To take back what is not there is as good.
    for _ in 0..2 {
        take_back_token(nats, &lent.name).await.unwrap();
    }
    rig.tasks.shutdown().request();
    rig.tasks.finish().await.unwrap();
}

#[tokio::test]
async fn the_first_token_is_made_once_kept_and_not_revived() {
    let rig = Rig::start(&AccessArgs::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.token");
    let (nats, name) = (&rig.live.nats, first_token_name());
    first_token(nats, &path, &name).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let header = format!("Bearer {}", text.trim());
    assert_eq!(rig.code(CHANGE, Some(&header)).await, Code::Unimplemented);
    first_token(nats, &path, &name).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    // Revoked stays revoked while the file is there; another file is another token.
    let log = crate::store::Log::new(nats.clone());
    let key = wire::subject::StoreKey::ApiToken(name.clone());
    let gone = domain::catalog::Entry::Deleted { key: wire::catalog::object_key(&key), generation: 0 };
    let entry = crate::store::Entry { key, body: wire::catalog::encode(&gone).unwrap().into() };
    let info = crate::store::ChangeInfo {
        id: crate::ids::random_id().parse().unwrap(),
        actor: "test".into(),
        message: String::new(),
        time: crate::clock::now(),
        trace_id: None,
    };
    log.commit(&info, vec![entry], log.end().await.unwrap()).await.unwrap();
    first_token(nats, &path, &name).await.unwrap();
    soon(async {
        while rig.code(METHOD, Some(&header)).await == Code::Unimplemented {
            tokio::task::yield_now().await;
        }
    })
    .await;
    std::fs::write(&path, "something else").unwrap();
    let error = first_token(nats, &path, &name).await.unwrap_err().to_string();
    assert!(error.contains("move it away"), "{error}");
    rig.tasks.shutdown().request();
    rig.tasks.finish().await.unwrap();
}
