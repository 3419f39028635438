//! Garbage collection on demand.

use runtime::store::Author;
use tonic::Status;
use wire::api::v1;

use super::show;
use crate::replica::Replica;
use crate::{Refused, sweep};

/// Revisions that an answer lists.
const MAX_REVISIONS: usize = 1000;

pub(super) async fn collect(
    replica: &Replica,
    author: &Author,
    dry_run: bool,
) -> Result<v1::CollectGarbageResponse, Status> {
    let collected = sweep::collect(replica, author, dry_run).await?;
    let catalog = replica.catalogue.current();
    let retired = collected.retired.iter().take(MAX_REVISIONS);
    Ok(v1::CollectGarbageResponse {
        retired: retired.map(|revision| show::revision(&catalog, revision)).collect(),
        chunks: collected.chunks,
        patch_parts: collected.parts,
        manifests: collected.manifests,
        freed_bytes: collected.freed_bytes,
        stored_bytes: {
            let used = replica.store.used().await.map_err(Refused::from)?;
            if dry_run { used.saturating_sub(collected.freed_bytes) } else { used }
        },
        quota_bytes: replica.config.content_quota,
        dry_run,
    })
}
