//! The API for operators: `muster.api.v1.PolicyService`.

mod apply;
mod convert;
mod history;
mod page;
mod read;
mod refuse;
mod release;
mod result;
mod show;
mod write;

use std::sync::Arc;

use domain::change::Claim;
use runtime::access::{caller, written};
use runtime::telemetry::spans;
use tonic::{Request, Response, Status};
use wire::api::v1;
use wire::api::v1::policy_service_server::PolicyService;

use crate::change::Manner;
use crate::replica::Replica;

/// Largest request and largest answer: an apply of as much as one change can hold, in its protobuf form.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The service.
pub(crate) struct Api(pub(crate) Arc<Replica>);

/// How a change is to be made, and the request for it.
///
/// # Errors
/// `INVALID_ARGUMENT` if the reason is too long, `INTERNAL` if nobody knows who asks.
fn manner<T>(request: Request<T>, of: impl FnOnce(&mut T) -> (bool, String)) -> Result<(Manner, T), Status> {
    let caller = caller(request.extensions())?;
    let trace_id = spans::trace_id(request.metadata());
    let mut request = request.into_inner();
    let (dry_run, message) = of(&mut request);
    let message = convert::message(message)?;
    Ok((Manner { caller, dry_run, message, claim: Claim::default(), trace_id }, request))
}

/// An answer that tells of a change.
trait Change {
    fn result(&self) -> Option<&v1::ChangeResult>;
}

impl Change for v1::ChangeResult {
    fn result(&self) -> Option<&v1::ChangeResult> {
        Some(self)
    }
}

impl Change for v1::ApplyResponse {
    fn result(&self) -> Option<&v1::ChangeResult> {
        self.result.as_ref()
    }
}

impl Change for v1::GroupChange {
    fn result(&self) -> Option<&v1::ChangeResult> {
        self.result.as_ref()
    }
}

impl Change for v1::PolicyChange {
    fn result(&self) -> Option<&v1::ChangeResult> {
        self.result.as_ref()
    }
}

/// The answer, with the revision for the audit.
fn changed<T: Change>(answer: T) -> Response<T> {
    let stored = answer.result().filter(|result| !result.dry_run);
    let revision = stored.map_or(0, |result| result.revision);
    written(answer, revision)
}

#[tonic::async_trait]
impl PolicyService for Api {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        apply::apply(&self.0, request).await.map(changed)
    }

    async fn get_group(&self, request: Request<v1::GetGroupRequest>) -> Result<Response<v1::Group>, Status> {
        read::get_group(&self.0, &caller(request.extensions())?.reach, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        read::list_groups(&self.0, &caller(request.extensions())?.reach, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn create_group(
        &self,
        request: Request<v1::CreateGroupRequest>,
    ) -> Result<Response<v1::GroupChange>, Status> {
        write::create_group(&self.0, request).await.map(changed)
    }

    async fn update_group(
        &self,
        request: Request<v1::UpdateGroupRequest>,
    ) -> Result<Response<v1::GroupChange>, Status> {
        write::update_group(&self.0, request).await.map(changed)
    }

    async fn move_group(
        &self,
        request: Request<v1::MoveGroupRequest>,
    ) -> Result<Response<v1::GroupChange>, Status> {
        write::move_group(&self.0, request).await.map(changed)
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::ChangeResult>, Status> {
        write::delete_group(&self.0, request).await.map(changed)
    }

    async fn get_kind(&self, request: Request<v1::GetKindRequest>) -> Result<Response<v1::Kind>, Status> {
        read::get_kind(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn list_kinds(
        &self,
        request: Request<v1::ListKindsRequest>,
    ) -> Result<Response<v1::ListKindsResponse>, Status> {
        read::list_kinds(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn delete_kind(
        &self,
        request: Request<v1::DeleteKindRequest>,
    ) -> Result<Response<v1::ChangeResult>, Status> {
        write::delete_kind(&self.0, request).await.map(changed)
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        read::get_policy(&self.0, &caller(request.extensions())?.reach, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        read::list_policies(&self.0, &caller(request.extensions())?.reach, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Result<Response<v1::ChangeResult>, Status> {
        write::delete_policy(&self.0, request).await.map(changed)
    }

    async fn list_policy_history(
        &self,
        request: Request<v1::ListPolicyHistoryRequest>,
    ) -> Result<Response<v1::ListPolicyHistoryResponse>, Status> {
        history::list(&self.0, &caller(request.extensions())?.reach, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn diff_policy(
        &self,
        request: Request<v1::DiffPolicyRequest>,
    ) -> Result<Response<v1::DiffPolicyResponse>, Status> {
        history::diff(&self.0, &caller(request.extensions())?.reach, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn rollback_policy(
        &self,
        request: Request<v1::RollbackPolicyRequest>,
    ) -> Result<Response<v1::PolicyChange>, Status> {
        history::rollback(&self.0, request).await.map(changed)
    }

    async fn get_change(
        &self,
        request: Request<v1::GetChangeRequest>,
    ) -> Result<Response<v1::ChangeInfo>, Status> {
        history::change(&self.0, request.into_inner().revision).await.map(Response::new)
    }

    async fn explain_group(
        &self,
        request: Request<v1::ExplainGroupRequest>,
    ) -> Result<Response<v1::ExplainGroupResponse>, Status> {
        read::explain_group(&self.0, &caller(request.extensions())?.reach, request.into_inner())
            .await
            .map(Response::new)
    }
}
