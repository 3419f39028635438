//! Makes one delta.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codec::Source;
use codec::delta::DeltaError;
use codec::part::PART_BYTES;
use domain::Digest;
use domain::content::patches::is_worth_keeping;
use domain::content::{ContentIndex, Delta, DeltaFrame, DeltaPart, Manifest};

use super::board::{self, Job};
use super::source::{ContentFile, Sources};
use crate::crash;
use crate::replica::Replica;
use crate::store::StoreError;

/// How often it is looked whether another replica was quicker.
const LOOK: Duration = Duration::from_secs(10);
/// How often it is looked whether the delta is still of use.
const GLANCE: Duration = Duration::from_secs(1);
/// Tries to list a delta while other replicas list theirs.
const MAX_TRIES: u32 = 16;

/// What was made.
pub(super) struct Made {
    /// Its length.
    pub(super) bytes: u64,
    /// Length of the chunks that it stands for.
    pub(super) chunk_bytes: u64,
}

/// Why a delta was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMade {
    /// It would not be smaller than the chunks.
    #[error("it would not be smaller than the chunks")]
    NotWorthIt,
    /// Another replica made it.
    #[error("another replica made it")]
    Elsewhere,
    /// No agent is led there any more.
    #[error("a newer revision came")]
    Overtaken,
    /// This process stops.
    #[error("this process stops")]
    Stopping,
    /// A revision is not there any more.
    #[error("the revision is not there any more")]
    Gone,
    /// It does not fit.
    #[error("the quota for content is used up: free some with `muster content gc`, or raise --content-quota")]
    Quota,
    /// The store failed.
    #[error(transparent)]
    Failed(#[from] StoreError),
    /// A chunk is not what it should be.
    #[error("the chunk {0} is missing or damaged: push its content again")]
    Lost(Digest),
    /// The files in between failed.
    #[error("cannot work with temporary files or threads: see --work-dir")]
    Files(#[source] io::Error),
}

/// Makes the delta and lists it.
pub(super) async fn make(replica: &Replica, sources: &mut Sources, job: &Job) -> Result<Made, NotMade> {
    let store = &replica.store;
    let (from, to) = (job.from.as_ref().map(|from| from.manifest), job.to.manifest);
    let manifest = store.manifest(&to).await?.ok_or(NotMade::Gone)?;
    let index = store.index(&to, &manifest).await?.index.ok_or(NotMade::Gone)?;
    if index.delta(from).is_some() {
        return Err(NotMade::Elsewhere);
    }
    let old = match &from {
        Some(from) => Some(store.manifest(from).await?.ok_or(NotMade::Gone)?),
        None => None,
    };
    let chunk_bytes = missing_bytes(&manifest, &index, old.as_deref());
    if chunk_bytes == 0 {
        return Err(NotMade::NotWorthIt);
    }
    let new = sources.to(replica, &to, &manifest).await?;
    let old = match old {
        Some(old) => Some(sources.content(replica, &old).await?),
        None => None,
    };
    let out = sources.file()?;
    let watched = Watched { replica, job, manifest: &manifest };
    let (frames, out, bytes) = encode(&watched, (old, new), (out, chunk_bytes)).await?;
    crash::point("delta-encoded");
    if store.used().await?.saturating_add(bytes) > replica.config.content_quota {
        return Err(NotMade::Quota);
    }
    let parts = put_parts(replica, (from.as_ref(), &to), (&out, bytes)).await?;
    let delta = Delta::new(from, frames, parts).map_err(|error| NotMade::Files(io::Error::other(error)))?;
    list(replica, job, &manifest, delta).await?;
    crash::point("delta-indexed");
    Ok(Made { bytes, chunk_bytes })
}

/// Bytes of the chunks, as stored, that one who has the old content has to fetch.
fn missing_bytes(manifest: &Manifest, index: &ContentIndex, old: Option<&Manifest>) -> u64 {
    let held: BTreeSet<Digest> =
        old.into_iter().flat_map(Manifest::chunks).map(|chunk| chunk.digest).collect();
    let stored = manifest.chunks().iter().map(|chunk| chunk.digest).zip(index.stored_bytes());
    let missing: BTreeMap<Digest, u32> =
        stored.filter(|(digest, _)| !held.contains(digest)).map(|(digest, bytes)| (digest, *bytes)).collect();
    missing.values().map(|bytes| u64::from(*bytes)).sum()
}

/// The index in which a delta appears when another replica was quicker.
struct Watched<'a> {
    replica: &'a Replica,
    job: &'a Job,
    manifest: &'a Manifest,
}

impl Watched<'_> {
    async fn is_listed(&self) -> bool {
        let (to, from) = self.job.name();
        let stored = self.replica.store.index(&to, self.manifest).await;
        let index = stored.ok().and_then(|stored| stored.index);
        index.is_some_and(|index| index.delta(from).is_some())
    }

    /// Whether agents are still led to where the delta leads.
    fn is_wanted(&self) -> bool {
        self.replica.catalogue.look(|catalog| {
            let channel = catalog.channel(&self.job.channel);
            channel.is_some_and(|it| board::targets(catalog, &it.value).contains(&self.job.to.number))
        })
    }
}

