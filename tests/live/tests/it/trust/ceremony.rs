//! Root keys that are kept apart: made, signed and published as an operator does it.

use std::path::Path;

use live::{Cli, Fleet};
use serde_json::json;

use crate::seed;

/// Makes key files and gives their public keys.
async fn init(cli: &Cli, files: &[&str]) -> Vec<String> {
    let made = cli.json(&format!("key init {}", files.join(" "))).await;
    let keys = made.as_array().expect("a list").iter();
    keys.map(|key| key["publicKey"].as_str().expect("a key").to_owned()).collect()
}

fn public(file: &Path) -> String {
    let key = runtime::keys::load(file).expect("the key is there");
    wire::sign::key_text(&wire::sign::public_key(&key.verifying_key()))
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_a_threshold_of_root_keys_kept_apart_decides_and_agents_follow() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let cli = fleet.cli("identity");
    let keys = init(&cli, &["a.key", "b.key", "c.key"]).await;
    let said = cli.run("key init a.key").await.refused(3);
    assert!(said.contains("never overwritten"), "{said}");

    // The root passes from the key of the data directory to two of three kept apart.
    let own = public(&fleet.dir().join("root.key"));
    let _ = cli.run("key export-root --out one.roots").await.ok();
    let [a, b, c] = &keys[..] else { panic!("three keys: {keys:?}") };
    let rotate = format!(
        "key rotate one.roots --remove-root {own} --add-root {a} --add-root {b} --add-root {c} --root-threshold 2 --out root-2.json"
    );
    let _ = cli.run(&rotate).await.ok();
    let said = cli.run(&rotate).await.refused(3);
    assert!(said.contains("root-2.json exists"), "{said}");
    let _ = cli.run("key sign root-2.json --key a.key --key b.key").await.ok();
    let said = cli.run("key verify root-2.json --after one.roots").await.refused(3);
    assert!(said.contains("signed by 0 of the 1 keys that root 1 asks for"), "{said}");
    let said = cli.run("key publish root-2.json --yes").await.refused(3);
    assert!(said.contains("signed by 0 of the 1 keys that root 1 asks for"), "{said}");
    let _ = cli.run("key sign root-2.json --key root.key").await.ok();
    let _ = cli.run("key verify root-2.json --after one.roots").await.ok();
    let _ = cli.run("key publish root-2.json --yes").await.ok();
    fleet.shows("push-1", "the second root", |s| s["rootVersion"] == "2").await;

    // One of the three is not enough, and the same one twice is one.
    let _ = cli.run("key export-root --out two.roots").await.ok();
    let _ = cli.run("key rotate two.roots --out root-3.json").await.ok();
    let _ = cli.run("key sign root-3.json --key a.key --key a.key --key root.key").await.ok();
    let said = cli.run("key publish root-3.json --yes").await.refused(3);
    assert!(said.contains("signed by 1 of the 2 keys"), "{said}");
    let _ = cli.run("key sign root-3.json --key c.key").await.ok();
    let _ = cli.run("key publish root-3.json --yes").await.ok();
    let said = cli.run("key publish root-3.json --yes").await.refused(3);
    assert!(said.contains("version 3 of the trust root is there already"), "{said}");
    fleet.shows("push-1", "the third root", |s| s["rootVersion"] == "3").await;

    let listed = cli.json("key list").await;
    assert_eq!((&listed["version"], &listed["rootThreshold"]), (&json!("3"), &json!(2)), "{listed}");
    let _ = fleet.cli("policy").apply(&seed::app_push(1)).await;
    agent.reaches("app", "/n", &json!(1)).await;
}
