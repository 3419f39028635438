//! Who of several operators works: the one that holds the Lease. It lets go when it stops, and another takes over at once;
//! when it just ends, after the Lease's time.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use runtime::Shutdown;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::cluster::{FIELD_MANAGER, code};

/// How long a Lease holds without being renewed. Others wait that long, so it bounds how long nobody works.
const TERM: Duration = Duration::from_secs(15);
/// How often it is renewed or looked at: several times in a term, so that one lost request changes nothing.
const BEAT: Duration = Duration::from_secs(3);
/// Who could not renew for this long stops to work: before others may begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why an operator does not work any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// It could not be renewed.
    #[error("the Lease {name} could not be renewed in time: another operator may work now")]
    Lost {
        name: String,
        #[source]
        source: Option<Error>,
    },
    /// Somebody else has it.
    #[error("the Lease {name} was taken by {holder}")]
    Taken { name: String, holder: String },
}

/// Which Lease, and who we are.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) identity: String,
}

/// What another's Lease looked like, and since when by our own clock: clocks of two machines differ.
#[derive(Debug)]
struct Seen {
    state: String,
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// It is ours, or free.
    Take,
    /// Somebody else works.
    Wait,
}

/// What a look at the Lease told.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Ours,
    Theirs(String),
    /// Somebody wrote at the same time. The next look tells who, and what.
    Unknown,
}

fn decide(holder: &str, state: &str, me: &str, seen: &mut Seen, now: Instant) -> Decision {
    if holder.is_empty() || holder == me {
        return Decision::Take;
    }
    if seen.state != state {
        *seen = Seen { state: state.to_owned(), since: now };
    }
    if now.duration_since(seen.since) >= TERM { Decision::Take } else { Decision::Wait }
}

/// Holds the Lease while it can, and says whether it does. It does not wait for an answer longer than others wait for it.
pub(crate) async fn run(
    client: Client,
    seat: Seat,
    leads: watch::Sender<bool>,
    stop: Shutdown,
) -> Result<(), LeaseError> {
    let leases: Api<Lease> = Api::namespaced(client, &seat.namespace);
    let mut seen = Seen { state: String::new(), since: Instant::now() };
    let mut renewed: Option<Instant> = None;
    loop {
        let asked = Instant::now();
        let end = renewed.unwrap_or(asked) + PATIENCE;
        let told = tokio::select! {
            told = timeout_at(end, beat(&leases, &seat, &mut seen)) => told,
            () = stop.requested() => break,
        };
        let failed = match told {
            Ok(Ok(Turn::Ours)) => {
                renewed = Some(asked);
                leads.send_if_modified(|leads| !std::mem::replace(leads, true));
                None
            }
            Ok(Ok(Turn::Theirs(holder))) if renewed.is_some() => {
                return Err(LeaseError::Taken { name: seat.name, holder });
            }
            Ok(Ok(Turn::Theirs(_) | Turn::Unknown)) => None,
            Ok(Err(error)) => {
                tracing::warn!(error = runtime::log::chain(&error), "the Lease cannot be had");
                Some(error)
            }
            Err(_) => {
                tracing::warn!("the Lease cannot be had: Kubernetes does not answer");
                None
            }
        };
        let end = renewed.map(|at| at + PATIENCE);
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(LeaseError::Lost { name: seat.name, source: failed });
        }
        let next = Instant::now() + BEAT;
        tokio::select! {
            () = sleep_until(end.map_or(next, |end| next.min(end))) => {}
            () = stop.requested() => break,
        }
    }
    // The process does not stay for it: the Lease ends by itself.
    if renewed.is_some() && timeout(BEAT, release(&leases, &seat)).await.is_err() {
        tracing::debug!("the Lease could not be let go: Kubernetes does not answer");
    }
    Ok(())
}

/// Takes or renews the Lease; else says who has it.
async fn beat(leases: &Api<Lease>, seat: &Seat, seen: &mut Seen) -> Result<Turn, Error> {
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let Some(mut lease) = leases.get_opt(&seat.name).await? else {
        let mut lease = Lease::default();
        lease.metadata.name = Some(seat.name.clone());
        lease.spec = Some(spec(&LeaseSpec::default(), &seat.identity));
        return taken(leases.create(&params, &lease).await);
    };
    let there = lease.spec.take().unwrap_or_default();
    let holder = there.holder_identity.clone().unwrap_or_default();
    let state = lease.metadata.resource_version.clone().unwrap_or_default();
    match decide(&holder, &state, &seat.identity, seen, Instant::now()) {
        Decision::Wait => Ok(Turn::Theirs(holder)),
        Decision::Take => {
            lease.spec = Some(spec(&there, &seat.identity));
            taken(leases.replace(&seat.name, &params, &lease).await)
        }
    }
}

/// Somebody else may have been first.
fn taken(done: Result<Lease, Error>) -> Result<Turn, Error> {
    match done {
        Ok(_) => Ok(Turn::Ours),
        Err(error) if code(&error) == Some(409) => Ok(Turn::Unknown),
        Err(error) => Err(error),
    }
}

fn spec(before: &LeaseSpec, me: &str) -> LeaseSpec {
    let now = Some(MicroTime(jiff::Timestamp::now()));
    let mine = before.holder_identity.as_deref() == Some(me);
    let changes = before.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(TERM.as_secs()).ok(),
        acquire_time: if mine { before.acquire_time.clone() } else { now.clone() },
        renew_time: now,
        lease_transitions: Some(if mine { changes } else { changes.saturating_add(1) }),
        ..LeaseSpec::default()
    }
}

/// Lets others begin at once.
async fn release(leases: &Api<Lease>, seat: &Seat) {
    let Ok(Some(mut lease)) = leases.get_opt(&seat.name).await else { return };
    let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&seat.identity))
    else {
        return;
    };
    spec.holder_identity = None;
    if let Err(error) = leases.replace(&seat.name, &PostParams::default(), &lease).await {
        tracing::debug!(%error, "the Lease could not be let go: it ends by itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_was_not_renewed_for_its_term() {
        let start = Instant::now();
        let mut seen = Seen { state: String::new(), since: start };
        let mut check = |holder: &str, state: &str, now: u64, expected: Decision| {
            assert_eq!(
                decide(holder, state, "me", &mut seen, start + Duration::from_millis(now)),
                expected,
                "{holder} {state} {now}"
            );
        };
        check("", "1", 100_000, Decision::Take);
        check("me", "1", 100_000, Decision::Take);
        check("other", "1", 100_000, Decision::Wait);
        check("other", "1", 114_999, Decision::Wait);
        check("other", "2", 115_000, Decision::Wait);
        check("other", "2", 129_999, Decision::Wait);
        check("other", "2", 130_000, Decision::Take);
    }
}
