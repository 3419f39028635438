//! What is not renewed is told to be stale, and goes on.

use domain::{Cursor, Span};
use live::Fleet;
use serde_json::json;

use super::rotation::{head, tell};
use crate::seed;

#[tokio::test(flavor = "multi_thread")]
async fn t3_an_expired_snapshot_is_flagged_within_a_heartbeat_and_stays_in_force() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let director = runtime::keys::load(&fleet.dir().join("director.key")).expect("the key is there");
    let newest = wire::snapshot::open(&head(&fleet, "push").await, &director.verifying_key().into());
    let newest = newest.expect("the director signed it");
    // One that is good for a moment, and nothing after it: the freeze.
    let issued_at = runtime::clock::now();
    let short = domain::Snapshot {
        cursor: Cursor::new(newest.cursor.epoch.0, newest.cursor.revision.0 + 1),
        issued_at,
        expires_at: issued_at + Span::from_secs(2),
        ..newest
    };
    let revision = short.cursor.revision.0.to_string();
    tell(&fleet, "push", &wire::snapshot::seal(&short, &director)).await;
    let stale = |s: &serde_json::Value| s["stale"] == true && s["revision"] == revision.as_str();
    fleet.shows("push-1", "stale", stale).await;
    assert_eq!(agent.applied("app"), Some(json!({"n": 0, "fixed": "here"})));
    let listed = fleet.cli("presence").run("agent list").await.ok();
    assert!(listed.contains(" stale "), "{listed}");
    let shown = fleet.cli("presence").run("agent show push-1").await.ok();
    assert!(shown.contains("stale: its snapshot or its trust root has expired"), "{shown}");
    let status = std::process::Command::new(live::binary("muster-agent"))
        .args(["status", "--state-dir"])
        .arg(&agent.state)
        .output()
        .expect("muster-agent can be started");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("stale       the snapshot in force"), "{status}");
    // What the operator changes next is fresh again.
    for _ in 0..2 {
        let _ = fleet.cli("policy").apply(&seed::app_push(1)).await;
        let _ = fleet.cli("policy").apply(&seed::app_push(2)).await;
    }
    agent.reaches("app", "/n", &json!(2)).await;
    fleet.shows("push-1", "fresh", |s| s["stale"] != true).await;
}
