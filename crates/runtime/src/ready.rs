//! Readiness: which conditions must hold before this process takes requests, and which do not hold now.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// The named conditions of this process. Clones share them. The number of conditions is fixed by the code
/// that registers them: one for each service and connection.
#[derive(Clone)]
pub struct Readiness {
    conditions: Arc<watch::Sender<BTreeMap<String, Option<String>>>>,
}

/// One condition. Not ready until [`Condition::set_ready`] is called, and not ready again once dropped.
pub struct Condition {
    name: String,
    conditions: Arc<watch::Sender<BTreeMap<String, Option<String>>>>,
}

impl Readiness {
    /// No conditions yet: ready.
    #[must_use]
    pub fn new() -> Self {
        Self { conditions: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    /// Registers a condition; the process is not ready until it is met. Registering a name again replaces
    /// what was known of it.
    #[must_use]
    pub fn register(&self, name: impl Into<String>) -> Condition {
        let condition = Condition { name: name.into(), conditions: Arc::clone(&self.conditions) };
        condition.set_not_ready("is starting");
        condition
    }

    /// What keeps the process from being ready: name and reason of each condition that is not met, in order
    /// of their names. Empty means ready.
    #[must_use]
    pub fn missing(&self) -> Vec<(String, String)> {
        let conditions = self.conditions.borrow();
        conditions.iter().filter_map(|(name, why)| Some((name.clone(), why.clone()?))).collect()
    }

    /// Whether all conditions are met.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.borrow().values().all(Option::is_none)
    }

    /// Waits until all conditions are met. The caller bounds the wait.
    pub async fn ready(&self) {
        let mut changes = self.conditions.subscribe();
        changes
            .wait_for(|conditions| conditions.values().all(Option::is_none))
            .await
            .expect("invariant: self keeps the sender alive");
    }

    /// Waits for the next change of any condition since the last call on this receiver.
    pub(crate) fn changes(&self) -> watch::Receiver<BTreeMap<String, Option<String>>> {
        self.conditions.subscribe()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Condition {
    /// The condition is met.
    pub fn set_ready(&self) {
        self.set(None);
    }

    /// The condition is not met, because `reason` (a clause such as "is loading the catalogue").
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        self.conditions.send_if_modified(|conditions| {
            if conditions.get(&self.name) == Some(&reason) {
                return false;
            }
            match &reason {
                None => tracing::info!(condition = %self.name, "ready"),
                Some(reason) => tracing::info!(condition = %self.name, reason, "not ready"),
            }
            conditions.insert(self.name.clone(), reason);
            true
        });
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.set_not_ready("has stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_all_conditions_are_met() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (a, b) = (readiness.register("a"), readiness.register("b"));
        a.set_ready();
        b.set_not_ready("is loading");
        assert_eq!(readiness.missing(), [("b".to_owned(), "is loading".to_owned())]);
        b.set_ready();
        readiness.ready().await;
        drop(a);
        assert_eq!(readiness.missing(), [("a".to_owned(), "has stopped".to_owned())]);
    }
}
