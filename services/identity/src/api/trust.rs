//! The chain of trust roots: shown, and made longer.

use runtime::roots::{Known, RootsError};
use tonic::Status;
use wire::api::v1::{GetRootsRequest, PublishRootRequest, Roots};

use crate::{Shared, status};

pub(super) fn get(shared: &Shared, request: &GetRootsRequest) -> Result<Roots, Status> {
    let known = shared.roots.known();
    let known = known.ok_or_else(|| status::precondition("NO_TRUST_ROOT", &runtime::trust::NoRoot))?;
    Ok(message(&known, request.from_version))
}

pub(super) async fn publish(shared: &Shared, request: &PublishRootRequest) -> Result<Roots, Status> {
    let envelope =
        wire::root::parse(&request.root).map_err(|error| status::invalid("root", chain(&error)))?;
    shared.roots.publish(&shared.nats, envelope).await.map_err(|error| refused(&error))?;
    // It was published just now, and roots never go away.
    let known = shared.roots.known().expect("invariant: a published root is known");
    tracing::info!(version = known.trust.version, "a trust root was published");
    Ok(message(&known, known.trust.version))
}

fn message(known: &Known, from_version: u64) -> Roots {
    Roots { chain: known.chain.encode_from(from_version).to_vec(), version: known.trust.version }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    runtime::log::chain(error)
}

fn refused(error: &RootsError) -> Status {
    match error {
        RootsError::Refused(refusal) => {
            let problem = format!("is not the fleet's next trust root: {}", chain(refusal));
            status::invalid("root", problem)
        }
        RootsError::OtherFleet { .. } | RootsError::NotFirst(_) => status::invalid("root", error),
        RootsError::Conflict(_) => status::precondition("ROOT_EXISTS", error),
        RootsError::File { .. }
        | RootsError::Content { .. }
        | RootsError::Key(_)
        | RootsError::Rule(_)
        | RootsError::Sign(_)
        | RootsError::NoDirector
        | RootsError::NotWriter(_)
        | RootsError::Read(_)
        | RootsError::Broken { .. }
        | RootsError::OtherChain { .. }
        | RootsError::Publish(_) => status::unavailable(error),
    }
}
