//! One TCP listener for everything operators and probes ask: gRPC, reflection, gRPC health, `/healthz` and
//! `/readyz`.
//!
//! A listener without TLS is bound to loopback addresses only.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::ready::Readiness;
use crate::tasks::{Shutdown, attach};
use crate::tls::Security;

/// How long open calls may go on after the request to stop. Calls take milliseconds; streams end on
/// [`Shutdown::until`]. Shorter than the time all tasks have to stop.
pub const CALLS_GRACE: Duration = Duration::from_secs(5);

/// Ping of idle HTTP/2 connections, so that dead peers do not hold streams for ever.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Concurrent calls on one connection: the CLI and a gateway use few; more is abuse.
const MAX_STREAMS_PER_CONNECTION: u32 = 256;

/// Why the listener cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can be reached from other machines, who would not be spoken to in secret.
    #[error(
        "refusing to listen on {address} without TLS: only loopback addresses (127.0.0.1, [::1]) are allowed; give --tls-cert and --tls-key"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// Another process listens there.
    #[error(
        "cannot listen on {address}: the port is in use; choose another with --listen, or port 0 for any free one"
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The descriptors for reflection cannot be read.
    #[error("cannot offer reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The listener failed.
    #[error("the listener on {address} failed")]
    Transport {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// A bound listener that does not accept yet.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    security: Security,
}

impl Listener {
    /// Binds `address`; port 0 takes any free port.
    ///
    /// # Errors
    /// [`ServeError`] if the address is not allowed, in use or cannot be bound.
    pub async fn bind(address: SocketAddr, security: Security) -> Result<Self, ServeError> {
        if !address.ip().is_loopback() {
            match security {
                Security::Plaintext => return Err(ServeError::NotLoopback { address }),
                Security::Tls(_) => {}
            }
        }
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => ServeError::PortInUse { address, source },
            _ => ServeError::Bind { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(|source| ServeError::Bind { address, source })?;
        Ok(Self { listener, address, security })
    }

    /// The address that was bound, with its real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL on this machine: loopback, if it listens on all addresses, for no certificate is for all of them.
    #[must_use]
    pub fn url(&self) -> String {
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        match self.security {
            Security::Plaintext => format!("http://{address}"),
            Security::Tls(_) => format!("https://{address}"),
        }
    }

    /// Serves until `shutdown`: the gRPC services in `routes` (merged from all services of the process),
    /// reflection for `descriptors` (encoded `FileDescriptorSet`s), gRPC health, `/healthz` and `/readyz`.
    /// At the shutdown it stops accepting, and waits [`CALLS_GRACE`] for open calls.
    ///
    /// # Errors
    /// [`ServeError`] if the descriptors are broken or the listener fails.
    pub async fn serve(
        self,
        routes: Routes,
        descriptors: &[&'static [u8]],
        readiness: Readiness,
        shutdown: Shutdown,
    ) -> Result<(), ServeError> {
        let address = self.address;
        let (reporter, health) = tonic_health::server::health_reporter();
        let routes = routes.add_service(health).add_service(reflection(descriptors)?);
        let probes = axum::Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(readiness.clone());
        let routes = Routes::from(routes.into_axum_router().merge(probes));
        let _health = attach(report_health(reporter, readiness, shutdown.clone()));
        let server = Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .add_routes(routes);
        let accepted = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        let serving = async {
            match self.security {
                Security::Plaintext => {
                    server.serve_with_incoming_shutdown(accepted, shutdown.requested()).await
                }
                Security::Tls(tls) => {
                    let _follow = attach(Arc::clone(&tls).follow(shutdown.clone()));
                    let connections = Box::pin(tls.handshakes(accepted));
                    server.serve_with_incoming_shutdown(connections, shutdown.requested()).await
                }
            }
        };
        tracing::info!(%address, "listening");
        let grace = async {
            shutdown.requested().await;
            tokio::time::sleep(CALLS_GRACE).await;
        };
        tokio::select! {
            served = serving => served.map_err(|source| ServeError::Transport { address, source }),
            () = grace => {
                tracing::warn!(%address, "calls are still open: closing without them");
                Ok(())
            }
        }
    }
}

fn reflection(
    descriptors: &[&'static [u8]],
) -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
    ServeError,
> {
    let mut builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    for set in descriptors {
        builder = builder.register_encoded_file_descriptor_set(set);
    }
    builder.build_v1().map_err(ServeError::Reflection)
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let missing = readiness.missing();
    if missing.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let mut body = String::new();
    for (name, reason) in missing {
        writeln!(body, "{name}: {reason}").expect("invariant: writing to a String succeeds");
    }
    (StatusCode::SERVICE_UNAVAILABLE, body)
}

async fn report_health(mut reporter: HealthReporter, readiness: Readiness, shutdown: Shutdown) {
    let mut changes = readiness.changes();
    loop {
        let status = if readiness.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status("", status).await;
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = shutdown.requested() => break,
        }
    }
    reporter.set_service_status("", ServingStatus::NotServing).await;
    // Ends the answers to those who watch, so that they do not hold the stop up.
    reporter.clear_service_status("").await;
}

#[cfg(test)]
mod tests;
