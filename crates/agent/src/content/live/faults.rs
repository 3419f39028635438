//! What may go wrong on the way: the broker, the pieces, the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::content::agent::{Note, Pace};
use tokio::sync::Notify;

use super::rig::{Rig, Running};
use super::store::Store;
use crate::content::test_content::{SmallDisk, Stored, files, make, noise, plain};
use crate::test_fleet::PATIENCE;

/// So large that it is some dozens of pieces, and so slow that a test can step in between.
const FILES: &[(&str, usize)] = &[("data/a", 1_500_000), ("data/b", 700_000)];

/// Notifies once that many pieces have arrived.
fn after_pieces(rig: &mut Rig, count: usize) -> Arc<Notify> {
    let (notify, seen) = (Arc::new(Notify::new()), AtomicUsize::new(0));
    let (notifies, before) = (Arc::clone(&notify), rig.options.pieces.take());
    rig.options.pieces = Some(Arc::new(move |subject: &str, length| {
        if let Some(before) = &before {
            before(subject, length);
        }
        let is_piece = subject.starts_with("content.chunk") || subject.starts_with("content.patch");
        if is_piece && seen.fetch_add(1, Ordering::Relaxed) + 1 == count {
            notifies.notify_one();
        }
    }));
    notify
}

async fn soon(what: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, what).await.unwrap();
}

fn is_whole(rig: &Rig, stored: &Stored) {
    assert_eq!(rig.in_force(stored.item.channel.as_str()).unwrap(), plain(&stored.files));
}

#[tokio::test]
async fn a_broker_that_restarts_amid_a_download_costs_at_most_one_piece() {
    for delta in [false, true] {
        let mut store = Store::start().await;
        let mut stored = store.push("a", 1, files(1, FILES)).await;
        if delta {
            stored.stored.fill(512 * 1024);
            let messages = stored.short_delta(300_000, 40_000);
            store.put_all(messages).await;
        }
        let mut rig = Rig::new(&store);
        let reached = after_pieces(&mut rig, 8);
        let mut running = rig.start();
        let _granting = running.generous();
        rig.assign(&running, &[&stored]);
        soon(reached.notified()).await;
        store.server.kill().await.unwrap();
        assert_eq!(rig.in_force("a"), None, "not before it is whole");
        store.server.start_again().await.unwrap();
        running.applied(&stored).await;
        is_whole(&rig, &stored);
        assert!(rig.repeated() <= 1, "{} pieces came twice", rig.repeated());
        running.stop().await;
    }
}

