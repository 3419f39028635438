//! Agents that wait for approval, for showing. Follows the registry, so it may be behind for a moment; what decides is
//! the record of an agent.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::AgentId;
use domain::registry::{Pending, Registered};

/// Most that wait at once: somebody has to look at each of them. About a kilobyte each in memory.
const MAX_WAITING: usize = 10_000;

/// The agents that wait, as far as this replica knows.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<BTreeMap<AgentId, Pending>>);

impl Waiting {
    fn all(&self) -> MutexGuard<'_, BTreeMap<AgentId, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the newest record of an agent.
    pub(crate) fn note(&self, agent: AgentId, registered: &Registered) {
        match registered {
            Registered::Pending(pending) => drop(self.all().insert(agent, pending.clone())),
            Registered::Agent(_) | Registered::Deleted(_) => drop(self.all().remove(&agent)),
        }
    }

    /// Forgets all, for a registry that is read again.
    pub(crate) fn clear(&self) {
        self.all().clear();
    }

    /// Whether no more may wait.
    pub(crate) fn is_full(&self) -> bool {
        self.all().len() >= MAX_WAITING
    }

    /// At most `most` agents after one, in order of id, of those that are to be shown.
    pub(crate) fn after(
        &self,
        after: Option<&AgentId>,
        most: usize,
        shown: impl Fn(&Pending) -> bool,
    ) -> Vec<(AgentId, Pending)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.all();
        let rest = all.range((start, Bound::Unbounded)).filter(|(_, pending)| shown(pending));
        rest.take(most).map(|(agent, pending)| (agent.clone(), pending.clone())).collect()
    }
}
