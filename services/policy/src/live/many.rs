//! Changes of many groups: their heads are published in batches.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use domain::GroupId;
use domain::snapshot::MAX_SNAPSHOT_BYTES;
use futures::StreamExt as _;
use runtime::nats::{Expect, Headers, Message};
use serde_json::{Value, json};
use wire::subject::{self, STREAM_DESIRED, pattern};

use super::{Rig, Running, documents, id, servers, soon};
use crate::heads::{Head, Says};
use crate::seal::{self, BATCH_BYTES, Due};
use crate::work::{Item, Taken};

/// More than go into one batch.
const GROUPS: usize = 1200;
/// Groups of one apply: a change has at most 1,000 entries.
const AT_ONCE: usize = 900;

fn name(n: usize) -> String {
    format!("g{n:05}")
}

/// A policy at the root, which every group has.
fn everywhere(n: usize) -> Value {
    json!({"policy": "everywhere", "of": "banner", "document": {"n": n}})
}

/// Makes so many groups below a root with a policy.
async fn fill(one: &Running, groups: usize) {
    let root = json!({"group": "root", "path": "/", "policies": ["everywhere"]});
    one.applied(&[json!({"kind": "banner", "schema": {}}), everywhere(0), root]).await;
    let all: Vec<Value> =
        (0..groups).map(|n| json!({"group": name(n), "path": format!("/{}", name(n))})).collect();
    for some in all.chunks(AT_ONCE) {
        one.applied(some).await;
    }
}

/// Group and place in the stream of a republished head.
fn heard(message: &Message) -> Option<(GroupId, u64)> {
    let group = message.subject.strip_prefix("notify.group.")?;
    let sequence = message.headers.as_ref()?.get("Nats-Sequence")?.as_str().parse().ok()?;
    Some((id(group), sequence))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_root_reaches_every_head() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    fill(&one, GROUPS).await;
    let mut notified = rig.nats.subscribe(pattern::NOTIFY).await.unwrap();
    rig.nats.flush(super::SOON).await.unwrap();
    let revision = one.applied(&[everywhere(1)]).await;
    let mut seen = BTreeMap::new();
    while seen.len() < GROUPS + 1 {
        let message = soon(notified.next()).await.unwrap();
        seen.extend(heard(&message));
    }
    for n in [0, 1, GROUPS / 2, GROUPS - 1] {
        let head = rig.head(&one.replica, &name(n)).await.unwrap();
        assert_eq!((head.cursor.revision.0, &documents(&head)["banner"]["n"]), (revision, &json!(1)));
    }
    // Where each head stands in the stream is known from the acknowledgements of the batches.
    for (group, sequence) in &seen {
        let known = one.replica.heads(|heads| heads.get(group).map(|head| head.sequence));
        assert_eq!(known, Some(*sequence), "{group}");
    }
    rig.marked(revision).await;
    one.stop().await;
}

/// A replica that follows nothing, with the view of another: its heads are what a test says.
async fn silent(rig: &Rig, one: &Running) -> (Running, Vec<Due>) {
    let silent = rig.replica(std::time::Duration::from_secs(3600)).await;
    let view = one.replica.current().unwrap();
    let item = Item { due: tokio::time::Instant::now(), check_path: false };
    let all = view.compiled.all().map(|(group, _)| (group.clone(), item)).collect();
    (silent, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_someone_else_wrote_does_not_stop_the_others() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    let view = one.replica.current().unwrap();
    let (silent, all) = silent(&rig, &one).await;
    one.stop().await;
    let groups: Vec<GroupId> = all.iter().map(|(group, _)| group.clone()).collect();
    let mut before = BTreeMap::new();
    for group in &groups {
        before.insert(group, rig.message(group.as_str()).await.unwrap().sequence);
    }
    for (group, sequence) in &before {
        let head = Head { sequence: *sequence, says: Says::Nothing };
        silent.replica.heads_mut(|heads| heads.note((*group).clone(), head));
    }
    let foreign = id("servers");
    let theirs = (Headers::new(), Bytes::from_static(b"theirs"));
    let subject = subject::desired_group(&foreign);
    let place = rig.nats.publish_cas(STREAM_DESIRED, &subject, theirs, Expect::Any).await.unwrap();
    crate::publish::publish_all(&silent.replica, &view, all).await;
    for group in groups.iter().filter(|group| **group != foreign) {
        let written = rig.message(group.as_str()).await.unwrap().sequence;
        let known = silent.replica.heads(|heads| heads.get(group).map(|head| head.sequence));
        assert!(written > before[group] && known == Some(written), "{group}: {written}, {known:?}");
    }
    assert_eq!(rig.message("servers").await.unwrap().sequence, place);
    // The one is looked at again when the follower has seen who wrote it.
    let later = tokio::time::Instant::now() + super::SOON;
    let Taken::Items(again) = silent.replica.work.take(later, 9) else { panic!("something is to be done") };
    assert_eq!(again.iter().map(|(group, _)| group).collect::<Vec<_>>(), [&foreign]);
    silent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_bounded_in_bytes_and_leave_nothing_out() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    fill(&one, 60).await;
    let large = json!({"policy": "everywhere", "of": "banner", "document": {"text": "x".repeat(200 * 1024)}});
    let revision = one.applied(&[large]).await;
    rig.marked(revision).await;
    for n in 0..60 {
        assert_eq!(rig.head(&one.replica, &name(n)).await.unwrap().cursor.revision.0, revision);
    }
    let view = one.replica.current().unwrap();
    let (silent, all) = silent(&rig, &one).await;
    let (count, mut rest) = (all.len(), all.into_iter());
    let (mut sealed, mut sizes) = (BTreeSet::new(), Vec::new());
    while rest.len() > 0 {
        let batch = seal::batch(&silent.replica, &view, &mut rest, None);
        sizes.push(batch.iter().map(|head| head.message.1.len()).sum::<usize>());
        sealed.extend(batch.into_iter().map(|head| head.group));
    }
    assert_eq!((sealed.len(), sizes.len()), (count, 2), "{sizes:?}");
    assert!(sizes.iter().all(|bytes| *bytes < BATCH_BYTES + MAX_SNAPSHOT_BYTES), "{sizes:?}");
    silent.stop().await;
    one.stop().await;
}
