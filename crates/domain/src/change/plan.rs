//! The planner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::structure::Structure;
use super::{Action, Current, Expect, MAX_ENTRIES, Operation, Refusal, Violation, Wanted, entry};
use crate::catalog::{Catalog, Entry, Group, ObjectKey, root_id};
use crate::compile::Recompiled;
use crate::id::GroupId;
use crate::path::GroupPath;
use crate::revision::Revision;

/// A group that gets a new snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The group.
    pub group: GroupId,
    /// Its place after the change.
    pub path: GroupPath,
    /// How many agents are in it.
    pub agents: u64,
}

/// A change that breaks no rule.
#[derive(Debug)]
pub struct Plan {
    /// What to write, in one atomic batch, in this order. Empty if all is as wanted already.
    pub entries: Vec<Entry>,
    /// What happens to each object named in the change, and to groups that move with theirs.
    pub objects: Vec<(ObjectKey, Action)>,
    /// Groups that get a new snapshot, in order of path.
    pub touched: Vec<Touched>,
    /// The catalogue after the change, if nobody else writes in between.
    pub candidate: Catalog,
    /// What the compiler found.
    pub recompiled: Recompiled,
}

impl Plan {
    /// How many agents are in the groups that get a new snapshot.
    #[must_use]
    pub fn agents_touched(&self) -> u64 {
        self.touched.iter().map(|touched| touched.agents).sum()
    }
}

/// Plans a change. The order of the operations has no meaning.
///
/// # Errors
/// [`Refusal`] lists every rule that the change breaks; then nothing of it may be written.
pub fn plan(current: Current<'_>, mut operations: Vec<Operation>) -> Result<Plan, Refusal> {
    operations.sort_by_key(|operation| operation.wanted.key());
    let mut violations = Vec::new();
    if operations.len() > MAX_ENTRIES {
        violations.push(Violation::TooManyEntries(operations.len()));
        return Err(Refusal::new(violations, 0));
    }
    check_operations(current.catalog, &operations, &mut violations);
    moved_along(current.catalog, &mut operations, &mut violations);
    let mut objects = Vec::new();
    let mut entries = Vec::new();
    for Operation { wanted, .. } in &operations {
        let (action, written) = entry(current.catalog, wanted);
        objects.push((wanted.key(), action));
        entries.extend(written);
    }
    if entries.len() > MAX_ENTRIES {
        violations.push(Violation::TooManyEntries(entries.len()));
        return Err(Refusal::new(violations, 0));
    }
    let mut candidate = current.catalog.clone();
    let revision = Revision(current.catalog.revision().0 + entries.len() as u64);
    candidate.fold(entries.iter().cloned(), revision);
    let structure = Structure { current, candidate: &candidate, entries: &entries };
    let tree_holds = structure.check(&mut violations);
    let keys: Vec<ObjectKey> = entries.iter().map(Entry::key).collect();
    // What a broken tree compiles to says nothing.
    let keys = if tree_holds { keys } else { Vec::new() };
    let recompiled = current.compiled.recompile(current.catalog, &candidate, &keys);
    let problems = recompiled.problems();
    violations.extend(problems.listed().iter().cloned().map(Violation::Problem));
    if !violations.is_empty() {
        return Err(Refusal::new(violations, problems.total() - problems.listed().len()));
    }
    let touched = touched(current, &candidate, &recompiled);
    Ok(Plan { entries, objects, touched, candidate, recompiled })
}

