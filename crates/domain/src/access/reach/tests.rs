use std::sync::Arc;

use super::*;
use crate::catalog::{Channel, Entry, Kind, Locks, Token};
use crate::content::{ContentPointer, ContentRevision};
use crate::digest::Digest;
use crate::document::Document;
use crate::enrol::{Approval, HostPattern, Rule};
use crate::id::{KindName, TokenId};
use crate::revision::Revision;
use crate::schema::Schema;
use crate::time::Timestamp;

fn group(id: &str, path: &str, policies: &[&str], channels: &[&str]) -> Group {
    let mut group = Group::new(GroupId::new(id).unwrap(), GroupPath::new(path).unwrap());
    group.policies = policies.iter().map(|name| PolicyName::new(name).unwrap()).collect();
    for channel in channels {
        let pointer = ContentPointer::Revision(ContentRevision(1));
        group.content.insert(ChannelName::new(channel).unwrap(), pointer);
    }
    group
}

fn policy(name: &str, value: u32) -> Policy {
    Policy {
        name: PolicyName::new(name).unwrap(),
        kind: KindName::new("app").unwrap(),
        document: Document::new(serde_json::json!({ "n": value })).unwrap(),
        locks: Locks::default(),
        generation: 1,
        manager: None,
    }
}

fn kind(title: &str) -> Kind {
    let schema = Schema::new(serde_json::json!({ "title": title })).unwrap();
    Kind { name: KindName::new("app").unwrap(), schema, manager: None }
}

/// A token for a group; behind a `+`, that of a rule.
fn token(id: &str, groups: &str) -> Token {
    let mut groups = groups.split('+').map(|group| GroupId::new(group).unwrap());
    let rule = |group| Rule::new([].into(), HostPattern::new("*").ok(), group).unwrap();
    Token {
        id: TokenId::new(id).unwrap(),
        scope: Scope::new(groups.next(), groups.map(rule).collect(), Approval::None).unwrap(),
        uses: 1,
        created_at: Timestamp(0),
        expires_at: Timestamp(1),
        secret_digest: Digest::of(b"s"),
        manager: None,
    }
}

/// A tree of which the caller is bound to /servers/web.
fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    let groups = [
        group("servers", "/servers", &["base"], &["common"]),
        group("web", "/servers/web", &["web", "shared"], &["own"]),
        group("api", "/servers/web/api", &["api"], &[]),
        group("webx", "/servers/webx", &["secret", "shared"], &["foreign"]),
    ];
    let policies = ["base", "web", "shared", "api", "secret", "idle"].map(|name| policy(name, 0));
    let channels = ["common", "own", "foreign"].map(|name| ChannelName::new(name).unwrap());
    let gone = ObjectKey::Policy(PolicyName::new("gone").unwrap());
    let entries = groups
        .map(|it| Entry::Group(Arc::new(it)))
        .into_iter()
        .chain(policies.map(|it| Entry::Policy(Arc::new(it))))
        .chain(channels.map(|it| Entry::Channel(Arc::new(Channel::new(it)))))
        .chain([Entry::Kind(Arc::new(kind("a"))), Entry::Deleted { key: gone, generation: 3 }])
        .chain([token("in", "api"), token("out", "webx")].map(|it| Entry::Token(Arc::new(it))));
    catalog.fold(entries, Revision(20));
    catalog
}

fn bound() -> Reach {
    Reach::Under(GroupId::new("web").unwrap())
}

#[test]
fn a_bound_caller_sees_its_part_and_what_is_inherited() {
    let (catalog, reach) = (catalog(), bound());
    let sight = reach.sight(&catalog);
    let path = |text: &str| GroupPath::new(text).unwrap();
    for (text, seen, named) in [
        ("/servers/web", true, true),
        ("/servers/web/api", true, true),
        ("/servers", false, true),
        ("/", false, true),
        ("/servers/webx", false, false),
    ] {
        let got = (sight.group(&path(text)), sight.names(&path(text)), reach.holds(&catalog, &path(text)));
        assert_eq!(got, (seen, named, seen), "{text}");
    }
    let policies = ["base", "web", "shared", "api", "secret", "idle"];
    let seen = policies.map(|name| sight.policy(&PolicyName::new(name).unwrap()));
    assert_eq!(seen, [true, true, true, true, false, false]);
    let seen = ["common", "own", "foreign"].map(|name| sight.channel(&ChannelName::new(name).unwrap()));
    assert_eq!(seen, [true, true, false]);
    assert_eq!(sight.top(), Some(path("/servers/web")));
    assert!(!reach.holds_group(&catalog, &GroupId::new("nowhere").unwrap()));
    let gone = Reach::Under(GroupId::new("gone").unwrap());
    assert!(gone.sight(&catalog).top().is_none() && !gone.sight(&catalog).group(&path("/")));
}

