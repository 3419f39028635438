//! What has to be done: wanted, as it stands in Kubernetes, against what the fleet has. A complete plan, which the shell
//! carries out without choices of its own.

use std::collections::{BTreeMap, BTreeSet};

use wire::api::v1;
use wire::api::v1::resource::Resource as Any;

use crate::fleet::Fleet;
use crate::object::{Key, Kind, Object};

/// Most objects of one change, as the API takes them.
pub(crate) const MAX_BATCH: usize = 1_000;
/// Most bytes of one change: what the API takes, with room for the rest of the request.
const MAX_BATCH_BYTES: usize = 6 << 20;

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Objects that must wait for us at their end, before anything is made for them.
    pub(crate) hold: Vec<Key>,
    /// Objects that say nothing usable, and why.
    pub(crate) wrong: Vec<(Key, String)>,
    /// Changes of the fleet.
    pub(crate) batches: Vec<Batch>,
    /// What ends in Kubernetes and stays in the fleet, without our mark.
    pub(crate) let_go: Vec<(Key, v1::Resource)>,
    /// What goes away in the fleet.
    pub(crate) delete: Vec<Key>,
    /// Objects that need not wait for us any more.
    pub(crate) release: Vec<Key>,
    /// Objects that are in the fleet as they stand in Kubernetes.
    pub(crate) synced: Vec<Key>,
}

/// One change of the fleet, for one manager.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) manager: String,
    pub(crate) objects: Vec<(Key, v1::Resource)>,
}

/// The mark of what a namespace keeps.
pub(crate) fn mark(prefix: &str, namespace: &str) -> String {
    format!("{prefix}:{namespace}")
}

/// Plans everything but tokens. `prefix` is what our marks begin with.
pub(crate) fn plan(objects: &BTreeMap<Key, Object>, fleet: &Fleet, prefix: &str) -> Plan {
    let mut plan = Plan::default();
    let mut changes: BTreeMap<&str, Vec<(Key, v1::Resource)>> = BTreeMap::new();
    let mut stages: BTreeSet<(String, String)> = BTreeSet::new();
    for (key, object) in objects.iter().filter(|(key, _)| key.kind != Kind::EnrollmentToken) {
        let manager = mark(prefix, &key.namespace);
        if object.deleted {
            if object.held {
                end(&mut plan, (key, object), (fleet, &manager));
            }
            continue;
        }
        let wanted = match object.usable() {
            Ok(wanted) => wanted,
            Err(why) => {
                plan.wrong.push((key.clone(), why.clone()));
                continue;
            }
        };
        if let Some(Any::ContentRelease(release)) = &wanted.resource
            && !stages.insert((release.channel.clone(), release.stage.clone()))
        {
            let why =
                format!("another ContentRelease says what stage {:?} of this channel names", release.stage);
            plan.wrong.push((key.clone(), why));
            continue;
        }
        if !object.held {
            plan.hold.push(key.clone());
        }
        if is_so(wanted, fleet, &manager) {
            plan.synced.push(key.clone());
        } else {
            changes.entry(key.namespace.as_str()).or_default().push((key.clone(), wanted.clone()));
        }
    }
    for (namespace, objects) in changes {
        plan.batches.extend(batches(&mark(prefix, namespace), objects));
    }
    // Groups first, the deepest before those above; then what they used.
    plan.delete.sort_by_key(|key| {
        let depth =
            fleet.groups.get(&key.name).filter(|_| key.kind == Kind::Group).map(|group| group.path.len());
        (std::cmp::Reverse(key.kind), std::cmp::Reverse(depth))
    });
    plan
}

/// What the end of an object means for the fleet. What is not ours stays as it is.
fn end(plan: &mut Plan, (key, object): (&Key, &Object), (fleet, manager): (&Fleet, &str)) {
    let ours = manager_of(key, object, fleet) == Some(manager);
    let is_root =
        key.kind == Kind::Group && fleet.groups.get(&key.name).is_some_and(|group| group.path == "/");
    match (&object.wanted, key.kind) {
        _ if !ours => plan.release.push(key.clone()),
        (Ok(wanted), Kind::ContentRelease) => {
            plan.let_go.push((key.clone(), as_it_is(wanted, fleet)));
        }
        (Ok(_), Kind::Group) if is_root => {
            plan.let_go.push((key.clone(), group_as_it_is(fleet, &key.name)));
        }
        _ => plan.delete.push(key.clone()),
    }
}

