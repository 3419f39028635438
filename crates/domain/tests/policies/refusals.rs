//! Every rule that a change can break, and what the refusal says.

use domain::change::Class;
use serde_json::{Value, json};

use crate::fleet::{Fleet, group_id};

/// `/` base, `/servers` (locks /rules/ssh), `/servers/web`, `/servers/db`.
fn servers() -> Fleet {
    let mut fleet = Fleet::with(&[
        json!({"kind": "firewall", "schema": {
            "type": "object", "properties": {"rules": {"additionalProperties": {"enum": ["allow", "deny"]}}}}}),
        json!({"policy": "base", "of": "firewall", "document": {"rules": {"ssh": "deny"}}, "locks": ["/rules/ssh"]}),
        json!({"policy": "web", "of": "firewall", "document": {"rules": {"http": "allow"}}}),
        json!({"policy": "spare", "of": "firewall", "document": {}}),
        json!({"group": "servers", "at": "/servers", "policies": ["base"]}),
        json!({"group": "servers-web", "at": "/servers/web", "policies": ["web"]}),
        json!({"group": "servers-db", "at": "/servers/db"}),
        json!({"token": "t1", "in": "servers-db"}),
    ]);
    fleet.agents.insert(group_id("servers-web"), 3);
    fleet
}

#[track_caller]
fn refused(objects: &[Value], class: Class, expected: &[&str]) {
    let fleet = servers();
    let refusal = fleet.plan(objects).map(|_| ()).unwrap_err();
    let got: Vec<String> = refusal.violations.iter().map(ToString::to_string).collect();
    assert_eq!(got, expected);
    assert_eq!((refusal.class(), refusal.total), (class, expected.len()));
}

#[test]
fn locks() {
    let says = |policy: &str, path: &str| {
        format!(
            "policy {policy} of group {path} may not set \"/rules/ssh\" (firewall): policy base of group \
             /servers locks it"
        )
    };
    for document in [
        json!({"rules": {"ssh": "allow"}}),
        json!({"rules": {"ssh": "deny"}}),
        json!({"rules": {"ssh": null}}),
        json!({"rules": null}),
    ] {
        let change = json!({"policy": "web", "of": "firewall", "document": document});
        refused(&[change], Class::Invalid, &[&says("web", "/servers/web")]);
    }
    // The same policy further down, and a lock that comes later than what it forbids.
    let again = json!({"group": "servers-db", "at": "/servers/db", "policies": ["base"]});
    refused(&[again], Class::Invalid, &[&says("base", "/servers/db")]);
    let late = json!({
        "policy": "base", "of": "firewall", "document": {"rules": {}}, "locks": ["/rules/http"]});
    refused(
        &[late],
        Class::Invalid,
        &[
            "policy web of group /servers/web may not set \"/rules/http\" (firewall): policy base of group /servers \
         locks it",
        ],
    );
    // Moving out of the lock's reach and setting the value is one accepted change.
    servers()
        .plan(&[
            json!({"group": "servers-web", "at": "/web", "policies": ["web"]}),
            json!({"policy": "web", "of": "firewall", "document": {"rules": {"ssh": "allow"}}}),
        ])
        .unwrap();
}

#[test]
fn schemas_hold_for_every_group_that_a_change_touches() {
    let wrong = "firewall of group /servers/web with policy web: value at \"/rules/http\": \"maybe\" is not one \
                 of \"allow\" or \"deny\"";
    refused(
        &[json!({"policy": "web", "of": "firewall", "document": {"rules": {"http": "maybe"}}})],
        Class::Invalid,
        &[wrong],
    );
    refused(
        &[json!({"kind": "firewall", "schema": {"required": ["version"]}})],
        Class::Invalid,
        &[
            "firewall of group /servers with policy base: value at \"\": \"version\" is a required property",
            "firewall of group /servers/web with policy web: value at \"\": \"version\" is a required property",
        ],
    );
    // A schema and the documents that satisfy it can change together.
    servers()
        .plan(&[
            json!({"kind": "firewall", "schema": {"required": ["version"]}}),
            json!({"policy": "base", "of": "firewall", "document": {"version": 2}}),
        ])
        .unwrap();
}

