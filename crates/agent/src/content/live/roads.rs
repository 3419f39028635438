//! Which way a content comes, and what it costs.

use domain::content::agent::Note;
use domain::content::plan::Road;

use super::rig::{Rig, Running, eventually};
use super::store::Store;
use crate::content::test_content::{Files, Stored, files, plain};

const FILES: &[(&str, usize)] =
    &[("bin/scan", 40_000), ("data/a", 1_500_000), ("data/b", 0), ("data/c", 900_000), ("readme", 3)];

/// A tree with some bytes of it changed, inserted and gone.
fn changed(old: &Files) -> Files {
    let mut new = old.clone();
    let (data, _) = new.get_mut("data/a").unwrap();
    data[700_000..700_010].copy_from_slice(b"0123456789");
    data.splice(200_000..200_000, *b"inserted");
    new.get_mut("data/c").unwrap().0.drain(5_000..5_500);
    new
}

fn road(running: &Running, stored: &Stored) -> Vec<Road> {
    let of = |note: &Note| match note {
        Note::Fetching { item, plan } if *item == stored.item => Some(plan.road),
        _ => None,
    };
    running.notes.borrow().iter().filter_map(of).collect()
}

#[tokio::test]
async fn a_fresh_agent_fetches_the_whole_content_and_the_next_revision_by_patch() {
    let store = Store::start().await;
    let mut first = store.push("definitions/ips", 1, files(1, FILES)).await;
    store.delta(None, &mut first).await;
    let rig = Rig::new(&store);
    let mut running = rig.start();
    let _granting = running.generous();
    rig.assign(&running, &[&first]);
    running.applied(&first).await;
    assert_eq!(rig.in_force("definitions/ips").unwrap(), plain(&first.files));
    assert_eq!(road(&running, &first), [Road::Full]);
    let whole = first.delta_bytes(None);
    assert_eq!((rig.bytes_of("content.patch.none"), rig.bytes_of("content.")), (whole, whole));

    rig.forget_arrivals();
    let mut second = store.push("definitions/ips", 2, changed(&first.files)).await;
    store.delta(None, &mut second).await;
    store.delta(Some(&first), &mut second).await;
    rig.assign(&running, &[&second]);
    running.applied(&second).await;
    assert_eq!(rig.in_force("definitions/ips").unwrap(), plain(&second.files));
    let patch = second.delta_bytes(Some(&first));
    assert!(patch < whole / 10, "{patch} of {whole}");
    assert_eq!(rig.bytes_of("content."), patch, "exactly the patch");
    let said = running.reported("healthy", |content| content.iter().all(|one| one.percent == 100)).await;
    assert_eq!((said[0].active, said[0].bytes.patch), (second.item.number, patch));
    assert_eq!(
        *running.handler.changes.lock().unwrap(),
        [("definitions/ips".into(), 1), ("definitions/ips".into(), 2)]
    );
    running.stop().await;
}

#[tokio::test]
async fn chunks_that_another_channel_holds_do_not_travel() {
    let store = Store::start().await;
    let first = store.push("a", 1, files(1, FILES)).await;
    let mut new = first.files.clone();
    new.insert("data/more".to_owned(), files(60, &[("more", 200_000)])["more"].clone());
    let second = store.push("b", 1, new).await;
    let rig = Rig::new(&store);
    let mut running = rig.start();
    let _granting = running.generous();
    rig.assign(&running, &[&first]);
    running.applied(&first).await;
    rig.forget_arrivals();
    rig.assign(&running, &[&first, &second]);
    running.applied(&second).await;
    assert_eq!(rig.in_force("b").unwrap(), plain(&second.files));
    assert_eq!(rig.in_force("a").unwrap(), plain(&first.files));
    let (fetched, all) =
        (rig.bytes_of("content.chunk"), second.stored.iter().copied().map(u64::from).sum::<u64>());
    assert!(fetched < all / 4, "{fetched} of {all}");
    let said = running.reported("healthy", |content| content.len() == 2 && content[1].percent == 100).await;
    assert_eq!(said[1].bytes.chunk, fetched);
    assert!(said[1].bytes.held > second.item.content_bytes - 400_000, "{:?}", said[1].bytes);
    running.stop().await;
}

#[tokio::test]
async fn the_way_back_costs_nothing_while_the_revision_before_is_kept() {
    let store = Store::start().await;
    let first = store.push("a", 1, files(1, FILES)).await;
    let second = store.push("a", 2, changed(&first.files)).await;
    let rig = Rig::new(&store);
    let mut running = rig.start();
    let _granting = running.generous();
    for stored in [&first, &second] {
        rig.assign(&running, &[stored]);
        running.applied(stored).await;
    }
    rig.forget_arrivals();
    let mut back = first.clone();
    back.item.revision = domain::Revision(9);
    rig.assign(&running, &[&back]);
    running.applied(&back).await;
    assert_eq!(rig.in_force("a").unwrap(), plain(&first.files));
    assert_eq!(rig.pieces(), []);
    // Gone: the files, and all that was kept of them but the cache.
    rig.assign(&running, &[]);
    running.noted("removed", |note| matches!(note, Note::Removed(_))).await;
    assert_eq!(rig.in_force("a"), None);
    let revisions = rig.dir.join("content/revisions");
    eventually("all of it is gone", || std::fs::read_dir(&revisions).unwrap().count() == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_not_begun_and_the_numbers_are_told() {
    let store = Store::start().await;
    let first = store.push("a", 1, files(1, FILES)).await;
    let mut rig = Rig::new(&store);
    rig.options.quota = Some(1_000_000);
    let mut running = rig.start();
    let _granting = running.generous();
    rig.assign(&running, &[&first]);
    let said =
        running.reported("refused", |content| !content.is_empty() && !content[0].reason.is_empty()).await;
    assert!(said[0].reason.contains("1000000") || said[0].reason.contains("quota"), "{}", said[0].reason);
    assert_eq!((rig.pieces(), rig.in_force("a")), (vec![], None));
    running.stop().await;
    rig.options.quota = Some(4_000_000);
    let mut running = rig.start();
    let _granting = running.generous();
    rig.assign(&running, &[&first]);
    running.applied(&first).await;
    running.stop().await;
}
