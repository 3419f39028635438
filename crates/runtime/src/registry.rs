//! How many agents each group has, by following the registry.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use domain::registry::Registered;
use domain::{AgentId, GroupId};
use wire::subject::{STREAM_IDENTITY, parse_agent, pattern};

use crate::nats::{Followed, From, Nats, StreamMessage};
use crate::{Condition, Shutdown};

/// The registry cannot be followed any more: the connection was closed for good.
#[derive(Debug, thiserror::Error)]
#[error("the registry cannot be followed any more: the connection is closed")]
pub struct RegistryClosed;

#[derive(Debug, Default)]
struct Counts {
    groups: BTreeMap<AgentId, GroupId>,
    counts: BTreeMap<GroupId, u64>,
}

impl Counts {
    /// Takes the newest record of an agent: its group, or `None` if it was deleted.
    fn note(&mut self, agent: AgentId, group: Option<GroupId>) {
        let before = match &group {
            Some(group) => self.groups.insert(agent, group.clone()),
            None => self.groups.remove(&agent),
        };
        if let Some(before) = before
            && let Some(count) = self.counts.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&before);
            }
        }
        if let Some(group) = group {
            *self.counts.entry(group).or_default() += 1;
        }
    }
}

/// How many agents each group has.
#[derive(Debug, Default)]
pub struct AgentCounts(RwLock<Counts>);

impl AgentCounts {
    /// Agents of each group that has any.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<GroupId, u64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).counts.clone()
    }

    /// How many agents a group has.
    #[must_use]
    pub fn of(&self, group: &GroupId) -> u64 {
        let counts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counts.counts.get(group).copied().unwrap_or(0)
    }

    /// Follows the registry until the shutdown. `ready` is met while all of it has been read.
    ///
    /// # Errors
    /// [`RegistryClosed`] if the connection was closed for good.
    pub async fn follow(
        &self,
        nats: &Nats,
        ready: Condition,
        shutdown: &Shutdown,
    ) -> Result<(), RegistryClosed> {
        let mut registry =
            nats.follow(STREAM_IDENTITY, pattern::IDENTITY_AGENTS, From::LastPerSubject, false);
        loop {
            let event = tokio::select! {
                event = registry.next() => event.ok_or(RegistryClosed)?,
                () = shutdown.requested() => return Ok(()),
            };
            // No code panics while it holds this lock, and the counts stay usable if it did.
            let counts = || self.0.write().unwrap_or_else(PoisonError::into_inner);
            match event {
                Followed::Message(message) => {
                    if let Some((agent, group)) = read(&message) {
                        counts().note(agent, group);
                    }
                }
                Followed::CaughtUp => ready.set_ready(),
                Followed::Reset => {
                    ready.set_not_ready("is loading the registry");
                    *counts() = Counts::default();
                }
                Followed::Missing => ready.set_not_ready("has no registry: the stream IDENTITY is gone"),
            }
        }
    }
}

fn read(message: &StreamMessage) -> Option<(AgentId, Option<GroupId>)> {
    let agent = parse_agent(&message.subject)?;
    match wire::registry::read_agent(&message.payload) {
        Ok(record) => match record.registered {
            Registered::Agent(registration) => Some((agent, Some(registration.group))),
            Registered::Pending(_) | Registered::Deleted(_) => Some((agent, None)),
        },
        Err(error) => {
            let error = crate::log::chain(&error);
            tracing::error!(%agent, error, "a record of the registry cannot be read: passing over it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_joins_moves_and_deletions() {
        let mut agents = Counts::default();
        let mut note = |agent: &str, group: &str, expected: &str| {
            let group = (group != "-").then(|| GroupId::new(group).unwrap());
            agents.note(AgentId::new(agent).unwrap(), group);
            let counts: Vec<String> = agents.counts.iter().map(|(g, n)| format!("{g} {n}")).collect();
            assert_eq!(counts.join(", "), expected);
        };
        note("a", "web", "web 1");
        note("b", "web", "web 2");
        note("b", "web", "web 2");
        note("a", "db", "db 1, web 1");
        note("b", "-", "db 1");
        note("b", "-", "db 1");
        note("c", "-", "db 1");
    }
}
