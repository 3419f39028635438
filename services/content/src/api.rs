//! The API for operators: `muster.api.v1.ContentService`.

mod change;
mod collect;
mod convert;
mod fetch;
mod read;
mod show;
mod upload;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use runtime::access::{caller, written};
use tonic::{Request, Response, Status, Streaming};
use wire::api::v1;
use wire::api::v1::content_service_server::ContentService;

use crate::replica::Replica;

/// Largest request: the list of files and chunks of the largest manifest is a little longer in its API form.
pub(crate) const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// The service.
pub(crate) struct Api(pub(crate) Arc<Replica>);

/// The answer, with the revision for the audit.
fn changed(answer: v1::ContentChange) -> Response<v1::ContentChange> {
    let revision = if answer.dry_run { 0 } else { answer.store_revision };
    written(answer, revision)
}

#[tonic::async_trait]
impl ContentService for Api {
    async fn begin_upload(
        &self,
        request: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::BeginUploadResponse>, Status> {
        let _call = self.0.call();
        upload::begin(&self.0, request).await.map(Response::new)
    }

    async fn upload_chunks(
        &self,
        request: Request<Streaming<v1::UploadChunksRequest>>,
    ) -> Result<Response<v1::UploadChunksResponse>, Status> {
        upload::chunks(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn finish_upload(
        &self,
        request: Request<v1::FinishUploadRequest>,
    ) -> Result<Response<v1::FinishUploadResponse>, Status> {
        let _call = self.0.call();
        let answer = upload::finish(&self.0, request).await?;
        let revision = answer.store_revision;
        Ok(written(answer, revision))
    }

    async fn list_channels(
        &self,
        request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        let _call = self.0.call();
        read::list(&self.0, &caller(request.extensions())?.reach, request.get_ref()).await.map(Response::new)
    }

    async fn get_channel(
        &self,
        request: Request<v1::GetChannelRequest>,
    ) -> Result<Response<v1::Channel>, Status> {
        let _call = self.0.call();
        read::channel(&self.0, &caller(request.extensions())?.reach, request.get_ref())
            .await
            .map(Response::new)
    }

    async fn update_channel(
        &self,
        request: Request<v1::UpdateChannelRequest>,
    ) -> Result<Response<v1::Channel>, Status> {
        let _call = self.0.call();
        change::update(&self.0, request).await.map(Response::new)
    }

    async fn delete_channel(
        &self,
        request: Request<v1::DeleteChannelRequest>,
    ) -> Result<Response<v1::ContentChange>, Status> {
        let _call = self.0.call();
        change::delete(&self.0, request).await.map(changed)
    }

    async fn get_revision(
        &self,
        request: Request<v1::GetRevisionRequest>,
    ) -> Result<Response<v1::RevisionDetail>, Status> {
        let _call = self.0.call();
        read::revision(&self.0, &caller(request.extensions())?.reach, request.get_ref())
            .await
            .map(Response::new)
    }

    async fn diff_revisions(
        &self,
        request: Request<v1::DiffRevisionsRequest>,
    ) -> Result<Response<v1::DiffRevisionsResponse>, Status> {
        let _call = self.0.call();
        read::diff(&self.0, &caller(request.extensions())?.reach, request.get_ref()).await.map(Response::new)
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::ContentChange>, Status> {
        let _call = self.0.call();
        change::promote(&self.0, request).await.map(changed)
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackContentRequest>,
    ) -> Result<Response<v1::ContentChange>, Status> {
        let _call = self.0.call();
        change::rollback(&self.0, request).await.map(changed)
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::ContentChange>, Status> {
        let _call = self.0.call();
        change::pin(&self.0, request).await.map(changed)
    }

    async fn retire(
        &self,
        request: Request<v1::RetireRequest>,
    ) -> Result<Response<v1::ContentChange>, Status> {
        let _call = self.0.call();
        change::retire(&self.0, request).await.map(changed)
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Result<Response<v1::CollectGarbageResponse>, Status> {
        let _call = self.0.call();
        let author =
            convert::author((request.metadata(), request.extensions()), "collect garbage".to_owned())?;
        collect::collect(&self.0, &author, request.get_ref().dry_run).await.map(Response::new)
    }

    type FetchStream = Pin<Box<dyn Stream<Item = Result<v1::FetchResponse, Status>> + Send>>;

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let reach = caller(request.extensions())?.reach;
        let pieces = fetch::fetch(Arc::clone(&self.0), &reach, request.get_ref()).await?;
        Ok(Response::new(Box::pin(self.0.shutdown.until(pieces))))
    }
}
