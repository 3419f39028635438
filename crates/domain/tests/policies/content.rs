//! Channels, their revisions, and which groups get them.

use domain::catalog::ContentUser;
use domain::change::{Action, Class};
use domain::content::{ContentPointer, ContentRevision, StageName};
use domain::explain::{content_origin, settings_origin};
use domain::{GroupPath, Span};
use serde_json::{Value, json};

use crate::fleet::{Fleet, channel, group_id};

/// `/` follows rules/stable; `/servers` models/stable and rules/canary; `/servers/web` is as its parent;
/// `/servers/db` has rules 1; `/desks` is as the root.
fn fleet() -> Fleet {
    let mut fleet = Fleet::with(&[json!({"push": "rules"}), json!({"push": "models"})]);
    for change in [
        vec![json!({"push": "rules"})],
        vec![json!({"push": "rules"})],
        vec![json!({"promote": "rules", "stage": "stable", "to": 1})],
        vec![json!({"promote": "rules", "stage": "canary", "to": 2})],
        vec![json!({"promote": "models", "stage": "stable", "to": 1})],
        vec![
            json!({"group": "root", "at": "/", "content": {"rules": "stable"}}),
            json!({"group": "servers", "at": "/servers", "content": {"models": "stable", "rules": "canary"}}),
            json!({"group": "web", "at": "/servers/web"}),
            json!({"group": "db", "at": "/servers/db", "content": {"rules": 1}}),
            json!({"group": "desks", "at": "/desks"}),
        ],
    ] {
        fleet.apply(&change).unwrap();
    }
    fleet.agents.insert(group_id("desks"), 7);
    fleet
}

#[test]
fn content_is_inherited_and_overridden_by_channel() {
    let fleet = fleet();
    assert_eq!(fleet.content("root"), ["rules@1"]);
    assert_eq!(fleet.content("desks"), ["rules@1"]);
    assert_eq!(fleet.content("servers"), ["models@1", "rules@2"]);
    assert_eq!(fleet.content("web"), ["models@1", "rules@2"]);
    assert_eq!(fleet.content("db"), ["models@1", "rules@1"]);
}

#[test]
fn a_stage_that_names_nothing_gives_no_item() {
    let mut fleet = fleet();
    fleet.apply(&[json!({"group": "desks", "at": "/desks", "content": {"rules": "beta"}})]).unwrap();
    assert!(fleet.content("desks").is_empty());
    let followed = &fleet.compiled.effective(&group_id("desks")).unwrap().channels()[&channel("rules")];
    assert_eq!(followed.pointer, ContentPointer::Stage(StageName::new("beta").unwrap()));
    fleet.apply(&[json!({"promote": "rules", "stage": "beta", "to": 3})]).unwrap();
    assert_eq!(fleet.content("desks"), ["rules@3"]);
}

#[test]
fn a_promote_recompiles_only_those_that_follow_the_channel() {
    for (change, visited, touched) in [
        // /servers and the two below it follow models; /servers/db has its own rules but inherits models.
        (json!({"push": "models"}), 3, 0),
        (json!({"promote": "rules", "stage": "stable", "to": 3}), 5, 2),
        (json!({"promote": "rules", "stage": "canary", "to": 3}), 5, 2),
        (json!({"promote": "rules", "stage": "unused", "to": 3}), 5, 0),
        (json!({"revision": "models 1", "pinned": true, "label": "x"}), 3, 0),
        (json!({"push": "new"}), 0, 0),
        (json!({"group": "db", "at": "/servers/db", "content": {"rules": "canary"}}), 1, 1),
        // Another way to say the same.
        (json!({"group": "db", "at": "/servers/db", "content": {"rules": "stable"}}), 1, 0),
        (json!({"group": "db", "at": "/servers/db"}), 1, 1),
    ] {
        let fleet = fleet();
        let plan = fleet.plan(std::slice::from_ref(&change)).unwrap();
        assert_eq!((plan.recompiled.visited(), plan.touched.len()), (visited, touched), "{change}");
    }
}

