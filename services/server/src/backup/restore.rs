//! Putting a backup back.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use domain::catalog::Entry;
use domain::{Epoch, Revision};
use runtime::nats::{Login, Nats};
use runtime::nats_server::{NatsServer, find};
use runtime::store::{ChangeInfo, CommitError, Log};
use runtime::tls::LocalCa;
use runtime::{BrokerTlsArgs, Shutdown, broker, clock, ids};
use serde_json::json;
use wire::access::{Account, Permissions, STREAMS};
use wire::subject::StoreKey;

use super::Place;
use super::archive::{Archive, Page};
use super::s3::S3Args;
use super::shelf::Location;
use crate::all::{own_server, own_server_tls};
use crate::data_dir::{DataDir, broker_of};

/// Below this lie the answers to what restores.
const INBOX: &str = "_INBOX_svc.restore";
/// Tries to write the new epoch: the first may have to repair the end of the log.
const TRIES: usize = 3;

/// Options of `musterd restore`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreArgs {
    /// The backup: one of the folders that `musterd backup` made, `DIR/NAME` or `s3://BUCKET/PREFIX/NAME`.
    #[arg(long, value_name = "PLACE")]
    from: Location,

    /// The object store, when the backup lies in one.
    #[command(flatten)]
    s3: S3Args,

    /// Delete the streams that are there first. Without it, a broker that has some of them is refused.
    #[arg(long)]
    replace: bool,

    /// Data directory of a `musterd all` that is stopped. Its broker is run for as long as this takes.
    #[arg(
        long,
        env = "MUSTER_DATA_DIR",
        value_name = "DIR",
        conflicts_with_all = ["nats_url", "broker_dir", "nats_ca_file"]
    )]
    data_dir: Option<PathBuf>,

    /// The nats-server to run for it. Without it: $MUSTER_NATS_SERVER, .tools/bin, beside musterd, on PATH.
    #[arg(long, value_name = "FILE", requires = "data_dir")]
    nats_server_bin: Option<PathBuf>,

    /// Folder that `musterd init` made, with the keys of the fleet's account: no credential of a service may do this.
    #[arg(long, env = "MUSTER_BROKER_DIR", value_name = "DIR", required_unless_present = "data_dir")]
    broker_dir: Option<PathBuf>,

    /// Replicas of each stream: 1, or 3 on a cluster of NATS servers.
    #[arg(long, env = "MUSTER_STREAM_REPLICAS", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=5))]
    stream_replicas: u8,

    /// Where the broker is.
    #[command(flatten)]
    place: Place,
}

/// Puts a backup back and says what to do then.
pub(crate) async fn restore(args: &RestoreArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let archive = tokio::select! {
        opened = Archive::open(&args.from, &args.s3) => opened?,
        () = shutdown.requested() => anyhow::bail!("told to stop before anything was touched"),
    };
    let fleet = &args.place.fleet;
    anyhow::ensure!(
        archive.page.fleet == fleet.as_str(),
        "the backup is of fleet {}, not {fleet}: give --fleet {}",
        archive.page.fleet,
        archive.page.fleet
    );
    let mut place = args.place.clone();
    let (server, broker_dir) = match (&args.data_dir, &args.broker_dir) {
        (Some(data_dir), _) => {
            let server = Server::start(data_dir, args.nats_server_bin.as_deref()).await?;
            (place.nats_url, place.nats_tls) = (vec![server.nats.url()], server.tls.clone());
            (Some(server), broker_of(data_dir))
        }
        (None, Some(dir)) => (None, dir.clone()),
        (None, None) => anyhow::bail!("give --data-dir or --broker-dir"),
    };
    let put = tokio::select! {
        put = put_back(args, &place, &broker_dir, &archive) => put,
        () = shutdown.requested() => {
            Err(anyhow::anyhow!("told to stop before all was back: run it again with --replace"))
        }
    };
    if let Some(server) = server {
        server.stop().await?;
    }
    put
}

