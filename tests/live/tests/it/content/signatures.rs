//! A fleet that asks for the signatures of two content keys.

use live::{Fleet, Tree};
use prost::Message as _;
use wire::agent::v1::Envelope;

use super::{CHANNEL, Edge, digest, number, on_disk, promote, raw, revision, seeded, settled, shows};

/// Makes a key file in the directory of the fleet, and gives the public key.
async fn make_key(fleet: &Fleet, file: &str) -> String {
    let made = fleet.cli("identity").json(&format!("key init {file}")).await;
    made[0]["publicKey"].as_str().expect("a key").to_owned()
}

/// Signatures on the stored manifest of a revision.
async fn signatures(fleet: &Fleet, of: u32) -> usize {
    let name = digest(&revision(fleet, CHANNEL, of).await["revision"]["manifest"]);
    let stored = raw::Store::of(fleet).await.get(&format!("content.manifest.{name}")).await;
    Envelope::decode(stored.expect("it is stored")).expect("an envelope").signatures.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_two_keys_must_sign_one_is_not_enough_for_any_agent() {
    let first = Tree::made(1, 100_000);
    let second = first.next(2);
    let fleet = seeded(&first).await;
    let old = Edge::start(&fleet, "old", "/edge").await;
    old.agent.holds(CHANNEL, &first).await;
    let _ = settled(&fleet, "old", CHANNEL, 1).await;

    let key = make_key(&fleet, "second.key").await;
    let _ = make_key(&fleet, "strange.key").await;
    let keys = fleet.cli("identity");
    let _ = keys.run("key export-root --out one.roots").await.ok();
    let rotate = format!("key rotate one.roots --add-content {key} --content-threshold 2 --out root-2.json");
    let _ = keys.run(&rotate).await.ok();
    let _ = keys.run("key sign root-2.json --key root.key").await.ok();
    let _ = keys.run("key publish root-2.json --yes").await.ok();
    let _ = fleet.shows("old", "the second root", |shown| shown["rootVersion"] == "2").await;

    // What one key signed before stays where it is, and no other agent takes it.
    let new = Edge::start(&fleet, "new", "/edge").await;
    let waits = shows(&fleet, "new", CHANNEL, "it says what is missing", |one| {
        one["reason"].as_str().is_some_and(|why| why.contains("signature"))
    })
    .await;
    assert_eq!((number(&waits["active"]), number(&waits["wanted"])), (0, 1), "{waits}");
    assert_eq!((new.agent.content(CHANNEL), old.agent.content(CHANNEL).as_ref()), (None, Some(&first)));

    // What one key signed now does not become a revision.
    let content = fleet.cli("content");
    let path = on_disk(&fleet, &second).to_string_lossy().into_owned();
    for with in ["", " --sign-with strange.key"] {
        let said = content.run(&format!("content push {CHANNEL} {path}{with}")).await.refused(3);
        for part in ["signatures of 2 different content keys and 1 hold", "--sign-with KEYFILE"] {
            assert!(said.contains(part), "{said}\nwithout: {part}");
        }
    }
    let said = content.run(&format!("content promote {CHANNEL} 2 --stage stable")).await;
    assert_ne!(said.code, 0, "{said:?}");
    assert_eq!((new.agent.content(CHANNEL), old.agent.content(CHANNEL).as_ref()), (None, Some(&first)));

    // With the second key it does; only what was not sent before is sent.
    let pushed = content.json(&format!("content push {CHANNEL} {path} --sign-with second.key")).await;
    assert_eq!((&pushed["created"], number(&pushed["revision"]["revision"])), (&true.into(), 2), "{pushed}");
    assert_eq!(signatures(&fleet, 2).await, 2);
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    for edge in [&old, &new] {
        edge.agent.holds(CHANNEL, &second).await;
        let _ = settled(&fleet, &edge.agent.id, CHANNEL, 2).await;
    }

    // A revision of before gets its second signature by a push of the same files.
    let path = on_disk(&fleet, &first).to_string_lossy().into_owned();
    let said = content.run(&format!("content push {CHANNEL} {path}")).await.refused(3);
    assert!(said.contains("--sign-with KEYFILE"), "{said}");
    assert_eq!(signatures(&fleet, 1).await, 1);
    let pushed = content.json(&format!("content push {CHANNEL} {path} --sign-with second.key")).await;
    assert_eq!(number(&pushed["revision"]["revision"]), 1, "{pushed}");
    assert!(!pushed["created"].as_bool().unwrap_or(false), "{pushed}");
    assert_eq!(signatures(&fleet, 1).await, 2);
    let third = Edge::start(&fleet, "third", "/edge/canary").await;
    third.agent.holds(CHANNEL, &first).await;
    let _ = settled(&fleet, "third", CHANNEL, 1).await;
}
