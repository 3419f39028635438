//! Agents in the registry: shown, moved, deleted.

use std::time::Duration;

use domain::access::{Caller, Reach};
use domain::catalog::Catalog;
use domain::registry::{Gone, Registered, Registration};
use domain::{AgentId, GroupId};
use runtime::{clock, ids};
use tonic::{Code, Status};
use wire::api::v1::{
    self, DeleteAgentRequest, DeleteAgentResponse, GetRegistrationRequest, MoveAgentRequest,
    RevokeAgentRequest, RevokeAgentResponse,
};
use wire::time::to_timestamp;

use super::{GroupRef, path_of};
use crate::assign::{self, Head};
use crate::registry::{self, RecordError, Stored};
use crate::{Shared, status};

/// Tries to write a record while others write it. One operator moves one agent; more lost races than this are
/// a script that fights another.
pub(super) const MAX_TRIES: u32 = 8;

/// Pause before another try: full jitter below this, the time of a write.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn get(
    shared: &Shared,
    caller: &Caller,
    request: &GetRegistrationRequest,
) -> Result<v1::Registration, Status> {
    let agent = read_id(&request.agent)?;
    let (_, registration) = read(shared, caller, &agent).await?;
    Ok(message(shared, &agent, &registration))
}

pub(super) async fn move_to_group(
    shared: &Shared,
    caller: &Caller,
    request: &MoveAgentRequest,
) -> Result<v1::Registration, Status> {
    let agent = read_id(&request.agent)?;
    let group = GroupRef::read("group", &request.group)?;
    for _ in 0..MAX_TRIES {
        let (stored, registration) = read(shared, caller, &agent).await?;
        let find = |catalog: &Catalog| (group.find(catalog, &caller.reach), catalog.epoch());
        let (found, epoch) = shared.catalogue.look(find);
        let found: GroupId = found.ok_or_else(|| group.not_found())?;
        let Some(moved) = registration.moved(&found, epoch) else {
            return Ok(message(shared, &agent, &registration));
        };
        let assignment = assign::sign(shared, &agent, &moved);
        let assignment = assignment.map_err(|error| status::precondition("DIRECTOR_KEY", &error))?;
        match registry::write(&shared.nats, &agent, (&moved, assignment.clone()), stored.sequence).await {
            Ok(()) => {
                tracing::info!(%agent, from = %registration.group, to = %moved.group, by = caller.name, "an agent moves");
                tell(shared, &agent, &Head::Assigned(&moved, &assignment)).await;
                return Ok(message(shared, &agent, &moved));
            }
            Err(RecordError::Conflict) => tokio::time::sleep(ids::jitter(RETRY_PAUSE)).await,
            Err(error) => return Err(status::unavailable(&error)),
        }
    }
    Err(contended())
}

pub(super) async fn delete(
    shared: &Shared,
    caller: &Caller,
    request: &DeleteAgentRequest,
) -> Result<DeleteAgentResponse, Status> {
    let agent = read_id(&request.agent)?;
    bury(shared, caller, &agent).await?;
    tracing::info!(%agent, by = caller.name, "an agent was deleted");
    Ok(DeleteAgentResponse {})
}

pub(super) async fn revoke(
    shared: &Shared,
    caller: &Caller,
    request: &RevokeAgentRequest,
) -> Result<RevokeAgentResponse, Status> {
    let agent = read_id(&request.agent)?;
    let gone = match bury(shared, caller, &agent).await {
        // Of one that was deleted before, it is made sure that it is cut off.
        Err(status) if status.code() == Code::NotFound && caller.reach == Reach::Everywhere => {
            gone(shared, &agent).await?.ok_or(status)?
        }
        buried => buried?,
    };
    shared.revoked.note(&gone);
    if let Err(error) = crate::revoke::tell(shared).await {
        tracing::warn!(%agent, error = %runtime::log::chain(&error), "an agent was revoked, but the broker was not told");
        return Err(status::unavailable(&error));
    }
    tracing::info!(%agent, by = caller.name, "an agent was revoked");
    Ok(RevokeAgentResponse {})
}

