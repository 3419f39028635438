//! A stolen director key is taken away by the next trust root.

use std::path::Path;

use domain::{Cursor, GroupId};
use ed25519_dalek::SigningKey;
use live::Fleet;
use prost::Message as _;
use serde_json::json;
use wire::access::Account;
use wire::subject;

use super::enrolment::claims_expire;
use crate::content::{CHANNEL, Edge, digest, revision, seeded, settled};
use crate::seed;

/// Replaces a key file by a new key and gives the old one.
pub(super) fn replace_key(file: &Path) -> SigningKey {
    let old = runtime::keys::load(file).expect("the key is there");
    std::fs::remove_file(file).expect("it can be removed");
    drop(runtime::keys::load_or_create(file).expect("a new one can be made"));
    old
}

/// The head of a group as stored.
pub(super) async fn head(fleet: &Fleet, group: &str) -> wire::agent::v1::Envelope {
    let nats = fleet.admin(Account::Fleet).await;
    let group = GroupId::new(group).expect("an id");
    let from = subject::direct_get(subject::STREAM_DESIRED, &subject::desired_group(&group));
    let message = nats.request(from.to_string(), "".into()).await.expect("the head is there");
    wire::envelope::parse(&message.payload).expect("an envelope")
}

/// Publishes bytes where the agents of a group listen, as whoever has taken over the broker would.
pub(super) async fn tell(fleet: &Fleet, group: &str, envelope: &wire::agent::v1::Envelope) {
    let nats = fleet.admin(Account::Fleet).await;
    let to = subject::notify_group(&GroupId::new(group).expect("an id"));
    nats.publish(to.to_string(), envelope.encode_to_vec().into()).await.expect("published");
    nats.flush().await.expect("flushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn t8_t5_a_stolen_director_key_is_taken_away_and_what_it_did_is_undone() {
    let mut fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let old_token = fleet.token("/pull", 1).await;
    let mut agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    fleet.shows("push-1", "the first root", |s| s["rootVersion"] == "1").await;

    // The thief signs a snapshot of his own, far ahead: no honest one would be newer.
    let file = fleet.dir().join("director.key");
    let stolen = runtime::keys::load(&file).expect("the key is there");
    let honest = wire::snapshot::open(&head(&fleet, "push").await, &stolen.verifying_key().into());
    let honest = honest.expect("the director signed it");
    let far = Cursor::new(honest.cursor.epoch.0, honest.cursor.revision.0 + (1 << 30));
    let thiefs = domain::Snapshot { cursor: far, policies: Vec::new(), ..honest };
    let forged = wire::snapshot::seal(&thiefs, &stolen);
    tell(&fleet, "push", &forged).await;
    let wanted = far.revision.0.to_string();
    fleet.shows("push-1", "the thief's snapshot", |s| s["revision"] == wanted.as_str()).await;
    assert_eq!(agent.applied("app"), None);

    // The operator replaces the key; the next root names the new one alone.
    fleet.services[0].process.kill().await;
    let _ = replace_key(&file);
    fleet.restart(0).await;
    fleet.shows("push-1", "the second root", |s| s["rootVersion"] == "2").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let _ = fleet.cli("policy").apply(&seed::app_push(1)).await;
    agent.reaches("app", "/n", &json!(1)).await;

    // From then on the stolen key is worth nothing, also after the agent was killed.
    for round in 1..=2 {
        let before = fleet.shows("push-1", "online", |s| s["progress"] == "CURRENT").await;
        let further = Cursor::new(far.epoch.0, far.revision.0 + round);
        let again = wire::snapshot::seal(&domain::Snapshot { cursor: further, ..thiefs.clone() }, &stolen);
        tell(&fleet, "push", &again).await;
        let refused = |s: &serde_json::Value| s["refusals"] != before["refusals"];
        let shown = fleet.shows("push-1", "one refusal more", refused).await;
        assert_eq!(shown["lastRefusal"], "no signature by a trusted key holds");
        assert_eq!(agent.applied("app"), Some(json!({"n": 1, "fixed": "here"})));
        agent.kill().await;
        agent.start();
        let anew = |s: &serde_json::Value| s["rootVersion"] == "2" && s["refusals"].is_null();
        fleet.shows("push-1", "the second root again, in a new session", anew).await;
    }

    // A token that pins the root before leads to the one of today.
    let mut newcomer = live::AgentProcess::new(fleet.dir(), "pull-1", &old_token);
    newcomer.start();
    newcomer.reaches("app", "/n", &json!(0)).await;
    fleet.shows("pull-1", "the second root", |s| s["rootVersion"] == "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t8_an_agent_killed_while_it_adopts_a_root_obeys_the_old_one_or_the_new_one() {
    let mut fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let mut agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let file = fleet.dir().join("director.key");
    for (n, point) in (1_u64..).zip(agent::ROOT_CRASH_POINTS) {
        agent.kill().await;
        fleet.services[0].process.kill().await;
        let _ = replace_key(&file);
        fleet.restart(0).await;
        agent.start_with(&[("MUSTER_CRASH_AT", point)]);
        assert!(!agent.process().wait().await.success(), "{point} is passed");
        agent.start();
        let version = (n + 1).to_string();
        fleet.shows("push-1", "the newest root", |s| s["rootVersion"] == version.as_str()).await;
        let _ = fleet.cli("policy").apply(&seed::app_push(n)).await;
        agent.reaches("app", "/n", &json!(n)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t8_an_agent_whose_claims_expired_meanwhile_walks_the_roots_from_the_one_it_pinned() {
    let mut fleet = Fleet::start_with(&["--agent-claims-ttl", "5s"]).await;
    seed::groups(&fleet.cli("policy")).await;
    let mut agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    agent.kill().await;
    let chain = |agent: &live::AgentProcess| {
        let bytes = std::fs::read(agent.state.join("trust-root")).expect("its roots are kept");
        wire::root::Chain::read(&bytes).expect("a chain")
    };
    let before = chain(&agent);
    for _ in 0..2 {
        fleet.services[0].process.kill().await;
        let _ = replace_key(&fleet.dir().join("director.key"));
        fleet.restart(0).await;
    }
    claims_expire(&agent).await;
    let _ = fleet.cli("policy").apply(&seed::app_push(1)).await;
    agent.start();
    fleet.shows("push-1", "the third root", |s| s["rootVersion"] == "3").await;
    agent.reaches("app", "/n", &json!(1)).await;
    let after = chain(&agent);
    assert_eq!(after.first_fingerprint(), before.first_fingerprint());
    assert_eq!(after.version_of(&before.fingerprint()), Some(1), "it walked on from what it had");
    let log = agent.process().log();
    assert!(log.contains("new claims for the broker"), "{log}");
    assert!(!log.contains("Permissions Violation"), "it asks for what it may: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_earlier_revisions_are_refused_across_kills() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let mut agent = fleet.agent("push-1", "/push").await;
    let mut earlier = Vec::new();
    for n in 0..4_u64 {
        if n > 0 {
            let _ = fleet.cli("policy").apply(&seed::app_push(n)).await;
        }
        agent.reaches("app", "/n", &json!(n)).await;
        earlier.push(head(&fleet, "push").await);
    }
    let _newest = earlier.pop();
    for round in 0..2 {
        let before = fleet.shows("push-1", "at the head", |s| s["progress"] == "CURRENT").await;
        let refusals = |s: &serde_json::Value| s["refusals"].as_str().map_or(0, |n| n.parse().unwrap_or(0));
        let wanted: u64 = refusals(&before) + earlier.len() as u64;
        for envelope in &earlier {
            tell(&fleet, "push", envelope).await;
        }
        let shown = fleet.shows("push-1", "a refusal for each", |s| refusals(s) == wanted).await;
        assert_eq!(shown["lastRefusal"], "it is older than what was accepted before", "round {round}");
        assert_eq!(agent.applied("app"), Some(json!({"n": 3, "fixed": "here"})));
        agent.kill().await;
        agent.start();
        fleet.shows("push-1", "a new session", |s| s["state"] == "ONLINE" && refusals(s) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t8_content_is_signed_anew_when_its_key_is_taken_away_and_stays_where_it_is() {
    let tree = live::Tree::made(1, 100_000);
    let mut fleet = seeded(&tree).await;
    let mut old = Edge::start(&fleet, "old", "/edge").await;
    old.agent.holds(CHANNEL, &tree).await;
    fleet.services[0].process.kill().await;
    let stolen = replace_key(&fleet.dir().join("content.key"));
    fleet.restart(0).await;
    fleet.shows("old", "the second root", |s| s["rootVersion"] == "2").await;
    // What is in force stays, also when the agent looks through it at its next start.
    old.agent.kill().await;
    old.agent.start();
    let before = old.fetched();
    let _ = settled(&fleet, "old", CHANNEL, 1).await;
    assert_eq!((old.fetched(), old.agent.content(CHANNEL).as_ref()), (before, Some(&tree)));
    // Who joins now takes only what the new key has signed.
    let new = Edge::start(&fleet, "new", "/edge").await;
    new.agent.holds(CHANNEL, &tree).await;
    let _ = settled(&fleet, "new", CHANNEL, 1).await;
    let name = digest(&revision(&fleet, CHANNEL, 1).await["revision"]["manifest"]);
    let nats = fleet.admin(Account::Fleet).await;
    let from = subject::direct_get(subject::STREAM_CONTENT, &subject::content_manifest(&name));
    let stored = nats.request(from.to_string(), "".into()).await.expect("the manifest is there").payload;
    let stored = wire::envelope::parse(&stored).expect("an envelope");
    let opened = wire::content::open_manifest(&stored, &name, &stolen.verifying_key().into());
    assert!(opened.is_err(), "the signature of the key that was taken away is gone");
}
