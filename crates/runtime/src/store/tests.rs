use domain::Timestamp;

use super::*;
use crate::live::{Live, soon};
use crate::nats::POLICY;

fn info(actor: &str) -> ChangeInfo {
    ChangeInfo {
        id: crate::ids::random_id().parse().unwrap(),
        actor: actor.to_owned(),
        message: "because\nof it".to_owned(),
        time: Timestamp(7),
        trace_id: None,
    }
}

fn entry(key: &str, body: &str) -> Entry {
    Entry { key: StoreKey::parse(key).unwrap(), body: bytes::Bytes::from(body.to_owned()) }
}

/// Changes as `revision: body body …`.
fn shown(changes: &[Change]) -> Vec<String> {
    let show = |change: &Change| {
        let bodies: Vec<_> =
            change.entries.iter().map(|e| String::from_utf8_lossy(&e.body).into_owned()).collect();
        format!("{}: {}", change.revision, bodies.join(" "))
    };
    changes.iter().map(show).collect()
}

async fn open() -> (Live, Log) {
    let live = Live::start().await;
    live.nats.ensure_stream(&POLICY, 1).await.unwrap();
    let log = Log::new(live.nats.clone());
    (live, log)
}

#[tokio::test]
async fn changes_are_committed_followed_and_loaded() {
    let (_live, log) = open().await;
    let (changes, revision, mut follow) = soon(log.load()).await.unwrap();
    assert_eq!((changes.len(), revision), (0, Revision(0)));
    let first =
        vec![entry("store.group.a", "a1"), entry("store.kind.k", "k1"), entry("store.policy.p", "p1")];
    let mut change = info("Zoë");
    change.trace_id = Some([9; 16]);
    assert_eq!(log.commit(&change, first, revision).await.unwrap(), Revision(3));
    let Some(LogEvent::Change(seen)) = soon(follow.next()).await else { panic!("a change comes") };
    assert_eq!((seen.info, seen.revision, seen.entries.len()), (Some(change), Revision(3), 3));

    let stale = log.commit(&info("x"), vec![entry("store.group.a", "lost")], Revision(0)).await;
    assert!(matches!(stale, Err(CommitError::Conflict { expected: Revision(0) })), "{stale:?}");
    assert_eq!(
        log.commit(&info("x"), vec![entry("store.group.a", "a2")], Revision(3)).await.unwrap(),
        Revision(4)
    );
    let (changes, revision, _) = soon(log.load()).await.unwrap();
    assert_eq!((shown(&changes), revision), (vec!["3: k1 p1".to_owned(), "4: a2".to_owned()], Revision(4)));
    let versions = log.history(&StoreKey::parse("store.group.a").unwrap()).await.unwrap();
    let versions: Vec<_> =
        versions.iter().map(|v| (v.revision(), v.change.actor.as_str(), v.body.clone())).collect();
    assert_eq!(versions, [(Revision(3), "Zoë", "a1".into()), (Revision(4), "x", "a2".into())]);
}

#[tokio::test]
async fn changes_out_of_bounds_are_refused() {
    let (_live, log) = open().await;
    let commit = async |entries| log.commit(&info("x"), entries, Revision(0)).await.unwrap_err();
    assert!(matches!(commit(vec![]).await, CommitError::Entries { entries: 0 }));
    let many = vec![entry("store.epoch", ""); MAX_ENTRIES + 1];
    assert!(matches!(commit(many).await, CommitError::Entries { entries: 1001 }));
    let large = vec![entry("store.epoch", &"x".repeat(900_000)); 10];
    assert!(matches!(commit(large).await, CommitError::TooLarge { bytes: 9_000_000 }));
    let entry_too_large = vec![entry("store.epoch", &"x".repeat(1_100_000))];
    assert!(matches!(commit(entry_too_large).await, CommitError::Publish(PublishError::TooLarge { .. })));
    assert_eq!(log.end().await.unwrap(), Revision(0));
}

#[tokio::test]
async fn writers_that_race_lose_nothing() {
    let (_live, log) = open().await;
    let writer = async |name: &'static str| {
        let (_, mut head, mut follow) = log.load().await.unwrap();
        let mut done = 0;
        while done < 25 {
            let entries = vec![entry("store.group.a", name), entry("store.group.b", name)];
            match log.commit(&info(name), entries, head).await {
                Ok(_) => done += 1,
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            let end = log.end().await.unwrap();
            while head < end {
                if let Some(LogEvent::Change(change)) = soon(follow.next()).await {
                    assert_eq!(change.entries.len(), 2);
                    head = change.revision;
                }
            }
        }
    };
    tokio::join!(writer("a"), writer("b"), writer("c"));
    assert_eq!(log.end().await.unwrap(), Revision(150));
}