#[test]
fn a_rollback_is_a_change_that_names_an_older_revision() {
    let mut fleet = fleet();
    let digest = |fleet: &Fleet| fleet.compiled.effective(&group_id("desks")).unwrap().digest();
    let at_1 = digest(&fleet);
    fleet.apply(&[json!({"promote": "rules", "stage": "stable", "to": 3})]).unwrap();
    let (at_3, revision) = (digest(&fleet), fleet.catalog.revision());
    fleet.apply(&[json!({"promote": "rules", "stage": "stable", "to": 1})]).unwrap();
    assert_ne!(at_1, at_3);
    assert_eq!(digest(&fleet), at_1);
    assert!(fleet.catalog.revision() > revision);
    let rules = &fleet.catalog.channel(&channel("rules")).unwrap().value;
    let stage = &rules.stages[&StageName::new("stable").unwrap()];
    assert_eq!(stage.previous, [ContentRevision(3), ContentRevision(1)]);
}

#[track_caller]
fn refused(objects: &[Value], class: Class, expected: &[&str]) {
    let refusal = fleet().plan(objects).map(|_| ()).unwrap_err();
    let got: Vec<String> = refusal.violations.iter().map(ToString::to_string).collect();
    assert_eq!(got, expected);
    assert_eq!(refusal.class(), class);
}

#[test]
fn groups_follow_what_is_there() {
    let desks = |content: Value| json!({"group": "desks", "at": "/desks", "content": content});
    refused(
        &[desks(json!({"other": "stable", "rules": 9}))],
        Class::Invalid,
        &[
            "group \"desks\" needs channel \"other\", which does not exist: push a first revision with `muster \
             content push other PATH`",
            "group \"desks\" needs revision 9 of channel \"rules\", which does not exist: `muster content show \
             rules` lists the revisions that are there",
        ],
    );
    // A channel of the same change counts, whatever the order.
    fleet().plan(&[desks(json!({"other": 1})), json!({"push": "other"})]).unwrap();
    let many: Vec<Value> = (0..64).map(|n| json!({"push": format!("c{n}")})).collect();
    let mut fleet = fleet();
    fleet.apply(&many).unwrap();
    let content = |n: usize| (0..n).map(|n| (format!("c{n}"), json!("stable"))).collect::<Value>();
    fleet.plan(&[desks(content(63))]).unwrap();
    let refusal = fleet.plan(&[desks(content(64))]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "group /desks would follow 65 channels, those of the groups above included; at most 64 are allowed"
    );
}

#[test]
fn what_is_named_stays() {
    refused(
        &[json!({"delete": "revision rules 1"})],
        Class::Precondition,
        &["revision 1 of channel rules is in use by stage \"stable\", group /servers/db"],
    );
    refused(
        &[json!({"delete": "channel models"})],
        Class::Precondition,
        &["channel \"models\" is in use by group \"servers\", revision 1 of channel \"models\""],
    );
    refused(
        &[json!({"promote": "rules", "stage": "stable", "to": 4})],
        Class::Invalid,
        &["channel \"rules\" needs revision 4 of channel \"rules\", which does not exist: `muster content \
           show rules` lists the revisions that are there"],
    );
    // A reference that is written in the change that deletes is reported once, with the deletion.
    refused(
        &[json!({"promote": "rules", "stage": "beta", "to": 3}), json!({"delete": "revision rules 3"})],
        Class::Precondition,
        &["revision 3 of channel rules is in use by stage \"beta\""],
    );
    let mut fleet = fleet();
    fleet.apply(&[json!({"revision": "rules 3", "pinned": true})]).unwrap();
    let users = fleet.catalog.content_users(&channel("rules"), ContentRevision(3));
    assert_eq!(users, [ContentUser::Pin]);
    let refusal = fleet.plan(&[json!({"delete": "revision rules 3"})]).unwrap_err();
    assert_eq!(refusal.to_string(), "revision 3 of channel rules is in use by a pin: unpin it first");
    fleet.apply(&[json!({"revision": "rules 3"})]).unwrap();
    fleet.apply(&[json!({"delete": "revision rules 3"})]).unwrap();
    let left: Vec<u32> =
        fleet.catalog.content_revisions(&channel("rules")).map(|it| it.value.number.0).collect();
    assert_eq!(left, [1, 2]);
}

