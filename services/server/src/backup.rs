//! `musterd backup` and `musterd restore`: a fleet's streams into a folder or an object store, and back.

mod archive;
mod restore;
mod s3;
mod shelf;
mod take;

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use domain::FleetId;
use runtime::BrokerTlsArgs;
use runtime::nats::{Connection, Nats};

pub(crate) use restore::{RestoreArgs, restore};
pub(crate) use take::{BackupArgs, take};

use crate::all::own_server_tls;
use crate::data_dir::Addresses;

/// Where the broker of a fleet is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The fleet.
    #[arg(long, env = "MUSTER_FLEET", value_name = "ID", default_value = "default")]
    pub(crate) fleet: FleetId,

    /// NATS servers, separated by commas.
    #[arg(
        long,
        env = "MUSTER_NATS_URL",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "tls://127.0.0.1:4222"
    )]
    pub(crate) nats_url: Vec<String>,

    /// TLS towards NATS servers.
    #[command(flatten)]
    pub(crate) nats_tls: BrokerTlsArgs,
}

impl Place {
    pub(crate) fn connection(&self, name: &str) -> Connection {
        let connection = Connection::service(self.nats_url.clone(), name);
        Connection { tls: self.nats_tls.tls(), ..connection }
    }

    pub(crate) async fn connect(connection: &Connection) -> anyhow::Result<Nats> {
        Nats::connect(connection).await.context("the broker cannot be used")
    }
}

/// The broker of a `musterd all` that runs, from its data directory.
fn local(data_dir: &Path) -> anyhow::Result<(Vec<String>, BrokerTlsArgs)> {
    let addresses = Addresses::read(data_dir).with_context(|| {
        format!("is `musterd all` running with the data directory {}?", data_dir.display())
    })?;
    Ok((addresses.nats, own_server_tls(addresses.ca)))
}
