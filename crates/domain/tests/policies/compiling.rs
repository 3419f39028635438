//! The compiler looks only at what a change touches, and shares what is equal.

use std::sync::Arc;

use domain::snapshot::content_digest;
use serde_json::{Value, json};

use crate::fleet::{Fleet, group_id};

fn wide() -> Fleet {
    let mut objects = vec![
        json!({"kind": "k", "schema": {}}),
        json!({"policy": "top", "of": "k", "document": {"a": 1}}),
        json!({"policy": "side", "of": "k", "document": {"b": 1}}),
        json!({"policy": "same", "of": "k", "document": {"c": 1}}),
        json!({"group": "root", "at": "/", "policies": ["top"]}),
        json!({"group": "left", "at": "/left"}),
        json!({"group": "right", "at": "/right", "policies": ["side"]}),
    ];
    for n in 0..20 {
        objects.push(json!({"group": format!("l{n}"), "at": format!("/left/l{n}"), "policies": ["same"]}));
        objects.push(json!({"group": format!("r{n}"), "at": format!("/right/r{n}")}));
    }
    Fleet::with(&objects)
}

#[test]
fn a_change_recompiles_only_the_groups_below_it() {
    for (change, visited, updated) in [
        (json!({"policy": "top", "of": "k", "document": {"a": 2}}), 43, 43),
        (json!({"policy": "side", "of": "k", "document": {"b": 2}}), 21, 21),
        (json!({"policy": "same", "of": "k", "document": {"c": 2}}), 20, 20),
        (json!({"group": "left", "at": "/left", "mode": "push"}), 21, 21),
        (json!({"group": "r7", "at": "/right/r7", "labels": ["x"]}), 1, 0),
        (json!({"kind": "k", "schema": {"type": "object"}}), 43, 0),
        (json!({"token": "t", "in": "left"}), 0, 0),
        // A new version that says the same for everybody below it.
        (json!({"policy": "side", "of": "k", "document": {"b": 1, "c": null}}), 21, 0),
    ] {
        let plan = wide().plan(std::slice::from_ref(&change)).unwrap();
        let got = (plan.recompiled.visited(), plan.recompiled.updated().len());
        assert_eq!(got, (visited, updated), "{change}");
    }
}

#[test]
fn groups_with_equal_inputs_share_their_documents() {
    let fleet = wide();
    let kind = domain::KindName::new("k").unwrap();
    let effective = |id: &str| fleet.compiled.effective(&group_id(id)).unwrap();
    assert!(
        Arc::ptr_eq(effective("right"), effective("r3")),
        "a group that adds nothing is its parent's content"
    );
    let document = |id: &str| &effective(id).kinds()[&kind].document;
    assert!(Arc::ptr_eq(document("l1"), document("l2")), "the same policy over the same base");
    assert!(!Arc::ptr_eq(document("l1"), document("left")));
}

#[test]
fn the_digest_is_that_of_the_snapshot() {
    let fleet = wide();
    for (_, effective) in fleet.compiled.all() {
        let items = effective.kinds().iter().map(|(kind, resolved)| (kind, resolved.document.bytes()));
        let digests: Vec<_> = items.map(|(kind, bytes)| (kind.clone(), domain::Digest::of(bytes))).collect();
        let expected = content_digest(
            effective.settings(),
            digests.iter().map(|(kind, digest)| (kind, digest)),
            effective.targets(),
        );
        assert_eq!(effective.digest(), expected);
    }
}

#[test]
fn removed_groups_leave_the_compiled_state() {
    let mut fleet = wide();
    fleet.apply(&[json!({"delete": "group l3"})]).unwrap();
    assert!(fleet.compiled.effective(&group_id("l3")).is_none());
    assert_eq!(fleet.compiled.all().count(), 42);
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused() {
    let large = |name: &str| {
        let text: Value = "x".repeat(200 * 1024).into();
        [json!({"kind": name, "schema": {}}), json!({"policy": name, "of": name, "document": {"text": text}})]
    };
    let mut objects: Vec<Value> = ["a", "b", "c", "d", "e"].into_iter().flat_map(large).collect();
    objects.push(json!({"group": "g", "at": "/g", "policies": ["a", "b", "c", "d", "e"]}));
    let refusal = Fleet::new().plan(&objects).map(|_| ()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the snapshot of group /g would be 1028791 bytes long in 5 kinds; at most 983040 bytes in 256 kinds are \
         allowed"
    );
    // Two documents that are fine alone can be too large together.
    let halves = [
        json!({"kind": "k", "schema": {}}),
        json!({"policy": "top", "of": "k", "document": {"a": "x".repeat(200_000)}}),
        json!({"policy": "low", "of": "k", "document": {"b": "x".repeat(200_000)}}),
        json!({"group": "root", "at": "/", "policies": ["top"]}),
        json!({"group": "g", "at": "/g", "policies": ["low"]}),
    ];
    let refusal = Fleet::new().plan(&halves).map(|_| ()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "k of group /g with policy low is 400015 bytes long; at most 262144 are allowed"
    );
}
