//! Agents that wait for approval: listed, approved, rejected.

use domain::access::Caller;
use domain::registry::{Newcomer, Pending, Registered, Registration};
use domain::{AgentId, GroupId};
use runtime::{clock, ids};
use tonic::Status;
use wire::api::v1::{
    self, ApproveAgentRequest, ListPendingAgentsRequest, ListPendingAgentsResponse, PendingAgent,
    RejectAgentRequest, RejectAgentResponse,
};
use wire::time::to_timestamp;

use super::agents::{MAX_TRIES, RETRY_PAUSE, catch_up, contended, message, read_id, tell};
use super::{GroupRef, page, path_of};
use crate::assign::{self, Head};
use crate::registry::{self, RecordError, Stored};
use crate::{Shared, status};

/// The page token is the id of the last agent on the page before.
pub(super) async fn list(
    shared: &Shared,
    caller: &Caller,
    request: &ListPendingAgentsRequest,
) -> Result<ListPendingAgentsResponse, Status> {
    let size = page::size(request.page_size)?;
    let after = match request.page_token.as_str() {
        "" => None,
        text => {
            Some(AgentId::new(text).map_err(|_| status::invalid("page_token", "is not from a page before"))?)
        }
    };
    catch_up(shared).await?;
    Ok(shared.catalogue.look(|catalog| {
        let seen = |pending: &Pending| caller.reach.holds_group(catalog, &pending.group);
        let mut found = shared.waiting.after(after.as_ref(), size + 1, seen);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more).map(|(agent, _)| agent.to_string());
        let show = |(agent, pending): (AgentId, Pending)| {
            let group = path_of(catalog, &pending.group);
            shown(&agent, pending, group)
        };
        let agents = found.into_iter().map(show).collect();
        ListPendingAgentsResponse { agents, next_page_token: last.unwrap_or_default() }
    }))
}

fn shown(agent: &AgentId, pending: Pending, group: String) -> PendingAgent {
    let Newcomer { key, labels, hostname, token } = pending.newcomer;
    PendingAgent {
        agent: agent.to_string(),
        group,
        public_key: key.to_string(),
        labels: labels.into_iter().collect(),
        hostname,
        request_time: Some(to_timestamp(pending.asked_at)),
        token: token.to_string(),
        placed_by: pending.reason.to_string(),
    }
}

/// Lets an agent in. Once more is no failure, unless another group is asked for than the one it is in.
pub(super) async fn approve(
    shared: &Shared,
    caller: &Caller,
    request: &ApproveAgentRequest,
) -> Result<v1::Registration, Status> {
    let agent = read_id(&request.agent)?;
    let named = match request.group.as_str() {
        "" => None,
        text => Some(GroupRef::read("group", text)?),
    };
    for _ in 0..MAX_TRIES {
        let (stored, found) = read(shared, caller, &agent).await?;
        let group = shared.catalogue.look(|catalog| {
            let find = |group: &GroupRef| group.find(catalog, &caller.reach).ok_or_else(|| group.not_found());
            named.as_ref().map(find).transpose()
        })?;
        let pending = match found {
            Found::Waits(pending) => pending,
            Found::In(registration) if group.as_ref().is_none_or(|group| *group == registration.group) => {
                return Ok(message(shared, &agent, &registration));
            }
            Found::In(_) => {
                let why = format!(
                    "agent {agent} is in already: move it with `muster agent move {agent} --to GROUP`"
                );
                return Err(status::precondition("APPROVED", &why));
            }
        };
        match let_in(shared, &agent, (&stored, &pending), group).await {
            Ok(registration) => {
                let (group, reason) = (&registration.group, registration.reason);
                tracing::info!(%agent, %group, placed_by = %reason, by = caller.name, "an agent was approved");
                return Ok(message(shared, &agent, &registration));
            }
            Err(Some(status)) => return Err(status),
            Err(None) => tokio::time::sleep(ids::jitter(RETRY_PAUSE)).await,
        }
    }
    Err(contended())
}

/// Writes the registration of an agent that waits; `Err(None)` if its record was changed meanwhile.
async fn let_in(
    shared: &Shared,
    agent: &AgentId,
    (stored, pending): (&Stored, &Pending),
    named: Option<GroupId>,
) -> Result<Registration, Option<Status>> {
    let (there, epoch) = shared
        .catalogue
        .look(|catalog| (catalog.group(named.as_ref().unwrap_or(&pending.group)).is_some(), catalog.epoch()));
    if !there {
        let why =
            format!("the group of agent {agent} does not exist any more: name another one with --group");
        return Err(Some(status::precondition("GROUP_MISSING", &why)));
    }
    let registration = pending.approved(named, epoch, clock::now());
    let assignment = assign::sign(shared, agent, &registration);
    let assignment = assignment.map_err(|error| status::precondition("DIRECTOR_KEY", &error))?;
    match registry::write(&shared.nats, agent, (&registration, assignment.clone()), stored.sequence).await {
        Ok(()) => {
            tell(shared, agent, &Head::Assigned(&registration, &assignment)).await;
            Ok(registration)
        }
        Err(RecordError::Conflict) => Err(None),
        Err(error) => Err(Some(status::unavailable(&error))),
    }
}

/// Makes the record of an agent that waits a tombstone.
pub(super) async fn reject(
    shared: &Shared,
    caller: &Caller,
    request: &RejectAgentRequest,
) -> Result<RejectAgentResponse, Status> {
    let agent = read_id(&request.agent)?;
    for _ in 0..MAX_TRIES {
        let (stored, found) = read(shared, caller, &agent).await?;
        let Found::Waits(pending) = found else {
            let why = format!("agent {agent} is in already: cut it off with `muster agent revoke {agent}`");
            return Err(status::precondition("APPROVED", &why));
        };
        match registry::bury(&shared.nats, &agent, &pending.rejected(clock::now()), stored.sequence).await {
            Ok(()) => {
                tracing::info!(%agent, by = caller.name, "an agent was rejected");
                return Ok(RejectAgentResponse {});
            }
            Err(RecordError::Conflict) => tokio::time::sleep(ids::jitter(RETRY_PAUSE)).await,
            Err(error) => return Err(status::unavailable(&error)),
        }
    }
    Err(contended())
}

/// What the registry says of an agent that the caller sees.
enum Found {
    Waits(Box<Pending>),
    In(Box<Registration>),
}

async fn read(shared: &Shared, caller: &Caller, agent: &AgentId) -> Result<(Stored, Found), Status> {
    let missing = || status::not_found("agent", agent.as_str());
    let stored = registry::read(&shared.nats, agent).await.map_err(|error| status::unavailable(&error))?;
    let stored = stored.ok_or_else(missing)?;
    let (group, found) = match &stored.record.registered {
        Registered::Pending(pending) => (pending.group.clone(), Found::Waits(Box::new(pending.clone()))),
        Registered::Agent(agent) => (agent.group.clone(), Found::In(Box::new(agent.clone()))),
        Registered::Deleted(_) => return Err(missing()),
    };
    catch_up(shared).await?;
    match shared.catalogue.look(|catalog| caller.reach.holds_group(catalog, &group)) {
        true => Ok((stored, found)),
        false => Err(missing()),
    }
}