/// Leaves the first `written` entries of a change at the end of the log, as a kill in the middle does.
async fn tear(live: &Live, entries: Vec<Entry>, written: usize) {
    for message in Batch::of(&info("torn"), entries).messages().into_iter().take(written) {
        live.nats.publish_once(&message.subject, message.headers, message.payload).await.unwrap();
    }
}

#[tokio::test]
async fn a_torn_change_is_undone_before_anyone_sees_it() {
    let (live, log) = open().await;
    let before = vec![entry("store.group.a", "a1"), entry("store.group.b", "b1")];
    log.commit(&info("x"), before, Revision(0)).await.unwrap();
    let (_, _, mut running) = soon(log.load()).await.unwrap();
    let torn =
        vec![entry("store.group.a", "torn"), entry("store.group.c", "torn"), entry("store.group.b", "torn")];
    tear(&live, torn.clone(), 2).await;
    // Whoever loads undoes it.
    let (changes, revision, _) = soon(log.load()).await.unwrap();
    let tombstone = String::from_utf8(entry::tombstone().to_vec()).unwrap();
    assert_eq!(shown(&changes), ["2: b1".to_owned(), format!("6: a1 {tombstone}")]);
    assert_eq!(revision, Revision(6));
    let Some(LogEvent::Change(seen)) = soon(running.next()).await else { panic!("a change comes") };
    assert_eq!(shown(&[seen]), [format!("6: a1 {tombstone}")]);
    // Histories show neither the torn change nor its undoing.
    let bodies = async |key: &str| -> Vec<_> {
        let versions = log.history(&StoreKey::parse(key).unwrap()).await.unwrap();
        versions.into_iter().map(|version| version.body).collect()
    };
    assert_eq!(bodies("store.group.a").await, ["a1"]);
    assert!(bodies("store.group.c").await.is_empty());
    // Whoever writes undoes it, too, and is told to decide again.
    tear(&live, torn, 1).await;
    let conflict = log.commit(&info("y"), vec![entry("store.group.a", "a2")], Revision(6)).await;
    assert!(matches!(conflict, Err(CommitError::Conflict { .. })), "{conflict:?}");
    assert_eq!(
        log.commit(&info("y"), vec![entry("store.group.a", "a2")], Revision(8)).await.unwrap(),
        Revision(9)
    );
    assert_eq!(bodies("store.group.a").await, ["a1", "a2"]);
}

#[tokio::test]
async fn foreign_messages_do_not_block_the_log() {
    let (live, log) = open().await;
    let headers = crate::nats::Headers::new();
    live.nats.publish_once(&wire::subject::store_epoch(), headers, bytes::Bytes::from("?")).await.unwrap();
    let (changes, revision, _) = soon(log.load()).await.unwrap();
    assert_eq!((shown(&changes), revision), (vec!["1: ".to_owned()], Revision(1)));
    assert_eq!(log.commit(&info("x"), vec![entry("store.epoch", "1")], revision).await.unwrap(), Revision(2));
}

#[tokio::test]
async fn kills_of_the_server_lose_no_acknowledged_change_and_tear_none() {
    let (mut live, log) = open().await;
    let (_, mut head, mut follow) = soon(log.load()).await.unwrap();
    let writer = log.clone();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let written = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        let mut number = 0;
        while !*stopped.borrow_and_update() {
            number += 1;
            let body = number.to_string();
            let entries = (0..40).map(|n| entry(&format!("store.group.g{n}"), &body)).collect();
            let expected = match writer.end().await {
                Ok(end) => end,
                Err(_) => continue,
            };
            match writer.commit(&info("w"), entries, expected).await {
                Ok(revision) => acknowledged.push((revision, body)),
                Err(error) => tracing::debug!(%error, "not committed"),
            }
        }
        acknowledged
    });
    for round in 2..5 {
        // Let it write for a moment: the kill shall come at any point of a change.
        tokio::time::sleep(crate::ids::jitter(Duration::from_millis(300))).await;
        live.server.kill().await.unwrap();
        live.server.start_again().await.unwrap();
        soon(live.nats.link().wait_for(|link| link.connections >= round)).await.unwrap();
    }
    stop.send(true).unwrap();
    let acknowledged = soon(written).await.unwrap();
    assert!(!acknowledged.is_empty());
    let mut followed = std::collections::BTreeMap::new();
    let end = soon(log.load()).await.unwrap().1;
    while head < end {
        match soon(follow.next()).await.unwrap() {
            LogEvent::Change(change) => {
                assert!(change.revision > head, "changes come in order, each once");
                head = change.revision;
                followed.insert(change.revision, change.entries);
            }
            event => panic!("the log must not be lost: {event:?}"),
        }
    }
    for (revision, body) in acknowledged {
        let entries = &followed[&revision];
        assert_eq!(entries.len(), 40, "a change is whole");
        assert!(entries.iter().all(|entry| entry.body == body));
    }
}
