//! Publishes assignments again that the registry has and DESIRED lacks: after a crash between the two, and
//! after DESIRED was lost or went back to an older state. Also renews assignments in a new epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::registry::{Registered, Registration};
use domain::{AgentId, Cursor, Epoch};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use runtime::Shutdown;
use runtime::nats::{
    DESIRED, Expect, Followed, From, GetError, Headers, PublishError, StreamError, StreamMessage,
};
use runtime::roots::Known;
use tokio::sync::watch;
use tokio::time::Instant;
use wire::agent::v1::Envelope;
use wire::registry::AgentRecord;
use wire::sign::KeySet;
use wire::subject::{STREAM_DESIRED, STREAM_IDENTITY, desired_root, parse_agent, pattern};

use crate::Shared;
use crate::assign::{self, AssignError, Head, PublishHeadError};
use crate::registry::{self, RecordError};

/// Agents that are healed at the same time: enough to use the broker well, few enough to leave room for
/// joins and for policy.
const PARALLEL: usize = 32;

/// Pause after a pass that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// How long a stream may say nothing while it is read. Its follower notices a lost consumer within 12 s.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a pass was not completed. It starts again.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("stream {0} does not exist")]
    Missing(&'static str),
    #[error("stream {stream} said nothing for {} s", SILENCE.as_secs())]
    Silent { stream: &'static str },
    #[error("stream {STREAM_DESIRED} cannot be made")]
    Stream(#[from] StreamError),
    #[error("the published trust roots cannot be read")]
    Read(#[from] GetError),
    #[error("a trust root could not be published")]
    Root(#[source] PublishError),
    #[error("the registry was made again or went back while it was read")]
    Reset,
    #[error("{failed} agents could not be healed; the first because")]
    Agents {
        failed: usize,
        #[source]
        first: HealError,
    },
}

/// Why an agent was not healed.
#[derive(Debug, thiserror::Error)]
enum HealError {
    #[error("its record could not be renewed")]
    Record(#[from] RecordError),
    #[error("its assignment could not be published")]
    Publish(#[from] PublishHeadError),
    #[error("its assignment could not be signed")]
    Assign(#[from] AssignError),
}

/// The connection was closed for good.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub(crate) struct ClosedError;

/// Heals at the start, when the epoch changes, and when DESIRED has lost something; until the shutdown.
pub(crate) async fn run(shared: &Shared, shutdown: &Shutdown) -> Result<(), ClosedError> {
    tokio::select! {
        healed = heal(shared) => healed,
        () = shutdown.requested() => Ok(()),
    }
}

async fn heal(shared: &Shared) -> Result<(), ClosedError> {
    shared.catalogue.loaded().await;
    let mut roots = shared.roots.changes();
    loop {
        roots.mark_unchanged();
        let epoch = shared.catalogue.look(|catalog| catalog.epoch());
        match pass(shared, epoch).await {
            Ok(created) => wait_for_a_reason(shared, (epoch, &created), &mut roots).await?,
            Err(error) => {
                tracing::warn!(error = %runtime::log::chain(&error), "assignments could not all be checked: trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Returns when the epoch or the trust root is another, or DESIRED (made at `created`) was made again or went back. That can only
/// happen with a restart of the broker, so it is looked at after reconnects.
async fn wait_for_a_reason(
    shared: &Shared,
    (epoch, created): (Epoch, &str),
    roots: &mut watch::Receiver<Option<Arc<Known>>>,
) -> Result<(), ClosedError> {
    let mut link = shared.nats.link();
    loop {
        let connections = link.borrow_and_update().connections;
        let state = shared.nats.stream_state(STREAM_DESIRED).await;
        let checked = state.as_ref().is_ok_and(|state| {
            let state = state.as_ref();
            state.is_some_and(|state| state.created == created && state.last_sequence >= shared.highest.get())
        });
        if state.is_ok() && !checked {
            tracing::warn!("stream {STREAM_DESIRED} was made again or went back: checking all assignments");
            return Ok(());
        }
        tokio::select! {
            () = shared.catalogue.epoch_other_than(epoch) => return Ok(()),
            changed = roots.changed() => return changed.map_err(|_| ClosedError),
            changed = link.wait_for(|link| link.connections != connections) => drop(changed.map_err(|_| ClosedError)?),
            () = tokio::time::sleep(RETRY_PAUSE), if !checked => {}
        }
    }
}

/// Compares all records with all heads.
///
/// # Returns
/// When the stream of the heads was made.
async fn pass(shared: &Shared, epoch: Epoch) -> Result<String, PassError> {
    let started = Instant::now();
    // It can be made again from the registry and the catalogue, so its loss is repaired here.
    let state = shared.nats.ensure_stream(&DESIRED, shared.stream_replicas).await?;
    if state.last_sequence < shared.highest.get() {
        shared.highest.reset();
    }
    publish_roots(shared).await?;
    let heads = heads(shared).await?;
    let mut records =
        shared.nats.follow(STREAM_IDENTITY, pattern::IDENTITY_AGENTS, From::LastPerSubject, false);
    // A replica that may not sign anew leaves that to one that may.
    let trusted = assign::may_sign(shared).then(|| shared.roots.directors());
    let mut healing = FuturesUnordered::new();
    let (mut agents, mut healed, mut failed, mut first) = (0_usize, 0_usize, 0_usize, None);
    let mut count = |result: Result<bool, HealError>| match result {
        Ok(wrote) => healed += usize::from(wrote),
        Err(error) => {
            failed += 1;
            first.get_or_insert(error);
        }
    };
    while let Some(message) = next(&mut records, STREAM_IDENTITY).await? {
        agents += 1;
        if let Some(wanting) = wanting((&heads, trusted.as_ref()), epoch, &message) {
            healing.push(heal_one(shared, epoch, wanting));
        }
        while healing.len() >= PARALLEL
            && let Some(result) = healing.next().await
        {
            count(result);
        }
    }
    while let Some(result) = healing.next().await {
        count(result);
    }
    tracing::info!(
        agents,
        healed,
        failed,
        took_ms = started.elapsed().as_millis(),
        "checked all assignments"
    );
    match first {
        None => Ok(state.created),
        Some(first) => Err(PassError::Agents { failed, first }),
    }
}

/// Publishes the trust roots that DESIRED lacks.
async fn publish_roots(shared: &Shared) -> Result<(), PassError> {
    let Some(known) = shared.roots.known() else { return Ok(()) };
    for (version, envelope) in known.chain.envelopes() {
        let subject = desired_root(version);
        let there = shared.nats.leader_get_last(STREAM_DESIRED, &subject).await?;
        let payload = wire::encode(envelope);
        if there.as_ref().is_some_and(|there| there.payload == payload) {
            continue;
        }
        let expect = Expect::LastSubject(there.map_or(0, |there| there.sequence));
        let message = (Headers::new(), payload);
        match shared.nats.publish_cas(STREAM_DESIRED, &subject, message, expect).await {
            Ok(place) => shared.highest.raise(place),
            // Another replica publishes the same.
            Err(PublishError::Conflict { .. }) => {}
            Err(error) => return Err(PassError::Root(error)),
        }
    }
    Ok(())
}

/// The next message of those that were there at the start; `None` after the last one.
async fn next(
    follow: &mut runtime::nats::Follow,
    stream: &'static str,
) -> Result<Option<StreamMessage>, PassError> {
    match tokio::time::timeout(SILENCE, follow.next()).await.map_err(|_| PassError::Silent { stream })? {
        Some(Followed::Message(message)) => Ok(Some(message)),
        Some(Followed::CaughtUp) => Ok(None),
        Some(Followed::Reset) => Err(PassError::Reset),
        Some(Followed::Missing) | None => Err(PassError::Missing(stream)),
    }
}

/// Cursors of the heads of all agents.
async fn heads(shared: &Shared) -> Result<BTreeMap<AgentId, Cursor>, PassError> {
    let mut follow = shared.nats.follow(STREAM_DESIRED, pattern::DESIRED_AGENTS, From::LastPerSubject, true);
    let mut heads = BTreeMap::new();
    while let Some(message) = next(&mut follow, STREAM_DESIRED).await? {
        if let Some(agent) = parse_agent(&message.subject) {
            heads.insert(agent, assign::cursor_of(&message));
        }
    }
    Ok(heads)
}

/// An agent whose head or assignment is not as it should be.
struct Wanting {
    agent: AgentId,
    sequence: u64,
    record: AgentRecord,
}

fn wanting(
    (heads, trusted): (&BTreeMap<AgentId, Cursor>, Option<&KeySet>),
    epoch: Epoch,
    message: &StreamMessage,
) -> Option<Wanting> {
    let agent = parse_agent(&message.subject)?;
    let record = match wire::registry::read_agent(&message.payload) {
        Ok(record) => record,
        Err(error) => {
            tracing::error!(%agent, error = %runtime::log::chain(&error), "a record of the registry is broken: ignored");
            return None;
        }
    };
    let head = heads.get(&agent).copied();
    let behind = match (&record.registered, &record.assignment) {
        (Registered::Agent(agent), Some(assignment)) => {
            agent.assignment.epoch < epoch
                || head < Some(Head::Assigned(agent, assignment).cursor())
                || trusted.is_some_and(|keys| !wire::envelope::claims(assignment, keys))
        }
        // An agent whose record has no assignment cannot be read at all.
        (Registered::Agent(_), None) | (Registered::Pending(_), _) => false,
        (Registered::Deleted(gone), _) => head.is_some_and(|head| head < Head::Gone(gone).cursor()),
    };
    behind.then_some(Wanting { agent, sequence: message.sequence, record })
}

/// True if something was written or published.
async fn heal_one(shared: &Shared, epoch: Epoch, wanting: Wanting) -> Result<bool, HealError> {
    let Wanting { agent, sequence, record } = wanting;
    match (&record.registered, &record.assignment) {
        (Registered::Agent(registration), Some(assignment)) => {
            match anew(shared, registration, assignment, epoch) {
                Some(renewed) => renew(shared, &agent, &renewed, sequence).await,
                None => {
                    assign::publish(shared, &agent, &Head::Assigned(registration, assignment)).await?;
                    Ok(true)
                }
            }
        }
        (Registered::Deleted(gone), _) => {
            assign::publish(shared, &agent, &Head::Gone(gone)).await?;
            Ok(true)
        }
        (Registered::Agent(_), None) | (Registered::Pending(_), _) => Ok(false),
    }
}

/// The registration with an assignment that is to be signed: it is of an older epoch, or signed by a key that agents
/// trust no more.
fn anew(
    shared: &Shared,
    registration: &Registration,
    assignment: &Envelope,
    epoch: Epoch,
) -> Option<Registration> {
    let unsigned = || {
        let holds = wire::envelope::claims(assignment, &shared.roots.directors());
        (!holds).then(|| registration.signed_anew())
    };
    registration.renewed(epoch).or_else(unsigned)
}

async fn renew(
    shared: &Shared,
    agent: &AgentId,
    renewed: &Registration,
    sequence: u64,
) -> Result<bool, HealError> {
    let assignment = assign::sign(shared, agent, renewed)?;
    match registry::write(&shared.nats, agent, (renewed, assignment.clone()), sequence).await {
        Ok(()) => {}
        // Another replica renewed it, or moved or deleted the agent, and publishes that.
        Err(RecordError::Conflict) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    assign::publish(shared, agent, &Head::Assigned(renewed, &assignment)).await?;
    Ok(true)
}
