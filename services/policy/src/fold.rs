//! The fold of the store's log: the catalogue, what it compiles to, and since when each group is as it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::catalog::{Catalog, Entry};
use domain::compile::Compiled;
use domain::{Cursor, GroupId, Revision};
use runtime::store::{Change, LogEvent};
use runtime::telemetry::spans;
use runtime::{Condition, Shutdown};
use wire::trace::TraceParent;

use crate::replica::{Gone, Replica};

/// The catalogue at one revision and what it compiles to. Never changes: who holds one sees one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) compiled: Arc<Compiled>,
    since: Arc<BTreeMap<GroupId, Since>>,
}

/// Which change made the content of a group what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since {
    /// Its revision; a later one if this replica started after it.
    pub(crate) revision: Revision,
    /// W3C trace id of the change; zero if unknown.
    pub(crate) trace_id: [u8; 16],
    /// The span that stored it.
    pub(crate) place: Option<TraceParent>,
}

/// The trace of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    /// Its id; zero if unknown.
    pub(crate) id: [u8; 16],
    /// The span that stored the change.
    pub(crate) place: Option<TraceParent>,
}

impl View {
    pub(crate) fn revision(&self) -> Revision {
        self.catalog.revision()
    }

    /// Epoch and revision of the catalogue.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor { epoch: self.catalog.epoch(), revision: self.catalog.revision() }
    }

    pub(crate) fn since(&self, group: &GroupId) -> Option<Since> {
        self.since.get(group).copied()
    }
}

/// Groups whose heads have to be looked at after a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Affected {
    /// These.
    Groups(Vec<GroupId>),
    /// All of them: the epoch rose, or this is the first change.
    All,
}

/// The fold.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    view: View,
    loaded: bool,
}

impl Fold {
    /// Takes a change. Before [`Fold::loaded`] nothing is compiled.
    pub(crate) fn change(&mut self, entries: Vec<Entry>, revision: Revision, trace: Trace) -> Affected {
        let since_now = Since { revision, trace_id: trace.id, place: trace.place };
        if !self.loaded {
            Arc::make_mut(&mut self.view.catalog).fold(entries, revision);
            return Affected::Groups(Vec::new());
        }
        let keys: Vec<_> = entries.iter().map(Entry::key).collect();
        let before = Arc::clone(&self.view.catalog);
        Arc::make_mut(&mut self.view.catalog).fold(entries, revision);
        let after = &self.view.catalog;
        let recompiled = self.view.compiled.recompile(&before, after, &keys);
        if !recompiled.problems().is_empty() {
            let (first, total) = (recompiled.problems().listed().first(), recompiled.problems().total());
            let first = first.map(ToString::to_string);
            tracing::warn!(revision = revision.0, total, first, "the store holds what this version refuses");
        }
        let mut affected: Vec<GroupId> = recompiled.removed().iter().cloned().collect();
        let since = Arc::make_mut(&mut self.view.since);
        for group in &affected {
            since.remove(group);
        }
        for (group, content) in recompiled.updated() {
            let old = self.view.compiled.effective(group);
            if old.is_none_or(|old| old.digest() != content.digest()) {
                since.insert(group.clone(), since_now);
                affected.push(group.clone());
            }
        }
        let place = |catalog: &Catalog, id: &GroupId| catalog.group(id).map(|group| group.value.path.clone());
        for key in keys {
            if let domain::catalog::ObjectKey::Group(id) = key
                && place(&before, &id) != place(after, &id)
            {
                affected.push(id);
            }
        }
        affected.sort();
        affected.dedup();
        let epoch_rose = before.epoch() != after.epoch();
        // Before the first change nothing has a revision: 0 means "none yet" to agents.
        let is_first = before.revision() == Revision(0);
        if is_first {
            since.values_mut().for_each(|since| *since = since_now);
        }
        Arc::make_mut(&mut self.view.compiled).adopt(recompiled);
        if epoch_rose || is_first { Affected::All } else { Affected::Groups(affected) }
    }