async fn put_back(
    args: &RestoreArgs,
    place: &Place,
    broker_dir: &Path,
    archive: &Archive,
) -> anyhow::Result<()> {
    let creds = broker::mint(broker_dir, &place.fleet, Account::Fleet, permissions())?;
    let connection = place.connection("musterd restore");
    let login = Some(Login::read(&creds).context("the minted credentials are none")?);
    let connection = runtime::nats::Connection { login, inbox_prefix: INBOX.to_owned(), ..connection };
    let nats = Place::connect(&connection).await?;
    let put = async {
        clear(args, &nats, &archive.page).await?;
        let mut said = std::io::stdout();
        for (index, part) in archive.page.streams.iter().enumerate() {
            let mut packed = part.packed.clone();
            packed.config.insert("num_replicas".to_owned(), json!(args.stream_replicas));
            let mut reading = archive.read(index).await?;
            let unpacked =
                nats.unpack_stream(&part.stream, &packed, async |most| reading.next(most).await).await;
            unpacked.with_context(|| format!("stream {} cannot be put back", part.stream))?;
            writeln!(said, "{part}")?;
        }
        let epoch = raise(&nats, &archive.page).await?;
        writeln!(
            said,
            "The store has epoch {epoch} now, so that agents take what it says although they may have seen newer."
        )?;
        writeln!(said, "Next: start the services; `muster status` shows how many agents have followed.")?;
        writeln!(said, "What came after the backup is undone. Look again at: {UNDONE}.")?;
        anyhow::Ok(())
    };
    let put = put.await;
    nats.close().await;
    put
}

const UNDONE: &str =
    "agents revoked since (revoke them again), tokens used up since (delete them), API tokens revoked since";

/// Makes sure that no stream is in the way.
async fn clear(args: &RestoreArgs, nats: &Nats, page: &Page) -> anyhow::Result<()> {
    for part in &page.streams {
        let known = STREAMS.iter().find(|stream| stream.name == part.stream);
        let stream = known.with_context(|| format!("this version has no stream {}", part.stream))?;
        if nats.stream_state(stream.name).await?.is_none() {
            continue;
        }
        anyhow::ensure!(
            args.replace,
            "the broker has a stream {}: stop all services of the fleet and give --replace to delete what is there",
            stream.name
        );
        nats.delete_stream(stream.name).await?;
    }
    Ok(())
}

/// Writes an epoch that no agent has seen: revisions will repeat, and a backup may be put back more than once. One made
/// from the clock is above all of these; agents take a step as far as that ([`domain::agent`]).
async fn raise(nats: &Nats, page: &Page) -> anyhow::Result<Epoch> {
    let log = Log::new(nats.clone());
    let before = log.history(&StoreKey::Epoch).await?;
    let before = before.last().and_then(|entry| match wire::catalog::read(&entry.key, &entry.body) {
        Ok(Entry::Epoch(epoch)) => Some(epoch),
        Ok(_) | Err(_) => None,
    });
    let now = clock::now();
    let epoch = Epoch(now.0.max(before.map_or(0, |epoch| epoch.0) + 1));
    let taken = humantime::format_rfc3339_seconds(
        std::time::UNIX_EPOCH + std::time::Duration::from_millis(page.taken_at_ms),
    );
    for _ in 0..TRIES {
        let info = ChangeInfo {
            id: ids::random_id().parse()?,
            actor: "musterd restore".to_owned(),
            message: format!("restored from a backup of {taken}"),
            time: now,
            trace_id: None,
        };
        let body = wire::catalog::encode(&Entry::Epoch(epoch))?.into();
        let entry = runtime::store::Entry { key: StoreKey::Epoch, body };
        let end: Revision = log.end().await?;
        match log.commit(&info, vec![entry], end).await {
            Ok(_) => return Ok(epoch),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!(
        "somebody writes to the store: stop all services of the fleet, and run this again with --replace"
    )
}

/// What restoring takes, and nothing else.
fn permissions() -> Permissions {
    let calls = |stream: &wire::access::Stream| {
        let name = stream.name;
        ["INFO", "DELETE", "RESTORE", "MSG.GET"].map(|call| format!("$JS.API.STREAM.{call}.{name}"))
    };
    let mut publish: Vec<String> = STREAMS.iter().filter(|stream| stream.saved).flat_map(calls).collect();
    publish.extend(STREAMS.iter().map(|stream| format!("$JS.API.DIRECT.GET.{}", stream.name)));
    publish.extend(["$JS.SNAPSHOT.RESTORE.>".to_owned(), "store.>".to_owned(), format!("{INBOX}.>")]);
    Permissions { publish, subscribe: vec![format!("{INBOX}.>")] }
}

/// The broker of a data directory, for as long as a restore takes.
struct Server {
    nats: NatsServer,
    tls: BrokerTlsArgs,
    _dir: DataDir,
}

impl Server {
    async fn start(data_dir: &Path, binary: Option<&Path>) -> anyhow::Result<Self> {
        let dir = DataDir::open(data_dir)?;
        let ca = LocalCa::open(dir.tls(), &[])?;
        let nats = own_server(find(binary).await?, &dir, &ca, None).await?;
        let tls = own_server_tls(ca.ca());
        Ok(Self { nats, tls, _dir: dir })
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.nats.stop().await?;
        Ok(())
    }
}
