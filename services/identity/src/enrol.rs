//! Joining: requests on `svc.enrol`, each answered by one replica.
//!
//! The time in a request is not checked. A request proves that its sender holds the private key of the agent
//! it names, and what comes of it is good for that agent alone: whoever sends it again gets the same answer
//! for it, without another use of the token, and nothing after the agent was deleted. A check would keep out
//! machines whose clock is not set yet, which is the moment in which they join.

use std::time::Duration;

use domain::enrol::{Approval, Facts, PlaceError, Reason};
use domain::registry::{AgentKey, IdTaken, Join, Newcomer, Registration, join};
use domain::token::{Claim, Refusal};
use domain::{AgentId, Digest, FleetId, GroupId};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use runtime::nats::Message;
use runtime::telemetry::{Name, metrics};
use runtime::{Condition, Shutdown, clock};
use wire::agent::v1::join_reply::Outcome;
use wire::agent::v1::{Envelope, JoinBundle, JoinError, JoinErrorCode, JoinReply};
use wire::envelope::EnvelopeError;
use wire::join::{Asked, VerifiedRenewal, VerifiedRequest};
use wire::subject::{QUEUE_IDENTITY, is_inbox_of, is_join_inbox, pattern};

use crate::Shared;
use crate::assign::{self, AssignError, Head};
use crate::registry::{self, RecordError};
use crate::uses::{self, Asking, ConsumeError};

/// How long joins that have arrived may take at the shutdown. Shorter than the time that all tasks have.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why requests cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    /// The subscription failed.
    #[error("requests to join cannot be subscribed to")]
    Subscribe(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection was closed for good.
    #[error("requests to join do not arrive any more: the connection is closed")]
    Closed,
}