#[test]
fn settings() {
    refused(
        &[json!({"group": "servers", "at": "/servers", "policies": ["base"], "interval": 0})],
        Class::Invalid,
        &["settings of group /servers: heartbeatInterval must be between 1s and 24h"],
    );
    let mut fleet = servers();
    fleet.apply(&[json!({"group": "servers-db", "at": "/servers/db", "offline": 900})]).unwrap();
    let refusal =
        fleet.plan(&[json!({"group": "root", "at": "/", "interval": 3600})]).map(|_| ()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "settings of group /servers/db: offlineAfter must be at least the heartbeat interval and at most 240h"
    );
}

#[test]
fn the_tree() {
    let p = Class::Precondition;
    refused(
        &[json!({"delete": "group root"})],
        p,
        &["the root group cannot be deleted", "group at / has children: /servers"],
    );
    let root = "the root group cannot be moved: group \"root\" is at / and no other is";
    refused(
        &[json!({"group": "root", "at": "/x"})],
        Class::Invalid,
        &[root, "group \"root\" cannot move from / to /x: that is below itself"],
    );
    let taken = "group \"servers-web\" is at /servers/web already";
    refused(&[json!({"group": "other", "at": "/servers/web"})], p, &[taken]);
    refused(
        &[json!({"group": "a", "at": "/same"}), json!({"group": "b", "at": "/same"})],
        p,
        &["group \"a\" is at /same already"],
    );
    refused(
        &[json!({"group": "a", "at": "/no/such"})],
        Class::Invalid,
        &["group \"a\" at /no/such has no parent: there is no group at /no"],
    );
    refused(
        &[json!({"group": "servers", "at": "/servers/web/below"})],
        Class::Invalid,
        &["group \"servers\" cannot move from /servers to /servers/web/below: that is below itself"],
    );
    let deep = "/d".repeat(15);
    let mut line: Vec<Value> =
        (1..=15).map(|n| json!({"group": format!("d{n}"), "at": "/d".repeat(n)})).collect();
    line.push(json!({"group": "servers", "at": format!("{deep}/servers"), "policies": ["base"]}));
    let too_deep = |id: &str| format!("group {id:?} would move too deep: at most 16 segments are allowed");
    let refusal = servers().plan(&line).map(|_| ()).unwrap_err();
    let got: Vec<String> = refusal.violations.iter().map(ToString::to_string).collect();
    assert_eq!(got[..2], [too_deep("servers-db"), too_deep("servers-web")]);
}

#[test]
fn deletions_name_the_users() {
    let p = Class::Precondition;
    refused(
        &[json!({"delete": "kind firewall"})],
        p,
        &["kind \"firewall\" is in use by policy \"base\", policy \"spare\", policy \"web\""],
    );
    refused(&[json!({"delete": "policy web"})], p, &["policy \"web\" is in use by group \"servers-web\""]);
    refused(
        &[json!({"delete": "group servers"})],
        p,
        &["group at /servers has children: /servers/db, /servers/web"],
    );
    refused(
        &[json!({"delete": "group servers-web"})],
        p,
        &["group at /servers/web has 3 agents: move or delete them first"],
    );
    refused(&[json!({"delete": "group servers-db"})], p, &["group \"servers-db\" is in use by token \"t1\""]);
    let with = |token: Value| {
        let mut fleet = servers();
        fleet.apply(&[json!({"group": "fallback", "at": "/default"}), token]).unwrap();
        fleet
    };
    let refuses = |fleet: &Fleet, change: Value, expected: &str| {
        let refusal = fleet.plan(&[change]).map(|_| ()).unwrap_err();
        assert_eq!((refusal.to_string().as_str(), refusal.class()), (expected, p));
    };
    // Groups of rules, and the default of a token without a group, are in use as well; wherever they stand.
    let ruled = with(json!({"token": "t2", "in": "servers", "rules": ["servers", "fallback"]}));
    let used = "group \"fallback\" is in use by token \"t2\"";
    refuses(&ruled, json!({"delete": "group fallback"}), used);
    let mut moved = ruled;
    moved.apply(&[json!({"group": "fallback", "at": "/servers/elsewhere"})]).unwrap();
    refuses(&moved, json!({"delete": "group fallback"}), used);
    let plain = with(json!({"token": "t2"}));
    refuses(&plain, json!({"delete": "group fallback"}), used);
    // The last users may go in the same change.
    servers()
        .plan(&[
            json!({"delete": "policy web"}),
            json!({"group": "servers-web", "at": "/servers/web"}),
            json!({"delete": "token t1"}),
            json!({"delete": "group servers-db"}),
        ])
        .unwrap();
}

