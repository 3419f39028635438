//! Options that every service has.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use domain::FleetId;
use wire::join::BrokerTrust;

use crate::access::AccessArgs;
use crate::content_keys::ContentKeyArgs;
use crate::nats;
use crate::roots::TrustArgs;
use crate::tls::{BrokerTlsArgs, ListenerTlsArgs};
use crate::trust::TrustError;

/// Options of every service.
#[derive(Debug, Clone, Args)]
pub struct ServiceArgs {
    /// Address for gRPC, reflection, health and the probes /healthz and /readyz.
    #[arg(long, env = "MUSTER_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,

    /// TLS of the listener.
    #[command(flatten)]
    pub tls: ListenerTlsArgs,

    /// NATS servers, separated by commas. tls://HOST:PORT, or nats://HOST:PORT for one on this machine without TLS.
    #[arg(
        long,
        env = "MUSTER_NATS_URL",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "tls://127.0.0.1:4222"
    )]
    pub nats_url: Vec<String>,

    /// TLS towards NATS servers.
    #[command(flatten)]
    pub nats_tls: BrokerTlsArgs,

    /// Folder with this service's credentials for the broker, or that of the whole fleet, as `musterd init` made it.
    /// Without it only a broker that lets everyone in can be used.
    #[arg(long, env = "MUSTER_NATS_CREDS", value_name = "DIR")]
    pub nats_creds: Option<PathBuf>,

    /// NATS servers that join tokens name, separated by commas, where agents need other addresses than this
    /// process does: tls://HOST:PORT, or wss://HOST:PORT where they come by a WebSocket. Without it they are those of
    /// --nats-url.
    #[arg(long, env = "MUSTER_AGENT_SERVERS", value_name = "URL", value_delimiter = ',')]
    pub agent_servers: Vec<String>,

    /// PEM file with the CAs that join tokens name, where agents need others than this process does. Without it they
    /// are those of --nats-ca-file.
    #[arg(long, env = "MUSTER_AGENT_CA_FILE", value_name = "FILE")]
    pub agent_ca_file: Option<PathBuf>,

    /// The fleet this control plane serves.
    #[arg(long, env = "MUSTER_FLEET", value_name = "ID", default_value = "default")]
    pub fleet: FleetId,

    /// File of the key that signs snapshots and assignments: one that the fleet's trust root names for the role
    /// director. All replicas of policy and identity share it.
    #[arg(long, env = "MUSTER_DIRECTOR_KEY", value_name = "FILE")]
    pub director_key: Option<PathBuf>,

    /// Keys of content.
    #[command(flatten)]
    pub content_keys: ContentKeyArgs,

    /// How callers are known.
    #[command(flatten)]
    pub access: AccessArgs,

    /// Trust roots.
    #[command(flatten)]
    pub trust: TrustArgs,

    /// Replicas of each JetStream stream: 1, or 3 on a cluster of NATS servers.
    #[arg(long, env = "MUSTER_STREAM_REPLICAS", value_name = "N", default_value = "1", value_parser = replicas)]
    pub stream_replicas: u8,
}

impl ServiceArgs {
    /// NATS servers that join tokens name. A login in a URL of this process's own is not for agents.
    #[must_use]
    pub fn servers_for_agents(&self) -> Vec<String> {
        match self.agent_servers.is_empty() {
            true => self.nats_url.iter().map(|url| nats::without_login(url)).collect(),
            false => self.agent_servers.clone(),
        }
    }

    /// How agents verify those.
    pub(super) fn trust_for_agents(&self) -> Result<BrokerTrust, TrustError> {
        let file = self.agent_ca_file.as_ref().or(self.nats_tls.nats_ca_file.as_ref());
        let cas = file.map(|file| crate::tls::certificates(file)).transpose()?.unwrap_or_default();
        let cas = cas.iter().map(|ca| ca.to_vec()).collect();
        BrokerTrust::read(cas, self.nats_tls.nats_tls_first).map_err(TrustError::Ca)
    }
}

fn replicas(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("streams have 1 replica, or 3 on a cluster of NATS servers".to_owned()),
    }
}
