//! Records of agents: read as the stream's leader has them, written by compare-and-set.

use domain::AgentId;
use domain::registry::{Gone, Pending, Registration};
use runtime::Nats;
use runtime::nats::{Expect, GetError, Headers, PublishError};
use wire::agent::v1::Envelope;
use wire::registry::AgentRecord;
use wire::subject::{STREAM_IDENTITY, identity_agent};

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The record cannot be read.
    #[error("the agent's record cannot be read")]
    Read(#[from] GetError),
    /// What is stored is no record.
    #[error("the agent's record is broken")]
    Broken(#[from] wire::DecodeError),
    /// Somebody else wrote the record first: read it and decide again.
    #[error("the agent's record was changed by somebody else")]
    Conflict,
    /// The record was not written, or it is not known whether it was.
    #[error("the agent's record could not be written")]
    Write(#[source] PublishError),
}

/// A record and its place, for compare-and-set.
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) record: AgentRecord,
}

/// The record of an agent; `None` if nobody ever joined under this id.
pub(crate) async fn read(nats: &Nats, agent: &AgentId) -> Result<Option<Stored>, RecordError> {
    let message = nats.leader_get_last(STREAM_IDENTITY, &identity_agent(agent)).await?;
    let stored = message.map(|message| {
        let record = wire::registry::read_agent(&message.payload)?;
        Ok(Stored { sequence: message.sequence, record })
    });
    stored.transpose()
}

/// Writes the record of a registered agent in place of the one at `sequence` (0: there is none).
pub(crate) async fn write(
    nats: &Nats,
    agent: &AgentId,
    (registration, assignment): (&Registration, Envelope),
    sequence: u64,
) -> Result<(), RecordError> {
    put(nats, agent, wire::registry::encode_agent(registration, assignment), sequence).await
}

/// Writes the record of a new agent that waits for approval.
pub(crate) async fn write_pending(
    nats: &Nats,
    agent: &AgentId,
    pending: &Pending,
) -> Result<(), RecordError> {
    put(nats, agent, wire::registry::encode_pending(pending), 0).await
}

/// Writes the tombstone of an agent in place of its record at `sequence`.
pub(crate) async fn bury(
    nats: &Nats,
    agent: &AgentId,
    gone: &Gone,
    sequence: u64,
) -> Result<(), RecordError> {
    put(nats, agent, wire::registry::encode_gone(gone), sequence).await
}

async fn put(nats: &Nats, agent: &AgentId, record: Vec<u8>, sequence: u64) -> Result<(), RecordError> {
    let message = (Headers::new(), record.into());
    let subject = identity_agent(agent);
    match nats.publish_cas(STREAM_IDENTITY, &subject, message, Expect::LastSubject(sequence)).await {
        Ok(_) => Ok(()),
        Err(PublishError::Conflict { .. }) => Err(RecordError::Conflict),
        Err(error) => Err(RecordError::Write(error)),
    }
}
