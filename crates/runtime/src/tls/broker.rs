//! TLS towards NATS servers, and that of the server which `musterd all` runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_nats::{ConnectOptions, ServerAddr};
use clap::Args;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::files::{PemError, certificates, private_key, roots};
use crate::tasks::TaskFailure;

/// TLS towards NATS servers.
#[derive(Debug, Clone, Default, Args)]
pub struct BrokerTlsArgs {
    /// PEM file with the CAs that may vouch for NATS servers. Without it: those that this machine trusts.
    #[arg(long, env = "MUSTER_NATS_CA_FILE", value_name = "FILE")]
    pub nats_ca_file: Option<PathBuf>,

    /// PEM file with a client certificate, for NATS servers that want one.
    #[arg(long, env = "MUSTER_NATS_CERT", value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,

    /// PEM file with the private key of the client certificate.
    #[arg(long, env = "MUSTER_NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,

    /// The NATS servers want TLS before they say anything (handshake_first in their configuration).
    #[arg(long, env = "MUSTER_NATS_TLS_FIRST")]
    pub nats_tls_first: bool,
}

impl BrokerTlsArgs {
    /// As a connection takes it.
    #[must_use]
    pub fn tls(&self) -> BrokerTls {
        self.over(BrokerTls::default())
    }

    /// What was given, over what is known already.
    #[must_use]
    pub fn over(&self, known: BrokerTls) -> BrokerTls {
        BrokerTls {
            ca: self.nats_ca_file.clone().or(known.ca),
            identity: self.nats_cert.clone().zip(self.nats_key.clone()).or(known.identity),
            first: self.nats_tls_first || known.first,
        }
    }
}

/// How to verify NATS servers. The files are read at each connection, so that a change counts from the next one on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerTls {
    /// CAs that may vouch for the servers; `None`: those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// Client certificate and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The servers want TLS before they say anything.
    pub first: bool,
}

impl BrokerTls {
    /// Reads the files once, for an error that names what is wrong.
    pub(crate) fn check(&self) -> Result<(), PemError> {
        if let Some(ca) = &self.ca {
            drop(roots(ca)?);
        }
        if let Some((cert, key)) = &self.identity {
            certificates(cert)?;
            private_key(key)?;
        }
        Ok(())
    }

    /// Adds what it says to the options of a connection to these servers. A server whose URL begins with `tls://` or
    /// `wss://` is never spoken to without TLS; when all do, neither are those that one of them names. Who goes by a
    /// WebSocket goes through what stands before the servers, whose own addresses are of no use to it.
    pub(crate) fn apply(&self, servers: &[ServerAddr], mut options: ConnectOptions) -> ConnectOptions {
        if servers.iter().any(ServerAddr::is_websocket) {
            options = options.ignore_discovered_servers();
        }
        if servers.iter().all(is_secure) {
            options = options.require_tls(true);
            // A WebSocket has TLS first in any case.
            if self.first {
                options = options.tls_first();
            }
        }
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        match &self.identity {
            Some((cert, key)) => options.add_client_certificate(cert.clone(), key.clone()),
            None => options,
        }
    }
}

/// Whether a URL means TLS.
#[must_use]
pub fn is_secure(server: &ServerAddr) -> bool {
    matches!(server.scheme(), "tls" | "wss")
}

/// Whether a URL means a connection without TLS that stays on this machine, the only kind without TLS there is.
#[must_use]
pub fn is_loopback_plaintext(server: &ServerAddr) -> bool {
    let host = server.host();
    let address: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    !is_secure(server) && (host == "localhost" || address.is_some_and(|address| address.is_loopback()))
}

/// TLS over a connection to a server that is known by its address and by a CA.
///
/// # Errors
/// If the file of the CA cannot be used, or the server is another.
pub async fn verified(ca: &Path, stream: TcpStream) -> Result<TlsStream<TcpStream>, TaskFailure> {
    let config = ClientConfig::builder_with_provider(super::provider())
        .with_protocol_versions(super::VERSIONS)?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    let name = ServerName::from(stream.peer_addr()?.ip());
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

/// TLS of a `nats-server` that this process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Its certificate.
    pub cert: PathBuf,
    /// The private key of that.
    pub key: PathBuf,
    /// The CA that vouches for it.
    pub ca: PathBuf,
    /// CAs of clients, who then need a certificate. Not together with `first`: whoever starts the server waits for
    /// its greeting and has no certificate.
    pub client_ca: Option<PathBuf>,
    /// It says nothing before TLS.
    pub first: bool,
}

/// Suites of TLS 1.2: those with forward secrecy and authenticated encryption. The suites of TLS 1.3 are all so.
const SUITES: &str = "\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\", \"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\", \
                      \"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256\", \
                      \"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256\", \
                      \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\", \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"";

impl ServerTls {
    /// How a client of this server verifies it.
    #[must_use]
    pub fn client(&self) -> BrokerTls {
        BrokerTls { ca: Some(self.ca.clone()), identity: None, first: self.first }
    }

    /// Its part of the server's configuration.
    pub(crate) fn configuration(&self) -> String {
        let path = |path: &Path| format!("{:?}", path.display().to_string());
        let mut text =
            format!("tls {{\n  cert_file: {}\n  key_file: {}\n", path(&self.cert), path(&self.key));
        if let Some(ca) = &self.client_ca {
            text += &format!("  ca_file: {}\n  verify: true\n", path(ca));
        }
        text += &format!("  min_version: \"1.2\"\n  cipher_suites: [{SUITES}]\n  timeout: 10\n");
        text += &format!("  handshake_first: {}\n}}\n", self.first);
        text
    }
}
