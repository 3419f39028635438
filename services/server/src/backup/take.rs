//! Taking a backup.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use runtime::broker::RoleFiles;
use runtime::nats::Nats;
use runtime::{Shutdown, clock};
use wire::access::{Role, STREAMS};

use super::archive::Draft;
use super::s3::S3Args;
use super::shelf::Location;
use super::{Place, local};
use crate::data_dir::broker_of;

/// How long it may take to remove what was written of a backup that failed: less than whoever stops it waits.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `musterd backup`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupArgs {
    /// Where backups lie: a folder, or `s3://BUCKET/PREFIX` in an object store. Each is a folder there, named after the
    /// fleet and the time. Who asks an object store is told as to all clients of S3, by AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY, AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, or the machine it runs on.
    #[arg(long, env = "MUSTER_BACKUP_DIR", value_name = "PLACE")]
    to: Location,

    /// The object store, when backups lie in one.
    #[command(flatten)]
    s3: S3Args,

    /// Remove the oldest backups of this fleet in that place afterwards, until this many are left, and what a day ago or
    /// earlier was begun and never finished. Without it, nothing is removed.
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
    let mut draft = Draft::begin(&args.to, &args.s3, &place.fleet, clock::now())?;
    let written = tokio::select! {
        written = write(&mut draft, &nats) => written,
        () = shutdown.requested() => Err(anyhow::anyhow!("told to stop before the backup was whole")),
    };
    nats.close().await;
    if let Err(error) = written {
        match tokio::time::timeout(DISCARD_TIMEOUT, draft.discard()).await {
            Ok(Ok(())) => {}
            Ok(Err(left)) => {
                tracing::warn!(error = runtime::log::chain(&left), "what was written until then may be left");
            }
            Err(_) => tracing::warn!("what was written until then is left: it could not be removed in time"),
        }
        return Err(error);
    }
    let Some(keep) = args.keep else { return Ok(()) };
    let removed = tokio::select! {
        removed = draft.prune(usize::try_from(keep)?) => removed?,
        () = shutdown.requested() => {
            anyhow::bail!("told to stop before older backups were removed; the new one is whole")
        }
    };
    let mut said = std::io::stdout();
    for removed in removed {
        writeln!(said, "removed {removed}")?;
    }
    Ok(())
}

async fn write(draft: &mut Draft, nats: &Nats) -> anyhow::Result<()> {
    let mut said = std::io::stdout();
    // The store of record first: what it names is in the others when they are taken after it.
    for stream in STREAMS.iter().filter(|stream| stream.saved) {
        let writing = draft.next(stream.name);
        let packed = nats.pack_stream(stream.name, async |piece| writing.write(piece).await).await;
        let packed = packed.with_context(|| format!("stream {} cannot be taken", stream.name))?;
        writeln!(said, "{}", draft.add(packed).await?)?;
    }
    writeln!(said, "{}", draft.finish().await?)?;
    Ok(())
}
