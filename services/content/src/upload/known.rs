//! Chunks that are known to be there without a look, because stored revisions name them.

use std::collections::BTreeMap;

use domain::Digest;
use domain::catalog::Catalog;
use domain::content::ChannelName;

use crate::Refused;
use crate::replica::Replica;

/// How many of a channel's newest revisions are looked at: successive revisions share most of their chunks, and
/// each further one adds a megabyte to read.
const REVISIONS: usize = 3;

/// Chunks of a channel's newest revisions and their lengths as stored. They are there as long as these revisions
/// are in the catalogue.
///
/// # Errors
/// [`Refused`] if the stream does not answer.
pub(super) async fn known(
    replica: &Replica,
    catalog: &Catalog,
    channel: &ChannelName,
) -> Result<BTreeMap<Digest, u32>, Refused> {
    let mut known = BTreeMap::new();
    for revision in catalog.content_revisions(channel).rev().take(REVISIONS) {
        let name = revision.value.manifest;
        // A stream that was lost has neither; then nothing is known.
        let Some(manifest) = replica.store.manifest(&name).await? else { continue };
        let Some(index) = replica.store.index(&name, &manifest).await?.index else { continue };
        let lengths = manifest.chunks().iter().zip(index.stored_bytes());
        known.extend(lengths.map(|(chunk, stored)| (chunk.digest, *stored)));
    }
    Ok(known)
}