#[test]
fn references() {
    refused(
        &[
            json!({"group": "servers-db", "at": "/servers/db", "policies": ["nothing", "spare", "web"]}),
            json!({"policy": "p", "of": "nokind", "document": {}}),
            json!({"token": "t2", "in": "nowhere"}),
            json!({"token": "t3", "in": "servers", "rules": ["servers-db", "edge"]}),
        ],
        Class::Invalid,
        &[
            "policy \"p\" needs kind \"nokind\", which does not exist",
            "group \"servers-db\" needs policy \"nothing\", which does not exist",
            "group at /servers/db has two policies of kind firewall: spare and web",
            "token \"t2\" needs group \"nowhere\", which does not exist",
            "token \"t3\" needs group \"edge\", which does not exist",
        ],
    );
    let other_kind =
        [json!({"kind": "other", "schema": {}}), json!({"policy": "web", "of": "other", "document": {}})];
    refused(
        &other_kind,
        Class::Invalid,
        &["policy \"web\" is of kind firewall; the kind of a policy cannot be changed"],
    );
}

#[test]
fn conditions() {
    refused(
        &[json!({"group": "servers-db", "at": "/servers/db", "expect": "absent"})],
        Class::Exists,
        &["group \"servers-db\" exists already"],
    );
    refused(
        &[json!({"delete": "policy web", "expect": 3})],
        Class::Stale,
        &[
            "policy \"web\" is at revision 8, not 3: somebody changed it since",
            "policy \"web\" is in use by group \"servers-web\"",
        ],
    );
    refused(
        &[json!({"policy": "spare", "of": "firewall", "document": {}, "expect": 7})],
        Class::Stale,
        &["policy \"spare\" is at revision 8, not 7: somebody changed it since"],
    );
    refused(&[json!({"delete": "policy nothing"})], Class::NotFound, &["policy \"nothing\" does not exist"]);
    refused(
        &[json!({"group": "x", "at": "/x", "expect": 5})],
        Class::NotFound,
        &["group \"x\" does not exist"],
    );
    refused(
        &[json!({"group": "x", "at": "/x"}), json!({"group": "x", "at": "/y"})],
        Class::Invalid,
        &["group \"x\" stands twice in the change"],
    );
    let many: Vec<Value> =
        (0..1001).map(|n| json!({"group": format!("g{n}"), "at": format!("/g{n}")})).collect();
    refused(
        &many,
        Class::Invalid,
        &["the change writes 1001 objects; at most 1000 are allowed in one change"],
    );
}

#[test]
fn a_long_list_is_cut_and_counted() {
    let many: Vec<Value> =
        (0..150).map(|n| json!({"group": format!("g{n}"), "at": format!("/none/g{n}")})).collect();
    let refusal = servers().plan(&many).map(|_| ()).unwrap_err();
    assert_eq!((refusal.violations.len(), refusal.total), (100, 150));
    assert!(refusal.to_string().ends_with("(and 149 more)"));
}
