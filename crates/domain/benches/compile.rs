//! Changes in a fleet of 10,000 groups: plan, compile, validate.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panic")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use domain::catalog::{
    Catalog, Channel, Entry, Group, Kind, Locks, Note, ObjectKey, Policy, RevisionLabel, StoredRevision,
    root_id,
};
use domain::change::{Current, Operation, Wanted, plan};
use domain::compile::Compiled;
use domain::content::{ChannelName, ContentPointer, ContentRevision, StageName};
use domain::document::Document;
use domain::schema::Schema;
use domain::{Digest, GroupId, GroupPath, KindName, PolicyName, Revision, Timestamp};
use serde_json::{Value, json};

/// 100 groups of 100, all below the root.
const OUTER: usize = 100;
const INNER: usize = 100;

fn policy(name: &str, document: Value) -> Policy {
    Policy {
        name: PolicyName::new(name).unwrap(),
        kind: KindName::new("firewall").unwrap(),
        document: Document::new(document).unwrap(),
        locks: Locks::default(),
        generation: 1,
        manager: None,
    }
}

/// About 1 KiB: forty rules.
fn base(action: &str) -> Value {
    let rules: BTreeMap<String, &str> = (0..40).map(|n| (format!("service-{n:02}"), action)).collect();
    json!({"rules": rules, "log": true})
}

/// Every inner group assigns a policy of its own if `own`, else it inherits all.
fn fleet(own: bool) -> Catalog {
    let schema = json!({
        "type": "object", "required": ["rules"],
        "properties": {"rules": {"type": "object", "additionalProperties": {"enum": ["allow", "deny"]}}}
    });
    let schema = Schema::new(schema).unwrap();
    let kind = Kind { name: KindName::new("firewall").unwrap(), schema, manager: None };
    let mut entries = vec![
        Entry::Kind(Arc::new(kind)),
        Entry::Policy(Arc::new(policy("base", base("deny")))),
        Entry::Group(Arc::new(Group {
            policies: [PolicyName::new("base").unwrap()].into(),
            ..Group::root()
        })),
    ];
    for outer in 0..OUTER {
        let path = format!("/outer-{outer}");
        let id = GroupId::new(format!("o{outer}")).unwrap();
        entries.push(Entry::Group(Arc::new(Group::new(id, GroupPath::new(&path).unwrap()))));
        for inner in 0..INNER {
            let name = format!("p-{outer}-{inner}");
            let id = GroupId::new(format!("g-{outer}-{inner}")).unwrap();
            let mut group = Group::new(id, GroupPath::new(format!("{path}/inner-{inner}")).unwrap());
            if own {
                entries.push(Entry::Policy(Arc::new(policy(&name, json!({"rules": {&name: "allow"}})))));
                group.policies.insert(PolicyName::new(&name).unwrap());
            }
            entries.push(Entry::Group(Arc::new(group)));
        }
    }
    let mut catalog = Catalog::new();
    catalog.fold(entries, Revision(1));
    catalog
}

fn root_change(c: &mut Criterion) {
    let agents = BTreeMap::new();
    for (name, own) in [("inherited", false), ("own_policy_each", true)] {
        let catalog = fleet(own);
        let (compiled, problems) = Compiled::full(&catalog);
        assert!(problems.is_empty(), "{problems:?}");
        let current = Current { catalog: &catalog, compiled: &compiled, agents: &agents };
        let wanted = Wanted::Policy(policy("base", base("allow")));
        c.bench_function(&format!("compile/root_change/10000_groups/{name}"), |b| {
            b.iter_batched(
                || vec![Operation::from(wanted.clone())],
                |operations| {
                    let plan = plan(current, operations).unwrap();
                    assert_eq!(plan.touched.len(), OUTER * INNER + OUTER + 1);
                    black_box(plan)
                },
                BatchSize::PerIteration,
            );
        });
        c.bench_function(&format!("compile/full/10000_groups/{name}"), |b| {
            b.iter(|| black_box(Compiled::full(&catalog)));
        });
    }
    let catalog = fleet(true);
    let (compiled, _) = Compiled::full(&catalog);
    let leaf = [ObjectKey::Group(GroupId::new("g-50-50").unwrap())];
    c.bench_function("compile/leaf_change/10000_groups", |b| {
        b.iter(|| black_box(compiled.recompile(&catalog, &catalog, &leaf)));
    });
    assert!(compiled.effective(&root_id()).is_some());
}

/// Ninety revisions of a channel. The inner groups of one outer group follow it in one fleet, all of them in the
/// other.
fn promote(c: &mut Criterion) {
    let agents = BTreeMap::new();
    let channel = ChannelName::new("definitions/ips").unwrap();
    let stage = StageName::new("stable").unwrap();
    let revision = |number: u32| {
        Entry::Content(Arc::new(StoredRevision {
            channel: channel.clone(),
            number: ContentRevision(number),
            manifest: Digest::of(&number.to_be_bytes()),
            manifest_bytes: 100_000,
            content_bytes: 100_000_000,
            digest: Digest::default(),
            files: 10,
            created_at: Timestamp(0),
            label: RevisionLabel::default(),
            note: Note::default(),
            pinned: false,
        }))
    };
    for (name, followers) in [("100_followers", 1), ("10000_followers", OUTER)] {
        let mut catalog = fleet(true);
        let last = Channel { last_revision: ContentRevision(90), ..Channel::new(channel.clone()) };
        let last = last.promoted(&stage, ContentRevision(89));
        let mut entries: Vec<Entry> = (1..=90).map(revision).collect();
        entries.push(Entry::Channel(Arc::new(last.clone())));
        for group in catalog.groups().filter(|group| group.value.path.segments().count() == 2) {
            let mut group = (*group.value).clone();
            let outer: usize = group.id.as_str().split('-').nth(1).unwrap().parse().unwrap();
            if outer < followers {
                group.content.insert(channel.clone(), ContentPointer::Stage(stage.clone()));
                entries.push(Entry::Group(Arc::new(group)));
            }
        }
        catalog.fold(entries, Revision(2));
        let (compiled, _) = Compiled::full(&catalog);
        let current = Current { catalog: &catalog, compiled: &compiled, agents: &agents };
        let wanted = Wanted::Channel(last.promoted(&stage, ContentRevision(90)));
        c.bench_function(&format!("compile/promote/10000_groups/{name}"), |b| {
            b.iter(|| {
                let plan = plan(current, vec![wanted.clone().into()]).unwrap();
                assert_eq!(plan.touched.len(), followers * INNER);
                black_box(plan)
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = root_change, promote
}
criterion_main!(benches);
