//! API tokens: made, listed, revoked; and who the caller is.

use std::sync::Arc;

use domain::access::{self, ApiToken, Caller, NewApiToken, Reach, Role};
use domain::catalog::Catalog;
use domain::{ApiTokenName, GroupId};
use runtime::access::{caller, written};
use runtime::{clock, ids};
use tonic::{Request, Response, Status};
use wire::api::v1::access_service_server::AccessService;
use wire::api::v1::{
    self, ApiTokenSecret, CreateApiTokenRequest, ListApiTokensRequest, ListApiTokensResponse,
    RevokeApiTokenRequest, RevokeApiTokenResponse, WhoAmIRequest, WhoAmIResponse,
};
use wire::api_token::{BearerToken, SECRET_BYTES};
use wire::time::{read_duration, to_duration, to_timestamp};

use super::tokens::change_status;
use super::{GroupRef, page, path_of};
use crate::catalogue::author;
use crate::{Shared, status};

/// The service as tonic calls it.
pub(crate) struct Access(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl AccessService for Access {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let caller = caller(request.extensions())?;
        who_am_i(&self.0, caller).await.map(Response::new)
    }

    async fn create_api_token(
        &self,
        request: Request<CreateApiTokenRequest>,
    ) -> Result<Response<ApiTokenSecret>, Status> {
        let caller = caller(request.extensions())?;
        create(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_api_tokens(
        &self,
        request: Request<ListApiTokensRequest>,
    ) -> Result<Response<ListApiTokensResponse>, Status> {
        let caller = caller(request.extensions())?;
        list(&self.0, &caller, &request.into_inner()).await.map(Response::new)
    }

    async fn revoke_api_token(
        &self,
        request: Request<RevokeApiTokenRequest>,
    ) -> Result<Response<RevokeApiTokenResponse>, Status> {
        let caller = caller(request.extensions())?;
        let answer = revoke(&self.0, &caller, &request.into_inner()).await?;
        let revision = answer.revision;
        Ok(written(answer, revision))
    }
}

async fn who_am_i(shared: &Shared, caller: Caller) -> Result<WhoAmIResponse, Status> {
    shared.catalogue.catch_up().await.map_err(|error| status::unavailable(&error))?;
    let group = match &caller.reach {
        Reach::Everywhere => String::new(),
        Reach::Under(group) => shared.catalogue.look(|catalog| path_of(catalog, group)),
    };
    Ok(WhoAmIResponse {
        name: caller.name,
        role: role(caller.role).into(),
        group,
        expire_time: caller.until.map(to_timestamp),
    })
}

/// Why a token is not made.
enum CreateRefused {
    Group(GroupRef),
    Rule(NewApiToken),
}

async fn create(
    shared: &Shared,
    caller: &Caller,
    request: CreateApiTokenRequest,
) -> Result<ApiTokenSecret, Status> {
    let details = request.details.unwrap_or_default();
    let name = ApiTokenName::new(&details.name).map_err(|error| status::invalid("details.name", error))?;
    let role = read_role(details.role)?;
    let group = match details.group.as_str() {
        "" => None,
        text => Some(GroupRef::read("details.group", text)?),
    };
    let ttl = match &details.ttl {
        None => None,
        Some(ttl) => Some(
            read_duration(ttl)
                .ok_or_else(|| status::invalid("details.ttl", "must be a span that is not negative"))?,
        ),
    };
    let ttl = access::ttl(ttl).map_err(|error| status::invalid("details.ttl", error))?;
    let bearer = BearerToken { name, secret: ids::random_secret::<SECRET_BYTES>() };
    let now = clock::now();
    let token = |group: Option<GroupId>| ApiToken {
        name: bearer.name.clone(),
        role,
        group,
        created_at: now,
        expires_at: now + ttl,
        secret_digest: bearer.digest(),
        created_by: caller.name.clone(),
    };
    let mut made = None;
    let author = author(caller, "api-token create");
    let change = shared.catalogue.change(&author, |catalog| {
        let found = group.as_ref().map(|group| {
            group.find(catalog, &caller.reach).ok_or_else(|| CreateRefused::Group(group.clone()))
        });
        let new = token(found.transpose()?);
        let entry = access::create(catalog, &caller.reach, new.clone()).map_err(CreateRefused::Rule)?;
        made = Some(new);
        Ok(vec![entry])
    });
    change.await.map_err(|error| change_status(error, create_refused))?;
    let made = made.expect("invariant: what was written was made");
    let details = shared.catalogue.look(|catalog| message(catalog, &made));
    tracing::info!(name = %made.name, role = %made.role, group = details.group, by = caller.name, "an API token was made");
    Ok(ApiTokenSecret { token: bearer.encode(), details: Some(details) })
}

fn create_refused(refused: CreateRefused) -> Status {
    match refused {
        CreateRefused::Group(group) => group.not_found(),
        CreateRefused::Rule(NewApiToken::Exists(name)) => status::exists("API token", name.as_str()),
        CreateRefused::Rule(NewApiToken::GroupMissing(id)) => status::not_found("group", id.as_str()),
        CreateRefused::Rule(error @ NewApiToken::Further) => status::invalid("details.group", error),
        CreateRefused::Rule(error @ NewApiToken::TooMany) => status::exhausted("API tokens", &error),
    }
}

fn read_role(number: i32) -> Result<Role, Status> {
    match v1::Role::try_from(number) {
        Ok(v1::Role::Viewer) => Ok(Role::Viewer),
        Ok(v1::Role::Enroller) => Ok(Role::Enroller),
        Ok(v1::Role::Operator) => Ok(Role::Operator),
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::Unspecified) | Err(_) => {
            Err(status::invalid("details.role", "must be viewer, enroller, operator or admin"))
        }
    }
}

pub(super) fn role(role: Role) -> v1::Role {
    match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Enroller => v1::Role::Enroller,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
    }
}

