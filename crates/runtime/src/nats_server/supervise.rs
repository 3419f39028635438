//! Keeping the child alive.

use std::time::Duration;

use tokio::time::Instant;

use super::process::{NatsServer, ServerError};
use crate::tasks::Shutdown;

/// Pauses before starts: the first after a long run is immediate, then they double up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A run this long counts as a good one: the next pause is the shortest again.
const LONG_RUN: Duration = Duration::from_secs(60);

/// Starts the server again whenever it ends, with growing pauses, until `shutdown`; then stops it in order.
///
/// # Errors
/// [`ServerError`] if it cannot be stopped or its end cannot be awaited. A start that fails is tried again.
pub async fn supervise(mut server: NatsServer, shutdown: Shutdown) -> Result<(), ServerError> {
    let mut pause = Duration::ZERO;
    let reloads = server.reloads();
    loop {
        let started = Instant::now();
        tokio::select! {
            status = server.ended() => {
                let status = status?;
                tracing::error!(%status, said = server.said(), "nats-server ended: starting it again");
            }
            () = reloads.requested() => {
                server.reload()?;
                continue;
            }
            () = shutdown.requested() => return server.stop().await,
        }
        if started.elapsed() >= LONG_RUN {
            pause = Duration::ZERO;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.requested() => return Ok(()),
            }
            pause = (pause * 2).clamp(PAUSES.0, PAUSES.1);
            match server.start_again().await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(error = %crate::log::chain(&error), "nats-server does not start");
                }
            }
        }
        tracing::info!(url = server.url(), "nats-server runs again");
    }
}
