//! Many connections to one broker.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, ConnectOptions};
use futures::{StreamExt as _, TryStreamExt as _};

/// Connections being made at once: a fleet that comes in one blow would overflow the broker's accept queue,
/// and what is measured begins after all are there.
const PACE: usize = 64;
/// Handshakes may wait while thousands share the cores with the broker.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Thousands of connections that share the cores with the broker close within a second or two.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects one client of the given name.
///
/// # Errors
/// When the broker does not answer in time.
pub async fn connect(url: &str, name: &str) -> Result<Client> {
    connect_as(ConnectOptions::new(), url, name).await
}

/// As [`connect`], at a broker that asks who is there.
///
/// # Errors
/// When the broker does not answer in time, or does not let it in.
pub async fn connect_as(options: ConnectOptions, url: &str, name: &str) -> Result<Client> {
    let options = options.name(name).connection_timeout(CONNECT_TIMEOUT);
    options.connect(url).await.with_context(|| format!("cannot connect {name} to {url}"))
}

/// Makes `count` of something, some at a time, in order.
///
/// # Errors
/// The first failure.
pub async fn paced<T, F>(count: usize, make: impl Fn(usize) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
{
    futures::stream::iter(0..count).map(make).buffered(PACE).try_collect().await
}

/// Closes connections and waits until they are gone. A client that is only dropped while its broker ends goes
/// on to reconnect, and would take part in what is measured next.
///
/// # Errors
/// When one does not close in time.
pub async fn close(clients: Vec<Client>) -> Result<()> {
    let before = open_files();
    let count = clients.len();
    paced(count, |n| {
        let client = clients[n].clone();
        async move { client.drain().await.context("a connection does not close") }
    })
    .await?;
    drop(clients);
    let begin = Instant::now();
    while open_files() > before.saturating_sub(count) {
        ensure!(
            begin.elapsed() < CLOSE_TIMEOUT,
            "connections are still open {} s later",
            CLOSE_TIMEOUT.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
