//! The first call of an upload: notes it, and finds out what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use domain::Digest;
use domain::catalog::{Catalog, StoredRevision, Sweep, Upload, Uploads};
use domain::change::{Operation, Wanted};
use domain::content::Manifest;
use domain::time::Timestamp;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runtime::clock;
use runtime::store::Author;
use tonic::Status;
use wire::manifest::size;

use super::finish::is_signed;
use super::known::known;
use super::{EXPIRY_GRACE, KEPT_FOR, READS_AT_A_TIME, existing};
use crate::replica::Replica;
use crate::sweep::CLOCKS_DIFFER;
use crate::{Refused, change, crash, refuse};

/// Longest wait for a garbage collection that runs: longer than one may take, shorter than callers wait.
const SWEEP_PATIENCE: Duration = Duration::from_secs(45);

/// What is left to do.
pub(crate) enum Begun {
    /// Nothing: the channel has a revision with this content.
    Existing(StoredRevision),
    /// To send these chunks.
    Upload {
        /// Name of the upload.
        manifest: Digest,
        /// The bytes that are signed.
        payload: Bytes,
        /// Positions of the chunks, ascending.
        missing: Vec<u32>,
        /// Until when the upload is kept.
        expires_at: Timestamp,
    },
}

/// Begins an upload, or goes on with it.
///
/// # Errors
/// [`Refused`] as a caller of the API gets it.
pub(crate) async fn begin(replica: &Replica, manifest: Manifest, author: &Author) -> Result<Begun, Refused> {
    crash::point("upload-begin");
    let store = &replica.store;
    let payload = wire::content::encode_manifest(&manifest);
    let envelope = wire::envelope::seal_by(wire::envelope::MANIFEST, payload, &*store.key);
    let envelope = envelope.map_err(crate::store::StoreError::from)?;
    let payload = envelope.payload.clone();
    let name = Digest::of(&payload);
    replica.catalogue.catch_up().await?;
    let there = replica.catalogue.look(|catalog| existing(catalog, manifest.channel(), &name).cloned());
    if let Some(revision) = there
        // If not, the stream was lost, and this upload brings back what it held.
        && store.manifest(&name).await?.is_some()
        // If not, the fleet asks for further signatures by now, and this upload brings them.
        && is_signed(replica, &name).await?
    {
        return Ok(Begun::Existing(revision));
    }
    store.add_manifest(&name, &envelope).await?;
    crash::point("upload-manifest");
    let expires_at = clock::now() + KEPT_FOR;
    let upload = Upload {
        channel: manifest.channel().clone(),
        manifest: name,
        manifest_bytes: payload.len() as u64,
        expires_at,
    };
    change::make(replica, author, false, |catalog| Ok(vec![noted(catalog, upload.clone())?])).await?;
    crash::point("upload-noted");
    let catalog = replica.catalogue.current();
    if let Some(sweep) = catalog.sweep().filter(|sweep| !sweep.done) {
        wait_for(replica, sweep).await?;
    }
    // One that was planned before the upload was noted may have deleted it.
    store.add_manifest(&name, &envelope).await?;
    let missing = missing(replica, &catalog, &manifest).await?;
    tracing::info!(
        channel = %manifest.channel(), manifest = %name, bytes = manifest.content_bytes(),
        chunks = manifest.chunks().len(), missing = missing.len(), "an upload begins"
    );
    Ok(Begun::Upload { manifest: name, payload, missing, expires_at })
}

/// The list of uploads with this one, and without those whose time is over.
fn noted(catalog: &Catalog, upload: Upload) -> Result<Operation, Status> {
    let now = clock::now();
    let others = catalog.uploads().filter(|other| {
        let same = other.channel == upload.channel && other.manifest == upload.manifest;
        !same && other.expires_at + EXPIRY_GRACE > now
    });
    let uploads = others.cloned().chain([upload.clone()]).collect();
    let uploads = Uploads::new(uploads).map_err(|error| {
        let message = format!("{error}; one that nobody goes on with ends by itself within a day");
        refuse::exhausted("TOO_MANY_UPLOADS", message)
    })?;
    Ok(Wanted::Uploads(uploads).into())
}

/// Waits until a garbage collection is over.
async fn wait_for(replica: &Replica, sweep: &Sweep) -> Result<(), Refused> {
    let left = Duration::from((sweep.until + CLOCKS_DIFFER).since(clock::now()));
    let over = replica
        .catalogue
        .until(|catalog| catalog.sweep().is_none_or(|newer| newer.id != sweep.id || newer.done));
    tracing::debug!(left_ms = left.as_millis(), "an upload waits for a garbage collection");
    let told = tokio::time::timeout(left.min(SWEEP_PATIENCE), over).await.is_ok();
    // Who runs it stops deleting by then, also if it does not say so any more.
    if told || left <= SWEEP_PATIENCE {
        return Ok(());
    }
    let message = "garbage is being collected: try again in a minute".to_owned();
    Err(Refused(refuse::later("SWEEP", message, left - SWEEP_PATIENCE)))
}

/// Positions of chunks that have to be sent.
async fn missing(replica: &Replica, catalog: &Catalog, manifest: &Manifest) -> Result<Vec<u32>, Refused> {
    let known = known(replica, catalog, manifest.channel()).await?;
    let mut seen = BTreeSet::new();
    let chunks = manifest.chunks().iter().copied().zip(0u32..).filter(|(chunk, _)| seen.insert(chunk.digest));
    let unknown: Vec<_> = chunks.filter(|(chunk, _)| !known.contains_key(&chunk.digest)).collect();
    let asked = unknown.into_iter().map(|(chunk, position)| async move {
        let stored = replica.store.seems_stored(&chunk.digest).await?;
        Ok::<_, Refused>((!stored).then_some((position, chunk.bytes)))
    });
    let missing: Vec<Option<(u32, u32)>> =
        stream::iter(asked).buffered(READS_AT_A_TIME).try_collect().await?;
    let missing: Vec<(u32, u32)> = missing.into_iter().flatten().collect();
    let raw = missing.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    check_quota(replica, estimate(manifest, &known, raw)).await?;
    Ok(missing.into_iter().map(|(position, _)| position).collect())
}

/// How many bytes chunks of so many bytes may take in the store: as the channel's others do, or else as they are.
fn estimate(manifest: &Manifest, known: &BTreeMap<Digest, u32>, raw: u64) -> u64 {
    let mut seen = BTreeSet::new();
    let shared = manifest.chunks().iter().filter(|chunk| seen.insert(chunk.digest));
    let (mut bytes, mut stored) = (0, 0);
    for (chunk, taken) in shared.filter_map(|chunk| Some((chunk, known.get(&chunk.digest)?))) {
        bytes += u128::from(chunk.bytes);
        stored += u128::from(*taken);
    }
    let scaled = (u128::from(raw) * stored).checked_div(bytes).unwrap_or(raw.into());
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// # Errors
/// `RESOURCE_EXHAUSTED` if so many more bytes go beyond the quota.
pub(super) async fn check_quota(replica: &Replica, needed: u64) -> Result<(), Refused> {
    let (used, quota) = (replica.store.used().await?, replica.config.content_quota);
    if needed == 0 || used.saturating_add(needed) <= quota {
        return Ok(());
    }
    let [used, needed, quota] = [used, needed, quota].map(size::rounded);
    let message = format!(
        "the quota for content is {quota}: {used} are used, and this needs {needed} more; free some with `muster \
         content gc` after retiring revisions, keep fewer of them, or raise --content-quota"
    );
    Err(Refused(refuse::exhausted("QUOTA", message)))
}
