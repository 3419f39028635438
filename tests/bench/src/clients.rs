//! Many connections to one broker.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::{Client, ConnectOptions};
use futures::{StreamExt as _, TryStreamExt as _};

/// Connections being made at once: a fleet that comes in one blow would overflow the broker's accept queue,
/// and what is measured begins after all are there.
const PACE: usize = 64;
/// Handshakes may wait while thousands share the cores with the broker.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects one client of the given name.
///
/// # Errors
/// When the broker does not answer in time.
pub async fn connect(url: &str, name: &str) -> Result<Client> {
    let options = ConnectOptions::new().name(name).connection_timeout(CONNECT_TIMEOUT);
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