/// Makes the record of an agent that the caller sees a tombstone.
async fn bury(shared: &Shared, caller: &Caller, agent: &AgentId) -> Result<Gone, Status> {
    for _ in 0..MAX_TRIES {
        let (stored, registration) = read(shared, caller, agent).await?;
        let gone = registration.deleted(clock::now());
        match registry::bury(&shared.nats, agent, &gone, stored.sequence).await {
            Ok(()) => {
                tell(shared, agent, &Head::Gone(&gone)).await;
                return Ok(gone);
            }
            Err(RecordError::Conflict) => tokio::time::sleep(ids::jitter(RETRY_PAUSE)).await,
            Err(error) => return Err(status::unavailable(&error)),
        }
    }
    Err(contended())
}

/// The tombstone of an agent, if there is one.
async fn gone(shared: &Shared, agent: &AgentId) -> Result<Option<Gone>, Status> {
    let stored = registry::read(&shared.nats, agent).await.map_err(|error| status::unavailable(&error))?;
    Ok(stored.and_then(|stored| match stored.record.registered {
        Registered::Deleted(gone) => Some(gone),
        Registered::Agent(_) | Registered::Pending(_) => None,
    }))
}

pub(super) fn read_id(text: &str) -> Result<AgentId, Status> {
    AgentId::new(text).map_err(|error| status::invalid("agent", error))
}

pub(super) async fn catch_up(shared: &Shared) -> Result<(), Status> {
    shared.catalogue.catch_up().await.map_err(|error| status::unavailable(&error))
}

/// The record of an agent that is there and that the caller sees, held against the newest catalogue.
async fn read(shared: &Shared, caller: &Caller, agent: &AgentId) -> Result<(Stored, Registration), Status> {
    let stored = registry::read(&shared.nats, agent).await.map_err(|error| status::unavailable(&error))?;
    let stored = stored.ok_or_else(|| status::not_found("agent", agent.as_str()))?;
    catch_up(shared).await?;
    let sees = |group: &GroupId| shared.catalogue.look(|catalog| caller.reach.holds_group(catalog, group));
    match &stored.record.registered {
        Registered::Agent(registration) if sees(&registration.group) => {
            let registration = registration.clone();
            Ok((stored, registration))
        }
        Registered::Pending(pending) if sees(&pending.group) => {
            let way_out = format!(
                "agent {agent} waits for approval: `muster agent approve {agent}` lets it in, `muster agent list --pending` shows it"
            );
            Err(status::precondition("WAITS", &way_out))
        }
        Registered::Agent(_) | Registered::Pending(_) | Registered::Deleted(_) => {
            Err(status::not_found("agent", agent.as_str()))
        }
    }
}

/// Publishes what the registry says now. It is decided already: if this fails, the agent learns of it by its
/// next heartbeat.
pub(super) async fn tell(shared: &Shared, agent: &AgentId, head: &Head<'_>) {
    if let Err(error) = assign::publish(shared, agent, head).await {
        tracing::warn!(%agent, error = %runtime::log::chain(&error), "not published yet; a heartbeat will bring it");
    }
}

pub(super) fn contended() -> Status {
    status::contended(&"the agent's record is being changed by others all the time: try again")
}

pub(super) fn message(shared: &Shared, agent: &AgentId, registration: &Registration) -> v1::Registration {
    v1::Registration {
        agent: agent.to_string(),
        group: shared.catalogue.look(|catalog| path_of(catalog, &registration.group)),
        public_key: registration.key.to_string(),
        labels: registration.labels.clone().into_iter().collect(),
        hostname: registration.hostname.clone(),
        join_time: Some(to_timestamp(registration.joined_at)),
        token: registration.token.to_string(),
        assignment_revision: registration.assignment.revision.0,
        placed_by: registration.reason.to_string(),
    }
}
