//! Counts the bytes of one connection in both directions: a relay between a client and the broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
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
    /// What went through.
    pub counted: Arc<Counted>,
    task: AbortHandle,
}

impl Wiretap {
    /// Relays connections to the broker at `url`, over TLS where a CA vouches for it. What is counted lies within
    /// TLS: the bytes of the protocol.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(url: &str, ca: Option<&Path>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = format!("nats://{}", listener.local_addr()?);
        let broker = url.rsplit('/').next().unwrap_or_default().to_owned();
        let ca = ca.map(Path::to_owned);
        let counted = Arc::new(Counted::default());
        let task = tokio::spawn(relay(listener, (broker, ca), Arc::clone(&counted))).abort_handle();
        Ok(Self { url: own, counted, task })
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(listener: TcpListener, (broker, ca): (String, Option<PathBuf>), counted: Arc<Counted>) {
    let mut copies = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&broker).await else { return };
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        let (counted, ca) = (Arc::clone(&counted), ca.clone());
        copies.spawn(async move {
            match ca {
                None => both(client, server, &counted).await,
                Some(ca) => {
                    if let Ok(server) = runtime::tls::verified(&ca, server).await {
                        both(client, server, &counted).await;
                    }
                }
            }
        });
    }
}

/// Both directions, until both have ended.
async fn both(client: TcpStream, server: impl AsyncRead + AsyncWrite, counted: &Counted) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), split(server));
    tokio::join!(copy(from_client, to_server, &counted.up), copy(from_server, to_client, &counted.down));
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
