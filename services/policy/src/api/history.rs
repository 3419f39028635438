//! The kept generations of a policy: list, compare, go back to one.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::access::Reach;
use domain::catalog::{Entry, Locks, ObjectKey, Policy};
use domain::change::{Operation, Wanted};
use domain::{PolicyName, Revision};
use runtime::store::{ChangeInfo, StoredEntry};
use tonic::{Request, Status};
use wire::api::v1;
use wire::subject::StoreKey;

use super::{convert, manner, page, refuse, show, write};
use crate::change;
use crate::replica::Replica;

/// Generations of a page when the caller does not say.
const DEFAULT_ITEMS: usize = 20;
/// Most generations of a page: all that are kept.
const MAX_ITEMS: usize = 100;

/// One generation of a policy; `None` for its deletion.
struct Generation {
    number: u64,
    revision: Revision,
    change: ChangeInfo,
    policy: Option<Arc<Policy>>,
}

/// A version of a policy.
pub(super) struct Version {
    pub(super) policy: Arc<Policy>,
    pub(super) revision: Revision,
}

/// The kept generations, oldest first.
async fn generations(replica: &Replica, name: &PolicyName) -> Result<Vec<Generation>, Status> {
    let key = StoreKey::Policy(name.clone());
    let stored = replica.log.history(&key).await.map_err(|error| refuse::unreadable(&error))?;
    let generations: Vec<Generation> = stored.into_iter().filter_map(generation).collect();
    if generations.is_empty() { Err(refuse::missing("Policy", name.as_str())) } else { Ok(generations) }
}

fn generation(stored: StoredEntry) -> Option<Generation> {
    let revision = stored.revision();
    let (number, policy) = match wire::catalog::read(&stored.key, &stored.body) {
        Ok(Entry::Policy(policy)) => (policy.generation, Some(policy)),
        Ok(Entry::Deleted { key: ObjectKey::Policy(_), generation }) => (generation, None),
        Ok(_) | Err(_) => {
            tracing::error!(
                sequence = stored.sequence,
                "a version of a policy cannot be read: passing over it"
            );
            return None;
        }
    };
    Some(Generation { number, revision, change: stored.change, policy })
}

/// The kept generations of a policy that the caller sees.
async fn seen(replica: &Replica, reach: &Reach, name: &PolicyName) -> Result<Vec<Generation>, Status> {
    if *reach != Reach::Everywhere {
        let view = change::reach(replica, Revision(0)).await.map_err(|behind| refuse::behind(&behind))?;
        if !reach.sight(&view.catalog).policy(name) {
            return Err(refuse::missing("Policy", name.as_str()));
        }
    }
    generations(replica, name).await
}

/// One version of a policy.
pub(super) async fn version(replica: &Replica, name: &PolicyName, number: u64) -> Result<Version, Status> {
    find(&generations(replica, name).await?, name, number)
}

fn find(generations: &[Generation], name: &PolicyName, number: u64) -> Result<Version, Status> {
    let found = generations.iter().find(|generation| generation.number == number);
    let version = found.and_then(|generation| {
        let policy = Arc::clone(generation.policy.as_ref()?);
        Some(Version { policy, revision: generation.revision })
    });
    version.ok_or_else(|| refuse::missing("Policy", &format!("{name}@{number}")))
}

/// The newest version before generation `number`.
fn before(generations: &[Generation], name: &PolicyName, number: u64) -> Result<Version, Status> {
    let older = generations.iter().rev().find(|g| g.number < number && g.policy.is_some());
    let number = older
        .map(|generation| generation.number)
        .ok_or_else(|| refuse::missing("Policy", &format!("{name}@{}", number.saturating_sub(1))))?;
    find(generations, name, number)
}

