use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::live::soon;
use crate::nats::{ConnectError, Connection, Nats};
use crate::nats_server::{NatsServer, Setup, find, supervise};
use crate::ready::Readiness;
use crate::serve::Listener;
use crate::tasks::Shutdown;

/// The first bytes of a client that speaks nothing newer than TLS 1.1: a hello with one suite of that time.
const HELLO_OF_TLS_1_1: &[u8] = &[
    0x16, 0x03, 0x01, 0x00, 0x2d, 0x01, 0x00, 0x00, 0x29, 0x03, 0x02, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0x00, 0x00, 0x02, 0x00, 0x2f, 0x01, 0x00,
];
/// The record of an alert.
const ALERT: u8 = 0x15;
/// What alerts say to such a client: nothing in common, or not that version.
const NOTHING_IN_COMMON: [u8; 2] = [40, 70];

/// A CA of a test, which makes what a real one would not.
struct TestCa {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, crate::ids::random_id());
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for a name that ends so many days from now.
    fn issue(&self, name: &str, days: i64) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days);
        let place = |what: &str| self.dir.path().join(format!("{name}-{days}.{what}"));
        let files = TlsFiles { cert: place("pem"), key: place("key"), client_ca: None };
        std::fs::write(&files.cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        only_owner(&files.key);
        files
    }
}

fn only_owner(path: &Path) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// A listener with nothing but health.
async fn listen(files: TlsFiles, shutdown: &Shutdown) -> SocketAddr {
    let security = Security::Tls(ListenerTls::load(files).unwrap());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), security).await.unwrap();
    let address = listener.address();
    let routes = tonic::service::RoutesBuilder::default().routes();
    tokio::spawn(listener.serve(routes, &[], Readiness::new(), shutdown.clone()));
    address
}

async fn call(address: SocketAddr, ca: &Path) -> Result<Channel, String> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(ca).unwrap()));
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
    endpoint.connect().await.map_err(|error| crate::log::chain(&error))
}

#[tokio::test]
async fn t31_callers_refuse_a_listener_that_is_not_what_it_should_be() {
    let (ca, other, shutdown) = (TestCa::new(), TestCa::new(), Shutdown::new());
    for (files, says) in [
        (ca.issue("127.0.0.1", 30), None),
        (ca.issue("elsewhere.example", 30), Some("not valid for name")),
        (ca.issue("127.0.0.1", -1), Some("expired")),
        (other.issue("127.0.0.1", 30), Some("UnknownIssuer")),
    ] {
        let address = listen(files, &shutdown).await;
        match (call(address, &ca.ca()).await, says) {
            (Ok(channel), None) => {
                HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
            }
            (Err(said), Some(says)) => assert!(said.contains(says), "{said}"),
            (outcome, says) => panic!("{says:?}: {:?}", outcome.err()),
        }
    }
    shutdown.request();
}

#[tokio::test]
async fn t31_a_listener_refuses_plaintext_old_versions_and_callers_without_a_certificate() {
    let (ca, shutdown) = (TestCa::new(), Shutdown::new());
    let address = listen(ca.issue("127.0.0.1", 30), &shutdown).await;
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let refused = soon(HealthClient::new(plain).check(HealthCheckRequest::default())).await.unwrap_err();
    assert_ne!(refused.code(), tonic::Code::Unimplemented, "nobody understood it: {refused}");
    for first in [&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"[..], HELLO_OF_TLS_1_1] {
        assert_eq!(answer(address, first).await.0, ALERT, "an alert and nothing else");
    }
    assert!(NOTHING_IN_COMMON.contains(&answer(address, HELLO_OF_TLS_1_1).await.1));

    let files = TlsFiles { client_ca: Some(ca.ca()), ..ca.issue("127.0.0.1", 30) };
    let address = listen(files, &shutdown).await;
    let outcome = match call(address, &ca.ca()).await {
        // With TLS 1.3 the caller learns of it when it reads.
        Ok(channel) => {
            let checked = soon(HealthClient::new(channel).check(HealthCheckRequest::default())).await;
            crate::log::chain(&checked.expect_err("a certificate is wanted"))
        }
        Err(said) => said,
    };
    assert!(outcome.contains("CertificateRequired") || outcome.contains("transport error"), "{outcome}");
    shutdown.request();
}

/// First byte of what a server says to this, and the last one.
async fn answer(address: SocketAddr, first: &[u8]) -> (u8, u8) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first).await.unwrap();
    let mut said = Vec::new();
    // The server may close before it has read all.
    drop(soon(stream.read_to_end(&mut said)).await);
    (said.first().copied().unwrap_or_default(), said.last().copied().unwrap_or_default())
}

