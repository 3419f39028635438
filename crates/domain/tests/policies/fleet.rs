//! A fleet in memory: objects are written as JSON, changes go through the planner.

use std::collections::{BTreeMap, BTreeSet};

use domain::catalog::{Catalog, Group, Kind, Labels, Locks, ObjectKey, Policy, Token};
use domain::change::{Current, Expect, Operation, Plan, Refusal, Wanted, plan};
use domain::compile::Compiled;
use domain::document::{Document, Pointer};
use domain::schema::Schema;
use domain::{
    Digest, GroupId, GroupPath, KindName, Mode, PolicyName, SettingsOverlay, Span, Timestamp, TokenId,
};
use serde_json::Value;

pub(crate) struct Fleet {
    pub(crate) catalog: Catalog,
    pub(crate) compiled: Compiled,
    pub(crate) agents: BTreeMap<GroupId, u64>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let catalog = Catalog::new();
        let (compiled, problems) = Compiled::full(&catalog);
        assert!(problems.is_empty());
        Self { catalog, compiled, agents: BTreeMap::new() }
    }

    /// A fleet with these objects.
    pub(crate) fn with(objects: &[Value]) -> Self {
        let mut fleet = Self::new();
        fleet.apply(objects).unwrap();
        fleet
    }

    pub(crate) fn current(&self) -> Current<'_> {
        Current { catalog: &self.catalog, compiled: &self.compiled, agents: &self.agents }
    }

    pub(crate) fn plan(&self, objects: &[Value]) -> Result<Plan, Refusal> {
        plan(self.current(), objects.iter().map(operation).collect())
    }

    /// Plans and folds, as a service does after its commit.
    pub(crate) fn apply(&mut self, objects: &[Value]) -> Result<usize, Refusal> {
        let plan = self.plan(objects)?;
        let visited = plan.recompiled.visited();
        self.catalog = plan.candidate;
        self.compiled.adopt(plan.recompiled);
        Ok(visited)
    }

    pub(crate) fn document(&self, id: &str, kind: &str) -> Option<Value> {
        let effective = self.compiled.effective(&group_id(id))?;
        Some(effective.kinds().get(&KindName::new(kind).unwrap())?.document.value().clone())
    }
}

pub(crate) fn group_id(id: &str) -> GroupId {
    GroupId::new(id).unwrap()
}

fn operation(object: &Value) -> Operation {
    let expect = match &object["expect"] {
        Value::String(text) if text == "absent" => Expect::Absent,
        Value::Number(revision) => Expect::At(domain::Revision(revision.as_u64().unwrap())),
        Value::Null => Expect::Any,
        other => panic!("{other} is not an expectation"),
    };
    Operation { wanted: wanted(object), expect }
}

fn wanted(object: &Value) -> Wanted {
    let text = |field: &str| object[field].as_str().unwrap_or_else(|| panic!("{object} needs {field}"));
    if object["group"].is_string() {
        return Wanted::Group(group(object, text("group")));
    }
    if object["policy"].is_string() {
        let locks: BTreeSet<Pointer> =
            strings(&object["locks"]).map(|lock| Pointer::new(lock).unwrap()).collect();
        return Wanted::Policy(Policy {
            name: PolicyName::new(text("policy")).unwrap(),
            kind: KindName::new(text("of")).unwrap(),
            document: Document::new(object["document"].clone()).unwrap(),
            locks: Locks::new(locks).unwrap(),
            generation: 0,
        });
    }
    if object["kind"].is_string() {
        let name = KindName::new(text("kind")).unwrap();
        return Wanted::Kind(Kind { name, schema: Schema::new(object["schema"].clone()).unwrap() });
    }
    if object["token"].is_string() {
        return Wanted::Token(Token {
            id: TokenId::new(text("token")).unwrap(),
            group: group_id(text("in")),
            uses: 1,
            created_at: Timestamp(0),
            expires_at: Timestamp(1),
            secret_digest: Digest::default(),
        });
    }
    let (what, name) = text("delete").split_once(' ').unwrap();
    Wanted::Deleted(match what {
        "group" => ObjectKey::Group(group_id(name)),
        "kind" => ObjectKey::Kind(KindName::new(name).unwrap()),
        "policy" => ObjectKey::Policy(PolicyName::new(name).unwrap()),
        "token" => ObjectKey::Token(TokenId::new(name).unwrap()),
        other => panic!("{other} cannot be deleted"),
    })
}

fn group(object: &Value, id: &str) -> Group {
    let span = |field: &str| object[field].as_u64().map(Span::from_secs);
    Group {
        id: group_id(id),
        path: GroupPath::new(object["at"].as_str().unwrap()).unwrap(),
        settings: SettingsOverlay {
            mode: object["mode"].as_str().map(|mode| if mode == "push" { Mode::Push } else { Mode::Pull }),
            heartbeat_interval: span("interval"),
            offline_after: span("offline"),
            ..SettingsOverlay::default()
        },
        policies: strings(&object["policies"]).map(|name| PolicyName::new(name).unwrap()).collect(),
        content: std::collections::BTreeMap::new(),
        labels: Labels::new(strings(&object["labels"]).map(|l| (l.to_owned(), String::new())).collect())
            .unwrap(),
    }
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().unwrap())
}