pub(super) async fn list(
    replica: &Replica,
    reach: &Reach,
    request: v1::ListPolicyHistoryRequest,
) -> Result<v1::ListPolicyHistoryResponse, Status> {
    let name: PolicyName = convert::name("name", &request.name)?;
    let size = page::size(request.page_size, DEFAULT_ITEMS, MAX_ITEMS)?;
    let from: u64 = match request.page_token.as_str() {
        "" => u64::MAX,
        token => token.parse().map_err(|_| refuse::field("page_token", "is not one of this list"))?,
    };
    let generations = seen(replica, reach, &name).await?;
    let shown = generations.iter().enumerate().rev().filter(|(_, generation)| generation.number < from);
    let shown = shown.map(|(index, generation)| {
        let older = index.checked_sub(1).and_then(|index| generations.get(index));
        (generation.number.to_string(), show_generation(older, generation))
    });
    let (generations, next_page_token) = page::page(shown, size);
    Ok(v1::ListPolicyHistoryResponse { generations, next_page_token })
}

fn show_generation(older: Option<&Generation>, generation: &Generation) -> v1::PolicyGeneration {
    let [before, after] = [older, Some(generation)].map(|g| g.and_then(|g| g.policy.as_deref()));
    let [before, after] = [before, after].map(|policy| policy.map(|policy| policy.document.value()));
    let changed = domain::diff::diff(before, after).len();
    v1::PolicyGeneration {
        generation: generation.number,
        change: Some(show_change(generation.revision, &generation.change)),
        deleted: generation.policy.is_none(),
        values_changed: u32::try_from(changed).unwrap_or(u32::MAX),
    }
}

fn show_change(revision: Revision, change: &ChangeInfo) -> v1::ChangeInfo {
    v1::ChangeInfo {
        revision: revision.0,
        actor: change.actor.clone(),
        message: change.message.clone(),
        time: Some(wire::time::to_timestamp(change.time)),
        trace_id: change.trace_id.map(wire::trace::show).unwrap_or_default(),
    }
}

/// The change of a store revision.
pub(super) async fn change(replica: &Replica, revision: u64) -> Result<v1::ChangeInfo, Status> {
    let found =
        replica.log.change_at(Revision(revision)).await.map_err(|error| refuse::unreadable(&error))?;
    let (change, at) = found.ok_or_else(|| refuse::missing("Change", &revision.to_string()))?;
    Ok(show_change(at, &change))
}

pub(super) async fn diff(
    replica: &Replica,
    reach: &Reach,
    request: v1::DiffPolicyRequest,
) -> Result<v1::DiffPolicyResponse, Status> {
    let name: PolicyName = convert::name("name", &request.name)?;
    let generations = seen(replica, reach, &name).await?;
    let newer = match request.to {
        0 => before(&generations, &name, u64::MAX)?,
        number => find(&generations, &name, number)?,
    };
    let older = match request.from {
        0 => before(&generations, &name, newer.policy.generation)?,
        number => find(&generations, &name, number)?,
    };
    Ok(compare(&older.policy, &newer.policy))
}

fn compare(older: &Policy, newer: &Policy) -> v1::DiffPolicyResponse {
    let differences = domain::diff::diff(Some(older.document.value()), Some(newer.document.value()));
    let change = |difference: domain::diff::Difference| v1::ValueChange {
        kind: newer.kind.to_string(),
        pointer: difference.pointer.to_string(),
        before: difference.before.as_ref().map(show::value),
        after: difference.after.as_ref().map(show::value),
        ..v1::ValueChange::default()
    };
    let texts = |locks: &Locks| locks.iter().map(ToString::to_string).collect::<BTreeSet<String>>();
    let (before, after) = (texts(&older.locks), texts(&newer.locks));
    v1::DiffPolicyResponse {
        from: older.generation,
        to: newer.generation,
        changes: differences.into_iter().map(change).collect(),
        locks_added: after.difference(&before).cloned().collect(),
        locks_removed: before.difference(&after).cloned().collect(),
    }
}