#[test]
fn numbers_are_never_used_again() {
    let mut fleet = fleet();
    fleet.apply(&[json!({"delete": "revision rules 3"})]).unwrap();
    let again = |last: u32| {
        [
            json!({"revision": "rules 3"}),
            json!({"channel": "rules", "last": last, "stages":
        {"stable": 1, "canary": 2}}),
        ]
    };
    let next_is = |n: u32| {
        format!("revision 3 of channel rules cannot be new: numbers are not used again, and the next is {n}")
    };
    for last in [0, 3, 9] {
        assert_eq!(fleet.plan(&again(last)).unwrap_err().to_string(), next_is(4));
    }
    // A channel never forgets its last number, whatever a writer says.
    fleet.apply(&[json!({"channel": "rules", "last": 0, "stages": {"stable": 1, "canary": 2}})]).unwrap();
    fleet.apply(&[json!({"push": "rules"})]).unwrap();
    assert!(fleet.catalog.content_revision(&channel("rules"), ContentRevision(4)).is_some());
    // Not even when it was deleted and made again.
    fleet.apply(&[json!({"push": "gone"})]).unwrap();
    fleet.apply(&[json!({"delete": "channel gone"}), json!({"delete": "revision gone 1"})]).unwrap();
    assert!(fleet.catalog.channel(&channel("gone")).is_none());
    fleet.apply(&[json!({"push": "gone"})]).unwrap();
    let numbers: Vec<u32> =
        fleet.catalog.content_revisions(&channel("gone")).map(|it| it.value.number.0).collect();
    assert_eq!(numbers, [2]);
    // A number beyond the channel's last is one that nobody was given.
    let ahead = fleet.plan(&[json!({"revision": "gone 7"})]).unwrap_err();
    assert_eq!(
        ahead.to_string(),
        "revision 7 of channel gone cannot be new: numbers are not used again, and the next is 3"
    );
}

#[test]
fn what_a_revision_holds_never_changes() {
    refused(
        &[json!({"revision": "rules 1", "content": "other"})],
        Class::Invalid,
        &["the content of revision 1 of channel rules cannot be changed: push it as a new revision"],
    );
    let plan = fleet().plan(&[json!({"revision": "rules 1", "label": "b", "pinned": true})]).unwrap();
    assert_eq!((plan.objects[0].1, plan.entries.len()), (Action::Updated, 1));
    let plan = fleet().plan(&[json!({"revision": "rules 1"})]).unwrap();
    assert_eq!((plan.objects[0].1, plan.entries.len()), (Action::Unchanged, 0));
    refused(
        &[json!({"revision": "nowhere 1"})],
        Class::Invalid,
        &["revision 1 of channel \"nowhere\" needs channel \"nowhere\", which does not exist: push a first \
           revision with `muster content push nowhere PATH`"],
    );
}

#[test]
fn channels_are_bounded() {
    let stages: Value = (0..17).map(|n| (format!("s{n}"), json!(1))).collect();
    refused(
        &[json!({"channel": "rules", "last": 3, "stages": stages})],
        Class::Exhausted,
        &["there would be 17 stages in a channel; at most 16 are allowed"],
    );
    let mut fleet = fleet();
    for from in [0, 500] {
        let many: Vec<Value> =
            (from..from + 499).map(|n| json!({"channel": format!("c{n}"), "last": 0})).collect();
        fleet.apply(&many).unwrap();
    }
    let refusal = fleet.plan(&[json!({"push": "one"}), json!({"push": "too-many"})]).unwrap_err();
    assert_eq!(refusal.to_string(), "there would be 1002 channels; at most 1000 are allowed");
}

