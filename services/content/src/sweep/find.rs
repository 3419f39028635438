//! What is stored and nothing needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::Digest;
use domain::catalog::{Catalog, Channel, StoredRevision};
use domain::content::retention::{Deltas, Piece, Referenced};
use domain::content::{ContentIndex, ContentRevision, Manifest};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runtime::clock;

use crate::replica::Replica;
use crate::store::StoredIndex;
use crate::upload::{EXPIRY_GRACE, READS_AT_A_TIME};
use crate::{Refused, deltas, refuse};

/// Most that one round deletes: what fits into its time, and into a few megabytes.
pub(super) const MAX_DOOMED: usize = 20_000;
/// Manifests that are read at a time: each may take 2 MiB.
const MANIFESTS_AT_A_TIME: usize = 4;

/// What is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doomed {
    Manifest(Digest),
    Index(Digest),
    Chunk(Digest),
    /// All parts of a delta: they go together.
    Delta {
        from: Option<Digest>,
        to: Digest,
        /// How many there are.
        parts: u64,
    },
}

impl Doomed {
    /// The subjects of its messages.
    pub(super) fn filter(&self) -> String {
        let piece = match self {
            Self::Manifest(manifest) => Piece::Manifest(*manifest),
            Self::Index(manifest) => Piece::Index(*manifest),
            Self::Chunk(chunk) => Piece::Chunk(*chunk),
            Self::Delta { from, to, .. } => return wire::piece::parts(from.as_ref(), to),
        };
        wire::piece::subject(&piece).to_string()
    }
}

/// Finds what nothing in the catalogue needs, at most so many. `None` while an upload begins: what it needs is not
/// known yet.
///
/// Deltas to revisions that no agent is led to any more are among it. Unless it is a dry run, they are taken out of
/// their indexes here, before they are deleted.
///
/// # Errors
/// [`Refused`] if what a revision needs is not known, or the stream does not answer.
pub(super) async fn find(
    replica: &Replica,
    catalog: &Catalog,
    (most, dry_run): (usize, bool),
) -> Result<Option<Vec<Doomed>>, Refused> {
    let Some(referenced) = referenced(replica, catalog, dry_run).await? else { return Ok(None) };
    let (mut doomed, mut deltas) = (Vec::new(), BTreeMap::new());
    let mut next = Some(0);
    while let Some(from) = next
        && doomed.len() + deltas.len() < most
    {
        let (stored, then) = replica.store.pieces(from).await?;
        for piece in referenced.sweep(stored) {
            match piece {
                Piece::Manifest(manifest) => doomed.push(Doomed::Manifest(manifest)),
                Piece::Index(manifest) => doomed.push(Doomed::Index(manifest)),
                Piece::Chunk(chunk) => doomed.push(Doomed::Chunk(chunk)),
                Piece::Part { from, to, .. } => *deltas.entry((from, to)).or_insert(0) += 1,
            }
        }
        next = then;
    }
    doomed.extend(deltas.into_iter().map(|((from, to), parts)| Doomed::Delta { from, to, parts }));
    doomed.truncate(most);
    Ok(Some(doomed))
}

/// A manifest that a revision or an upload names, what it says, and the index beside it.
struct Content {
    name: Digest,
    manifest: Manifest,
    index: StoredIndex,
    /// What becomes of deltas to it.
    wanted: Deltas,
}

/// All that revisions and uploads need; `None` if the manifest of an upload is not stored yet.
///
/// # Errors
/// [`Refused`] if that of a revision is not there: then nobody knows what it names.
async fn referenced(
    replica: &Replica,
    catalog: &Catalog,
    dry_run: bool,
) -> Result<Option<Referenced>, Refused> {
    let mut referenced = Referenced::new();
    let mut contents = stream::iter(named(replica, catalog))
        .map(|named| async move { read(replica, named).await })
        .buffer_unordered(MANIFESTS_AT_A_TIME);
    while let Some(content) = contents.try_next().await? {
        let Some(Content { name, manifest, index, wanted }) = content else { return Ok(None) };
        referenced.content(name, wanted, manifest.chunks().iter().map(|chunk| chunk.digest));
        let deltas = index.index.iter().flat_map(ContentIndex::deltas);
        if wanted != Deltas::Dropped {
            deltas.for_each(|delta| referenced.listed(delta.from(), name));
        } else if !dry_run && deltas.count() > 0 {
            strip(replica, &name, index).await?;
        }
    }
    Ok(Some(referenced))
}

/// A manifest, whose revision it is (none: an upload's), and what becomes of deltas to that.
type Named = (Digest, Option<Arc<StoredRevision>>, Deltas);

