//! What goes wrong: several replicas at once, crashes between two steps, lost and restored streams.

use std::collections::BTreeSet;

use bytes::Bytes;
use domain::catalog::Entry;
use domain::{Cursor, Revision};
use runtime::nats::{Expect, Headers, POLICY};
use runtime::store::ChangeInfo;
use serde_json::json;
use wire::subject::{self, STREAM_DESIRED};

use super::{Rig, Running, base, documents, servers, until};

fn policy(n: usize) -> serde_json::Value {
    json!({"policy": format!("p{n}"), "of": "firewall", "document": {"n": n}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_write_at_once_lose_nothing_and_agree() {
    let rig = Rig::start().await;
    let (one, other) = (rig.run().await, rig.run().await);
    one.applied(&servers()).await;
    let write = async |running: &Running, from: usize| -> Vec<u64> {
        let mut revisions = Vec::new();
        for n in from..from + 20 {
            revisions.push(running.applied(&[policy(n)]).await);
        }
        revisions
    };
    let (a, b) = tokio::join!(write(&one, 0), write(&other, 100));
    let revisions: BTreeSet<u64> = a.iter().chain(&b).copied().collect();
    assert_eq!((revisions.len(), revisions.last()), (40, Some(&46)));
    assert_eq!(one.applied(&[base("allow")]).await, 47);
    rig.marked(47).await;
    until(async || one.revision() == other.revision()).await;
    let (mine, theirs) = (one.replica.current().unwrap(), other.replica.current().unwrap());
    assert_eq!(mine.catalog, theirs.catalog);
    let web = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!(
        (web.cursor, documents(&web)["firewall"]["rules"]["ssh"].as_str()),
        (Cursor::new(1, 47), Some("allow"))
    );
    one.stop().await;
    // The one that is left goes on, also with what the other did not publish.
    other.applied(&[base("deny")]).await;
    let web = rig.head(&other.replica, "servers-web").await.unwrap();
    assert_eq!(documents(&web)["firewall"]["rules"]["ssh"], "deny");
    other.stop().await;
}

/// A commit by a replica that dies before it publishes anything.
async fn commit_only(running: &Running, expected: u64) {
    let view = running.replica.current();
    let policy = match view {
        Some(view) => (*view.catalog.policy(&"base".parse().unwrap()).unwrap().value).clone(),
        None => panic!("the replica is loaded"),
    };
    let document = domain::document::Document::new(json!({"rules": {"ssh": "allow"}})).unwrap();
    let entry = Entry::Policy(domain::catalog::Policy { document, generation: 2, ..policy }.into());
    let info = ChangeInfo {
        id: "crashed".parse().unwrap(),
        actor: "test".into(),
        message: String::new(),
        time: runtime::clock::now(),
        trace_id: Some([9; 16]),
    };
    let entries = vec![crate::change::stored(&entry)];
    running.replica.log.commit(&info, entries, Revision(expected)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_unpublished_is_published() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    // While another replica runs: it waits a moment for the writer, then does it itself.
    commit_only(&one, 6).await;
    rig.marked(7).await;
    let web = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!((web.cursor.revision.0, web.trace_id), (7, [9; 16]));
    // While none runs: the next one that starts does it.
    let silent = rig.replica(std::time::Duration::from_secs(60)).await;
    let before = one.applied(&[base("deny")]).await;
    let document = documents(&rig.head(&one.replica, "servers-web").await.unwrap());
    assert_eq!(document["firewall"]["rules"]["ssh"], "deny");
    one.stop().await;
    let (info, entries) = unpublished();
    silent.replica.log.commit(&info, entries, Revision(before)).await.unwrap();
    let two = rig.run().await;
    rig.marked(before + 1).await;
    let web = rig.head(&two.replica, "servers-web").await.unwrap();
    assert_eq!(documents(&web)["firewall"]["rules"]["http"], "deny");
    assert_eq!(web.cursor.revision.0, before + 1);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_right_after_a_start_is_published() {
    let rig = Rig::start().await;
    let first = rig.run().await;
    first.applied(&servers()).await;
    first.stop().await;
    for action in ["allow", "deny"].into_iter().cycle().take(12) {
        let running = rig.run().await;
        let revision = running.applied(&[base(action)]).await;
        let web = rig.head(&running.replica, "servers-web").await.unwrap();
        assert_eq!(web.cursor.revision.0, revision);
        assert_eq!(documents(&web)["firewall"]["rules"]["ssh"], action);
        running.stop().await;
    }
}

fn unpublished() -> (ChangeInfo, Vec<runtime::store::Entry>) {
    let policy = domain::catalog::Policy {
        name: "web".parse().unwrap(),
        kind: "firewall".parse().unwrap(),
        document: domain::document::Document::new(json!({"rules": {"http": "deny"}})).unwrap(),
        locks: domain::catalog::Locks::default(),
        generation: 2,
        manager: None,
    };
    let info = ChangeInfo {
        id: "crashed-too".parse().unwrap(),
        actor: "test".into(),
        message: String::new(),
        time: runtime::clock::now(),
        trace_id: None,
    };
    (info, vec![crate::change::stored(&Entry::Policy(policy.into()))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_stream_of_heads_is_made_again_with_the_same_revisions() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    one.applied(&[policy(1)]).await;
    let before = rig.head(&one.replica, "servers-web").await.unwrap();
    rig.delete_stream(STREAM_DESIRED).await;
    until(async || {
        let subject = subject::desired_group(&super::id("servers-web"));
        let there = rig.nats.leader_get_last(STREAM_DESIRED, &subject).await;
        matches!(there, Ok(Some(_)))
    })
    .await;
    let after = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!((after.cursor, after.content_digest()), (before.cursor, before.content_digest()));
    rig.marked(7).await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_gets_a_new_epoch() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    one.stop().await;
    // The backup is from before everything.
    rig.delete_stream(POLICY.name).await;
    rig.nats.ensure_stream(&POLICY, 1).await.unwrap();
    let two = rig.run().await;
    until(async || rig.marked(1).await.epoch.0 == 2).await;
    assert_eq!(rig.marked(1).await, Cursor::new(2, 1));
    assert_eq!(rig.head(&two.replica, "root").await.unwrap().cursor, Cursor::new(2, 1));
    // Groups that the backup does not know are no more.
    until(async || rig.message("servers-web").await.unwrap().payload.is_empty()).await;
    // Revisions repeat, but the epoch makes them newer.
    two.applied(&servers()).await;
    let web = rig.head(&two.replica, "servers-web").await.unwrap();
    assert_eq!(web.cursor, Cursor::new(2, 6));
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_write_into_a_head_is_overwritten() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    let group = subject::desired_group(&super::id("servers-web"));
    let other = rig.message("servers").await.unwrap();
    // Garbage, and a good head in a wrong place.
    for payload in [Bytes::from_static(b"garbage"), other.payload] {
        let message = (Headers::new(), payload.clone());
        rig.nats.publish_cas(STREAM_DESIRED, &group, message, Expect::Any).await.unwrap();
        until(async || rig.message("servers-web").await.unwrap().payload != payload).await;
        let web = rig.head(&one.replica, "servers-web").await.unwrap();
        assert_eq!((web.group.as_str(), web.cursor.revision.0), ("servers-web", 6));
    }
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_comes_back_changes_nothing() {
    let mut rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    rig.server.kill().await.unwrap();
    let change = [base("allow")];
    let apply = one.applied(&change);
    let restart = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        rig.server.start_again().await.unwrap();
    };
    let (revision, ()) = tokio::join!(apply, restart);
    assert_eq!(revision, 7);
    rig.marked(7).await;
    let web = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!(documents(&web)["firewall"]["rules"]["ssh"], "allow");
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_renewed_before_they_expire() {
    let rig = Rig::start().await;
    let one = rig.run_for(std::time::Duration::from_secs(1)).await;
    one.applied(&servers()).await;
    let before = rig.head(&one.replica, "servers-web").await.unwrap();
    until(async || {
        crate::publish::renew(&one.replica);
        rig.head(&one.replica, "servers-web").await.unwrap().issued_at > before.issued_at
    })
    .await;
    let after = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!((after.cursor, after.policies), (before.cursor, before.policies));
    assert!(after.issued_at >= before.issued_at + domain::Span(500));
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_in_flight_are_answered_before_it_stops() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    let change = [base("allow")];
    let apply = async {
        // Requested while the change is being made: planning alone takes longer than this takes to start.
        let asked = one.apply(&change);
        let (answer, ()) = tokio::join!(asked, async { one.request_stop() });
        answer.unwrap().result.unwrap().revision
    };
    let revision = apply.await;
    let web = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!((web.cursor.revision.0, revision), (7, 7));
    one.stop().await;
}