/// Why an agent is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the request to join cannot be read")]
    Malformed(#[from] EnvelopeError),
    #[error("the request is for fleet {asked:?}, but this is fleet {here:?}")]
    OtherFleet { asked: String, here: String },
    #[error(transparent)]
    IdTaken(#[from] IdTaken),
    #[error("no use of the token was consumed")]
    Consume(#[from] ConsumeError),
    #[error("the registry cannot be used")]
    Record(#[from] RecordError),
    #[error("there is no agent of this id with this key: it was deleted or revoked, or never joined")]
    NotOne,
    #[error("no assignment could be made")]
    Assign(#[from] AssignError),
    #[error("the join token is for a trust root that this fleet does not have")]
    OtherRoot,
    #[error("agent {0} waits for approval")]
    Waits(AgentId),
}

/// Takes requests until the shutdown, `parallel` at a time, and finishes those that have arrived by then.
pub(crate) async fn run(
    shared: &Shared,
    parallel: usize,
    ready: &Condition,
    shutdown: &Shutdown,
) -> Result<(), IntakeError> {
    ready.set_not_ready("is reading the catalogue");
    tokio::select! {
        () = shared.catalogue.loaded() => {}
        () = shutdown.requested() => return Ok(()),
    }
    let subscribed = shared.agents.queue_subscribe(pattern::ENROL, QUEUE_IDENTITY).await;
    let mut requests = subscribed.map_err(|error| IntakeError::Subscribe(Box::new(error)))?;
    ready.set_ready();
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            request = requests.next(), if open.len() < parallel => {
                open.push(serve(shared, request.ok_or(IntakeError::Closed)?));
            }
            Some(()) = open.next() => {}
            () = shutdown.requested() => break,
        }
    }
    // The client forgets the subscription without waiting for the server, so a request that is on the way right
    // now may be lost; its agent asks again, which consumes nothing. If the connection is gone, nothing arrives.
    drop(requests.drain().await);
    let finish = async {
        while let Some(request) = requests.next().await {
            open.push(serve(shared, request));
            while open.len() >= parallel && open.next().await.is_some() {}
        }
        while open.next().await.is_some() {}
    };
    if tokio::time::timeout(DRAIN_TIMEOUT, finish).await.is_err() {
        tracing::warn!("joins are still open: stopping without them");
    }
    Ok(())
}

async fn serve(shared: &Shared, message: Message) {
    let asked = wire::join::open(&message.payload);
    let Some(reply) = message.reply.filter(|reply| may_be_answered(reply, asked.as_ref().ok())) else {
        tracing::debug!("a request to join without a reply subject of whoever asks: ignored");
        return;
    };
    let decided = match asked {
        Ok(Asked::Join(request)) => enrol(shared, &request).await,
        Ok(Asked::Renew(renewal)) => renew(shared, &renewal).await,
        Err(error) => Err(error.into()),
    };
    let result = match &decided {
        Ok(_) => "joined",
        Err(
            Refused::Malformed(_)
            | Refused::OtherFleet { .. }
            | Refused::IdTaken(_)
            | Refused::Consume(_)
            | Refused::NotOne
            | Refused::OtherRoot,
        ) => "refused",
        Err(Refused::Waits(_)) => "waiting",
        Err(Refused::Record(_) | Refused::Assign(_)) => "failed",
    };
    metrics::add(Name::Enrolments, 1, &[result]);
    let outcome = match decided {
        Ok(bundle) => Outcome::Bundle(bundle),
        Err(refused) => Outcome::Error(explain(shared, &refused)),
    };
    let answer = wire::encode(&JoinReply { outcome: Some(outcome) });
    if let Err(error) = shared.agents.respond(&reply, answer).await {
        // The agent asks again.
        tracing::debug!(error = %runtime::log::chain(&error), "the answer to a join could not be sent");
    }
}

/// The reply subject is the requester's choice: only inboxes for joins, and those of the agent that proved its key, are
/// written to.
fn may_be_answered(reply: &str, asked: Option<&Asked>) -> bool {
    match asked {
        Some(Asked::Renew(renewal)) if is_inbox_of(reply, &renewal.agent) => true,
        Some(Asked::Join(_) | Asked::Renew(_)) | None => is_join_inbox(reply),
    }
}

fn check_fleet(shared: &Shared, asked: &FleetId) -> Result<(), Refused> {
    match *asked == shared.fleet {
        true => Ok(()),
        false => Err(Refused::OtherFleet { asked: asked.to_string(), here: shared.fleet.to_string() }),
    }
}

/// New claims for an agent that has joined and holds its key. Nothing is written, so it may ask as often as it likes,
/// over whatever connection the broker still lets it have.
async fn renew(shared: &Shared, renewal: &VerifiedRenewal) -> Result<JoinBundle, Refused> {
    check_fleet(shared, &renewal.fleet)?;
    let agent = &renewal.agent;
    let stored = registry::read(&shared.nats, agent).await?.ok_or(Refused::NotOne)?;
    let registration = stored.record.registered.agent().filter(|agent| agent.key == renewal.key);
    let registration = registration.ok_or(Refused::NotOne)?;
    tracing::debug!(%agent, group = %registration.group, "new claims");
    Ok(bundle(shared, agent, Vec::new(), (registration, stored.record.assignment.clone())))
}

async fn enrol(shared: &Shared, request: &VerifiedRequest) -> Result<JoinBundle, Refused> {
    let presented = Digest::of(&request.request.secret);
    let (roots, registration, assignment) = enter(shared, request, &presented).await?;
    Ok(bundle(shared, &request.agent, roots, (&registration, assignment)))
}

/// An agent that was let in: the chain of roots from the one that it pins, its registration, its signed assignment.
pub(crate) type Entered = (Vec<u8>, Registration, Option<Envelope>);

/// Lets an agent in that shows a secret of this digest, or is in already.
pub(crate) async fn enter(
    shared: &Shared,
    request: &VerifiedRequest,
    presented: &Digest,
) -> Result<Entered, Refused> {
    check_fleet(shared, &request.fleet)?;
    let key = AgentKey::new(&request.request.public_key).map_err(|error| {
        let problem = error.to_string();
        EnvelopeError::Payload(wire::DecodeError::Field { field: "public_key", problem })
    })?;
    let pinned = request.trust_root.as_ref();
    let roots = shared.trust.chain_from(pinned).ok_or(Refused::OtherRoot)?.to_vec();
    if roots.len() > wire::join::MAX_CHAIN_BYTES {
        return Err(Refused::OtherRoot);
    }
    let joined = match try_enrol(shared, request, &key, presented).await {
        // The record was made, or the token spent, a moment ago, perhaps by this very agent in a request that
        // another replica serves: then its record is there now.
        Err(
            Refused::Record(RecordError::Conflict) | Refused::Consume(ConsumeError::Refused(Refusal::Spent)),
        ) => try_enrol(shared, request, &key, presented).await,
        settled => settled,
    };
    let (registration, assignment) = joined?;
    Ok((roots, registration, assignment))
}

/// The registration of an agent that is in, and its signed assignment.
async fn try_enrol(
    shared: &Shared,
    request: &VerifiedRequest,
    key: &AgentKey,
    presented: &Digest,
) -> Result<(Registration, Option<Envelope>), Refused> {
    let stored = registry::read(&shared.nats, &request.agent).await?;
    let record = stored.as_ref().map(|stored| &stored.record);
    match join(record.map(|record| &record.registered), key)? {
        Join::Waits(_) => Err(Refused::Waits(request.agent.clone())),
        Join::Again(registration) => {
            tracing::debug!(agent = %request.agent, group = %registration.group, "joined before: the same answer again");
            Ok((registration.clone(), record.and_then(|record| record.assignment.clone())))
        }
        Join::Free => admit(shared, request, key, presented).await,
    }
}

async fn admit(
    shared: &Shared,
    request: &VerifiedRequest,
    key: &AgentKey,
    presented: &Digest,
) -> Result<(Registration, Option<Envelope>), Refused> {
    if !assign::may_sign(shared) {
        // Before a use is consumed for nothing.
        return Err(AssignError::NotDirector(shared.roots.version()).into());
    }
    let newcomer = Newcomer {
        key: key.clone(),
        labels: request.request.labels.clone().into_iter().collect(),
        hostname: request.request.hostname.clone(),
        token: request.token.clone(),
    };
    let asking = Asking {
        presented: *presented,
        claim: Claim { agent: request.agent.clone(), key: key.clone() },
        group: request.group.as_ref(),
        facts: Facts { labels: &newcomer.labels, hostname: &newcomer.hostname },
    };
    let (placed, approval) = uses::consume(shared, &request.token, &asking).await?;
    let place = (placed.group, placed.reason);
    match approval {
        Approval::None => register(shared, request, newcomer, place).await,
        Approval::Required => Err(wait(shared, request, newcomer, place).await),
    }
}

/// Enters a new agent that waits for approval.
async fn wait(
    shared: &Shared,
    request: &VerifiedRequest,
    newcomer: Newcomer,
    place: (GroupId, Reason),
) -> Refused {
    let pending = newcomer.pending(place, clock::now());
    if let Err(error) = registry::write_pending(&shared.nats, &request.agent, &pending).await {
        return error.into();
    }
    let (agent, group, token) = (&request.agent, &pending.group, &request.token);
    let hostname = pending.newcomer.hostname;
    tracing::info!(%agent, %group, placed_by = %pending.reason, %token, hostname, "an agent waits for approval");
    Refused::Waits(request.agent.clone())
}

/// Enters a new agent.
async fn register(
    shared: &Shared,
    request: &VerifiedRequest,
    newcomer: Newcomer,
    place: (GroupId, Reason),
) -> Result<(Registration, Option<Envelope>), Refused> {
    let epoch = shared.catalogue.look(|catalog| catalog.epoch());
    let registration = newcomer.registration(place, epoch, clock::now());
    let assignment = assign::sign(shared, &request.agent, &registration)?;
    registry::write(&shared.nats, &request.agent, (&registration, assignment.clone()), 0).await?;
    tell(shared, &request.agent, &registration, &assignment).await;
    let (agent, group, token) = (&request.agent, &registration.group, &request.token);
    let (placed_by, hostname) = (registration.reason, &registration.hostname);
    tracing::info!(%agent, %group, %placed_by, %token, hostname, "an agent joined");
    Ok((registration, Some(assignment)))
}

/// Publishes the first assignment. The agent gets it in its reply as well, so that it is in, whatever happens
/// here.
async fn tell(shared: &Shared, agent: &AgentId, registration: &Registration, assignment: &Envelope) {
    if let Err(error) = assign::publish(shared, agent, &Head::Assigned(registration, assignment)).await {
        tracing::warn!(%agent, error = %runtime::log::chain(&error), "the assignment is not published yet");
    }
}

/// What an agent is answered. `roots` is the chain from the root that it pins; empty for one that has joined before
/// and follows the chain by itself.
pub(crate) fn bundle(
    shared: &Shared,
    agent: &AgentId,
    roots: Vec<u8>,
    (registration, assignment): (&Registration, Option<Envelope>),
) -> JoinBundle {
    let issuer = shared.issuer.as_ref();
    let claims = issuer.map(|issuer| issuer.claims(agent, registration, clock::now())).unwrap_or_default();
    JoinBundle {
        agent: agent.to_string(),
        trust_root: roots,
        assignment,
        servers: shared.trust.servers().to_vec(),
        broker_cas: shared.trust.broker().cas.clone(),
        tls_first: shared.trust.broker().tls_first,
        user_jwt: claims.user,
        door_jwt: claims.door,
        broker: shared.broker.get(shared),
    }
}

/// What the agent is told: the cause and the way out, for the person who reads its log.
pub(crate) fn explain(shared: &Shared, refused: &Refused) -> JoinError {
    let chain = runtime::log::chain(refused);
    let (code, way_out) = match refused {
        Refused::Malformed(_) => (JoinErrorCode::Malformed, "is the agent of another version?"),
        Refused::OtherFleet { .. } => {
            (JoinErrorCode::TokenUnknown, "use a token that was made by this control plane")
        }
        Refused::IdTaken(IdTaken::Rejected) => (
            JoinErrorCode::Rejected,
            "to let the machine in after all, let it join under another id, with a new state directory",
        ),
        Refused::IdTaken(IdTaken::OtherKey | IdTaken::Deleted) => (
            JoinErrorCode::IdTaken,
            "choose another id, or keep the state directory of the agent that has it",
        ),
        Refused::Consume(ConsumeError::Refused(refusal)) => match refusal {
            Refusal::Unknown => (JoinErrorCode::TokenUnknown, "make a new one with `muster token create`"),
            Refusal::Expired => (JoinErrorCode::TokenExpired, "make a new one with `muster token create`"),
            Refusal::Spent => {
                (JoinErrorCode::TokenSpent, "make a new one with `muster token create --uses N`")
            }
        },
        Refused::NotOne => (
            JoinErrorCode::Revoked,
            "to let the machine in again, let it join under another id, with a new token and a new state directory",
        ),
        Refused::Consume(ConsumeError::Place(error)) => match error {
            PlaceError::NotAllowed { .. } => {
                (JoinErrorCode::GroupNotAllowed, "ask for one of these with --group, or leave it out")
            }
            PlaceError::GroupMissing => (JoinErrorCode::GroupMissing, "make a token for a group that exists"),
            PlaceError::NoDefault => {
                (JoinErrorCode::GroupMissing, "make that group, or a token that names one that exists")
            }
        },
        Refused::Waits(_) => (
            JoinErrorCode::Pending,
            "`muster agent approve` with its id lets it in, `muster agent reject` turns it away",
        ),
        Refused::OtherRoot => {
            (JoinErrorCode::TokenUnknown, "use a newer token that was made by this control plane")
        }
        Refused::Consume(error @ ConsumeError::TooManyWait) => {
            tracing::warn!(%error, "a machine cannot join");
            return JoinError { code: JoinErrorCode::Unavailable.into(), message: error.to_string() };
        }
        Refused::Consume(_) | Refused::Record(_) | Refused::Assign(_) => {
            tracing::warn!(error = chain, fleet = %shared.fleet, "a join could not be decided");
            return JoinError {
                code: JoinErrorCode::Unavailable.into(),
                message: "the control plane cannot answer now; try again later".to_owned(),
            };
        }
    };
    let cause = match refused {
        Refused::Consume(consume) => consume.to_string(),
        Refused::Malformed(_)
        | Refused::OtherFleet { .. }
        | Refused::IdTaken(_)
        | Refused::NotOne
        | Refused::Waits(_)
        | Refused::Record(_)
        | Refused::Assign(_)
        | Refused::OtherRoot => chain,
    };
    tracing::debug!(cause, "a join was refused");
    JoinError { code: code.into(), message: format!("{cause}; {way_out}") }
}
