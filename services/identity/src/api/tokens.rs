//! Tokens: made, listed, revoked.

use domain::access::{Caller, Reach};
use domain::catalog::{Catalog, GroupRef, Keeper, Token};
use domain::change::{Claim, Refusal, Wanted, own};
use domain::enrol::Approval;
use domain::token::{self, CreateError, Terms, TermsError};
use domain::{GroupId, TokenId};
use runtime::clock;
use runtime::store::{ChangeError, CommitError};
use tonic::Status;
use wire::api::v1::{
    self, CreateTokenRequest, JoinTokenSecret, ListTokensRequest, ListTokensResponse, RevokeTokenRequest,
    RevokeTokenResponse,
};
use wire::enrol::{Wrong, read_scope};
use wire::time::{read_duration, to_duration, to_timestamp};

use super::{page, path_of};
use crate::catalogue::author;
use crate::{Shared, status};

/// Why a token is not made.
enum CreateRefused {
    Group(super::GroupRef),
    Scope(Vec<Wrong>),
    Rule(CreateError),
}

/// Why a token is not revoked.
enum RevokeRefused {
    Missing,
    Managed(Refusal),
}

pub(super) async fn create(
    shared: &Shared,
    caller: &Caller,
    request: CreateTokenRequest,
) -> Result<JoinTokenSecret, Status> {
    let details = request.details.unwrap_or_default();
    let id = match details.name.as_str() {
        "" => None,
        name => Some(TokenId::new(name).map_err(|error| status::invalid("details.name", error))?),
    };
    let group = match details.group.as_str() {
        "" => None,
        text => Some(super::GroupRef::read("details.group", text)?),
    };
    let terms = read_terms(&details)?;
    let issuer = shared.trust.issuer().map_err(|error| status::precondition("NO_TRUST_ROOT", &error))?;
    let mut issued = None;
    let author = author(caller, "token create");
    let change = shared.catalogue.change(&author, |catalog| {
        if let Some(missing) = group.as_ref().filter(|group| group.find(catalog, &caller.reach).is_none()) {
            return Err(CreateRefused::Group(missing.clone()));
        }
        let scope = read_scope(&details, &|text| find(catalog, &caller.reach, text));
        let new = issuer.issue(id.clone(), scope.map_err(CreateRefused::Scope)?, terms, clock::now());
        let entry = token::create(catalog, new.token.clone()).map_err(CreateRefused::Rule)?;
        issued = Some(new);
        Ok(vec![entry])
    });
    change.await.map_err(|error| change_status(error, create_refused))?;
    let issued = issued.expect("invariant: what was written was issued");
    let details = shared.catalogue.look(|catalog| message(shared, catalog, &issued.token));
    tracing::info!(token = details.name, group = details.group, uses = details.uses, "a token was made");
    Ok(JoinTokenSecret { token: issued.join_token, details: Some(details) })
}

/// A group within reach, by path or name.
fn find(catalog: &Catalog, reach: &Reach, text: &str) -> Result<GroupId, String> {
    let name = text.parse::<GroupRef>().map_err(|error| error.to_string())?;
    let found = catalog.named(&name).filter(|group| reach.holds(catalog, &group.value.path));
    found.map(|group| group.value.id.clone()).ok_or_else(|| format!("there is no group {text:?}"))
}

fn read_terms(details: &v1::Token) -> Result<Terms, Status> {
    let uses = Some(details.uses).filter(|uses| *uses != 0);
    let ttl = details.ttl.as_ref().map(|ttl| {
        read_duration(ttl)
            .ok_or_else(|| status::invalid("details.ttl", "must be a span that is not negative"))
    });
    Terms::new(uses, ttl.transpose()?).map_err(|error| {
        let field = match error {
            TermsError::Uses => "details.uses",
            TermsError::Ttl => "details.ttl",
        };
        status::invalid(field, error)
    })
}

fn create_refused(refused: CreateRefused) -> Status {
    match refused {
        CreateRefused::Group(group) => group.not_found(),
        CreateRefused::Scope(wrong) => {
            let wrong = wrong.into_iter().map(|(field, why)| (format!("details.{field}"), why));
            status::all_invalid(wrong.collect())
        }
        CreateRefused::Rule(error @ CreateError::NoDefault) => status::invalid("details.group", error),
        CreateRefused::Rule(CreateError::Exists(id)) => status::exists("token", id.as_str()),
        CreateRefused::Rule(CreateError::GroupMissing(id)) => status::not_found("group", id.as_str()),
        CreateRefused::Rule(error @ CreateError::TooMany) => status::exhausted("tokens", &error),
    }
}