    /// Everything that was in the log has been taken: compiles it. Which change made a group what it is, is
    /// not known any more; that it was none after `revision` is.
    pub(crate) fn loaded(&mut self, revision: Revision) {
        let catalog = Arc::make_mut(&mut self.view.catalog);
        catalog.fold([], revision);
        let (compiled, problems) = Compiled::full(catalog);
        if !problems.is_empty() {
            let first = problems.listed().first().map(ToString::to_string);
            tracing::warn!(total = problems.total(), first, "the store holds what this version refuses");
        }
        let since = Since { revision, trace_id: [0; 16], place: None };
        self.view.since = Arc::new(compiled.all().map(|(group, _)| (group.clone(), since)).collect());
        self.view.compiled = Arc::new(compiled);
        self.loaded = true;
    }

    /// What has been folded; `None` before it is loaded.
    pub(crate) fn view(&self) -> Option<Arc<View>> {
        self.loaded.then(|| Arc::new(self.view.clone()))
    }
}

/// Reads the entries of a change. One that cannot be read is passed over: it was written by a version that
/// knows more, or by something else, and the rest of the fleet must go on.
fn entries(change: Change) -> Vec<Entry> {
    let read = |entry: runtime::store::Entry| match wire::catalog::read(&entry.key, &entry.body) {
        Ok(read) => Some(read),
        Err(error) => {
            let (subject, error) = (entry.key.subject(), runtime::log::chain(&error));
            tracing::error!(%subject, error, "an entry of the store cannot be read: passing over it");
            None
        }
    };
    change.entries.into_iter().filter_map(read).collect()
}

/// Takes a change that was just stored, as a part of its trace. What was in the log before the start is no part of any.
fn compile(fold: &mut Fold, change: Change, trace: Trace) -> Affected {
    let revision = change.revision;
    if !fold.loaded || trace.place.is_none() {
        return fold.change(entries(change), revision, trace);
    }
    let span = spans::work_after("compile", trace.place);
    spans::revision(&span, revision);
    let place = spans::place(&span).or(trace.place);
    let affected = span.in_scope(|| fold.change(entries(change), revision, Trace { place, ..trace }));
    if let Affected::Groups(groups) = &affected {
        spans::groups(&span, groups.len());
    }
    affected
}

