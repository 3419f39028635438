//! TLS of the listener: its options, its certificate, and the connections that passed their handshake.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clap::Args;
use futures::{Stream, StreamExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::files::{PemError, Stamp, certificates, private_key, roots};
use crate::tasks::{Shutdown, TaskFailure};

/// How often the files are looked at. A look is three `stat` calls.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time for a handshake: two round trips over any network; who needs longer holds a place for nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at the same time. Each takes a millisecond of a core, so the rest are callers that say nothing.
const HANDSHAKES: usize = 1024;

/// Protocols of the listener: gRPC, and HTTP/1.1 for probes.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS of the listener.
#[derive(Debug, Clone, Default, Args)]
pub struct ListenerTlsArgs {
    /// PEM file with the certificate of the listener, followed by those that lead to its CA. It is read again
    /// when it changes.
    #[arg(long, env = "MUSTER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of that certificate.
    #[arg(long, env = "MUSTER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the CAs of callers: who has no certificate from one of them is refused, probes included.
    #[arg(long, env = "MUSTER_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Serve without TLS: for tests, or behind something on this machine that ends TLS. Loopback only.
    #[arg(long, env = "MUSTER_INSECURE_PLAINTEXT", conflicts_with = "tls_cert")]
    pub insecure_plaintext: bool,
}

impl ListenerTlsArgs {
    /// The files that were given, if any.
    #[must_use]
    pub fn files(&self) -> Option<TlsFiles> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(TlsFiles { cert, key, client_ca: self.tls_client_ca.clone() })
    }

    /// What the options ask for, where there is no certificate but a given one.
    ///
    /// # Errors
    /// [`ListenerTlsError`] if they ask for nothing, or a file cannot be used.
    pub fn security(&self) -> Result<Security, ListenerTlsError> {
        match self.files() {
            Some(files) => ListenerTls::load(files).map(Security::Tls),
            None if self.insecure_plaintext => Ok(Security::Plaintext),
            None => Err(ListenerTlsError::Unsaid),
        }
    }
}

/// How a listener speaks.
#[derive(Debug, Clone)]
pub enum Security {
    /// Without TLS.
    Plaintext,
    /// With TLS.
    Tls(Arc<ListenerTls>),
}

/// Files of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate and those that lead to its CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// CAs of callers, who then need a certificate.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum ListenerTlsError {
    /// Neither a certificate nor plaintext was asked for.
    #[error(
        "the listener has no certificate: give --tls-cert and --tls-key, or --insecure-plaintext to serve without TLS on a loopback address"
    )]
    Unsaid,
    /// A file cannot be used.
    #[error("the certificate of the listener cannot be used")]
    File(#[from] PemError),
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("the certificate {} and the key {} cannot be used together", files.cert.display(), files.key.display())]
    Pair {
        /// The files.
        files: TlsFiles,
        /// Why not.
        source: Box<rustls::Error>,
    },
    /// The CAs of callers cannot be used.
    #[error("the CAs of callers cannot be used")]
    ClientCa(#[from] VerifierBuilderError),
}

/// The certificate of a listener, which may change while it serves.
#[derive(Debug)]
pub struct ListenerTls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl ListenerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ListenerTlsError`] if they cannot be used.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, ListenerTlsError> {
        let current = RwLock::new(Arc::new(config(&files)?));
        Ok(Arc::new(Self { files, current }))
    }

    fn acceptor(&self) -> TlsAcceptor {
        // Nothing panics while it holds this lock.
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes the files as they are now; connections that are open keep what they have.
    fn reload(&self) -> Result<(), ListenerTlsError> {
        let config = Arc::new(config(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        let files = [Some(&self.files.cert), Some(&self.files.key), self.files.client_ca.as_ref()];
        Stamp::of(files.into_iter().flatten().map(PathBuf::as_path))
    }

    /// Follows the files until `shutdown`. Files that cannot be used leave what is in use as it is.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        let (mut used, mut before) = (self.stamp(), self.stamp());
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.requested() => return,
            }
            let now = self.stamp();
            // Certificate and key are replaced one after the other: a change counts when it is over.
            if now != used && now == before {
                self.take(&self.files.cert);
                used = now.clone();
            }
            before = now;
        }
    }

    fn take(&self, cert: &Path) {
        match self.reload() {
            Ok(()) => tracing::info!(cert = %cert.display(), "the listener has a new certificate"),
            Err(error) => tracing::error!(
                error = %crate::log::chain(&error),
                "the new certificate cannot be used: the listener goes on with the one it has"
            ),
        }
    }

    /// Connections of `accepted` that passed their handshake, in the order in which they did. Handshakes run beside
    /// each other, so that one that takes long hinders none.
    pub fn handshakes<E: Into<TaskFailure>>(
        self: Arc<Self>,
        accepted: impl Stream<Item = Result<TcpStream, E>>,
    ) -> impl Stream<Item = Result<TlsStream<TcpStream>, E>> {
        let shake = move |accepted: Result<TcpStream, E>| {
            let acceptor = self.acceptor();
            async move {
                match accepted {
                    Ok(stream) => handshake(acceptor, stream).await.map(Ok),
                    Err(error) => Some(Err(error)),
                }
            }
        };
        accepted.map(shake).buffer_unordered(HANDSHAKES).filter_map(std::future::ready)
    }
}

/// A caller that cannot be understood is told why by TLS itself; here it is no more than a line for debugging.
async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let peer = stream.peer_addr().ok();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(?peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(?peer, "a TLS handshake took too long"),
    }
    None
}

fn config(files: &TlsFiles) -> Result<ServerConfig, ListenerTlsError> {
    let (chain, key) = (certificates(&files.cert)?, private_key(&files.key)?);
    let provider = super::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(super::VERSIONS)
        .expect("invariant: the provider speaks these versions");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let made = builder.with_single_cert(chain, key);
    let mut config =
        made.map_err(|source| ListenerTlsError::Pair { files: files.clone(), source: source.into() })?;
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}