pub(super) fn change_status<E>(error: ChangeError<E>, refused: impl FnOnce(E) -> Status) -> Status {
    match error {
        ChangeError::Refused(why) => refused(why),
        ChangeError::CatchUp(error) => status::unavailable(&error),
        ChangeError::Commit(error @ (CommitError::Publish(_) | CommitError::Read(_))) => {
            status::unavailable(&error)
        }
        // One small entry is within every bound of the log.
        ChangeError::Commit(error) => Status::internal(runtime::log::chain(&error)),
        ChangeError::Encode(error) => Status::internal(runtime::log::chain(&error)),
        ChangeError::Contended => {
            status::contended(&"the catalogue is being changed by others all the time: try again")
        }
    }
}

fn message(shared: &Shared, catalog: &Catalog, token: &Token) -> v1::Token {
    v1::Token {
        name: token.id.to_string(),
        group: wire::enrol::group(&token.scope, |group| path_of(catalog, group)),
        uses: token.uses,
        ttl: Some(to_duration(token.expires_at.since(token.created_at))),
        create_time: Some(to_timestamp(token.created_at)),
        expire_time: Some(to_timestamp(token.expires_at)),
        used: shared.use_counts.of(token),
        rules: wire::enrol::rules(&token.scope, |group| path_of(catalog, group)),
        approval_required: token.scope.approval() == Approval::Required,
        manager: token.manager.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// The page token is the id of the last token on the page before: pages stay right when tokens come and go.
pub(super) async fn list(
    shared: &Shared,
    caller: &Caller,
    request: &ListTokensRequest,
) -> Result<ListTokensResponse, Status> {
    let size = page::size(request.page_size)?;
    let after = match request.page_token.as_str() {
        "" => None,
        text => {
            Some(TokenId::new(text).map_err(|_| status::invalid("page_token", "is not from a page before"))?)
        }
    };
    shared.catalogue.catch_up().await.map_err(|error| status::unavailable(&error))?;
    Ok(shared.catalogue.look(|catalog| {
        let rest =
            catalog.tokens().filter(|token| after.as_ref().is_none_or(|after| token.value.id > *after));
        let rest = rest.filter(|token| token.value.scope.is_within(catalog, &caller.reach));
        let mut tokens: Vec<_> =
            rest.take(size + 1).map(|token| message(shared, catalog, &token.value)).collect();
        let more = tokens.len() > size;
        tokens.truncate(size);
        let last = tokens.last().filter(|_| more).map(|token| token.name.clone());
        ListTokensResponse { tokens, next_page_token: last.unwrap_or_default() }
    }))
}

pub(super) async fn revoke(
    shared: &Shared,
    caller: &Caller,
    request: &RevokeTokenRequest,
) -> Result<RevokeTokenResponse, Status> {
    let id = TokenId::new(&request.name).map_err(|error| status::invalid("name", error))?;
    let manager = Some(request.manager.as_str()).filter(|text| !text.is_empty()).map(Keeper::new).transpose();
    let manager = manager.map_err(|error| status::invalid("manager", error))?;
    let claim = Claim { manager, take_over: request.take_over };
    let author = author(caller, "token revoke");
    let decide = |catalog: &Catalog| {
        let token = catalog.token(&id).filter(|it| it.value.scope.is_within(catalog, &caller.reach));
        let entry = token.and_then(|_| token::revoke(catalog, &id)).ok_or(RevokeRefused::Missing)?;
        own(catalog, &mut [Wanted::Deleted(entry.key()).into()], &claim).map_err(RevokeRefused::Managed)?;
        Ok(vec![entry])
    };
    let change = shared.catalogue.change(&author, decide);
    let refused = |refused| match refused {
        RevokeRefused::Missing => status::not_found("token", id.as_str()),
        RevokeRefused::Managed(refusal) => status::precondition("MANAGED", &refusal),
    };
    let revision = change.await.map_err(|error| change_status(error, refused))?;
    tracing::info!(token = %id, "a token was revoked");
    Ok(RevokeTokenResponse { revision: revision.0 })
}
