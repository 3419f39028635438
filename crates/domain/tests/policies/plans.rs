//! What an accepted change writes and means.

use domain::catalog::{Entry, ObjectKey};
use domain::change::Action;
use domain::document::Pointer;
use domain::explain::{explain, settings_origin};
use domain::{GroupPath, Revision};
use serde_json::{Value, json};

use crate::fleet::{Fleet, group_id};

fn tree() -> Fleet {
    Fleet::with(&[
        json!({"kind": "k", "schema": {}}),
        json!({"policy": "top", "of": "k", "document": {"a": {"x": 1, "y": [1, 2]}, "b": true}, "locks": ["/b"]}),
        json!({"policy": "low", "of": "k", "document": {"a": {"x": 2}, "c": {}}}),
        json!({"group": "root", "at": "/", "policies": ["top"], "mode": "push"}),
        json!({"group": "one", "at": "/one", "policies": ["low"], "interval": 30}),
        json!({"group": "two", "at": "/one/two"}),
        json!({"group": "three", "at": "/one/two/three"}),
        json!({"group": "other", "at": "/other"}),
    ])
}

#[test]
fn moving_a_group_moves_all_below_it() {
    let mut fleet = tree();
    fleet.agents.insert(group_id("three"), 5);
    let plan = fleet.plan(&[json!({"group": "two", "at": "/other/second"})]).unwrap();
    let written: Vec<String> = plan
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::Group(group) => format!("{} {}", group.id, group.path),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(written, ["three /other/second/three", "two /other/second"]);
    assert_eq!(plan.agents_touched(), 5);
    assert_eq!(plan.candidate.revision(), Revision(10));
    fleet.apply(&[json!({"group": "two", "at": "/other/second"})]).unwrap();
    assert_eq!(fleet.document("three", "k"), Some(json!({"a": {"x": 1, "y": [1, 2]}, "b": true})));
    // A child that the change names goes where the change says.
    fleet
        .apply(&[json!({"group": "two", "at": "/two"}), json!({"group": "three", "at": "/other/3"})])
        .unwrap();
    let place = |id: &str| fleet.catalog.group(&group_id(id)).unwrap().value.path.to_string();
    assert_eq!([place("two"), place("three")], ["/two", "/other/3"]);
}

#[test]
fn what_is_as_wanted_is_not_written() {
    let fleet = tree();
    let plan = fleet
        .plan(&[
            json!({"policy": "low", "of": "k", "document": {"c": {}, "a": {"x": 2.0}}}),
            json!({"group": "other", "at": "/other", "labels": ["new"]}),
            json!({"group": "new", "at": "/new"}),
        ])
        .unwrap();
    let actions: Vec<(String, Action)> =
        plan.objects.iter().map(|(key, action)| (key.to_string(), *action)).collect();
    assert_eq!(
        actions,
        [
            ("policy \"low\"".to_owned(), Action::Unchanged),
            ("group \"new\"".to_owned(), Action::Created),
            ("group \"other\"".to_owned(), Action::Updated),
        ]
    );
    assert_eq!(plan.entries.len(), 2);
    // A label touches no snapshot; a new group gets its first.
    let touched: Vec<&str> = plan.touched.iter().map(|touched| touched.group.as_str()).collect();
    assert_eq!(touched, ["new"]);
    assert!(fleet.plan(&[json!({"kind": "k", "schema": {}})]).unwrap().entries.is_empty());
}

#[test]
fn generations_count_every_version_deletions_included() {
    let mut fleet = tree();
    let generation = |fleet: &Fleet| {
        let name = domain::PolicyName::new("p").unwrap();
        fleet.catalog.policy(&name).map(|policy| policy.value.generation)
    };
    let version = |n: u64| json!({"policy": "p", "of": "k", "document": {"n": n}});
    for (change, expected) in [
        (version(1), Some(1)),
        (version(1), Some(1)),
        (version(2), Some(2)),
        (json!({"delete": "policy p"}), None),
        (version(2), Some(4)),
    ] {
        fleet.apply(&[change]).unwrap();
        assert_eq!(generation(&fleet), expected);
    }
}