#[test]
fn an_impact_names_the_revisions_before_and_after() {
    let fleet = fleet();
    let check = |change: Value, group: &str, expected: &[&str]| {
        let plan = fleet.plan(std::slice::from_ref(&change)).unwrap();
        let impact = plan.impact(fleet.current(), &group_id(group));
        let number = |number: Option<ContentRevision>| number.map_or("-".to_owned(), |n| n.to_string());
        let shown = impact.content.iter().map(|change| {
            let set_by = change.set_by.as_ref().map_or("-", GroupPath::as_str);
            format!("{}: {} -> {} by {set_by}", change.channel, number(change.before), number(change.after))
        });
        assert_eq!(shown.collect::<Vec<_>>(), expected, "{change}");
        assert_eq!(impact.is_empty(), expected.is_empty());
    };
    check(json!({"promote": "rules", "stage": "stable", "to": 3}), "desks", &["rules: 1 -> 3 by /"]);
    check(json!({"promote": "rules", "stage": "stable", "to": 3}), "db", &[]);
    check(
        json!({"group": "servers", "at": "/servers"}),
        "web",
        &["models: 1 -> - by /servers", "rules: 2 -> 1 by /"],
    );
    check(
        json!({"group": "new", "at": "/servers/new"}),
        "new",
        &["models: - -> 1 by /servers", "rules: - -> 2 by /servers"],
    );
    let plan = fleet.plan(&[json!({"promote": "rules", "stage": "stable", "to": 3})]).unwrap();
    assert_eq!(plan.agents_touched(), 7);
}

#[test]
fn it_is_told_which_group_assigns_a_channel() {
    let fleet = fleet();
    let origin = |path: &str| {
        let origin = content_origin(&fleet.catalog, &GroupPath::new(path).unwrap());
        let shown = origin.into_iter().map(|(channel, it)| {
            let pointer = match it.pointer {
                ContentPointer::Stage(stage) => stage.to_string(),
                ContentPointer::Revision(number) => number.to_string(),
            };
            format!("{channel}/{pointer}@{} by {}", it.number.unwrap_or_default(), it.path)
        });
        shown.collect::<Vec<_>>()
    };
    assert_eq!(origin("/servers/db"), ["models/stable@1 by /servers", "rules/1@1 by /servers/db"]);
    assert_eq!(origin("/desks"), ["rules/stable@1 by /"]);
}

#[test]
fn settings_for_content_are_inherited_and_bounded() {
    let mut fleet = fleet();
    fleet
        .apply(&[
            json!({"group": "servers", "at": "/servers", "spread": 60, "rate": 2_097_152}),
            json!({"group": "web", "at": "/servers/web", "rate": 0}),
        ])
        .unwrap();
    let settings = |id: &str| {
        let settings = fleet.compiled.effective(&group_id(id)).unwrap().settings();
        (settings.content_spread, settings.content_rate_limit)
    };
    assert_eq!(settings("desks"), (Span::from_secs(300), None));
    assert_eq!(settings("db"), (Span::from_secs(60), Some(2_097_152)));
    assert_eq!(settings("web"), (Span::from_secs(60), None));
    let origin = settings_origin(&fleet.catalog, &GroupPath::new("/servers/web").unwrap());
    let places = [origin.content_spread, origin.content_rate_limit].map(|path| path.unwrap().to_string());
    assert_eq!(places, ["/servers", "/servers/web"]);
    for (change, expected) in [
        (json!({"spread": 86_401}), "contentSpread must be at most 24h"),
        (json!({"rate": 1023}), "contentRateLimit must be 0 (no limit) or between 1KiB and 1TiB a second"),
        (
            json!({"rate": 1_u64 << 41}),
            "contentRateLimit must be 0 (no limit) or between 1KiB and 1TiB a second",
        ),
    ] {
        let mut group = json!({"group": "desks", "at": "/desks"});
        group.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refusal = fleet.plan(&[group]).unwrap_err();
        assert_eq!(refusal.to_string(), format!("settings of group /desks: {expected}"));
    }
}
