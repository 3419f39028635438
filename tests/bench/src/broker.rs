//! A `nats-server` of its own for each floor: the binary, the settings and the durability of `musterd all`.

use std::path::Path;

use anyhow::Result;
use runtime::nats_server::{NatsServer, Setup};
use tempfile::TempDir;

use crate::machine;

/// A running broker on a free port; it and its store are gone when this is dropped.
pub struct Broker {
    server: NatsServer,
    url: String,
    _store: TempDir,
}

impl Broker {
    /// Starts a broker whose JetStream writes reach the disk before they are acknowledged.
    ///
    /// # Errors
    /// When it cannot be started or does not listen in time.
    pub async fn start(program: &Path) -> Result<Self> {
        let store = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
        let server = NatsServer::start(Setup::new(program.to_owned(), store.path())).await?;
        Ok(Self { url: server.url(), server, _store: store })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its resident memory, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.server.pid().map_or(0, |pid| machine::resident_bytes(&pid.to_string()))
    }

    /// Processor time it has used, in milliseconds of one core.
    #[must_use]
    pub fn processor_ms(&self) -> f64 {
        self.server.pid().map_or(0.0, |pid| machine::processor_ms(&pid.to_string()))
    }
}