/// Who keeps what an object is about, as the fleet knows it.
fn manager_of<'a>(key: &Key, object: &Object, fleet: &'a Fleet) -> Option<&'a str> {
    match key.kind {
        Kind::PolicyKind => fleet.kinds.get(&key.name).map(|kind| kind.manager.as_str()),
        Kind::Policy => fleet.policies.get(&key.name).map(|policy| policy.manager.as_str()),
        Kind::Group => fleet.groups.get(&key.name).map(|group| group.manager.as_str()),
        Kind::ContentRelease => {
            let Ok(v1::Resource { resource: Some(Any::ContentRelease(release)) }) = &object.wanted else {
                return None;
            };
            let stage = fleet.stages.get(&(release.channel.clone(), release.stage.clone()));
            stage.map(|stage| stage.manager.as_str())
        }
        Kind::EnrollmentToken => None,
    }
}

/// A release of what the stage names now.
fn as_it_is(wanted: &v1::Resource, fleet: &Fleet) -> v1::Resource {
    let mut wanted = wanted.clone();
    if let Some(Any::ContentRelease(release)) = &mut wanted.resource {
        let stage = fleet.stages.get(&(release.channel.clone(), release.stage.clone()));
        release.revision = stage.map_or(release.revision, |stage| stage.revision);
    }
    wanted
}

/// A group with what it sets and assigns now.
fn group_as_it_is(fleet: &Fleet, name: &str) -> v1::Resource {
    let group = fleet.groups.get(name).cloned().unwrap_or_default();
    v1::Resource { resource: Some(Any::Group(said(&group))) }
}

/// What a group says, without what only the server knows.
fn said(group: &v1::Group) -> v1::Group {
    let mut said = v1::Group {
        name: group.name.clone(),
        path: group.path.clone(),
        settings: Some(group.settings.unwrap_or_default()),
        policies: group.policies.clone(),
        labels: group.labels.clone(),
        content: group.content.clone(),
        ..v1::Group::default()
    };
    said.policies.sort();
    said.policies.dedup();
    said.content.sort_by(|a, b| a.channel.cmp(&b.channel));
    said
}

/// Whether the fleet has what is wanted, and the mark says whose it is.
pub(crate) fn is_so(wanted: &v1::Resource, fleet: &Fleet, manager: &str) -> bool {
    match &wanted.resource {
        Some(Any::Group(group)) => {
            let there = fleet.groups.get(&group.name);
            there.is_some_and(|there| there.manager == manager && said(there) == said(group))
        }
        Some(Any::Kind(kind)) => {
            let there = fleet.kinds.get(&kind.name);
            there.is_some_and(|there| there.manager == manager && there.schema == kind.schema)
        }
        Some(Any::Policy(policy)) => {
            let locks = |policy: &v1::Policy| policy.locks.iter().cloned().collect::<BTreeSet<String>>();
            let there = fleet.policies.get(&policy.name).filter(|there| there.manager == manager);
            there.is_some_and(|there| {
                (&there.kind, &there.document, locks(there))
                    == (&policy.kind, &policy.document, locks(policy))
            })
        }
        Some(Any::ContentRelease(release)) => {
            let there = fleet.stages.get(&(release.channel.clone(), release.stage.clone()));
            there.is_some_and(|there| there.manager == manager && there.revision == release.revision)
        }
        // Tokens are planned with their Secrets.
        Some(Any::Token(_)) | None => true,
    }
}

/// Changes of a size that the API takes. What others need comes first.
fn batches(manager: &str, mut objects: Vec<(Key, v1::Resource)>) -> Vec<Batch> {
    let path = |resource: &v1::Resource| match &resource.resource {
        Some(Any::Group(group)) => group.path.clone(),
        _ => String::new(),
    };
    objects.sort_by_cached_key(|(key, resource)| (key.kind, path(resource), key.name.clone()));
    let mut batches: Vec<Batch> = Vec::new();
    let mut bytes = 0;
    for (key, resource) in objects {
        bytes += crate::muster::size(&resource);
        match batches.last_mut().filter(|last| last.objects.len() < MAX_BATCH && bytes <= MAX_BATCH_BYTES) {
            Some(last) => last.objects.push((key, resource)),
            None => {
                bytes = crate::muster::size(&resource);
                batches.push(Batch { manager: manager.to_owned(), objects: vec![(key, resource)] });
            }
        }
    }
    batches
}

