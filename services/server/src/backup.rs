//! `musterd backup` and `musterd restore`: a fleet's streams into a folder and back.

mod folder;
mod restore;
mod take;

use std::path::{Path, PathBuf};

use clap::Args;
use domain::FleetId;
use runtime::BrokerTlsArgs;
use runtime::nats::{ConnectError, Connection};

pub(crate) use restore::{RestoreArgs, restore};
pub(crate) use take::{BackupArgs, take};

use crate::data_dir::Addresses;

/// Where a `musterd all` says how its broker is reached.
const ADDRESSES: &str = "addresses.json";
/// Where it has the accounts of its broker.
const BROKER: &str = "broker";

/// Where the broker of a fleet is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The fleet.
    #[arg(long, env = "MUSTER_FLEET", value_name = "ID", default_value = "default")]
    fleet: FleetId,

    /// NATS servers, separated by commas.
    #[arg(
        long,
        env = "MUSTER_NATS_URL",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "tls://127.0.0.1:4222"
    )]
    nats_url: Vec<String>,

    /// TLS towards NATS servers.
    #[command(flatten)]
    nats_tls: BrokerTlsArgs,
}

impl Place {
    fn connection(&self, name: &str) -> Connection {
        let connection = Connection::service(self.nats_url.clone(), name);
        Connection { tls: self.nats_tls.tls(), ..connection }
    }
}

/// The broker of a `musterd all` that runs, from its data directory.
fn local(data_dir: &Path) -> anyhow::Result<(Vec<String>, BrokerTlsArgs)> {
    use anyhow::Context as _;
    let path = data_dir.join(ADDRESSES);
    let bytes = std::fs::read(&path).with_context(|| {
        format!("cannot read {}; is `musterd all` running with this data directory?", path.display())
    })?;
    let addresses: Addresses = serde_json::from_slice(&bytes)?;
    let tls =
        BrokerTlsArgs { nats_ca_file: Some(addresses.ca), nats_tls_first: true, ..BrokerTlsArgs::default() };
    Ok((addresses.nats, tls))
}

/// The folder of all fleets' accounts in a data directory.
fn broker_of(data_dir: &Path) -> PathBuf {
    data_dir.join(BROKER)
}

/// What stops before anything was done.
#[derive(Debug, thiserror::Error)]
enum BrokerError {
    /// There is no connection.
    #[error("the broker cannot be used")]
    Connect(#[from] ConnectError),
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.max(1).ilog2() / 10).min(4);
    let whole = bytes >> (10 * unit);
    let tenths = ((bytes >> (10 * unit.saturating_sub(1))) & 1023) * 10 / 1024;
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!("{whole}.{tenths} {}", UNITS.get(unit as usize).unwrap_or(&"TiB")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_written_for_people() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(super::size(bytes), text);
        }
    }
}