/// Follows the log until the shutdown.
pub(crate) async fn follow(replica: &Replica, ready: Condition, shutdown: &Shutdown) -> Result<(), Gone> {
    let mut fold = Fold::default();
    let mut log = replica.log.follow();
    let mut stopped = std::pin::pin!(replica.stopped(shutdown));
    loop {
        let event = tokio::select! {
            event = log.next() => event.ok_or(Gone("the store's log"))?,
            () = &mut stopped => return Ok(()),
        };
        match event {
            LogEvent::Change(change) => {
                let (info, revision) = (change.info.clone(), change.revision);
                let own = info.as_ref().is_some_and(|info| replica.own.forget(&info.id));
                let id = info.and_then(|info| info.trace_id).unwrap_or_default();
                let trace = Trace { id, place: change.place };
                let affected = compile(&mut fold, change, trace);
                tracing::debug!(revision = revision.0, own, ?affected, "folded a change");
                if let Some(view) = fold.view() {
                    replica.show(view, affected, own);
                }
            }
            LogEvent::Loaded(revision) => {
                fold.loaded(revision);
                let view = fold.view().expect("invariant: the fold has just been loaded");
                tracing::info!(
                    revision = revision.0,
                    groups = view.catalog.group_count(),
                    "loaded the catalogue"
                );
                replica.compare_epochs.store(true, Ordering::Release);
                replica.show(view, Affected::All, true);
                ready.set_ready();
            }
            LogEvent::Reset => {
                tracing::warn!("the store of record went back or was made again: loading it anew");
                ready.set_not_ready("is loading the catalogue");
                fold = Fold::default();
                replica.hide();
            }
            LogEvent::Missing => {
                tracing::error!("the store of record is gone: restore the stream POLICY from a backup");
                ready.set_not_ready("has no store of record");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use domain::catalog::{Group, Kind, Locks, ObjectKey, Policy};
    use domain::document::Document;
    use domain::schema::Schema;
    use domain::{Epoch, GroupPath, KindName, PolicyName};
    use serde_json::json;

    use super::*;

    fn group(id: &str, path: &str, policies: &[&str]) -> Entry {
        let policies: BTreeSet<PolicyName> = policies.iter().map(|p| PolicyName::new(p).unwrap()).collect();
        let group = Group::new(GroupId::new(id).unwrap(), GroupPath::new(path).unwrap());
        Entry::Group(Arc::new(Group { policies, ..group }))
    }

    fn policy(name: &str, value: u32) -> Entry {
        Entry::Policy(Arc::new(Policy {
            name: PolicyName::new(name).unwrap(),
            kind: KindName::new("k").unwrap(),
            document: Document::new(json!({"v": value})).unwrap(),
            locks: Locks::default(),
            generation: 1,
            manager: None,
        }))
    }

    fn trace(id: u8) -> Trace {
        Trace { id: [id; 16], place: None }
    }

    fn loaded() -> Fold {
        let schema = Schema::new(json!({})).unwrap();
        let kind = Kind { name: KindName::new("k").unwrap(), schema, manager: None };
        let mut fold = Fold::default();
        let entries = vec![
            Entry::Kind(Arc::new(kind)),
            policy("p", 1),
            group("a", "/a", &["p"]),
            group("b", "/a/b", &[]),
            group("c", "/c", &[]),
        ];
        assert_eq!(fold.change(entries, Revision(5), trace(0)), Affected::Groups(vec![]));
        assert!(fold.view().is_none());
        fold.loaded(Revision(6));
        fold
    }

    fn ids(text: &[&str]) -> Affected {
        Affected::Groups(text.iter().map(|id| GroupId::new(id).unwrap()).collect())
    }

    #[test]
    fn a_change_affects_the_groups_whose_digest_or_place_it_changes() {
        let gone =
            |id: &str| Entry::Deleted { key: ObjectKey::Group(GroupId::new(id).unwrap()), generation: 0 };
        for (entries, expected) in [
            (vec![policy("p", 2)], ids(&["a", "b"])),
            (vec![policy("p", 1)], ids(&[])),
            (vec![group("b", "/c/b", &[])], ids(&["b"])),
            (vec![gone("c")], ids(&["c"])),
            (vec![group("d", "/c/d", &["p"])], ids(&["d"])),
            (vec![Entry::Epoch(Epoch(2))], Affected::All),
        ] {
            assert_eq!(loaded().change(entries, Revision(7), trace(1)), expected);
        }
    }

    #[test]
    fn since_names_the_change_that_altered_the_digest() {
        let mut fold = loaded();
        fold.change(vec![policy("p", 2)], Revision(7), trace(1));
        fold.change(vec![policy("p", 2)], Revision(8), trace(2));
        fold.change(vec![group("b", "/c/b", &["p"])], Revision(9), trace(3));
        let view = fold.view().unwrap();
        let since = |id: &str| view.since(&GroupId::new(id).unwrap()).map(|s| (s.revision.0, s.trace_id[0]));
        assert_eq!([since("a"), since("b"), since("c")], [Some((7, 1)), Some((7, 1)), Some((6, 0))]);
        assert_eq!(view.revision(), Revision(9));
    }

    #[test]
    fn the_first_change_gives_every_group_a_revision() {
        let mut fold = Fold::default();
        fold.loaded(Revision(0));
        assert_eq!(fold.change(vec![Entry::Epoch(Epoch(1))], Revision(1), trace(0)), Affected::All);
        let root = fold.view().unwrap().since(&GroupId::new("root").unwrap()).unwrap();
        assert_eq!(root.revision, Revision(1));
    }

    #[test]
    fn a_view_stays_as_it_was() {
        let mut fold = loaded();
        let before = fold.view().unwrap();
        let digest = before.compiled.effective(&GroupId::new("a").unwrap()).unwrap().digest();
        fold.change(vec![policy("p", 2)], Revision(7), trace(0));
        assert_eq!(before.revision(), Revision(6));
        assert_eq!(before.compiled.effective(&GroupId::new("a").unwrap()).unwrap().digest(), digest);
    }
}