/// What a change of the caller comes to: allowed, or the words of the refusal.
#[track_caller]
fn check(wanted: Vec<Wanted>, expected: Result<(), &str>) {
    let (catalog, reach) = (catalog(), bound());
    let operations: Vec<Operation> = wanted.into_iter().map(Operation::from).collect();
    let got = reach.sight(&catalog).check(&operations).map_err(|error| error.to_string());
    match (got, expected) {
        (Ok(()), Ok(())) => {}
        (Err(text), Err(part)) if text.contains(part) => {}
        (got, expected) => panic!("{got:?} instead of {expected:?}"),
    }
    assert_eq!(Reach::Everywhere.sight(&catalog).check(&operations), Ok(()));
}

#[test]
fn a_bound_caller_changes_groups_of_its_part() {
    let change = |id: &str, path: &str, policies: &[&str], channels: &[&str]| {
        vec![Wanted::Group(group(id, path, policies, channels))]
    };
    check(change("web", "/servers/web", &["web", "base"], &["common"]), Ok(()));
    check(change("new", "/servers/web/new", &["api"], &[]), Ok(()));
    check(change("api", "/servers/web/moved", &["api"], &[]), Ok(()));
    check(change("servers", "/servers", &["base"], &[]), Err("outside of /servers/web"));
    check(change("new", "/servers/new", &[], &[]), Err("/servers/new lies outside of /servers/web"));
    check(change("api", "/servers/api", &["api"], &[]), Err("/servers/api lies outside"));
    // A group from outside is not pulled in, and its place is not told.
    check(change("webx", "/servers/web/x", &[], &[]), Err("a group of the change stands outside"));
    // What it does not see it cannot have.
    check(change("web", "/servers/web", &["secret"], &[]), Err("policy \"secret\""));
    check(change("web", "/servers/web", &["idle"], &[]), Err("policy \"idle\""));
    check(change("web", "/servers/web", &[], &["foreign"]), Err("channel \"foreign\""));
    let delete = |id: &str| vec![Wanted::Deleted(ObjectKey::Group(GroupId::new(id).unwrap()))];
    check(delete("api"), Ok(()));
    check(delete("web"), Err("not /servers/web's alone"));
    check(delete("webx"), Err("not /servers/web's alone"));
}

#[test]
fn a_bound_caller_changes_policies_that_only_its_part_has() {
    check(vec![Wanted::Policy(policy("api", 1))], Ok(()));
    for name in ["base", "shared", "secret", "idle"] {
        check(vec![Wanted::Policy(policy(name, 1))], Err("not /servers/web's alone"));
    }
    // The same again is no change, where it is seen.
    check(vec![Wanted::Policy(policy("base", 0))], Ok(()));
    check(vec![Wanted::Policy(policy("secret", 0))], Err("not /servers/web's alone"));
    let with = |name: &str| {
        let user = group("new", "/servers/web/new", &[name], &[]);
        vec![Wanted::Group(user), Wanted::Policy(policy(name, 1))]
    };
    check(with("fresh"), Ok(()));
    check(vec![Wanted::Policy(policy("fresh", 1))], Err("has to be assigned"));
    check(with("gone"), Err("not /servers/web's alone"));
    check(with("secret"), Err("not /servers/web's alone"));
    let delete = ObjectKey::Policy(PolicyName::new("api").unwrap());
    check(vec![Wanted::Deleted(delete)], Err("not /servers/web's alone"));
}

#[test]
fn a_bound_caller_leaves_alone_what_the_fleet_shares() {
    check(vec![Wanted::Kind(kind("a"))], Ok(()));
    check(vec![Wanted::Kind(kind("b"))], Err("kind \"app\""));
    let channel = |name: &str| Channel::new(ChannelName::new(name).unwrap());
    check(vec![Wanted::Channel(channel("own"))], Ok(()));
    check(vec![Wanted::Channel(channel("foreign"))], Err("channel \"foreign\""));
    let changed = Channel { keep_revisions: Some(1), ..channel("own") };
    check(vec![Wanted::Channel(changed)], Err("channel \"own\""));
    check(vec![Wanted::Epoch(crate::revision::Epoch(9))], Err("epoch"));
    check(vec![Wanted::Token(token("new", "api"))], Ok(()));
    check(vec![Wanted::Token(token("new", "webx"))], Err("token \"new\""));
    check(vec![Wanted::Token(token("out", "api"))], Err("token \"out\""));
    check(vec![Wanted::Token(token("new", "api+web"))], Ok(()));
    check(vec![Wanted::Token(token("new", "api+webx"))], Err("token \"new\""));
    let delete = |id: &str| vec![Wanted::Deleted(ObjectKey::Token(TokenId::new(id).unwrap()))];
    check(delete("in"), Ok(()));
    check(delete("out"), Err("token \"out\""));
}
