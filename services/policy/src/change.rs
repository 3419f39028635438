//! Makes a change: plan on the newest state, commit under compare-and-set, plan anew when somebody else was
//! first, then wait until the heads are published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::access::{Caller, OutOfReach};
use domain::catalog::Entry;
use domain::change::{Claim, Current, Operation, Plan, Refusal, own, plan};
use domain::{GroupId, Revision};
use runtime::store::{ChangeInfo, CommitError, MAX_CHANGE_BYTES};
use runtime::telemetry::spans;
use runtime::{clock, ids};
use tracing::Instrument as _;

use crate::fold::View;
use crate::replica::Replica;

/// Tries to commit a change. A try takes milliseconds, and every conflict means that somebody else's change
/// was committed. Of two replicas that write without a pause each is first half of the time; that one is
/// second so many times in a row does not happen, and then a caller had better hear of it.
const MAX_TRIES: u32 = 32;
/// How long a caller waits until this replica has reached a revision. It follows within milliseconds, unless
/// the broker is in trouble.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(5);
/// How long a caller waits for the heads of its change. 10,000 heads take seconds; when it is over the change
/// is stored all the same, and its heads will be published.
const PUBLISH: Duration = Duration::from_secs(10);

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// A rule is broken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The caller reaches not that far.
    #[error(transparent)]
    OutOfReach(#[from] OutOfReach),
    /// The request itself is wrong, as found when it was read against the newest state.
    #[error("{}", .0.message())]
    Request(Box<tonic::Status>),
    /// The log could not be reached in time.
    #[error(transparent)]
    Behind(#[from] Behind),
    /// Others were first every time.
    #[error("others changed the fleet {MAX_TRIES} times while this change was tried: try again")]
    Contended,
    /// The log did not take it.
    #[error("the change could not be stored")]
    Commit(#[source] CommitError),
    /// Entries are larger together than a change may be.
    #[error("the change is {0} bytes long; at most {MAX_CHANGE_BYTES} are allowed: split it")]
    TooLarge(usize),
    /// The planner did not come to an end.
    #[error("the change could not be planned")]
    Planner(#[source] tokio::task::JoinError),
}

impl From<tonic::Status> for ChangeError {
    fn from(status: tonic::Status) -> Self {
        Self::Request(Box::new(status))
    }
}

/// This replica has not reached a revision.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Behind {
    /// Nothing is loaded.
    #[error("the catalogue is not loaded yet")]
    NotLoaded,
    /// It is at an older revision.
    #[error("this replica is at revision {at}, not yet at {wanted}")]
    At {
        /// Where it is.
        at: Revision,
        /// What was asked for.
        wanted: Revision,
    },
}

/// How a change is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// Who asks for it.
    pub(crate) caller: Caller,
    pub(crate) dry_run: bool,
    /// Why, in the caller's words.
    pub(crate) message: String,
    /// For whom it is made.
    pub(crate) claim: Claim,
    pub(crate) trace_id: Option<[u8; 16]>,
}

/// A change that was made, or planned.
pub(crate) struct Made {
    pub(crate) before: Arc<View>,
    pub(crate) agents: BTreeMap<GroupId, u64>,
    pub(crate) plan: Plan,
    /// Revision of the change; that of the newest one if nothing was written.
    pub(crate) revision: Revision,
    pub(crate) dry_run: bool,
}

impl Made {
    /// What it was planned on.
    pub(crate) fn current(&self) -> Current<'_> {
        Current { catalog: &self.before.catalog, compiled: &self.before.compiled, agents: &self.agents }
    }
}