type Encoded = (Vec<DeltaFrame>, File, u64);

/// Compresses, until it is done, not worth it, told to stop, or somebody else was quicker.
async fn encode(
    watched: &Watched<'_>,
    (old, new): (Option<ContentFile>, Arc<ContentFile>),
    (out, chunk_bytes): (File, u64),
) -> Result<Encoded, NotMade> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&cancelled);
    let work = runtime::tasks::background("delta", move || frames(old, &new, (out, chunk_bytes), &told));
    let mut work = std::pin::pin!(work);
    let (mut look, mut glance) = (tokio::time::interval(LOOK), tokio::time::interval(GLANCE));
    let reason = loop {
        tokio::select! {
            encoded = &mut work => {
                return encoded.map_err(|error| NotMade::Files(io::Error::other(error)))?;
            }
            () = watched.replica.shutdown.requested() => break NotMade::Stopping,
            _ = look.tick() => {
                if watched.is_listed().await {
                    break NotMade::Elsewhere;
                }
            }
            _ = glance.tick() => {
                if !watched.is_wanted() {
                    break NotMade::Overtaken;
                }
            }
        }
    };
    cancelled.store(true, Ordering::Relaxed);
    if !matches!(reason, NotMade::Stopping) {
        // Two at once would take twice the memory. When the process stops, it ends with that.
        drop(work.await);
    }
    Err(reason)
}

/// Writes the frames one after the other, as long as they are worth keeping.
fn frames(
    old: Option<ContentFile>,
    new: &ContentFile,
    (mut out, chunk_bytes): (File, u64),
    cancelled: &AtomicBool,
) -> Result<Encoded, NotMade> {
    let (mut frames, mut bytes) = (Vec::new(), 0u64);
    let mut each = |frame: DeltaFrame, stored: &[u8]| {
        bytes += stored.len() as u64;
        if cancelled.load(Ordering::Relaxed) || !is_worth_keeping(bytes, chunk_bytes) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        frames.push(frame);
        out.write_all(stored)
    };
    let old = old.as_ref().map(|old| old as &dyn Source);
    match codec::delta::encode(old, new, &mut each) {
        Ok(()) => Ok((frames, out, bytes)),
        Err(DeltaError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {
            let stopped = cancelled.load(Ordering::Relaxed);
            Err(if stopped { NotMade::Stopping } else { NotMade::NotWorthIt })
        }
        Err(error) => Err(NotMade::Files(io::Error::other(error))),
    }
}

/// Stores the parts.
async fn put_parts(
    replica: &Replica,
    names: (Option<&Digest>, &Digest),
    (out, bytes): (&File, u64),
) -> Result<Vec<DeltaPart>, NotMade> {
    let mut parts = Vec::new();
    let (mut at, mut number) = (0, 0);
    while at < bytes {
        if replica.shutdown.is_requested() {
            return Err(NotMade::Stopping);
        }
        let length = (bytes - at).min(PART_BYTES as u64);
        let mut part = vec![0; usize::try_from(length).unwrap_or(PART_BYTES)];
        // A part is short and the page cache has it.
        out.read_exact_at(&mut part, at).map_err(NotMade::Files)?;
        parts.push(DeltaPart { bytes: u32::try_from(length).unwrap_or(u32::MAX), digest: Digest::of(&part) });
        replica.store.put_part(names, number, part.into()).await?;
        crash::point("delta-part");
        (at, number) = (at + length, number + 1);
    }
    Ok(parts)
}

/// Lists a delta whose parts are stored.
async fn list(replica: &Replica, job: &Job, manifest: &Manifest, delta: Delta) -> Result<(), NotMade> {
    let to = job.to.manifest;
    for _ in 0..MAX_TRIES {
        // Parts of a delta from a revision that is gone may be swept away before they are listed.
        replica.catalogue.catch_up().await.map_err(|error| NotMade::Files(io::Error::other(error)))?;
        let there = replica.catalogue.look(|catalog| {
            let stored = |number| catalog.content_revision(&job.channel, number).is_some();
            stored(job.to.number) && job.from.as_ref().is_none_or(|from| stored(from.number))
        });
        if !there {
            return Err(NotMade::Gone);
        }
        let stored = replica.store.index(&to, manifest).await?;
        let index = stored.index.ok_or(NotMade::Gone)?;
        if index.delta(delta.from()).is_some() {
            return Err(NotMade::Elsewhere);
        }
        let mut deltas = index.deltas().to_vec();
        let place = deltas.partition_point(|other| other.from() < delta.from());
        deltas.insert(place, delta.clone());
        let (fleet, lengths) = (index.fleet().clone(), index.stored_bytes().to_vec());
        // An index that would be too long: it has the deltas that are worth more already.
        let index = ContentIndex::new(fleet, to, lengths, deltas).map_err(|_| NotMade::NotWorthIt)?;
        if replica.store.put_index(&index, stored.sequence).await? {
            return Ok(());
        }
    }
    Err(NotMade::Elsewhere)
}
