//! `proto/SUBJECTS.md` and the code name the same subjects and streams.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use domain::content::{ChannelName, ContentRevision};
use domain::{AgentId, ApiTokenName, Digest, GroupId, KindName, PolicyName, TokenId};
use wire::subject;

/// Every subject the code can build, with placeholders for ids.
fn built() -> BTreeSet<String> {
    let group = GroupId::new("group").expect("an id");
    let agent = AgentId::new("agent").expect("an id");
    let token = TokenId::new("token").expect("an id");
    let nonce = AgentId::new("nonce").expect("an id");
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
        subject::identity_agent(&agent),
        subject::identity_token(&token),
        subject::desired_group(&group),
        subject::desired_agent(&agent),
        subject::desired_compiled(),
        subject::notify_group(&group),
        subject::notify_agent(&agent),
        subject::heartbeat(&agent),
        subject::enrol(),
        subject::beats(),
        subject::events_presence(&agent),
        subject::events_checkpoint(0),
        subject::inbox_prefix(&agent),
        subject::join_inbox_prefix(&nonce),
        direct(&subject::desired_group(&group)),
        direct(&subject::desired_agent(&agent)),
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
/// Any number that no name has in it.
const NUMBER: u32 = 4_711;

/// Digests and numbers by what they stand for, as on the page.
fn with_placeholders(subject: &str) -> String {
    let subject = subject.replace(&NUMBER.to_string(), "number");
    let named = PIECES
        .iter()
        .fold(subject, |subject, piece| subject.replace(&Digest::of(piece.as_bytes()).to_string(), piece));
    named.replace(".chunk.chunk", ".chunk.0")
}

/// First cells of the tables of the page whose text stands between back-ticks.
fn documented(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(cell, _)| {
            let cell = cell.strip_suffix(".>").filter(|c| c.starts_with("_INBOX")).unwrap_or(cell);
            cell.replace("<chunk>", "0").replace(['<', '>'], "")
        })
        .collect()
}

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/SUBJECTS.md"))
        .expect("the page is there")
}

#[test]
fn the_page_lists_exactly_what_the_code_builds() {
    let mut documented = documented(&page());
    let streams = [
        subject::STREAM_POLICY,
        subject::STREAM_IDENTITY,
        subject::STREAM_DESIRED,
        subject::STREAM_CONTENT,
        subject::STREAM_EVENTS,
    ];
    for stream in streams {
        assert!(documented.remove(stream), "{stream} is not on the page");
    }
    assert_eq!(documented, built());
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
