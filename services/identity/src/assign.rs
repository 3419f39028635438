//! Assignments: signed, and published to DESIRED, from where the broker tells the agent.

use std::sync::atomic::{AtomicU64, Ordering};

use domain::registry::{Gone, Registration};
use domain::{AgentId, Cursor, Revision};
use runtime::clock;
use runtime::nats::{Expect, GetError, Headers, PublishError, StreamMessage};
use wire::agent::v1::Envelope;
use wire::sign::SignError;
use wire::subject::{STREAM_DESIRED, desired_agent, header};

use crate::Shared;

/// Tries to replace the head of one agent. Each lost race shows a newer head, which mostly ends the matter.
const MAX_TRIES: u32 = 8;

/// Why an assignment was not published. It is in the registry: healing and heartbeats bring it to the agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishHeadError {
    /// The head that is there cannot be read.
    #[error("the published assignment cannot be read")]
    Read(#[from] GetError),
    /// The stream did not take the new one.
    #[error("the assignment could not be published")]
    Publish(#[source] PublishError),
    /// The head changed before every try.
    #[error("the published assignment changed before each of {MAX_TRIES} tries")]
    Contended,
}

/// Highest place in DESIRED that this replica published to. A stream that ends below it has lost something.
#[derive(Default)]
pub(crate) struct HighestPlace(AtomicU64);

impl HighestPlace {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes a place.
    pub(crate) fn raise(&self, place: u64) {
        self.0.fetch_max(place, Ordering::Relaxed);
    }

    /// Forgets it, for a stream that starts anew.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What becomes the head of an agent.
pub(crate) enum Head<'a> {
    /// Its assignment.
    Assigned(&'a Registration, &'a Envelope),
    /// Nothing any more: the agent was deleted.
    Gone(&'a Gone),
}

impl Head<'_> {
    /// What orders heads of one agent. That of a deleted one comes after its last assignment.
    pub(crate) fn cursor(&self) -> Cursor {
        match self {
            Self::Assigned(registration, _) => registration.assignment,
            Self::Gone(gone) => {
                let Cursor { epoch, revision } = gone.assignment;
                Cursor { epoch, revision: Revision(revision.0.saturating_add(1)) }
            }
        }
    }
}

/// Why an assignment was not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignError {
    /// Agents would not obey it.
    #[error(
        "the director key of this process is not the one that trust root {0} of the fleet names: give that one with --director-key"
    )]
    NotDirector(u64),
    /// The key refused.
    #[error("the assignment was not signed")]
    Sign(#[from] SignError),
}

/// Whether agents obey what this replica signs.
pub(crate) fn may_sign(shared: &Shared) -> bool {
    let directors = shared.roots.directors();
    directors.threshold == 1 && directors.keys.contains(&shared.director.public_key())
}

/// Signs the newest assignment of an agent.
pub(crate) fn sign(
    shared: &Shared,
    agent: &AgentId,
    registration: &Registration,
) -> Result<Envelope, AssignError> {
    if !may_sign(shared) {
        return Err(AssignError::NotDirector(shared.roots.version()));
    }
    let assignment = registration.assignment(shared.fleet.clone(), agent.clone(), clock::now());
    let payload = wire::snapshot::encode_assignment(&assignment);
    Ok(wire::envelope::seal_by(wire::envelope::ASSIGNMENT, payload, &*shared.director)?)
}

/// The cursor of a published head, from its headers; older than all if it has none.
pub(crate) fn cursor_of(message: &StreamMessage) -> Cursor {
    let number = |name| message.headers.get_number(name).unwrap_or_default();
    Cursor::new(number(header::EPOCH), number(header::REVISION))
}

/// Publishes the head of an agent, unless the one that is there is as new or newer.
pub(crate) async fn publish(
    shared: &Shared,
    agent: &AgentId,
    head: &Head<'_>,
) -> Result<(), PublishHeadError> {
    let cursor = head.cursor();
    let payload = match head {
        Head::Assigned(_, envelope) => wire::encode(*envelope),
        Head::Gone(_) => Default::default(),
    };
    let subject = desired_agent(agent);
    let mut expected = 0;
    for _ in 0..MAX_TRIES {
        let headers =
            Headers::new().number(header::EPOCH, cursor.epoch.0).number(header::REVISION, cursor.revision.0);
        let expect = Expect::LastSubject(expected);
        match shared.nats.publish_cas(STREAM_DESIRED, &subject, (headers, payload.clone()), expect).await {
            Ok(place) => {
                shared.highest.raise(place);
                return Ok(());
            }
            Err(PublishError::Conflict { .. }) => {}
            Err(error) => return Err(PublishHeadError::Publish(error)),
        }
        expected = match shared.nats.leader_get_last(STREAM_DESIRED, &subject).await? {
            Some(found) if cursor_of(&found) >= cursor => return Ok(()),
            Some(found) => found.sequence,
            None => 0,
        };
    }
    Err(PublishHeadError::Contended)
}
