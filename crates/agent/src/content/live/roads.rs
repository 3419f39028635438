//! Which way a content comes, and what it costs.

use domain::content::agent::Note;
use domain::content::plan::Road;

use super::rig::{Rig, Running, plain};
use super::store::{Store, Stored, Tree, tree};

const FILES: &[(&str, usize)] =
    &[("bin/scan", 40_000), ("data/a", 1_500_000), ("data/b", 0), ("data/c", 900_000), ("readme", 3)];

/// A tree with some bytes of it changed, inserted and gone.
fn changed(tree: &Tree) -> Tree {
    let mut new = tree.clone();
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
    let mut first = store.push("definitions/ips", 1, tree(1, FILES)).await;
    store.delta(None, &mut first).await;
    let rig = Rig::new(&store);
    let mut running = rig.start();
    let _granting = running.generous();
    rig.assign(&running, &[&first]);
    running.applied(&first).await;
    assert_eq!(rig.in_force("definitions/ips").unwrap(), plain(&first.tree));
    assert_eq!(road(&running, &first), [Road::Full]);
    let whole = first.delta_bytes(None);
    assert_eq!((rig.bytes_of("content.patch.none"), rig.bytes_of("content.")), (whole, whole));

    rig.forget_arrivals();
    let mut second = store.push("definitions/ips", 2, changed(&first.tree)).await;
    store.delta(None, &mut second).await;
    store.delta(Some(&first), &mut second).await;
    rig.assign(&running, &[&second]);
    running.applied(&second).await;
    assert_eq!(rig.in_force("definitions/ips").unwrap(), plain(&second.tree));
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
