//! How many agents each group has, by following the registry.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use domain::registry::Registered;
use domain::{AgentId, GroupId};
use runtime::nats::{Followed, From, StreamMessage};
use runtime::{Condition, Shutdown};
use wire::subject::{STREAM_IDENTITY, parse_agent, pattern};

use crate::replica::{Gone, Replica};

/// The group of each agent, and how many each group has.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    groups: BTreeMap<AgentId, GroupId>,
    counts: BTreeMap<GroupId, u64>,
}

impl Agents {
    /// Takes the newest record of an agent: its group, or `None` if it was deleted.
    pub(crate) fn note(&mut self, agent: AgentId, group: Option<GroupId>) {
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

    /// Agents of each group that has any.
    pub(crate) fn counts(&self) -> &BTreeMap<GroupId, u64> {
        &self.counts
    }
}

/// Follows the registry until the shutdown.
pub(crate) async fn follow(replica: &Replica, ready: Condition, shutdown: &Shutdown) -> Result<(), Gone> {
    let mut registry =
        replica.nats.follow(STREAM_IDENTITY, pattern::IDENTITY_AGENTS, From::LastPerSubject, false);
    loop {
        let event = tokio::select! {
            event = registry.next() => event.ok_or(Gone("the registry"))?,
            () = shutdown.requested() => return Ok(()),
        };
        match event {
            Followed::Message(message) => {
                if let Some((agent, group)) = read(&message) {
                    replica.agents.write().unwrap_or_else(PoisonError::into_inner).note(agent, group);
                }
            }
            Followed::CaughtUp => ready.set_ready(),
            Followed::Reset => {
                ready.set_not_ready("is loading the registry");
                *replica.agents.write().unwrap_or_else(PoisonError::into_inner) = Agents::default();
            }
            Followed::Missing => ready.set_not_ready("has no registry: the stream IDENTITY is gone"),
        }
    }
}

fn read(message: &StreamMessage) -> Option<(AgentId, Option<GroupId>)> {
    let agent = parse_agent(&message.subject)?;
    match wire::registry::read_agent(&message.payload) {
        Ok(record) => match record.registered {
            Registered::Agent(registration) => Some((agent, Some(registration.group))),
            Registered::Deleted(_) => Some((agent, None)),
        },
        Err(error) => {
            let error = runtime::log::chain(&error);
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
        let mut agents = Agents::default();
        let mut note = |agent: &str, group: &str, expected: &str| {
            let group = (group != "-").then(|| GroupId::new(group).unwrap());
            agents.note(AgentId::new(agent).unwrap(), group);
            let counts: Vec<String> = agents.counts().iter().map(|(g, n)| format!("{g} {n}")).collect();
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
