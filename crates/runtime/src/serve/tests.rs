use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::live::soon;
use crate::tls::{ListenerTls, LocalCa};

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{} {body}", head.split(' ').nth(1).unwrap())
}

#[tokio::test]
async fn one_port_serves_probes_health_and_reflection() {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), Security::Plaintext).await.unwrap();
    let address = listener.address();
    let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
    let condition = readiness.register("catalogue");
    let routes = tonic::service::RoutesBuilder::default().routes();
    let serving = tokio::spawn(listener.serve(routes, &[wire::DESCRIPTORS], readiness, shutdown.clone()));
    assert_eq!(get(address, "/healthz").await, "200 ok\n");
    assert_eq!(get(address, "/readyz").await, "503 catalogue: is starting\n");

    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await;
    let channel = channel.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(
        soon(watch.message()).await.unwrap().unwrap().status(),
        tonic_health::pb::health_check_response::ServingStatus::NotServing
    );
    condition.set_ready();
    assert_eq!(
        soon(watch.message()).await.unwrap().unwrap().status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    assert_eq!(get(address, "/readyz").await, "200 ready\n");

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("muster.agent.v1.Snapshot".to_owned())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(futures::stream::iter([ask])).await.unwrap();
    let answer = soon(answers.into_inner().message()).await.unwrap().unwrap();
    assert!(
        matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_))),
        "{answer:?}"
    );

    // The health watch above is an answer without end: it must not hold the stop up.
    shutdown.request();
    let stopped = tokio::time::timeout(CALLS_GRACE / 2, serving).await;
    stopped.expect("it does not wait for the watch").unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let ca = LocalCa::open(dir.path(), &[]).unwrap();
    let tls = Security::Tls(ListenerTls::load(ca.files()).unwrap());
    let refuse = async |address: &str, security: &Security| {
        Listener::bind(address.parse().unwrap(), security.clone()).await.err().unwrap().to_string()
    };
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7400"] {
        let error = refuse(address, &Security::Plaintext).await;
        assert!(error.contains("without TLS") && error.contains("--tls-cert"), "{error}");
    }
    for (address, host) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "[::1]"), ("127.0.0.1:0", "127.0.0.1")] {
        let listener = Listener::bind(address.parse().unwrap(), tls.clone()).await.expect("with TLS it may");
        let port = listener.address().port();
        assert_eq!(listener.url(), format!("https://{host}:{port}"), "whoever is here reaches it there");
    }
    let taken = Listener::bind("127.0.0.1:0".parse().unwrap(), Security::Plaintext).await.unwrap();
    let error = refuse(&taken.address().to_string(), &tls).await;
    assert!(error.contains("port is in use; choose another with --listen"), "{error}");
}
