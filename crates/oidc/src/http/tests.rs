use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as Signer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

/// Answers one request with these bytes. Tells the request.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    let mut request = [0; 4096];
    let length = stream.read(&mut request).await.unwrap();
    // Who reads no further is not there at the end.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    String::from_utf8_lossy(&request[..length]).into_owned()
}

/// What becomes of a request that a server on loopback answers so, and the request.
async fn ask(bytes: &[u8], fields: Option<&[(&str, &str)]>) -> (Result<Answer, HttpError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = format!("http://{}/a?b=c", listener.local_addr().unwrap()).parse().unwrap();
    let served = async {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, bytes).await
    };
    let http = Http::default();
    let asked = async {
        match fields {
            None => http.get(&address).await,
            Some(fields) => http.post(&address, fields).await,
        }
    };
    tokio::join!(asked, served)
}

#[tokio::test]
async fn a_form_is_sent_and_an_answer_comes_back_whatever_its_status() {
    let (got, request) =
        ask(b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n{}", Some(&[("a b", "c&d")])).await;
    assert_eq!(got.unwrap(), Answer { status: 400, body: Bytes::from_static(b"{}") });
    assert!(request.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\na+b=c%26d"), "{request}");
    // A redirect is an answer like others.
    let (got, request) =
        ask(b"HTTP/1.1 302 No\r\nLocation: http://h\r\nContent-Length: 0\r\n\r\n", None).await;
    assert_eq!(got.unwrap().status, 302);
    assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
}

#[tokio::test]
async fn answers_have_a_size_and_an_end() {
    let mut large = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    large.resize(MAX_ANSWER_BYTES + 1_000, b' ');
    assert!(matches!(ask(&large, None).await.0, Err(HttpError::Body { .. })));
    let short = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}";
    assert!(matches!(ask(short, None).await.0, Err(HttpError::Body { .. })));
    for nonsense in [&b"SSH-2.0-x\r\n"[..], b""] {
        assert!(matches!(ask(nonsense, None).await.0, Err(HttpError::Exchange { .. })));
    }
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody: Address = format!("http://{free}").parse().unwrap();
    assert!(matches!(Http::default().get(&nobody).await, Err(HttpError::Connect { .. })));
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    assert!(matches!(Http::default().get(&address).await, Err(HttpError::TimedOut { .. })));
}

#[tokio::test]
async fn tls_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let ca = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
        (path, Signer::new(params, key))
    };
    let ((path, signer), (other, _)) = (ca("ca.pem"), ca("other.pem"));
    let key = KeyPair::generate().unwrap();
    let cert =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &signer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ask = async |ca: Option<PathBuf>, host: &str| {
        let address: Address = format!("https://{host}:{port}").parse().unwrap();
        let served = async {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
            }
        };
        let http = Http::new(ca);
        tokio::join!(http.get(&address), served).0
    };
    assert_eq!(ask(Some(path.clone()), "127.0.0.1").await.unwrap().status, 200);
    assert!(matches!(ask(Some(path), "localhost").await, Err(HttpError::Connect { .. })), "another name");
    assert!(matches!(ask(Some(other), "127.0.0.1").await, Err(HttpError::Connect { .. })), "another CA");
}
