//! A fleet in memory: objects are written as JSON, changes go through the planner.

use std::collections::{BTreeMap, BTreeSet};

use domain::catalog::{
    Catalog, Channel, Group, Kind, Labels, Locks, Note, ObjectKey, Policy, RevisionLabel, Stage,
    StoredRevision, Token,
};
use domain::change::{Current, Expect, Operation, Plan, Refusal, Wanted, plan};
use domain::compile::Compiled;
use domain::content::{ChannelName, ContentPointer, ContentRevision, StageName};
use domain::document::{Document, Pointer};
use domain::enrol::{Approval, HostPattern, Rule, Scope};
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
        plan(self.current(), objects.iter().flat_map(|object| operations(&self.catalog, object)).collect())
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

    /// The content in force for a group: `channel@revision` each.
    pub(crate) fn content(&self, id: &str) -> Vec<String> {
        let effective = self.compiled.effective(&group_id(id)).unwrap();
        effective.targets().map(|(channel, target)| format!("{channel}@{}", target.number)).collect()
    }
}

pub(crate) fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

pub(crate) fn group_id(id: &str) -> GroupId {
    GroupId::new(id).unwrap()
}

/// Most objects are one operation. `push` makes the next revision of a channel, `promote` a stage name one, as
/// services do.
fn operations(catalog: &Catalog, object: &Value) -> Vec<Operation> {
    let of = |name: &Value| {
        let name = channel(name.as_str().unwrap());
        let there = catalog.channel(&name).map(|channel| (*channel.value).clone());
        there.unwrap_or_else(|| Channel::new(name))
    };
    if object["push"].is_string() {
        let channel = of(&object["push"]);
        let number = ContentRevision(catalog.last_content_number(&channel.name).0 + 1);
        let text = format!("{} {number}", channel.name);
        let revision = revision(&text, object);
        let channel = Channel { last_revision: number, ..channel };
        return vec![Wanted::Channel(channel).into(), Wanted::Content(revision).into()];
    }
    if object["promote"].is_string() {
        let channel = of(&object["promote"]);
        let stage = StageName::new(object["stage"].as_str().unwrap()).unwrap();
        return vec![Wanted::Channel(channel.promoted(&stage, number(&object["to"]))).into()];
    }
    vec![operation(object)]
}

fn number(value: &Value) -> ContentRevision {
    ContentRevision(u32::try_from(value.as_u64().unwrap()).unwrap())
}

/// A revision by channel and number; it has the content of that name unless `content` says another.
fn revision(text: &str, object: &Value) -> StoredRevision {
    let (name, number) = text.split_once(' ').unwrap();
    let content = object["content"].as_str().unwrap_or(text);
    StoredRevision {
        channel: channel(name),
        number: ContentRevision(number.parse().unwrap()),
        manifest: Digest::of(content.as_bytes()),
        manifest_bytes: 100,
        content_bytes: 10_000,
        digest: Digest::of(b"content"),
        files: 1,
        created_at: Timestamp(0),
        label: RevisionLabel::new(object["label"].as_str().unwrap_or("")).unwrap(),
        note: Note::default(),
        pinned: object["pinned"] == true,
    }
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

/// `in` is the group of a token, absent: none; `rules` are those of its rules.
fn scope(object: &Value) -> Scope {
    let rule = |group: &str| {
        let pattern = HostPattern::new("*").unwrap();
        Rule::new(BTreeMap::new(), Some(pattern), group_id(group)).unwrap()
    };
    let rules = strings(&object["rules"]).map(rule).collect();
    Scope::new(object["in"].as_str().map(group_id), rules, Approval::None).unwrap()
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
            manager: None,
        });
    }
    if object["revision"].is_string() {
        return Wanted::Content(revision(text("revision"), object));
    }
    if object["channel"].is_string() {
        let names = object["stages"].as_object().into_iter().flatten();
        let stage = |(name, to): (&String, &Value)| {
            let stage = Stage { revision: Some(number(to)), ..Stage::default() };
            (StageName::new(name).unwrap(), stage)
        };
        return Wanted::Channel(Channel {
            stages: names.map(stage).collect(),
            last_revision: number(&object["last"]),
            ..Channel::new(channel(text("channel")))
        });
    }
    if object["kind"].is_string() {
        let name = KindName::new(text("kind")).unwrap();
        let schema = Schema::new(object["schema"].clone()).unwrap();
        return Wanted::Kind(Kind { name, schema, manager: None });
    }
    if object["token"].is_string() {
        return Wanted::Token(Token {
            id: TokenId::new(text("token")).unwrap(),
            scope: scope(object),
            uses: 1,
            created_at: Timestamp(0),
            expires_at: Timestamp(1),
            secret_digest: Digest::default(),
            manager: None,
        });
    }
    let (what, name) = text("delete").split_once(' ').unwrap();
    Wanted::Deleted(match what {
        "group" => ObjectKey::Group(group_id(name)),
        "kind" => ObjectKey::Kind(KindName::new(name).unwrap()),
        "policy" => ObjectKey::Policy(PolicyName::new(name).unwrap()),
        "token" => ObjectKey::Token(TokenId::new(name).unwrap()),
        "channel" => ObjectKey::Channel(channel(name)),
        "revision" => {
            let (name, number) = name.split_once(' ').unwrap();
            ObjectKey::Content(channel(name), ContentRevision(number.parse().unwrap()))
        }
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
            content_spread: span("spread"),
            content_rate_limit: object["rate"].as_u64(),
        },
        policies: strings(&object["policies"]).map(|name| PolicyName::new(name).unwrap()).collect(),
        content: object["content"].as_object().into_iter().flatten().map(pointer).collect(),
        labels: Labels::new(strings(&object["labels"]).map(|l| (l.to_owned(), String::new())).collect())
            .unwrap(),
        manager: None,
    }
}

fn pointer((name, to): (&String, &Value)) -> (ChannelName, ContentPointer) {
    let pointer = match to {
        Value::String(stage) => ContentPointer::Stage(StageName::new(stage).unwrap()),
        to => ContentPointer::Revision(number(to)),
    };
    (channel(name), pointer)
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().unwrap())
}