#[tokio::test]
async fn a_listener_takes_a_new_certificate_and_keeps_calls_and_what_it_has_if_that_is_broken() {
    let (old, new, shutdown) = (TestCa::new(), TestCa::new(), Shutdown::new());
    let files = old.issue("127.0.0.1", 30);
    let address = listen(files.clone(), &shutdown).await;
    let mut open = HealthClient::new(call(address, &old.ca()).await.unwrap());
    let mut watch = open.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    soon(watch.message()).await.unwrap().unwrap();

    let replace = |from: &TlsFiles| {
        for (from, to) in [(&from.key, &files.key), (&from.cert, &files.cert)] {
            let draft = to.with_extension("draft");
            std::fs::copy(from, &draft).unwrap();
            std::fs::rename(draft, to).unwrap();
        }
    };
    let broken = new.issue("broken", 30);
    std::fs::write(&broken.cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    replace(&broken);
    // Long enough for the listener to have looked: what must not happen has no state to wait for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    call(address, &old.ca()).await.expect("the old certificate is still there");

    replace(&new.issue("127.0.0.1", 30));
    let changed = async {
        while call(address, &new.ca()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(changed).await;
    assert!(call(address, &old.ca()).await.is_err(), "the old one is gone");
    open.check(HealthCheckRequest::default()).await.expect("connections that were open stay");
    assert!(futures::FutureExt::now_or_never(watch.message()).is_none(), "and so do calls");
    shutdown.request();
}

#[test]
fn a_local_ca_is_made_once_and_renews_its_certificate_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let open = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        LocalCa::open(dir.path().join("tls"), &names)
    };
    let read = |path: &Path| std::fs::read(path).unwrap();
    let ca = open(&[]).unwrap();
    let (authority, made) = (read(&ca.ca()), read(&ca.files().cert));
    assert!(!ca.renew_if_due().unwrap());
    let again = open(&[]).unwrap();
    assert_eq!((read(&again.ca()), read(&again.files().cert)), (authority.clone(), made.clone()));
    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap()) & 0o777;
    assert_eq!((mode(&ca.files().key), mode(&dir.path().join("tls/ca.key"))), (0o600, 0o600));

    ca.issue(SystemTime::now() - Duration::from_hours(61 * 24)).unwrap();
    assert!(ca.renew_if_due().unwrap(), "it had 29 days left");
    std::fs::write(ca.files().key, "damaged").unwrap();
    only_owner(&ca.files().key);
    assert!(ca.renew_if_due().unwrap());
    let named = open(&["muster.example", "192.0.2.7"]).unwrap();
    assert_ne!(read(&named.files().cert), made, "it has more names now");
    assert!(!named.renew_if_due().unwrap());
    assert_eq!(read(&named.ca()), authority);

    assert!(matches!(open(&["not a name"]), Err(LocalCaError::Name { .. })));
    std::fs::remove_file(ca.ca()).unwrap();
    open(&[]).expect("a key alone is a start that was cut");
    std::fs::remove_file(dir.path().join("tls/ca.key")).unwrap();
    let error = open(&[]).unwrap_err().to_string();
    assert!(error.contains("certificate and no key") && error.contains("restore"), "{error}");
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_way_out() {
    let ca = TestCa::new();
    let (good, other) = (ca.issue("a", 30), ca.issue("b", 30));
    let refused = |files: TlsFiles| crate::log::chain(&ListenerTls::load(files).unwrap_err());
    let said = refused(TlsFiles { key: other.key, ..good.clone() });
    assert!(said.contains("a-30.pem") && said.contains("b-30.key") && said.contains("together"), "{said}");
    let said = refused(TlsFiles { cert: "/absent.pem".into(), ..good.clone() });
    assert!(said.contains("cannot read /absent.pem"), "{said}");
    let said = refused(TlsFiles { cert: good.key.clone(), ..good.clone() });
    assert!(said.contains("a-30.key has no certificate"), "{said}");
    let said = refused(TlsFiles { key: good.cert.clone(), ..good.clone() });
    assert!(said.contains("a-30.pem has mode"), "{said}");
    std::fs::set_permissions(&good.key, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    let said = refused(good);
    assert!(said.contains("mode 0604") && said.contains("chmod o="), "{said}");
    let said = ListenerTlsArgs::default().security().unwrap_err().to_string();
    assert!(said.contains("--tls-cert") && said.contains("--insecure-plaintext"), "{said}");
}

async fn broker(dir: &Path, files: &TlsFiles, (ca, first): (&Path, bool)) -> NatsServer {
    let mut setup = Setup::new(find(None).await.unwrap(), dir);
    let TlsFiles { cert, key, client_ca } = files.clone();
    setup.tls = Some(ServerTls { cert, key, ca: ca.to_owned(), client_ca, first });
    NatsServer::start(setup).await.unwrap()
}

async fn connect(url: &str, tls: BrokerTls) -> Result<Nats, ConnectError> {
    let connection = Connection::service(vec![url.to_owned()], "test");
    Nats::connect(&Connection { tls, patience: Duration::ZERO, ..connection }).await
}

#[track_caller]
fn refused(outcome: Result<Nats, ConnectError>, says: &str) {
    let said = crate::log::chain(&outcome.err().expect("it is refused"));
    assert!(said.contains(says), "{said}");
}

#[tokio::test]
async fn t31_a_web_socket_is_verified_as_any_connection() {
    let (ca, other, shutdown) = (TestCa::new(), TestCa::new(), Shutdown::new());
    for (files, says) in [
        (other.issue("127.0.0.1", 30), "not from a CA that is trusted here"),
        (ca.issue("elsewhere.example", 30), "for other names than the one in the URL"),
        (ca.issue("127.0.0.1", -1), "has expired"),
        // Who is believed, and speaks HTTP and no NATS.
        (ca.issue("127.0.0.1", 30), "cannot connect to NATS"),
    ] {
        let address = listen(files, &shutdown).await;
        let tls = BrokerTls { ca: Some(ca.ca()), ..BrokerTls::default() };
        refused(connect(&format!("wss://{address}"), tls).await, says);
    }
    shutdown.request();
}

#[tokio::test]
async fn t31_a_broker_that_is_not_what_it_should_be_is_refused() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let trusting = |ca: &TestCa, first| BrokerTls { ca: Some(ca.ca()), identity: None, first };
    let dir = tempfile::tempdir().unwrap();
    let server = broker(dir.path(), &ca.issue("127.0.0.1", 30), (&ca.ca(), true)).await;
    drop(connect(&server.url(), trusting(&ca, true)).await.unwrap());
    refused(connect(&server.url(), trusting(&other, true)).await, "not from a CA that is trusted here");
    refused(connect(&server.url(), BrokerTls { ca: None, ..trusting(&ca, true) }).await, "not from a CA");
    let address = format!("127.0.0.1:{}", server.port());
    refused(connect(&format!("nats://{address}"), BrokerTls::default()).await, "cannot connect to NATS");
    let address: SocketAddr = address.parse().unwrap();
    assert_eq!(answer(address, b"CONNECT {\"verbose\":false}\r\nPING\r\n").await, (0, 0), "not a word");
    let (record, said) = answer(address, HELLO_OF_TLS_1_1).await;
    assert!(record == ALERT && NOTHING_IN_COMMON.contains(&said), "{said}");

    // The next two cannot be greeted by their own supervisor, so they are not first.
    for (files, says) in [
        (ca.issue("elsewhere.example", 30), "for other names than the one in the URL"),
        (ca.issue("127.0.0.1", -1), "has expired"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = broker(dir.path(), &files, (&ca.ca(), false)).await;
        refused(connect(&server.url(), trusting(&ca, false)).await, says);
    }
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles { client_ca: Some(ca.ca()), ..ca.issue("127.0.0.1", 30) };
    let server = broker(dir.path(), &files, (&ca.ca(), false)).await;
    refused(connect(&server.url(), trusting(&ca, false)).await, "it wants a client certificate: give one");
    let TlsFiles { cert, key, .. } = other.issue("client", 30);
    let with = BrokerTls { identity: Some((cert, key)), ..trusting(&ca, false) };
    refused(connect(&server.url(), with).await, "it does not accept our client certificate");
    let TlsFiles { cert, key, .. } = ca.issue("client", 30);
    let with = BrokerTls { identity: Some((cert, key)), ..trusting(&ca, false) };
    drop(connect(&server.url(), with).await.unwrap());
}

#[tokio::test]
async fn t31_a_connection_with_tls_is_never_talked_down_to_one_without() {
    // Whoever sits on the wire claims to be a server that knows no TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let info = b"INFO {\"server_id\":\"x\",\"version\":\"2.15.1\",\"max_payload\":1048576,\"tls_required\":false}\r\n";
        stream.write_all(info).await.unwrap();
        let mut heard = vec![0; 4096];
        let read = stream.read(&mut heard).await.unwrap();
        heard.truncate(read);
        heard
    });
    let url = format!("tls://{address}");
    let (outcome, heard) = tokio::join!(connect(&url, BrokerTls::default()), heard);
    assert!(outcome.is_err());
    assert_eq!(heard.unwrap()[0], 0x16, "a TLS handshake, and nothing in the clear");
    for server in ["nats://192.0.2.1:4222", "nats://nats.example", "192.0.2.1:4222"] {
        refused(connect(server, BrokerTls::default()).await, "without TLS to another machine");
    }
}

#[tokio::test]
async fn a_broker_takes_a_new_certificate_and_keeps_its_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (TestCa::new(), TestCa::new());
    let files = old.issue("127.0.0.1", 30);
    let server = broker(dir.path(), &files, (&old.ca(), true)).await;
    let (url, reloads, shutdown) = (server.url(), server.reloads(), Shutdown::new());
    let supervisor = tokio::spawn(supervise(server, shutdown.clone()));
    let trusting = |ca: &TestCa| BrokerTls { ca: Some(ca.ca()), identity: None, first: true };
    let open = connect(&url, trusting(&old)).await.unwrap();
    let next = new.issue("127.0.0.1", 30);
    std::fs::copy(next.key, files.key).unwrap();
    std::fs::copy(next.cert, files.cert).unwrap();
    reloads.request();
    let changed = async {
        loop {
            match connect(&url, trusting(&new)).await {
                Ok(nats) => return nats,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    drop(Box::pin(soon(changed)).await);
    assert!(connect(&url, trusting(&old)).await.is_err(), "the old certificate is gone");
    open.flush(Duration::from_secs(5)).await.expect("what was open stays open");
    assert_eq!(open.link().borrow().connections, 1);
    shutdown.request();
    supervisor.await.unwrap().unwrap();
}