fn named(replica: &Replica, catalog: &Catalog) -> Vec<Named> {
    let mut named = Vec::new();
    for channel in catalog.channels() {
        let (ahead, kept) =
            (deltas::targets(catalog, &channel.value), kept(replica, catalog, &channel.value));
        for revision in catalog.content_revisions(&channel.value.name) {
            let stored = Arc::clone(&revision.value);
            let wanted = match (ahead.contains(&stored.number), kept.contains(&stored.number)) {
                (true, _) => Deltas::Made,
                (false, true) => Deltas::Kept,
                (false, false) => Deltas::Dropped,
            };
            named.push((stored.manifest, Some(stored), wanted));
        }
    }
    let uploads = catalog.uploads().filter(|upload| upload.expires_at + EXPIRY_GRACE > clock::now());
    named.extend(uploads.map(|upload| (upload.manifest, None, Deltas::Made)));
    named
}

/// Revisions that agents are fetching, or are led back to by a rollback.
fn kept(replica: &Replica, catalog: &Catalog, channel: &Channel) -> BTreeSet<ContentRevision> {
    let there = |number: &ContentRevision| catalog.content_revision(&channel.name, *number).is_some();
    let before = channel.stages.values().filter_map(|stage| stage.previous.iter().copied().find(there));
    before.chain(replica.census.fetching(&channel.name)).collect()
}

async fn read(replica: &Replica, (name, revision, wanted): Named) -> Result<Option<Content>, Refused> {
    match (replica.store.read_manifest(&name).await?, revision) {
        (Some(manifest), _) => {
            let index = replica.store.index(&name, &manifest).await?;
            Ok(Some(Content { name, manifest, index, wanted }))
        }
        (None, Some(revision)) => Err(lost(&revision)),
        (None, None) => Ok(None),
    }
}

/// Takes all deltas out of an index. If somebody else wrote it meanwhile, the next collection does.
async fn strip(replica: &Replica, name: &Digest, stored: StoredIndex) -> Result<(), Refused> {
    let Some(index) = stored.index else { return Ok(()) };
    let lengths = index.stored_bytes().to_vec();
    let bare = ContentIndex::new(index.fleet().clone(), *name, lengths, Vec::new());
    if let Ok(bare) = bare {
        replica.store.put_index(&bare, stored.sequence).await?;
    }
    replica.board.forget_made(name);
    Ok(())
}

fn lost(revision: &StoredRevision) -> Refused {
    let message = format!(
        "the manifest of revision {} of channel {} is not stored, so nobody knows which chunks it needs and none are \
         deleted: push its content again, or retire it",
        revision.number, revision.channel
    );
    Refused(refuse::precondition("MANIFEST_LOST", message))
}

/// How many bytes these take.
pub(super) async fn bytes(replica: &Replica, doomed: &[Doomed]) -> Result<u64, Refused> {
    // What the indexes say need not be read.
    let mut lengths: BTreeMap<Piece, u64> = BTreeMap::new();
    let mut deltas: BTreeMap<(Option<Digest>, Digest), u64> = BTreeMap::new();
    for doomed in doomed {
        let Doomed::Manifest(name) = doomed else { continue };
        let Some(manifest) = replica.store.read_manifest(name).await? else { continue };
        let Some(index) = replica.store.index(name, &manifest).await?.index else { continue };
        lengths.extend(chunk_lengths(&manifest, &index));
        deltas.extend(index.deltas().iter().map(|delta| ((delta.from(), *name), delta.stored_bytes())));
    }
    let known: u64 = doomed
        .iter()
        .filter_map(|doomed| match doomed {
            Doomed::Chunk(chunk) => lengths.get(&Piece::Chunk(*chunk)),
            Doomed::Delta { from, to, .. } => deltas.get(&(*from, *to)),
            Doomed::Manifest(_) | Doomed::Index(_) => None,
        })
        .sum();
    let unknown: Vec<Piece> = doomed
        .iter()
        .flat_map(|doomed| match doomed {
            Doomed::Manifest(manifest) => vec![Piece::Manifest(*manifest)],
            Doomed::Index(manifest) => vec![Piece::Index(*manifest)],
            Doomed::Chunk(chunk) => vec![Piece::Chunk(*chunk)],
            Doomed::Delta { from, to, .. } if deltas.contains_key(&(*from, *to)) => Vec::new(),
            Doomed::Delta { from, to, parts } => {
                let numbers = 0..u32::try_from(*parts).unwrap_or(u32::MAX);
                numbers.map(|number| Piece::Part { from: *from, to: *to, number }).collect()
            }
        })
        .filter(|piece| !lengths.contains_key(piece))
        .collect();
    let read = unknown.into_iter().map(|piece| async move { replica.store.stored_length(&piece).await });
    let read = stream::iter(read).buffer_unordered(READS_AT_A_TIME);
    let read: u64 = read.try_fold(0, async |sum, length| Ok(sum + length)).await?;
    Ok(known + read)
}

fn chunk_lengths(manifest: &Manifest, index: &ContentIndex) -> BTreeMap<Piece, u64> {
    let chunks = manifest.chunks().iter().map(|chunk| Piece::Chunk(chunk.digest));
    chunks.zip(index.stored_bytes().iter().map(|length| u64::from(*length))).collect()
}