#[test]
fn an_impact_names_values_and_who_sets_them() {
    let fleet = tree();
    let change = json!({"policy": "top", "of": "k", "document": {"a": {"x": 9, "z": 0}, "b": true}});
    let plan = fleet.plan(&[change]).unwrap();
    let show = |id: &str| -> Vec<String> {
        let impact = plan.impact(fleet.current(), &group_id(id));
        assert_eq!(impact.settings.0, impact.settings.1);
        impact
            .values
            .iter()
            .map(|change| {
                let side = |v: &Option<Value>| v.as_ref().map_or("-".to_owned(), ToString::to_string);
                let source = change.source.as_ref().unwrap();
                let difference = &change.difference;
                format!(
                    "{}{}: {} -> {} by {}@{} of {}",
                    change.kind,
                    difference.pointer,
                    side(&difference.before),
                    side(&difference.after),
                    source.policy,
                    source.generation,
                    source.path
                )
            })
            .collect()
    };
    assert_eq!(
        show("other"),
        ["k/a/x: 1 -> 9 by top@2 of /", "k/a/y: [1,2] -> - by top@1 of /", "k/a/z: - -> 0 by top@2 of /"]
    );
    assert_eq!(show("two"), ["k/a/y: [1,2] -> - by top@1 of /", "k/a/z: - -> 0 by top@2 of /"]);
    assert_eq!(plan.touched.len(), 5);
}

#[test]
fn explanations_name_policy_group_and_lock() {
    let fleet = tree();
    let explained = |pointer: &str| -> Vec<String> {
        let pointer = Pointer::new(pointer).unwrap();
        let all = explain(&fleet.catalog, &group_id("three"), None, &pointer);
        assert_eq!(all.len(), 1);
        all[0]
            .values
            .iter()
            .map(|value| {
                let lock =
                    value.locked_by.as_ref().map_or(String::new(), |by| format!(" locked by {}", by.path));
                let source = &value.source;
                format!("{} = {} by {} of {}{lock}", value.pointer, value.value, source.policy, source.path)
            })
            .collect()
    };
    assert_eq!(
        explained(""),
        [
            "/a/x = 2 by low of /one",
            "/a/y = [1,2] by top of /",
            "/b = true by top of / locked by /",
            "/c = {} by low of /one",
        ]
    );
    assert_eq!(explained("/a"), ["/a/x = 2 by low of /one", "/a/y = [1,2] by top of /"]);
    assert_eq!(explained("/a/y/1"), ["/a/y = [1,2] by top of /"]);
    assert_eq!(explained("/nothing"), [""; 0]);
    let origin = settings_origin(&fleet.catalog, &GroupPath::new("/one/two/three").unwrap());
    let place = |path: &Option<GroupPath>| path.as_ref().map(ToString::to_string);
    assert_eq!(place(&origin.mode), Some("/".to_owned()));
    assert_eq!(place(&origin.heartbeat_interval), Some("/one".to_owned()));
    assert_eq!(place(&origin.offline_after), None);
}

#[test]
fn explanation_and_compiled_document_agree() {
    let fleet = tree();
    for group in fleet.catalog.groups() {
        let id = &group.value.id;
        let all = explain(&fleet.catalog, id, None, &Pointer::root());
        let compiled = fleet.compiled.effective(id).unwrap();
        assert_eq!(all.len(), compiled.kinds().len());
        for explanation in all {
            assert_eq!(explanation.document, *compiled.kinds()[&explanation.kind].document.value());
        }
    }
    assert!(explain(&fleet.catalog, &group_id("nobody"), None, &Pointer::root()).is_empty());
    assert!(fleet.catalog.revision_of(&ObjectKey::Epoch).is_none());
}
