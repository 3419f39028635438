//! Tokens: made, listed, revoked.

use domain::TokenId;
use domain::access::Caller;
use domain::catalog::{Catalog, Token};
use domain::token::{self, CreateError, Terms, TermsError};
use runtime::clock;
use runtime::store::{ChangeError, CommitError};
use tonic::Status;
use wire::api::v1::{
    self, CreateTokenRequest, JoinTokenSecret, ListTokensRequest, ListTokensResponse, RevokeTokenRequest,
    RevokeTokenResponse,
};
use wire::time::{read_duration, to_duration, to_timestamp};

use super::{GroupRef, page, path_of};
use crate::catalogue::author;
use crate::{Shared, status};

/// Why a token is not made.
enum CreateRefused {
    Group(GroupRef),
    Rule(CreateError),
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
    let group = GroupRef::read("details.group", &details.group)?;
    let terms = read_terms(&details)?;
    let issuer = shared.trust.issuer().map_err(|error| status::precondition("NO_TRUST_ROOT", &error))?;
    let mut issued = None;
    let author = author(caller, "token create");
    let change = shared.catalogue.change(&author, |catalog| {
        let group = group.find(catalog, &caller.reach).ok_or_else(|| CreateRefused::Group(group.clone()))?;
        let new = issuer.issue(id.clone(), group, terms, clock::now());
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
        group: path_of(catalog, &token.group),
        uses: token.uses,
        ttl: Some(to_duration(token.expires_at.since(token.created_at))),
        create_time: Some(to_timestamp(token.created_at)),
        expire_time: Some(to_timestamp(token.expires_at)),
        used: shared.use_counts.of(token),
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
        let rest = rest.filter(|token| caller.reach.holds_group(catalog, &token.value.group));
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
    let author = author(caller, "token revoke");
    let decide = |catalog: &Catalog| {
        let token = catalog.token(&id).filter(|it| caller.reach.holds_group(catalog, &it.value.group));
        Ok(vec![token.and_then(|_| token::revoke(catalog, &id)).ok_or(())?])
    };
    let change = shared.catalogue.change(&author, decide);
    let revision =
        change.await.map_err(|error| change_status(error, |()| status::not_found("token", id.as_str())))?;
    tracing::info!(token = %id, "a token was revoked");
    Ok(RevokeTokenResponse { revision: revision.0 })
}
