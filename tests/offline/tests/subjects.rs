//! The table of `wire::access`, `proto/SUBJECTS.md` and the code name the same subjects and streams.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use domain::content::{ChannelName, ContentRevision};
use domain::registry::AgentKey;
use domain::{AgentId, ApiTokenName, Digest, GroupId, KindName, PolicyName, TokenId};
use offline::golden;
use runtime::nats::{AUDIT, CONTENT, DESIRED, EVENTS, IDENTITY, POLICY};
use wire::access::{ROWS, Role, STREAMS};
use wire::subject;

/// Every subject the code can build, with placeholders for ids.
fn built() -> BTreeSet<String> {
    let group = GroupId::new("group").expect("an id");
    let agent = AgentId::new("agent").expect("an id");
    let token = TokenId::new("token").expect("an id");
    let key = AgentKey::new(KEY).expect("a key");
    let channel = ChannelName::new("channel").expect("a name");
    let [manifest, chunk, from, to] = PIECES.map(|piece| Digest::of(piece.as_bytes()));
    let direct = |s: &subject::Subject| subject::direct_get(subject::STREAM_DESIRED, s);
    let direct_content = |s: &subject::Subject| subject::direct_get(subject::STREAM_CONTENT, s);
    [
        subject::store_group(&group),
        subject::store_kind(&KindName::new("kind").expect("a name")),
        subject::store_policy(&PolicyName::new("policy").expect("a name")),
        subject::store_token(&token),
        subject::store_api_token(&ApiTokenName::new("name").expect("a name")),
        subject::store_epoch(),
        subject::store_channel(&channel),
        subject::store_content(&channel, ContentRevision(NUMBER)),
        subject::store_uploads(),
        subject::store_sweep(),
        subject::content_manifest(&manifest),
        subject::content_index(&manifest),
        subject::content_chunk(&chunk),
        subject::content_patch(Some(&from), &to, NUMBER),
        subject::census(),
        subject::audit_entry(),
        subject::identity_agent(&agent),
        subject::identity_token(&token),
        subject::identity_root(NUMBER.into()),
        subject::desired_root(NUMBER.into()),
        subject::desired_group(&group),
        subject::desired_agent(&agent),
        subject::desired_compiled(),
        subject::notify_group(&group),
        subject::notify_agent(&agent),
        subject::heartbeat(&agent),
        subject::enrol(),
        subject::beats(),
        subject::flood(&agent),
        subject::events_presence(&agent),
        subject::events_checkpoint(0),
        subject::inbox_prefix(&agent),
        subject::join_inbox_prefix(&key),
        subject::service_inbox_prefix(SERVICE),
        subject::claims(),
        direct(&subject::desired_group(&group)),
        direct(&subject::desired_agent(&agent)),
        direct(&subject::desired_root(NUMBER.into())),
        direct_content(&subject::content_manifest(&manifest)),
        direct_content(&subject::content_index(&manifest)),
        direct_content(&subject::content_chunk(&chunk)),
        direct_content(&subject::content_patch(Some(&from), &to, NUMBER)),
    ]
    .iter()
    .map(|s| with_placeholders(s.as_str()))
    .collect()
}

/// Whose digests stand in the subjects that are built.
const PIECES: [&str; 4] = ["manifest", "chunk", "from", "to"];
/// A key of the right form.
const KEY: &str = "UKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYA";
/// Any service.
const SERVICE: Role = Role::Policy;
/// Any number that no name has in it.
const NUMBER: u32 = 4_711;

/// Digests, numbers, keys and services by what they stand for, as in the table.
fn with_placeholders(subject: &str) -> String {
    let subject = subject.replace(&NUMBER.to_string(), "number").replace(KEY, "key");
    let subject = match subject.strip_suffix(SERVICE.name()) {
        Some(start) if start.starts_with("_INBOX") => format!("{start}service"),
        _ => subject,
    };
    let named = PIECES
        .iter()
        .fold(subject, |subject, piece| subject.replace(&Digest::of(piece.as_bytes()).to_string(), piece));
    named.replace(".chunk.chunk", ".chunk.0")
}

/// Subjects of the table, with plain words in the places for ids.
fn listed() -> BTreeSet<String> {
    let plain = |subject: &str| {
        let subject = subject.strip_suffix(".>").filter(|s| s.starts_with("_INBOX")).unwrap_or(subject);
        subject.replace("<chunk>", "0").replace(['<', '>'], "")
    };
    ROWS.iter().map(|row| plain(row.subject)).collect()
}

const PAGE: &str = "proto/SUBJECTS.md";

#[test]
fn the_table_lists_exactly_what_the_code_builds() {
    assert_eq!(listed(), built());
    assert_eq!(listed().len(), ROWS.len(), "no subject has two rows");
}

#[test]
fn the_streams_of_the_table_are_those_that_are_made() {
    for spec in [POLICY, IDENTITY, DESIRED, CONTENT, EVENTS, AUDIT] {
        let stream = STREAMS.iter().find(|stream| stream.name == spec.name).expect("it is in the table");
        assert_eq!(stream.subjects, spec.subjects);
        assert_eq!(stream.republished, spec.republish.map(|(_, to)| to));
    }
    assert_eq!(STREAMS.len(), 6);
}

/// The page around the tables is written by hand.
#[test]
fn the_page_shows_the_table() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PAGE));
    let (subjects, streams) = wire::access::markdown();
    let page = replace_table(&page.expect("the page is there"), &subjects);
    golden::compare(PAGE, &replace_table(&page, &streams));
}

/// The page with `table` in place of the one whose first column has the same name.
fn replace_table(page: &str, table: &str) -> String {
    let column = table.split(" | ").next().expect("a table has columns");
    let start =
        page.find(column).unwrap_or_else(|| panic!("{PAGE} has no table that starts with {column:?}"));
    let rows = page[start..].lines().take_while(|line| line.starts_with('|'));
    let length: usize = rows.map(|line| line.len() + 1).sum();
    format!("{}{table}{}", &page[..start], &page[start + length..])
}

/// A builder that `built` forgets would make the test above blind.
#[test]
fn every_builder_is_looked_at() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let code = fs::read_to_string(root.join("crates/wire/src/subject.rs")).unwrap();
    let test = fs::read_to_string(root.join("tests/offline/tests/subjects.rs")).unwrap();
    let builders: Vec<_> = code
        .lines()
        .filter(|line| line.starts_with("pub fn ") && line.contains("-> Subject"))
        .filter_map(|line| line.strip_prefix("pub fn ")?.split('(').next())
        .collect();
    assert!(builders.len() > 15, "found only {builders:?}");
    for builder in builders {
        assert!(test.contains(&format!("subject::{builder}(")), "`built` does not call {builder}");
    }
}