fn check_operations(catalog: &Catalog, operations: &[Operation], violations: &mut Vec<Violation>) {
    for pair in operations.windows(2) {
        if let [first, second] = pair
            && first.wanted.key() == second.wanted.key()
        {
            violations.push(Violation::Duplicate(first.wanted.key()));
        }
    }
    for Operation { wanted, expect } in operations {
        let key = wanted.key();
        let found = catalog.revision_of(&key);
        match (expect, found) {
            (Expect::Absent, Some(_)) => violations.push(Violation::Exists(key)),
            (Expect::At(expected), Some(found)) if *expected != found => {
                violations.push(Violation::Stale { key, expected: *expected, found });
            }
            (Expect::At(_), None) => violations.push(Violation::Missing(key)),
            (Expect::Any, None) if matches!(wanted, Wanted::Deleted(_)) => {
                violations.push(Violation::Missing(key));
            }
            (Expect::Any | Expect::At(_), Some(_)) | (Expect::Any | Expect::Absent, None) => {}
        }
        match wanted {
            Wanted::Deleted(ObjectKey::Group(id)) if *id == root_id() => {
                violations.push(Violation::RootDeleted);
            }
            Wanted::Group(group) if (group.id == root_id()) != group.path.is_root() => {
                violations.push(Violation::RootMoved(group.id.clone()));
            }
            Wanted::Policy(policy) => {
                let before = catalog.policy(&policy.name).filter(|b| b.value.kind != policy.kind);
                violations.extend(before.map(|before| Violation::KindFixed {
                    policy: policy.name.clone(),
                    kind: before.value.kind.clone(),
                }));
            }
            Wanted::Group(_)
            | Wanted::Kind(_)
            | Wanted::Token(_)
            | Wanted::Epoch(_)
            | Wanted::Channel(_)
            | Wanted::Content(_)
            | Wanted::Uploads(_)
            | Wanted::Sweep(_)
            | Wanted::Deleted(_) => {}
        }
    }
}

/// Adds the groups that move because one above them does, unless the change names them itself.
fn moved_along(catalog: &Catalog, operations: &mut Vec<Operation>, violations: &mut Vec<Violation>) {
    let mut moves: BTreeMap<GroupPath, GroupPath> = BTreeMap::new();
    let mut named: BTreeSet<GroupId> = BTreeSet::new();
    for operation in operations.iter() {
        let ObjectKey::Group(id) = operation.wanted.key() else { continue };
        if let (Wanted::Group(group), Some(before)) = (&operation.wanted, catalog.group(&id))
            && before.value.path != group.path
            && !before.value.path.is_root()
        {
            moves.insert(before.value.path.clone(), group.path.clone());
        }
        named.insert(id);
    }
    let mut along: BTreeMap<GroupId, Group> = BTreeMap::new();
    for from in moves.keys() {
        for group in catalog.subtree(from) {
            let group = &*group.value;
            if named.contains(&group.id) || along.contains_key(&group.id) {
                continue;
            }
            let nearest = std::iter::successors(group.path.parent(), GroupPath::parent)
                .find_map(|above| moves.get(&above).map(|to| (above, to)));
            let Some((from, to)) = nearest else { continue };
            match group.path.rebased(&from, to) {
                Some(path) => {
                    along.insert(group.id.clone(), Group { path, ..group.clone() });
                }
                None => violations.push(Violation::TooDeep { group: group.id.clone() }),
            }
        }
    }
    operations.extend(along.into_values().map(|group| Operation::from(Wanted::Group(group))));
    operations.sort_by_key(|operation| operation.wanted.key());
}

fn touched(current: Current<'_>, candidate: &Catalog, recompiled: &Recompiled) -> Vec<Touched> {
    let mut touched: Vec<Touched> = recompiled
        .updated()
        .iter()
        .filter(|(id, effective)| {
            let before = current.compiled.effective(id);
            before
                .is_none_or(|before| !Arc::ptr_eq(before, effective) && before.digest() != effective.digest())
        })
        .filter_map(|(id, _)| {
            let path = candidate.group(id)?.value.path.clone();
            let agents = current.agents.get(id).copied().unwrap_or(0);
            Some(Touched { group: id.clone(), path, agents })
        })
        .collect();
    touched.sort_by(|a, b| a.path.cmp(&b.path));
    touched
}
