//! Garbage collection on demand.

use tonic::Status;
use wire::api::v1;

use crate::replica::Replica;

pub(super) async fn collect(_: &Replica, dry_run: bool) -> Result<v1::CollectGarbageResponse, Status> {
    Ok(v1::CollectGarbageResponse { dry_run, ..v1::CollectGarbageResponse::default() })
}
