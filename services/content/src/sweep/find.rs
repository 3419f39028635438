//! What is stored and nothing needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::catalog::{Catalog, StoredRevision};
use domain::content::retention::{Piece, Referenced};
use domain::content::{ContentIndex, Manifest};
use domain::{Digest, Timestamp};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runtime::clock;

use crate::replica::Replica;
use crate::upload::{EXPIRY_GRACE, READS_AT_A_TIME};
use crate::{Refused, refuse};

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
/// # Errors
/// [`Refused`] if what a revision needs is not known, or the stream does not answer.
pub(super) async fn find(
    replica: &Replica,
    catalog: &Catalog,
    most: usize,
) -> Result<Option<Vec<Doomed>>, Refused> {
    let Some(referenced) = referenced(replica, catalog, clock::now()).await? else { return Ok(None) };
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

/// All that revisions and uploads name; `None` if the manifest of an upload is not stored yet.
///
/// # Errors
/// [`Refused`] if that of a revision is not there: then nobody knows what it names.
async fn referenced(
    replica: &Replica,
    catalog: &Catalog,
    now: Timestamp,
) -> Result<Option<Referenced>, Refused> {
    let revisions = catalog.channels().flat_map(|channel| catalog.content_revisions(&channel.value.name));
    let revisions = revisions.map(|revision| (revision.value.manifest, Some(Arc::clone(&revision.value))));
    let uploads = catalog.uploads().filter(|upload| upload.expires_at + EXPIRY_GRACE > now);
    let uploads = uploads.map(|upload| (upload.manifest, None));
    let named: Vec<_> = revisions.chain(uploads).collect();
    let read = named.into_iter().map(|(name, revision)| async move {
        let Some(manifest) = replica.store.read_manifest(&name).await? else {
            return revision.map_or(Ok(None), |revision| Err(lost(&revision)));
        };
        let index = replica.store.index(&name, &manifest).await?.index;
        Ok::<_, Refused>(Some((name, manifest, index)))
    });
    let mut read = stream::iter(read).buffer_unordered(MANIFESTS_AT_A_TIME);
    let mut referenced = Referenced::new();
    while let Some(content) = read.try_next().await? {
        let Some((name, manifest, index)) = content else { return Ok(None) };
        referenced.content(name, manifest.chunks().iter().map(|chunk| chunk.digest));
        // Agents may hold what has no revision any more: a patch from it stays as long as where it leads.
        let from = index.iter().flat_map(ContentIndex::deltas).filter_map(domain::content::Delta::from);
        from.for_each(|from| referenced.held(from));
    }
    Ok(Some(referenced))
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