#[tokio::test]
async fn an_agent_that_ends_anywhere_goes_on_where_it_was() {
    let store = Store::start().await;
    let stored = store.push("a", 1, files(1, FILES)).await;
    let pieces = stored.manifest.chunks().len();
    for count in [1, 2, 7, pieces / 2, pieces - 1, pieces] {
        let mut rig = Rig::new(&store);
        let reached = after_pieces(&mut rig, count);
        let running = rig.start();
        let granting = running.generous();
        rig.assign(&running, &[&stored]);
        soon(reached.notified()).await;
        running.abort().await;
        granting.abort();
        let mut running = rig.start();
        let _granting = running.generous();
        rig.assign(&running, &[&stored]);
        running.applied(&stored).await;
        is_whole(&rig, &stored);
        assert!(rig.repeated() <= 1, "{} of {pieces} pieces came twice", rig.repeated());
        running.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_says_nothing_for_a_while_is_waited_for() {
    let store = Store::start().await;
    let stored = store.push("a", 1, files(1, FILES)).await;
    let mut rig = Rig::new(&store);
    let reached = after_pieces(&mut rig, 5);
    let mut running = rig.start();
    let _granting = running.generous();
    rig.assign(&running, &[&stored]);
    soon(reached.notified()).await;
    store.server.pause().unwrap();
    // Longer than a piece takes, shorter than one is given: nothing can show that it waits.
    tokio::time::sleep(Duration::from_millis(500)).await;
    store.server.resume().unwrap();
    running.applied(&stored).await;
    is_whole(&rig, &stored);
    running.stop().await;
}

/// A store whose chunk 3 is something else than it should be: the old content stays in force, what is wrong is
/// reported, and once the chunk is right again only that and what came after it is fetched.
async fn check_damaged(what: &str, damage: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>) {
    let store = Store::start().await;
    let old = store.push("a", 1, files(70, &[("old", 90_000)])).await;
    let rig = Rig::new(&store);
    let mut running = rig.start();
    let _granting = running.generous();
    rig.assign(&running, &[&old]);
    running.applied(&old).await;
    rig.forget_arrivals();
    let stored = store.push("a", 2, files(1, FILES)).await;
    let (subject, other) = (stored.chunk(3), stored.chunk(4));
    let (good, other) = (store.get(&subject).await, store.get(&other).await);
    match damage(&good, &other) {
        Some(bytes) => store.put(&subject, bytes).await,
        None => store.remove(&subject).await,
    }
    rig.assign(&running, &[&stored]);
    let subject_text = subject.as_str().to_owned();
    let named = move |note: &Note| matches!(note, Note::Delayed { reason, .. } if reason.as_str().contains(&subject_text));
    running.noted(what, named).await;
    is_whole(&rig, &old);
    store.put(&subject, good).await;
    running.applied(&stored).await;
    is_whole(&rig, &stored);
    let bad = rig.pieces().iter().filter(|(piece, _)| piece == subject.as_str()).count();
    assert!(rig.repeated() < bad.max(1), "{what}: only the damaged piece came twice");
    running.stop().await;
}

#[tokio::test]
async fn damaged_pieces_are_never_used() {
    check_damaged("truncated", |good, _| Some(good[..good.len() / 2].to_vec())).await;
    check_damaged("empty", |_, _| Some(Vec::new())).await;
    check_damaged("flipped", |good, _| {
        let mut flipped = good.to_vec();
        flipped[good.len() / 2] ^= 8;
        Some(flipped)
    })
    .await;
    check_damaged("swapped", |_, other| Some(other.to_vec())).await;
}

#[tokio::test]
async fn missing_and_oversized_pieces_are_never_used() {
    check_damaged("missing", |_, _| None).await;
    check_damaged("oversized", |_, _| Some(noise(5, 1_000_000))).await;
    check_damaged("a bomb", |_, _| Some(codec::frame::compress(&vec![0; 64 << 20]))).await;
}

#[tokio::test]
async fn a_chunk_that_is_lost_for_good_is_gone_round_by_the_whole_content() {
    for remove in [true, false] {
        let store = Store::start().await;
        let first = store.push("a", 1, files(1, FILES)).await;
        let mut new = first.files.clone();
        new.insert("data/c".to_owned(), (noise(7, 60_000), false));
        let mut second = store.push("a", 2, new).await;
        store.delta(None, &mut second).await;
        let rig = Rig::new(&store);
        let mut running = rig.start();
        let _granting = running.generous();
        rig.assign(&running, &[&first]);
        running.applied(&first).await;
        let known: Vec<_> = first.manifest.chunks().iter().map(|chunk| chunk.digest).collect();
        let mut chunks = second.manifest.chunks().iter().enumerate();
        let (lost, _) = chunks.rfind(|(_, chunk)| !known.contains(&chunk.digest)).unwrap();
        let subject = second.chunk(lost);
        if remove {
            store.remove(&subject).await;
        } else {
            let good = store.get(&subject).await;
            store.put(&subject, good.slice(..good.len() / 2)).await;
        }
        rig.assign(&running, &[&second]);
        running.applied(&second).await;
        is_whole(&rig, &second);
        assert!(rig.bytes_of("content.patch.none") > 0);
        running.stop().await;
    }
}

#[tokio::test]
async fn manifests_that_are_not_the_one_assigned_are_not_obeyed() {
    let store = Store::start().await;
    let (stored, messages) = make("a", 1, files(1, &[("x", 90_000)]));
    let (_, others) = make("a", 1, files(2, &[("x", 90_000)]));
    let manifest = |messages: &[(wire::subject::Subject, Vec<u8>)]| {
        messages.iter().find(|(subject, _)| subject.as_str().starts_with("content.manifest")).unwrap().clone()
    };
    let (subject, good) = manifest(&messages);
    store.put_all(messages.clone()).await;
    let mut unsigned = wire::envelope::parse(&good).unwrap();
    unsigned.signatures.clear();
    let bad = [
        ("another", manifest(&others).1),
        ("unsigned", prost::Message::encode_to_vec(&unsigned)),
        ("cut", good[..good.len() - 1].to_vec()),
        ("garbage", noise(1, 900_000)),
    ];
    for (what, bytes) in bad {
        store.put(&subject, bytes).await;
        let rig = Rig::new(&store);
        let mut running = rig.start();
        rig.assign(&running, &[&stored]);
        running.noted(what, |note| matches!(note, Note::Delayed { .. })).await;
        assert_eq!((rig.pieces(), rig.in_force("a")), (vec![], None), "{what}");
        store.put(&subject, good.clone()).await;
        running.applied(&stored).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_content_in_force() {
    let temp = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(temp.path(), "2600k") else { return };
    let store = Store::start().await;
    let old = store.push("a", 1, files(70, &[("old", 900_000)])).await;
    let new = store.push("a", 2, files(1, FILES)).await;
    let small = store.push("a", 3, files(9, &[("small", 500_000)])).await;
    let mut rig = Rig::at(&store, temp.path());
    // The cache must not be what fills it.
    rig.options.cache_bytes = 0;
    let mut running = rig.start();
    let _granting = running.generous();
    rig.assign(&running, &[&old]);
    running.applied(&old).await;
    rig.assign(&running, &[&new]);
    let refused = running.reported("no room", |content| !content[0].reason.is_empty()).await;
    assert_eq!(refused[0].active, old.item.number);
    is_whole(&rig, &old);
    rig.assign(&running, &[&small]);
    running.applied(&small).await;
    is_whole(&rig, &small);
    running.stop().await;
}

#[tokio::test]
async fn a_limit_on_the_rate_is_kept_also_when_it_changes() {
    let store = Store::start().await;
    let stored = store.push("a", 1, files(1, FILES)).await;
    let all: u64 = stored.stored.iter().copied().map(u64::from).sum();
    let mut rig = Rig::new(&store);
    rig.pace = Pace { rate_limit: Some(200_000), ..Pace::default() };
    let reached = after_pieces(&mut rig, 10);
    let mut running = rig.start();
    let _granting = running.generous();
    let begun = std::time::Instant::now();
    rig.assign(&running, &[&stored]);
    soon(reached.notified()).await;
    // One burst goes at once; the rest takes its time.
    let burst = domain::content::pace::MIN_BURST_BYTES;
    let arrived = rig.bytes_of("content.chunk");
    let least = Duration::from_millis(arrived.saturating_sub(burst) / 200);
    assert!(begun.elapsed() >= least, "{arrived} bytes in {:?}", begun.elapsed());
    running.assign(vec![stored.item.clone()], Pace::default());
    running.applied(&stored).await;
    let slow = Duration::from_millis(all.saturating_sub(burst) / 200);
    assert!(begun.elapsed() < slow, "the limit is gone: {:?} of {slow:?}", begun.elapsed());
    is_whole(&rig, &stored);
    running.stop().await;
}

/// Helps to read failures.
impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.notes.borrow().iter()).finish()
    }
}
