//! What the live tests of this crate share: a server of their own and a connection to it.

use std::time::Duration;

use crate::log::{LogConfig, LogFormat};
use crate::nats::{Connection, Nats};
use crate::nats_server::{NatsServer, Setup, find};

/// Longest wait for any state in a live test. Reached only by a failure.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Live {
    pub(crate) server: NatsServer,
    pub(crate) nats: Nats,
    _dir: tempfile::TempDir,
}

impl Live {
    pub(crate) async fn start() -> Self {
        let filter = std::env::var("MUSTER_LOG").unwrap_or_else(|_| "off".to_owned());
        // The first test of the process starts the log for all.
        drop(crate::log::init(&LogConfig { log_format: LogFormat::Text, log_level: filter }));
        let dir = tempfile::tempdir().unwrap();
        let server = NatsServer::start(Setup::new(find(None).await.unwrap(), dir.path())).await.unwrap();
        let nats = Nats::connect(&Connection::service(vec![server.url()], "test")).await.unwrap();
        Self { server, nats, _dir: dir }
    }
}

/// Waits for a state, at most [`SOON`].
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("the state is reached in time")
}
