//! The bytes of a revision, for people and scripts.

use std::sync::Arc;

use domain::access::Reach;
use domain::catalog::StoredRevision;
use futures::stream;
use futures::{Stream, StreamExt as _};
use tonic::Status;
use wire::api::v1;
use wire::api::v1::fetch_response::Piece;

use super::{convert, show};
use crate::replica::Replica;
use crate::{Refused, refuse};

/// Chunks that are read ahead of the caller: with chunks of 512 KiB they take at most 4 MiB of memory.
const READ_AHEAD: usize = 8;

pub(super) async fn fetch(
    replica: Arc<Replica>,
    reach: &Reach,
    request: &v1::FetchRequest,
) -> Result<impl Stream<Item = Result<v1::FetchResponse, Status>> + Send + use<>, Status> {
    replica.catalogue.catch_up().await.map_err(Refused::from)?;
    let catalog = replica.catalogue.current();
    let sight = reach.sight(&catalog);
    convert::visible(&sight, request.selector.as_ref())?;
    let revision = convert::select(&catalog, "selector", request.selector.as_ref())?.clone();
    let lost = |what: &str| {
        let StoredRevision { channel, number, .. } = &revision;
        Status::data_loss(format!("{what} of revision {number} of channel {channel} is lost"))
    };
    let envelope = replica.store.envelope(&revision.manifest).await.map_err(Refused::from)?;
    let envelope = envelope.ok_or_else(|| lost("the manifest"))?;
    let manifest = replica.store.manifest(&revision.manifest).await.map_err(Refused::from)?;
    let manifest = manifest.ok_or_else(|| lost("the manifest"))?;
    let chunks = manifest.chunks();
    let from = usize::try_from(request.from_chunk).unwrap_or(usize::MAX);
    if from > chunks.len() {
        let why = format!("must be at most {}: the revision has no more chunks", chunks.len());
        return Err(refuse::field("from_chunk", why));
    }
    let head = v1::FetchHead {
        revision: Some(show::revision_to(&sight, &catalog, &revision)),
        manifest: envelope.to_vec(),
    };
    let head = Ok(v1::FetchResponse { piece: Some(Piece::Head(head)) });
    let rest = chunks[from..].to_vec();
    let frames = stream::iter(rest).map(move |chunk| {
        let replica = Arc::clone(&replica);
        async move {
            let stored = replica.store.chunk(&chunk.digest).await.map_err(Refused::from)?;
            let gone = || {
                let message =
                    format!("the chunk {} is not there any more: was its revision retired?", chunk.digest);
                refuse::missing("ContentChunk", &chunk.digest.to_string(), message)
            };
            let frame = stored.ok_or_else(gone)?;
            Ok(v1::FetchResponse { piece: Some(Piece::Frame(frame.to_vec())) })
        }
    });
    Ok(stream::iter([head]).chain(frames.buffered(READ_AHEAD)))
}
