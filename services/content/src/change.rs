//! Makes a change of the catalogue: plans it on the newest state, commits it under compare-and-set, plans anew
//! when somebody else was first.

use std::sync::Arc;

use domain::Revision;
use domain::catalog::Catalog;
use domain::change::{Claim, Current, Operation, Plan, Refusal, own, plan};
use domain::compile::Compiled;
use runtime::store::{Author, CatchUpError, ChangeError};

use crate::replica::Replica;

/// Tries to commit a change. Each conflict means that somebody else's change was committed; so many in a row do not
/// happen by chance, and then a caller had better hear of it.
const MAX_TRIES: u32 = 32;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    /// The request itself is refused, as found when it was held against the newest state.
    #[error("{}", .0.message())]
    Request(Box<tonic::Status>),
    /// A rule is broken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log cannot be read.
    #[error(transparent)]
    Behind(#[from] CatchUpError),
    /// The log did not take it.
    #[error("the change was not stored")]
    Commit(#[source] ChangeError<std::convert::Infallible>),
    /// Others were first every time.
    #[error("others changed the fleet {MAX_TRIES} times while this change was tried: try again")]
    Contended,
    /// The planner did not come to an end.
    #[error("the change could not be planned")]
    Planner(#[source] tokio::task::JoinError),
}

impl From<tonic::Status> for NotMade {
    fn from(status: tonic::Status) -> Self {
        Self::Request(Box::new(status))
    }
}

/// A change that was made, or planned.
pub(crate) struct Made {
    /// What it was planned on.
    pub(crate) before: Arc<Catalog>,
    pub(crate) plan: Plan,
    /// Revision of the change; that of the newest one if nothing was written.
    pub(crate) revision: Revision,
}

impl Made {
    /// Whether everything was as wanted already.
    pub(crate) fn is_empty(&self) -> bool {
        self.plan.entries.is_empty()
    }
}

/// Makes a change, or only plans it. `wish` is asked again for the operations whenever the state has changed.
pub(crate) async fn make(
    replica: &Replica,
    author: &Author,
    dry_run: bool,
    mut wish: impl FnMut(&Catalog) -> Result<Vec<Operation>, tonic::Status>,
) -> Result<Made, NotMade> {
    for _ in 0..MAX_TRIES {
        replica.catalogue.catch_up().await?;
        let before = replica.catalogue.current();
        let operations = wish(&before)?;
        let made = planned(replica, before, operations).await?;
        if dry_run || made.is_empty() {
            return Ok(made);
        }
        let expected = made.before.revision();
        let committed = replica.catalogue.commit(author, &made.plan.entries, expected).await;
        if let Some(revision) = committed.map_err(NotMade::Commit)? {
            let (objects, groups) = (made.plan.entries.len(), made.plan.touched.len());
            tracing::debug!(revision = revision.0, objects, groups, "committed a change");
            return Ok(Made { revision, ..made });
        }
    }
    Err(NotMade::Contended)
}

async fn planned(
    replica: &Replica,
    before: Arc<Catalog>,
    mut operations: Vec<Operation>,
) -> Result<Made, NotMade> {
    // Nobody who changes a channel here keeps its stages in order elsewhere.
    own(&before, &mut operations, &Claim::default())?;
    let agents = replica.agents.counts();
    // A large fleet takes a tenth of a second and more.
    let planning = tokio::task::spawn_blocking(move || {
        let (compiled, _) = Compiled::full(&before);
        let current = Current { catalog: &before, compiled: &compiled, agents: &agents };
        let plan = plan(current, operations)?;
        let revision = before.revision();
        Ok(Made { before, plan, revision })
    });
    planning.await.map_err(NotMade::Planner)?
}