/// The objects of a change that a refusal blames, by their place in it, with what it says of each. Empty if it blames
/// the change as a whole.
pub(crate) fn blamed(status: &tonic::Status) -> BTreeMap<usize, String> {
    use tonic_types::StatusExt as _;
    let details = status.get_error_details();
    let fields = details.bad_request().map(|it| it.field_violations.clone()).unwrap_or_default();
    let rules = details.precondition_failure().map(|it| it.violations.clone()).unwrap_or_default();
    let said = fields.into_iter().map(|it| (it.field, it.description));
    let said = said.chain(rules.into_iter().map(|it| (it.subject, it.description)));
    let mut blamed: BTreeMap<usize, String> = BTreeMap::new();
    for (field, text) in said {
        let place = field.strip_prefix("resources[").and_then(|rest| rest.split_once(']'));
        let Some(index) = place.and_then(|(index, _)| index.parse().ok()) else { continue };
        let told = blamed.entry(index).or_default();
        if !told.is_empty() {
            told.push_str("; ");
        }
        told.push_str(&text);
    }
    blamed
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::status::tests::object;

    const OURS: &str = "kubernetes:fleet";

    fn manifest(kind: Kind, name: &str, spec: Value) -> v1::Resource {
        let manifest = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": kind.name(), "metadata": { "name": name }, "spec": spec,
        });
        wire::manifest::from_object(&manifest).unwrap()
    }

    fn wanted(kind: Kind, name: &str, spec: Value) -> Object {
        Object { wanted: Ok(manifest(kind, name, spec)), ..object(kind, name) }
    }

    fn policy(name: &str, value: u32) -> Object {
        wanted(Kind::Policy, name, json!({ "kind": "k", "document": { "n": value }, "locks": ["/b", "/a"] }))
    }

    /// A fleet that has what is wanted by these.
    fn fleet(objects: &[Object], manager: &str) -> Fleet {
        let mut fleet = Fleet::default();
        for object in objects {
            let manager = manager.to_owned();
            match object.wanted.clone().unwrap().resource.unwrap() {
                Any::Group(it) => {
                    fleet.groups.insert(it.name.clone(), v1::Group { manager, revision: 3, agents: 7, ..it });
                }
                Any::Kind(it) => {
                    drop(fleet.kinds.insert(it.name.clone(), v1::Kind { manager, revision: 3, ..it }))
                }
                Any::Policy(mut it) => {
                    it.locks.sort();
                    fleet.policies.insert(it.name.clone(), v1::Policy { manager, revision: 3, ..it });
                }
                Any::ContentRelease(it) => {
                    let stage = crate::fleet::Stage { revision: it.revision, manager, store_revision: 3 };
                    fleet.stages.insert((it.channel, it.stage), stage);
                }
                Any::Token(_) => {}
            }
        }
        fleet
    }

    /// A plan in short: one word for what happens to each object.
    fn check(objects: &[Object], fleet: &Fleet, expected: &[&str]) {
        let map = objects.iter().map(|object| (object.key.clone(), object.clone())).collect();
        let Plan { hold, wrong, batches, let_go, delete, release, synced } = plan(&map, fleet, "kubernetes");
        let mut said: Vec<String> = hold.iter().map(|key| format!("hold {}", key.name)).collect();
        said.extend(wrong.iter().map(|(key, why)| format!("wrong {}: {why}", key.name)));
        for batch in batches {
            let names: Vec<&str> = batch.objects.iter().map(|(key, _)| key.name.as_str()).collect();
            said.push(format!("apply {} for {}", names.join(" "), batch.manager));
        }
        said.extend(let_go.iter().map(|(key, _)| format!("let go {}", key.name)));
        said.extend(delete.iter().map(|key| format!("delete {}", key.name)));
        said.extend(release.iter().map(|key| format!("release {}", key.name)));
        said.extend(synced.iter().map(|key| format!("synced {}", key.name)));
        assert_eq!(said, expected);
    }

    fn ended(object: Object) -> Object {
        Object { deleted: true, ..object }
    }

    #[test]
    fn what_differs_is_applied_in_the_order_of_need() {
        let kind = wanted(Kind::PolicyKind, "k", json!({ "schema": { "type": "object" } }));
        let below = wanted(Kind::Group, "a", json!({ "path": "/x/a", "policies": ["p"] }));
        let above = wanted(Kind::Group, "x", json!({ "path": "/x" }));
        let all = [kind, policy("p", 1), below, above];
        check(&all, &Fleet::default(), &["apply k p x a for kubernetes:fleet"]);
        let there = fleet(&all, OURS);
        check(&all, &there, &["synced k", "synced p", "synced a", "synced x"]);
        // Somebody changed it, or it carries no mark or that of another: the API says whether that may be.
        check(&[policy("p", 2)], &there, &["apply p for kubernetes:fleet"]);
        check(&[policy("p", 1)], &fleet(&all, ""), &["apply p for kubernetes:fleet"]);
        let mut moved = there.clone();
        moved.groups.get_mut("a").unwrap().path = "/elsewhere".into();
        check(&all[2..3], &moved, &["apply a for kubernetes:fleet"]);
        let elsewhere =
            Object { key: Key { namespace: "other".into(), ..policy("p", 1).key }, ..policy("p", 1) };
        check(&[elsewhere], &there, &["apply p for kubernetes:other"]);
    }

    #[test]
    fn nothing_is_made_for_what_would_not_wait_at_its_end() {
        let new = Object { held: false, ..policy("p", 1) };
        check(std::slice::from_ref(&new), &Fleet::default(), &["hold p", "apply p for kubernetes:fleet"]);
        check(&[ended(new)], &Fleet::default(), &[]);
    }

    #[test]
    fn what_ends_goes_away_if_it_is_ours() {
        let all = [
            policy("p", 1),
            wanted(Kind::Group, "x", json!({ "path": "/x" })),
            wanted(Kind::Group, "a", json!({ "path": "/x/a" })),
            wanted(Kind::Group, "root", json!({ "path": "/" })),
            wanted(Kind::ContentRelease, "r", json!({ "channel": "c", "stage": "s", "revision": 4 })),
        ];
        let gone: Vec<Object> = all.iter().cloned().map(ended).collect();
        let expected = ["let go r", "let go root", "delete a", "delete x", "delete p"];
        check(&gone, &fleet(&all, OURS), &expected);
        let released = ["release p", "release r", "release a", "release root", "release x"];
        check(&gone, &fleet(&all, "kubernetes:other"), &released);
        check(&gone, &Fleet::default(), &released);
    }

    #[test]
    fn what_cannot_be_read_or_contradicts_itself_is_left_out() {
        let unread = object(Kind::Policy, "bad");
        let release = |name: &str, revision: u32| {
            wanted(Kind::ContentRelease, name, json!({ "channel": "c", "stage": "s", "revision": revision }))
        };
        check(
            &[unread, release("one", 1), release("two", 2), policy("p", 1)],
            &Fleet::default(),
            &[
                "wrong bad: unread",
                "wrong two: another ContentRelease says what stage \"s\" of this channel names",
                "apply p one for kubernetes:fleet",
            ],
        );
        check(&[ended(object(Kind::Policy, "bad"))], &Fleet::default(), &["release bad"]);
        // An annotation is as bad, as long as the object is to stay.
        let annotated = Object { ready_share: Err("not a share".into()), ..release("r", 1) };
        check(std::slice::from_ref(&annotated), &Fleet::default(), &["wrong r: not a share"]);
        check(&[ended(annotated)], &fleet(&[release("r", 1)], OURS), &["let go r"]);
    }

    #[test]
    fn a_change_has_a_size_that_the_api_takes() {
        let many: Vec<_> = (0..2_500).map(|n| policy(&format!("p{n}"), n)).collect();
        let objects = many.iter().map(|it| (it.key.clone(), it.wanted.clone().unwrap())).collect();
        let sizes: Vec<usize> = batches(OURS, objects).iter().map(|batch| batch.objects.len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        let large =
            manifest(Kind::Policy, "l", json!({ "kind": "k", "document": { "t": "x".repeat(200_000) } }));
        let objects = (0..40).map(|n| (policy(&format!("p{n}"), n).key, large.clone())).collect();
        let sizes: Vec<usize> = batches(OURS, objects).iter().map(|batch| batch.objects.len()).collect();
        assert_eq!(sizes, [31, 9]);
    }

    #[test]
    fn a_refusal_names_whom_it_blames() {
        use tonic_types::{ErrorDetails, StatusExt as _};
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("resources[2].policy.document", "is locked");
        details.add_bad_request_violation("resources[2].policy.kind", "is gone");
        details.add_bad_request_violation("message", "is long");
        details.add_precondition_failure_violation("MANAGED", "resources[0].policy", "is managed");
        let status = tonic::Status::with_error_details(tonic::Code::InvalidArgument, "no", details);
        let expected = [(0, "is managed".to_owned()), (2, "is locked; is gone".to_owned())];
        assert_eq!(blamed(&status), expected.into());
        assert!(blamed(&tonic::Status::unavailable("later")).is_empty());
    }
}