fn message(catalog: &Catalog, token: &ApiToken) -> v1::ApiToken {
    v1::ApiToken {
        name: token.name.to_string(),
        role: role(token.role).into(),
        group: token.group.as_ref().map(|group| path_of(catalog, group)).unwrap_or_default(),
        ttl: Some(to_duration(token.expires_at.since(token.created_at))),
        create_time: Some(to_timestamp(token.created_at)),
        expire_time: Some(to_timestamp(token.expires_at)),
        created_by: token.created_by.clone(),
    }
}

/// The page token is the name of the last token on the page before: pages stay right when tokens come and go.
async fn list(
    shared: &Shared,
    caller: &Caller,
    request: &ListApiTokensRequest,
) -> Result<ListApiTokensResponse, Status> {
    let size = page::size(request.page_size)?;
    let after = match request.page_token.as_str() {
        "" => None,
        text => Some(
            ApiTokenName::new(text)
                .map_err(|_| status::invalid("page_token", "is not from a page before"))?,
        ),
    };
    shared.catalogue.catch_up().await.map_err(|error| status::unavailable(&error))?;
    Ok(shared.catalogue.look(|catalog| {
        let all = catalog.api_tokens().map(|token| &*token.value);
        let rest = all.filter(|token| after.as_ref().is_none_or(|after| token.name > *after));
        let seen = rest.filter(|token| access::seen(catalog, &caller.reach, token));
        let mut tokens: Vec<_> = seen.take(size + 1).map(|token| message(catalog, token)).collect();
        let more = tokens.len() > size;
        tokens.truncate(size);
        let last = tokens.last().filter(|_| more).map(|token| token.name.clone());
        ListApiTokensResponse { tokens, next_page_token: last.unwrap_or_default() }
    }))
}

async fn revoke(
    shared: &Shared,
    caller: &Caller,
    request: &RevokeApiTokenRequest,
) -> Result<RevokeApiTokenResponse, Status> {
    let name = ApiTokenName::new(&request.name).map_err(|error| status::invalid("name", error))?;
    let decide = |catalog: &Catalog| Ok(vec![access::revoke(catalog, &caller.reach, &name).ok_or(())?]);
    let author = author(caller, "api-token revoke");
    let change = shared.catalogue.change(&author, decide).await;
    let missing = |()| status::not_found("API token", name.as_str());
    let revision = change.map_err(|error| change_status(error, missing))?;
    tracing::info!(%name, by = caller.name, "an API token was revoked");
    Ok(RevokeApiTokenResponse { revision: revision.0 })
}
