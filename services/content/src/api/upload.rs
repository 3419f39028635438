//! The calls of an upload.

use std::sync::Arc;

use domain::catalog::Catalog;
use tonic::{Request, Status, Streaming};
use wire::agent::v1::Signature;
use wire::api::v1;
use wire::envelope::MAX_SIGNATURES;
use wire::time::to_timestamp;

use super::{convert, show};
use crate::replica::Replica;
use crate::upload::{Begun, Finish};
use crate::{Refused, refuse, upload};

pub(super) async fn begin(
    replica: &Replica,
    request: Request<v1::BeginUploadRequest>,
) -> Result<v1::BeginUploadResponse, Status> {
    let manifest = convert::manifest(&replica.store.fleet, request.get_ref())?;
    let author = convert::author(
        (request.metadata(), request.extensions()),
        format!("begin an upload to {}", manifest.channel()),
    )?;
    // The request is as large as the manifest, which stays.
    drop(request);
    Ok(match upload::begin(replica, manifest, &author).await? {
        Begun::Existing(revision) => v1::BeginUploadResponse {
            manifest: revision.manifest.0.to_vec(),
            existing: Some(replica.catalogue.look(|catalog: &Catalog| show::revision(catalog, &revision))),
            ..v1::BeginUploadResponse::default()
        },
        Begun::Upload { manifest, payload, missing, expires_at } => v1::BeginUploadResponse {
            manifest: manifest.0.to_vec(),
            manifest_payload: payload.into(),
            missing,
            existing: None,
            expires_at: Some(to_timestamp(expires_at)),
        },
    })
}

/// Runs as a task of its own: when the caller's line is cut, the call is dropped, and what came until then is stored
/// all the same.
pub(super) async fn chunks(
    replica: &Arc<Replica>,
    requests: Streaming<v1::UploadChunksRequest>,
) -> Result<v1::UploadChunksResponse, Status> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let service = Arc::clone(replica);
    replica.tasks.spawn_finite("content intake", async move {
        let _call = service.call();
        let taken = tokio::select! {
            taken = upload::take(&service, requests) => taken,
            () = service.out_of_time() => Err(Refused(Status::unavailable("this replica stops"))),
        };
        // The caller may be gone.
        drop(sender.send(taken));
        Ok::<(), std::convert::Infallible>(())
    });
    let taken = receiver.await.map_err(|_| Status::internal("the upload was given up"))??;
    Ok(v1::UploadChunksResponse { chunks: taken.chunks, stored_bytes: taken.bytes })
}

pub(super) async fn finish(
    replica: &Replica,
    request: Request<v1::FinishUploadRequest>,
) -> Result<v1::FinishUploadResponse, Status> {
    let (metadata, extensions, request) = request.into_parts();
    let channel = convert::channel("channel", &request.channel)?;
    let manifest = convert::digest("manifest", &request.manifest)?;
    let (label, note) = convert::texts(&request.label, &request.note)?;
    if request.signatures.len() > MAX_SIGNATURES {
        return Err(refuse::field("signatures", format!("must be at most {MAX_SIGNATURES}")));
    }
    let signatures = request.signatures.into_iter().map(|signature| Signature {
        key_id: signature.key_id.into(),
        signature: signature.signature.into(),
    });
    let author = convert::author((&metadata, &extensions), format!("push to {channel}"))?;
    let finish = Finish { channel, manifest, label, note, signatures: signatures.collect() };
    let finished = upload::finish(replica, finish, &author).await?;
    let revision = replica.catalogue.look(|catalog| show::revision(catalog, &finished.revision));
    Ok(v1::FinishUploadResponse {
        revision: Some(revision),
        created: finished.created,
        store_revision: finished.store_revision.0,
    })
}
