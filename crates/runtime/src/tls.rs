//! TLS: certificates from files for the listener, reloaded while it serves; whom to believe that a NATS server is
//! one; and a CA of its own for a control plane on one machine.
//!
//! All of it is rustls with `ring`, TLS 1.2 or newer, and only suites with forward secrecy and authenticated
//! encryption, which is all that this provider has.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

mod broker;
mod files;
mod listener;
mod local_ca;
mod problem;

pub use broker::{BrokerTls, BrokerTlsArgs, ServerTls, is_loopback_plaintext, is_secure, verified};
pub use files::{PemError, certificates, pem_of};
pub use listener::{ListenerTls, ListenerTlsArgs, ListenerTlsError, Security, TlsFiles};
pub use local_ca::{LocalCa, LocalCaError};
pub(crate) use problem::tls_problem;

/// Versions that are spoken, the newest first.
const VERSIONS: &[&tokio_rustls::rustls::SupportedProtocolVersion] =
    &[&tokio_rustls::rustls::version::TLS13, &tokio_rustls::rustls::version::TLS12];

/// Whether this machine trusts no CA, as a container does. Then those count that vouch for public websites.
#[must_use]
pub fn machine_trusts_nobody() -> bool {
    rustls_native_certs::load_native_certs().certs.is_empty()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests;