pub(super) async fn rollback(
    replica: &Replica,
    request: Request<v1::RollbackPolicyRequest>,
) -> Result<v1::PolicyChange, Status> {
    let (manner, request) = manner(request, |r| (r.dry_run, std::mem::take(&mut r.message)))?;
    let name: PolicyName = convert::name("name", &request.name)?;
    let generations = seen(replica, &manner.caller.reach, &name).await?;
    let newest = generations.last().map_or(0, |generation| generation.number);
    let version = match request.to {
        0 => before(&generations, &name, newest)?,
        number => find(&generations, &name, number)?,
    };
    let wish = |_: &crate::fold::View| {
        let wanted = Wanted::Policy((*version.policy).clone());
        Ok(vec![Operation { wanted, expect: write::expect(request.revision) }])
    };
    let (made, result) = write::make(replica, &manner, &write::named, wish).await?;
    let policy = made.plan.candidate.policy(&name);
    let sight = manner.caller.reach.sight(&made.plan.candidate);
    let policy = policy.map(|policy| show::policy(&show::users(&made.plan.candidate, &sight), policy));
    Ok(v1::PolicyChange { policy, result: Some(result) })
}

#[cfg(test)]
mod tests {
    use domain::document::{Document, Pointer};
    use domain::{KindName, Timestamp};
    use serde_json::{Value, json};

    use super::*;

    fn policy(number: u64, document: Value, locks: &[&str]) -> Arc<Policy> {
        Arc::new(Policy {
            name: PolicyName::new("p").unwrap(),
            kind: KindName::new("k").unwrap(),
            document: Document::new(document).unwrap(),
            locks: Locks::new(locks.iter().map(|lock| Pointer::new(lock).unwrap()).collect()).unwrap(),
            generation: number,
            manager: None,
        })
    }

    fn generation(number: u64, document: Option<Value>) -> Generation {
        Generation {
            number,
            revision: Revision(number * 10),
            change: ChangeInfo {
                id: "c".parse().unwrap(),
                actor: "ana".into(),
                message: String::new(),
                time: Timestamp(1000),
                trace_id: Some([1; 16]),
            },
            policy: document.map(|document| policy(number, document, &[])),
        }
    }

    #[test]
    fn the_version_before_passes_over_deletions() {
        let name = PolicyName::new("p").unwrap();
        let all = [
            generation(3, Some(json!({"a": 1}))),
            generation(4, None),
            generation(5, Some(json!({"a": 2, "b": 1}))),
        ];
        let number =
            |version: Result<Version, Status>| version.map(|v| v.policy.generation).map_err(|e| e.code());
        assert_eq!(number(before(&all, &name, 5)), Ok(3));
        assert_eq!(number(before(&all, &name, u64::MAX)), Ok(5));
        assert_eq!(number(before(&all, &name, 3)), Err(tonic::Code::NotFound));
        assert_eq!(number(find(&all, &name, 4)), Err(tonic::Code::NotFound));
        assert_eq!(number(find(&all, &name, 3)), Ok(3));
        let shown: Vec<(u64, bool, u32)> = (0..3)
            .map(|index: usize| show_generation(index.checked_sub(1).map(|i| &all[i]), &all[index]))
            .map(|shown| (shown.generation, shown.deleted, shown.values_changed))
            .collect();
        assert_eq!(shown, [(3, false, 1), (4, true, 1), (5, false, 2)]);
    }

    #[test]
    fn versions_differ_in_values_and_locks() {
        let older = policy(1, json!({"a": 1, "b": {"c": true}}), &["/a", "/b"]);
        let newer = policy(4, json!({"a": 1, "b": {"d": 2}}), &["/b", "/z"]);
        let got = compare(&older, &newer);
        let pointers: Vec<&str> = got.changes.iter().map(|change| change.pointer.as_str()).collect();
        assert_eq!((got.from, got.to, pointers), (1, 4, vec!["/b/c", "/b/d"]));
        assert_eq!((got.locks_added, got.locks_removed), (vec!["/z".to_owned()], vec!["/a".to_owned()]));
    }
}
