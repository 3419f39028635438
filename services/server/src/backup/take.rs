//! Taking a backup.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use runtime::broker::RoleFiles;
use runtime::nats::Nats;
use runtime::{Shutdown, clock};
use wire::access::{Role, STREAMS};

use super::folder::{self, Draft};
use super::{Place, local};
use crate::data_dir::broker_of;

/// Options of `musterd backup`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupArgs {
    /// Folder for backups. Each is a folder in it, named after the fleet and the time; it has its name when it is whole.
    #[arg(long, env = "MUSTER_BACKUP_DIR", value_name = "DIR")]
    to: PathBuf,

    /// Remove the oldest backups of this fleet in that folder afterwards, until this many are left. Without it, none.
    #[arg(long, env = "MUSTER_BACKUP_KEEP", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,

    /// Data directory of a `musterd all` that runs on this machine: says where the broker is and who may take backups.
    #[arg(
        long,
        env = "MUSTER_DATA_DIR",
        value_name = "DIR",
        conflicts_with_all = ["nats_url", "nats_creds", "nats_ca_file"]
    )]
    data_dir: Option<PathBuf>,

    /// Folder with the credentials of the role backup, or that of the whole fleet, as `musterd init` made it.
    #[arg(long, env = "MUSTER_NATS_CREDS", value_name = "DIR", required_unless_present = "data_dir")]
    nats_creds: Option<PathBuf>,

    /// Where the broker is.
    #[command(flatten)]
    place: Place,
}

/// Takes a backup and says what is in it.
pub(crate) async fn take(args: &BackupArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut place = args.place.clone();
    let creds = match (&args.data_dir, &args.nats_creds) {
        (Some(data_dir), _) => {
            (place.nats_url, place.nats_tls) = local(data_dir)?;
            runtime::broker::fleet_dir(&broker_of(data_dir), &place.fleet)
        }
        (None, Some(creds)) => creds.clone(),
        (None, None) => anyhow::bail!("give --data-dir or --nats-creds"),
    };
    let files = RoleFiles::load(&creds, Role::Backup)?.of_fleet(&place.fleet)?;
    let connection = place.connection("musterd backup").with_login(Role::Backup, files.fleet);
    let nats = Place::connect(&connection).await?;
    let taken = tokio::select! {
        taken = write(args, &place, &nats) => taken,
        () = shutdown.requested() => Err(anyhow::anyhow!("told to stop before the backup was whole")),
    };
    nats.close().await;
    taken
}

async fn write(args: &BackupArgs, place: &Place, nats: &Nats) -> anyhow::Result<()> {
    let mut said = std::io::stdout();
    let mut draft = Draft::begin(&args.to, &place.fleet, clock::now())?;
    // The store of record first: what it names is in the others when they are taken after it.
    for stream in STREAMS.iter().filter(|stream| stream.saved) {
        let mut writing = draft.next(stream.name)?;
        let packed = nats.pack_stream(stream.name, |piece| writing.write(piece)).await;
        let packed = packed.with_context(|| format!("stream {} cannot be taken", stream.name))?;
        let part = draft.add(stream.name, writing, packed)?;
        writeln!(said, "{part}")?;
    }
    let (path, _) = draft.finish()?;
    writeln!(said, "{}", path.display())?;
    if let Some(keep) = args.keep {
        for removed in folder::prune(&args.to, &place.fleet, usize::try_from(keep)?)? {
            writeln!(said, "removed {}", removed.display())?;
        }
    }
    Ok(())
}
