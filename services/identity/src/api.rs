//! The gRPC service: reads requests, and turns what comes of them into answers.

mod access;
mod agents;
mod audit;
mod offline;
mod page;
mod pending;
mod tokens;
mod trust;

use std::sync::Arc;

use domain::GroupId;
use domain::access::Reach;
use domain::catalog::Catalog;
use runtime::access::{caller, written};
use tonic::{Request, Response, Status};
use wire::api::v1::identity_service_server::IdentityService;
use wire::api::v1::trust_service_server::TrustService;
use wire::api::v1::{
    ApproveAgentRequest, CreateTokenRequest, DeleteAgentRequest, DeleteAgentResponse, EnrolOfflineRequest,
    EnrolOfflineResponse, GetRegistrationRequest, GetRootsRequest, JoinTokenSecret, ListPendingAgentsRequest,
    ListPendingAgentsResponse, ListTokensRequest, ListTokensResponse, MoveAgentRequest, PublishRootRequest,
    Registration, RejectAgentRequest, RejectAgentResponse, RevokeAgentRequest, RevokeAgentResponse,
    RevokeTokenRequest, RevokeTokenResponse, Roots,
};

use crate::{Shared, status};

pub(crate) use access::Access;
pub(crate) use audit::Audit;

/// The service as tonic calls it.
pub(crate) struct Api(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl IdentityService for Api {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<JoinTokenSecret>, Status> {
        let caller = caller(request.extensions())?;
        tokens::create(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let caller = caller(request.extensions())?;
        tokens::list(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let caller = caller(request.extensions())?;
        let answer = tokens::revoke(&self.0, &caller, &request.into_inner()).await?;
        let revision = answer.revision;
        Ok(written(answer, revision))
    }

    async fn get_registration(
        &self,
        request: Request<GetRegistrationRequest>,
    ) -> Result<Response<Registration>, Status> {
        let caller = caller(request.extensions())?;
        agents::get(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn move_agent(&self, request: Request<MoveAgentRequest>) -> Result<Response<Registration>, Status> {
        let caller = caller(request.extensions())?;
        agents::move_to_group(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn delete_agent(
        &self,
        request: Request<DeleteAgentRequest>,
    ) -> Result<Response<DeleteAgentResponse>, Status> {
        let caller = caller(request.extensions())?;
        agents::delete(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn revoke_agent(
        &self,
        request: Request<RevokeAgentRequest>,
    ) -> Result<Response<RevokeAgentResponse>, Status> {
        let caller = caller(request.extensions())?;
        agents::revoke(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn list_pending_agents(
        &self,
        request: Request<ListPendingAgentsRequest>,
    ) -> Result<Response<ListPendingAgentsResponse>, Status> {
        let caller = caller(request.extensions())?;
        pending::list(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn approve_agent(
        &self,
        request: Request<ApproveAgentRequest>,
    ) -> Result<Response<Registration>, Status> {
        let caller = caller(request.extensions())?;
        pending::approve(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn reject_agent(
        &self,
        request: Request<RejectAgentRequest>,
    ) -> Result<Response<RejectAgentResponse>, Status> {
        let caller = caller(request.extensions())?;
        pending::reject(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn enrol_offline(
        &self,
        request: Request<EnrolOfflineRequest>,
    ) -> Result<Response<EnrolOfflineResponse>, Status> {
        let caller = caller(request.extensions())?;
        offline::enrol(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl TrustService for Api {
    async fn get_roots(&self, request: Request<GetRootsRequest>) -> Result<Response<Roots>, Status> {
        trust::get(&self.0, &request.into_inner()).map(Response::new)
    }

    async fn publish_root(&self, request: Request<PublishRootRequest>) -> Result<Response<Roots>, Status> {
        trust::publish(&self.0, &request.into_inner()).await.map(Response::new)
    }
}

/// How a request names a group: by its path (`/servers/web`) or its name (`servers-web`).
#[derive(Clone)]
struct GroupRef(domain::catalog::GroupRef);

impl GroupRef {
    fn read(field: &str, text: &str) -> Result<Self, Status> {
        text.parse().map(Self).map_err(|error| status::invalid(field, error))
    }

    /// The group, if there is one that a caller sees.
    fn find(&self, catalog: &Catalog, reach: &Reach) -> Option<GroupId> {
        let group = catalog.named(&self.0).filter(|group| reach.holds(catalog, &group.value.path));
        group.map(|group| group.value.id.clone())
    }

    fn not_found(&self) -> Status {
        status::not_found("group", &self.0.to_string())
    }
}

/// Path of a group for people; its name if it was deleted.
fn path_of(catalog: &Catalog, group: &GroupId) -> String {
    catalog.group(group).map_or_else(|| group.to_string(), |group| group.value.path.to_string())
}