/// Makes a change. `wish` is asked again for the operations whenever the state has changed.
pub(crate) async fn make(
    replica: &Replica,
    manner: &Manner,
    mut wish: impl FnMut(&View) -> Result<Vec<Operation>, tonic::Status>,
) -> Result<Made, ChangeError> {
    let _busy = replica.busy();
    let mut made = {
        let _one_at_a_time = if manner.dry_run { None } else { Some(replica.writer.lock().await) };
        let mut made = planned(replica, manner, &mut wish).instrument(spans::work("plan")).await?;
        let mut tries = 0;
        while !manner.dry_run && !made.plan.entries.is_empty() {
            let span = spans::publish("store.{object}");
            let committed = commit(replica, manner, &made).instrument(span.clone()).await;
            match &committed {
                Ok(revision) => spans::revision(&span, *revision),
                Err(CommitError::Conflict { .. }) => spans::failed(&span, "conflict"),
                Err(_) => spans::failed(&span, "not_stored"),
            }
            spans::batch(&span, made.plan.entries.len());
            match committed {
                Ok(revision) => {
                    made.revision = revision;
                    // The next change of this replica starts from this one.
                    reach(replica, revision).await.ok();
                    break;
                }
                Err(CommitError::Conflict { expected }) => {
                    tries += 1;
                    if tries == MAX_TRIES {
                        return Err(ChangeError::Contended);
                    }
                    tracing::debug!(%expected, tries, "somebody else was first: planning anew");
                    reach(replica, Revision(expected.0 + 1)).await?;
                    made = planned(replica, manner, &mut wish).instrument(spans::work("plan")).await?;
                }
                Err(error) => return Err(ChangeError::Commit(error)),
            }
        }
        made
    };
    made.dry_run = manner.dry_run;
    if !made.dry_run && !made.plan.entries.is_empty() {
        let mut published = replica.published.subscribe();
        let all = published.wait_for(|published| *published >= made.revision);
        if tokio::time::timeout(PUBLISH, all).await.is_err() {
            let (revision, groups) = (made.revision.0, made.plan.touched.len());
            tracing::warn!(revision, groups, "the change is stored, but its heads are not all published yet");
        }
    }
    Ok(made)
}

async fn planned(
    replica: &Replica,
    manner: &Manner,
    wish: &mut impl FnMut(&View) -> Result<Vec<Operation>, tonic::Status>,
) -> Result<Made, ChangeError> {
    let before = reach(replica, Revision(0)).await?;
    let agents = replica.agents.counts();
    let mut operations = wish(&before)?;
    // Before anything is planned: a refusal of the planner tells of objects that the caller may not see.
    manner.caller.reach.sight(&before.catalog).check(&operations)?;
    own(&before.catalog, &mut operations, &manner.claim)?;
    let dry_run = manner.dry_run;
    // A change of the root of a large fleet takes a tenth of a second and more.
    let planning = tokio::task::spawn_blocking(move || {
        let current = Current { catalog: &before.catalog, compiled: &before.compiled, agents: &agents };
        let plan = plan(current, operations)?;
        let revision = before.revision();
        Ok(Made { before, agents, plan, revision, dry_run })
    });
    planning.await.map_err(ChangeError::Planner)?
}

async fn commit(replica: &Replica, manner: &Manner, made: &Made) -> Result<Revision, CommitError> {
    let entries: Vec<_> = made.plan.entries.iter().map(stored).collect();
    let info = ChangeInfo {
        id: ids::random_id().parse().expect("invariant: a random id is an id"),
        actor: manner.caller.name.clone(),
        message: manner.message.clone(),
        time: clock::now(),
        trace_id: manner.trace_id,
    };
    replica.own.remember(info.id.clone());
    let committed = replica.log.commit(&info, entries, made.before.revision()).await;
    match &committed {
        Ok(revision) => {
            let (objects, groups) = (made.plan.entries.len(), made.plan.touched.len());
            tracing::info!(revision = revision.0, objects, groups, change = %info.id, "committed a change");
        }
        Err(_) => {
            replica.own.forget(&info.id);
        }
    }
    committed
}

/// An entry as the log keeps it.
pub(crate) fn stored(entry: &Entry) -> runtime::store::Entry {
    let body =
        wire::catalog::encode(entry).expect("invariant: documents are only as deep as they can be carried");
    runtime::store::Entry { key: wire::catalog::store_key(&entry.key()), body: body.into() }
}

/// Waits, at most [`CATCH_UP`], until this replica has folded a revision.
pub(crate) async fn reach(replica: &Replica, revision: Revision) -> Result<Arc<View>, Behind> {
    let mut views = replica.view.subscribe();
    let reached = views.wait_for(|view| view.as_ref().is_some_and(|view| view.revision() >= revision));
    let view =
        tokio::time::timeout(CATCH_UP, reached).await.ok().and_then(Result::ok).and_then(|view| view.clone());
    view.ok_or_else(|| match replica.current() {
        None => Behind::NotLoaded,
        Some(view) => Behind::At { at: view.revision(), wanted: revision },
    })
}
