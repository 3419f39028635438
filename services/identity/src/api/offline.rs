//! Machines whose request to join was carried here by hand.

use domain::Timestamp;
use domain::access::Caller;
use domain::token::{DEFAULT_TTL, MAX_TTL, MIN_TTL};
use runtime::clock;
use runtime::log::chain;
use tonic::Status;
use wire::agent::v1::{JoinError, JoinErrorCode};
use wire::api::v1::{EnrolOfflineRequest, EnrolOfflineResponse};
use wire::offline::{open_request, seal_bundle};
use wire::time::{read_duration, to_timestamp};

use super::agents::{catch_up, message};
use crate::enrol::{self, Refused};
use crate::{Shared, status};

/// Lets a machine in as if it had asked itself. In place of the secret of the token stands the right of the caller, who
/// reaches all that the token lets into. Once more gives another bundle for the same agent, and consumes nothing.
pub(super) async fn enrol(
    shared: &Shared,
    caller: &Caller,
    request: &EnrolOfflineRequest,
) -> Result<EnrolOfflineResponse, Status> {
    let asked = open_request(&request.request)
        .map_err(|error| status::invalid("request", format!("is of no use: {}", chain(&error))))?;
    if asked.agent.as_str() != request.agent {
        return Err(status::invalid("agent", format!("is not the one of the request, {}", asked.agent)));
    }
    let expires_at = expires_at(request, clock::now())?;
    catch_up(shared).await?;
    let presented = shared.catalogue.look(|catalog| {
        let token = catalog.token(&asked.token).map(|token| &*token.value);
        token.filter(|token| token.scope.is_within(catalog, &caller.reach)).map(|token| token.secret_digest)
    });
    // No secret has the digest of zeros, so that a token out of reach is one that is not known.
    let entered = enrol::enter(shared, &asked, &presented.unwrap_or_default()).await;
    let (roots, registration, assignment) = entered.map_err(|refused| refusal(shared, &refused))?;
    if !shared.catalogue.look(|catalog| caller.reach.holds_group(catalog, &registration.group)) {
        return Err(status::not_found("agent", asked.agent.as_str()));
    }
    let bundle = enrol::bundle(shared, &asked.agent, roots, (&registration, assignment));
    let bundle = seal_bundle((&registration.key, expires_at), bundle, &*shared.director);
    let bundle = bundle.map_err(|error| status::precondition("DIRECTOR_KEY", &error))?;
    tracing::info!(agent = %asked.agent, group = %registration.group, by = caller.name, "a bundle for a machine was made");
    Ok(EnrolOfflineResponse {
        bundle,
        registration: Some(message(shared, &asked.agent, &registration)),
        expire_time: Some(to_timestamp(expires_at)),
    })
}

fn expires_at(request: &EnrolOfflineRequest, now: Timestamp) -> Result<Timestamp, Status> {
    let ttl = match &request.ttl {
        None => Some(DEFAULT_TTL),
        Some(ttl) => read_duration(ttl).filter(|ttl| (MIN_TTL..=MAX_TTL).contains(ttl)),
    };
    Ok(now + ttl.ok_or_else(|| status::invalid("ttl", "must be between 1s and 30d"))?)
}

/// What a machine would be told, for who asks in its place.
fn refusal(shared: &Shared, refused: &Refused) -> Status {
    let told: JoinError = enrol::explain(shared, refused);
    match told.code() {
        JoinErrorCode::Unavailable => {
            status::passing(tonic::Code::Unavailable, "JOIN_UNAVAILABLE", told.message)
        }
        code => {
            status::precondition(code.as_str_name().trim_start_matches("JOIN_ERROR_CODE_"), &told.message)
        }
    }
}
