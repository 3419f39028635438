//! Heartbeats of agents that are not in the registry yet.
//!
//! An agent beats as soon as it has joined, and its record may reach this replica a moment later. Told
//! "unknown" it would come back in its own time; waiting a moment is quicker.

use std::collections::BTreeMap;

use domain::{AgentId, Span, Timestamp};
use runtime::nats::Message;

/// How long a heartbeat waits: some round trips to the broker. Agents wait longer for their answers.
const PATIENCE: Span = Span(1_000);
/// Heartbeats that wait at the same time: the joins that all replicas of identity take within a moment.
/// Further ones are answered at once.
const MAX_WAITING: usize = 1_024;

/// Heartbeats that wait, one of each agent.
#[derive(Debug, Default)]
pub(crate) struct Newcomers(BTreeMap<AgentId, (Timestamp, Message)>);

impl Newcomers {
    /// Lets a heartbeat wait. False if it has to be answered now: there is no room, or one of the same agent
    /// waits already.
    pub(crate) fn wait(&mut self, agent: &AgentId, message: Message, now: Timestamp) -> bool {
        if self.0.len() >= MAX_WAITING || self.0.contains_key(agent) {
            return false;
        }
        self.0.insert(agent.clone(), (now + PATIENCE, message));
        true
    }

    /// The heartbeat of an agent that has just become known.
    pub(crate) fn known(&mut self, agent: &AgentId) -> Option<Message> {
        self.0.remove(agent).map(|(_, message)| message)
    }

    /// Heartbeats that have waited long enough.
    pub(crate) fn late(&mut self, now: Timestamp) -> Vec<(AgentId, Message)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let late = self.0.extract_if(.., |_, (until, _)| *until <= now);
        late.map(|(agent, (_, message))| (agent, message)).collect()
    }

    /// All that wait, for the stop.
    pub(crate) fn all(&mut self) -> Vec<(AgentId, Message)> {
        std::mem::take(&mut self.0).into_iter().map(|(agent, (_, message))| (agent, message)).collect()
    }
}
