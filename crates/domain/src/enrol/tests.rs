use proptest::prelude::{any, prop_assert};

use super::*;
use crate::catalog::Entry;
use crate::id::TokenId;
use crate::registry::{AgentKey, Newcomer};
use crate::revision::{Epoch, Revision};
use crate::time::Timestamp;

fn id(text: &str) -> GroupId {
    GroupId::new(text).unwrap()
}

/// /servers with web and db, /edge, and /default if wanted.
fn catalog(default: bool) -> Catalog {
    let mut catalog = Catalog::new();
    let groups = [
        ("servers", "/servers"),
        ("web", "/servers/web"),
        ("db", "/servers/db"),
        ("edge", "/edge"),
        ("fallback", "/default"),
    ];
    let groups = groups.iter().filter(|(_, path)| default || *path != DEFAULT);
    let entry = |(name, path): &(&str, &str)| {
        Entry::Group(Group::new(id(name), GroupPath::new(path).unwrap()).into())
    };
    catalog.fold(groups.map(entry), Revision(1));
    catalog
}

fn rule(labels: &[(&str, &str)], hostname: Option<&str>, group: &str) -> Rule {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Rule::new(labels, hostname.map(|text| HostPattern::new(text).unwrap()), id(group)).unwrap()
}

/// A token for /servers; what stands in the north goes to the edge, web servers to theirs.
fn scope(group: Option<&str>) -> Scope {
    let rules = vec![
        rule(&[("site", "north"), ("tier", "edge")], None, "edge"),
        rule(&[], Some("web-*"), "web"),
        rule(&[("site", "north")], None, "db"),
    ];
    Scope::new(group.map(id), rules, Approval::None).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn known(group: &str, reason: Reason) -> Registration {
    let newcomer = Newcomer {
        key: AgentKey::new(format!("U{}", "A".repeat(55))).unwrap(),
        labels: labels(&[("site", "north")]),
        hostname: "web-1".into(),
        token: TokenId::new("t").unwrap(),
    };
    newcomer.registration((id(group), reason), Epoch(1), Timestamp(1))
}

#[test]
fn a_joining_agent_gets_its_group_by_the_first_way_that_says_one() {
    let (with, without) = (catalog(true), catalog(false));
    let check =
        |catalog: &Catalog, applicant, asked: Option<&str>, facts: (&[(&str, &str)], &str), expected| {
            let asked = asked.map(|text| text.parse::<GroupRef>().unwrap());
            let facts = (labels(facts.0), facts.1);
            let facts_of = Facts { labels: &facts.0, hostname: facts.1 };
            let got = place(catalog, applicant, asked.as_ref(), facts_of);
            let got = got.map(|placed| (placed.group.to_string(), placed.reason, placed.remembered));
            let got = got.map_err(|error| error.to_string());
            let expected: Result<(&str, Reason), String> = expected;
            let remembered = matches!(applicant, Applicant::Known(_));
            let expected = expected.map(|(group, reason)| (group.to_owned(), reason, remembered));
            assert_eq!(got, expected, "{asked:?} {facts:?}");
        };
    let (servers, nothing) = (scope(Some("servers")), scope(None));
    let new = Applicant::New(&servers);
    let north: &[(&str, &str)] = &[("site", "north")];
    let edge: &[(&str, &str)] = &[("site", "north"), ("tier", "edge"), ("more", "")];

    // Remembered, whatever it asks for and whatever rules say, also when its group is gone.
    let moved = known("edge", Reason::Operator);
    check(
        &with,
        Applicant::Known(&moved),
        Some("/servers"),
        (north, "web-1"),
        Ok(("edge", Reason::Operator)),
    );
    let gone = known("gone", Reason::Rule(2));
    check(&with, Applicant::Known(&gone), None, (&[], ""), Ok(("gone", Reason::Rule(2))));

    // Asked for: the token's group, one below it, one of a rule; by path or by name. It beats every rule.
    for (asked, group) in [
        ("/servers", "servers"),
        ("servers", "servers"),
        ("/servers/web", "web"),
        ("db", "db"),
        ("/edge", "edge"),
    ] {
        check(&with, new, Some(asked), (edge, "web-1"), Ok((group, Reason::Asked)));
    }
    let refused = |asked: &str| {
        format!(
            "the join token does not let into {asked}; it lets into /servers and what is below, /edge, /servers/web, \
             /servers/db"
        )
    };
    for asked in ["/", "root", "/default", "/nowhere", "nowhere"] {
        check(&with, new, Some(asked), (edge, "web-1"), Err(refused(asked)));
    }
    // A token without a group lets into the default and below.
    check(&with, Applicant::New(&nothing), Some("/default"), (&[], ""), Ok(("fallback", Reason::Asked)));

    // The first rule that matches.
    check(&with, new, None, (edge, "web-1"), Ok(("edge", Reason::Rule(1))));
    check(&with, new, None, (north, "web-1"), Ok(("web", Reason::Rule(2))));
    check(&with, new, None, (north, "mail"), Ok(("db", Reason::Rule(3))));

    // No rule.
    check(&with, new, None, (&[("site", "south")], "mail"), Ok(("servers", Reason::Token)));
    check(&with, Applicant::New(&nothing), None, (&[], "mail"), Ok(("fallback", Reason::Default)));
    let none = "the join token names no group, and there is none at /default";
    check(&without, Applicant::New(&nothing), None, (&[], "mail"), Err(none.to_owned()));

    // A group that is gone is an error, and not the next way.
    let gone = "the group that the join token names does not exist any more";
    let missing = Scope::from(id("gone"));
    check(&with, Applicant::New(&missing), None, (&[], ""), Err(gone.to_owned()));
    let rules = vec![rule(&[], Some("*"), "gone"), rule(&[], Some("*"), "web")];
    let missing = Scope::new(Some(id("servers")), rules, Approval::None).unwrap();
    check(&with, Applicant::New(&missing), None, (&[], ""), Err(gone.to_owned()));
}

#[test]
fn a_scope_knows_the_groups_it_uses() {
    let catalog = catalog(true);
    let uses = |scope: &Scope| {
        let groups = catalog.groups().filter(|group| scope.uses(&group.value));
        groups.map(|group| group.value.id.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(uses(&scope(Some("servers"))), "db edge servers web");
    assert_eq!(uses(&scope(None)), "db edge fallback web");
    let within = |scope: &Scope, top: &str| scope.is_within(&catalog, &Reach::Under(id(top)));
    assert!(scope(Some("servers")).is_within(&catalog, &Reach::Everywhere));
    assert!(within(&scope(Some("servers")), "root") && within(&scope(None), "root"));
    assert!(!within(&scope(Some("servers")), "servers"), "the edge is outside");
    assert!(within(&Scope::from(id("web")), "servers") && !within(&Scope::default(), "servers"));
    assert!(within(&Scope::default(), "fallback"));
}

#[test]
fn scopes_and_reasons_have_bounds_and_forms() {
    let rules = |n| vec![rule(&[], Some("*"), "web"); n];
    assert!(Scope::new(None, rules(32), Approval::Required).is_ok());
    assert_eq!(Scope::new(None, rules(33), Approval::None), Err(TooManyRules(33)));
    let all =
        [Reason::Asked, Reason::Rule(1), Reason::Rule(32), Reason::Token, Reason::Default, Reason::Operator];
    for reason in all {
        assert_eq!(reason.to_string().parse(), Ok(reason));
    }
    for text in ["", "rule", "rule x", "rule -1", "Token"] {
        assert_eq!(text.parse::<Reason>(), Err(ReasonError));
    }
    // A refusal names a few of many groups.
    let mut wide = catalog(true);
    let many: Vec<_> = (0..9).map(|n| (format!("g{n}"), format!("/g{n}"))).collect();
    let entry = |(name, path): &(String, String)| {
        Entry::Group(Group::new(id(name), GroupPath::new(path).unwrap()).into())
    };
    wide.fold(many.iter().map(entry), Revision(2));
    let rules = many.iter().map(|(name, _)| rule(&[], Some("*"), name)).collect();
    let scope = Scope::new(Some(id("web")), rules, Approval::None).unwrap();
    assert_eq!(scope.allowed(&wide), "/servers/web and what is below, /g0, /g1, /g2, /g3 and 5 more");
}

proptest::proptest! {
    /// Whatever an agent says and asks for, it ends where its token lets into.
    #[test]
    fn nobody_gets_further_than_the_token_allows(
        own in 0usize..4, default: bool, asked in 0usize..8, site in "north|south", host in "web-1|mail",
    ) {
        let catalog = catalog(default);
        let group = [None, Some("servers"), Some("web"), Some("edge")][own];
        let scope = scope(group);
        let asked = ["/", "/servers", "web", "db", "/edge", "/default", "/nowhere"].get(asked);
        let asked = asked.map(|text| text.parse::<GroupRef>().unwrap());
        let labels = labels(&[("site", &site)]);
        let facts = Facts { labels: &labels, hostname: &host };
        if let Ok(placed) = place(&catalog, Applicant::New(&scope), asked.as_ref(), facts) {
            let group = catalog.group(&placed.group).unwrap();
            prop_assert!(scope.allows(&catalog, &group.value));
        }
    }

    #[test]
    fn no_text_makes_a_reason_panic(text in any::<String>()) {
        let _ = text.parse::<Reason>();
    }
}
