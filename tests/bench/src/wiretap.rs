//! Counts the bytes of one connection in both directions: a relay between a client and the broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use futures::StreamExt as _;
use runtime::tls::{BrokerTls, ListenerTls, LocalCa};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Bytes of a connection so far.
#[derive(Debug, Default)]
pub struct Counted {
    up: AtomicU64,
    down: AtomicU64,
}

impl Counted {
    /// Bytes to the broker and from it.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// A relay that listens on a port of its own.
pub struct Wiretap {
    /// The address for clients.
    pub url: String,
    /// How clients verify it.
    pub tls: BrokerTls,
    /// What went through.
    pub counted: Arc<Counted>,
    task: AbortHandle,
    /// Holds its certificate.
    _dir: TempDir,
}

impl Wiretap {
    /// Relays connections to the broker at `url`, which speaks TLS from the first byte on and for which `ca` vouches. It
    /// has a certificate of its own: what is counted lies within TLS, the bytes of the protocol.
    ///
    /// # Errors
    /// When no port is free or no certificate can be made.
    pub async fn start(url: &str, ca: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("muster-bench-tap-").tempdir()?;
        let own = LocalCa::open(dir.path().join("tls"), &[])?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = (format!("tls://{}", listener.local_addr()?), url.rsplit('/').next().unwrap_or_default());
        let (broker, counted) = ((url.1.to_owned(), ca.to_owned()), Arc::new(Counted::default()));
        let relayed = relay(listener, ListenerTls::load(own.files())?, broker, Arc::clone(&counted));
        let task = tokio::spawn(relayed).abort_handle();
        let tls = BrokerTls { ca: Some(own.ca()), identity: None, first: true };
        Ok(Self { url: url.0, tls, counted, task, _dir: dir })
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(
    listener: TcpListener,
    tls: Arc<ListenerTls>,
    (broker, ca): (String, PathBuf),
    counted: Arc<Counted>,
) {
    let accepted = futures::stream::unfold(listener, async |listener| {
        let client = listener.accept().await.map(|(client, _)| client);
        Some((client, listener))
    });
    let mut clients = std::pin::pin!(tls.handshakes(accepted));
    let mut copies = JoinSet::new();
    while let Some(Ok(client)) = clients.next().await {
        let Ok(server) = TcpStream::connect(&broker).await else { return };
        drop((client.get_ref().0.set_nodelay(true), server.set_nodelay(true)));
        let (counted, ca) = (Arc::clone(&counted), ca.clone());
        copies.spawn(async move {
            if let Ok(server) = runtime::tls::verified(&ca, server).await {
                both(client, server, &counted).await;
            }
        });
    }
}

/// Both directions, until both have ended.
async fn both(client: impl AsyncRead + AsyncWrite, server: impl AsyncRead + AsyncWrite, counted: &Counted) {
    let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
    tokio::join!(copy(from_client, to_server, &counted.up), copy(from_server, to_client, &counted.down));
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(read as u64, Ordering::Relaxed);
        // What lies in a TLS buffer has not been sent.
        if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}
