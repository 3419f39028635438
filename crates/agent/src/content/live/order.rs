//! What goes first, who has to wait, and what happens to a content that does not prove healthy.

use std::time::Duration;

use domain::Span;
use domain::agent::ItemState;
use domain::content::agent::Note;
use domain::content::{ContentStatus, DownloadWish};

use super::rig::Rig;
use super::store::Store;
use crate::content::test_content::{files, plain};
use crate::test_fleet::PATIENCE;

const LARGE: &[(&str, usize)] = &[("data/a", 5_000_000)];
const SMALL: &[(&str, usize)] = &[("x", 50_000)];

/// Time in which what must not happen would have happened many times over.
const QUIET: Duration = Duration::from_millis(700);

#[tokio::test]
async fn nothing_is_asked_for_while_a_policy_is_on_its_way() {
    let store = Store::start().await;
    let stored = store.push("a", 1, files(1, SMALL)).await;
    let rig = Rig::new(&store);
    let mut running = rig.start();
    running.link.told.send_modify(|told| told.pressed = true);
    rig.assign(&running, &[&stored]);
    running.noted("planned", |note| matches!(note, Note::Fetching { .. })).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(rig.pieces(), []);
    running.link.told.send_modify(|told| told.pressed = false);
    running.applied(&stored).await;
    running.stop().await;
}

#[tokio::test]
async fn a_full_download_waits_for_its_allowance_and_gives_it_back() {
    let store = Store::start().await;
    let large = store.push("a", 1, files(1, LARGE)).await;
    let rig = Rig::new(&store);
    let mut running = rig.start();
    rig.assign(&running, &[&large]);
    let mut said = running.link.said.clone();
    let wants = said.wait_for(|said| said.wish == DownloadWish::Wanted);
    drop(tokio::time::timeout(PATIENCE, wants).await.unwrap().unwrap());
    running.grant(None);
    tokio::time::sleep(QUIET).await;
    assert_eq!(rig.pieces(), []);
    running.grant(Some(Span::from_secs(60)));
    running.applied(&large).await;
    let done = said.wait_for(|said| matches!(said.wish, DownloadWish::Done | DownloadWish::Nothing));
    drop(tokio::time::timeout(PATIENCE, done).await.unwrap().unwrap());
    running.stop().await;
}

#[tokio::test]
async fn a_content_that_a_hook_refuses_is_taken_back_and_not_tried_again() {
    let store = Store::start().await;
    let rig = Rig::new(&store);
    let [good, refused, sick, next] = {
        let mut all = Vec::new();
        for number in 1..=4 {
            all.push(store.push("a/b", number, files(u64::from(number) * 10, SMALL)).await);
        }
        <[_; 4]>::try_from(all).ok().unwrap()
    };
    let mut running = rig.start();
    running.handler.refused.lock().unwrap().push(2);
    running.handler.sick.lock().unwrap().push(3);
    rig.assign(&running, &[&good]);
    running.applied(&good).await;
    for bad in [&refused, &sick] {
        rig.assign(&running, &[bad]);
        let item = bad.item.clone();
        running.noted("failed", move |note| matches!(note, Note::Failed(failed, _) if *failed == item)).await;
        let back = good.item.clone();
        running
            .noted("back", move |note| matches!(note, Note::Reverted(_, Some(item)) if *item == back))
            .await;
        let (kept, wanted) = (good.item.number, bad.item.number);
        let is_back = move |content: &[ContentStatus]| {
            (content[0].state, content[0].active, content[0].wanted) == (ItemState::Failed, kept, wanted)
        };
        running.reported("failed", is_back).await;
        assert_eq!(rig.in_force("a/b").unwrap(), plain(&good.files));
    }
    assert_eq!(
        running.handler.changes.lock().unwrap().iter().map(|(_, number)| *number).collect::<Vec<_>>(),
        [1, 2, 1, 3, 1]
    );
    running.stop().await;
    // It remembers, and goes on to what is new.
    let mut running = rig.start();
    rig.assign(&running, &[&sick]);
    running.noted("not tried", |note| matches!(note, Note::NotTried(..))).await;
    rig.assign(&running, &[&next]);
    running.applied(&next).await;
    running.stop().await;
}

#[tokio::test]
async fn what_is_in_force_is_kept_as_it_should_be() {
    let store = Store::start().await;
    let stored = store.push("a", 1, files(1, &[("bin/run", 80_000), ("data", 500_000)])).await;
    let rig = Rig::new(&store);
    let mut running = rig.start();
    rig.assign(&running, &[&stored]);
    running.applied(&stored).await;
    let data = rig.file("a", "data");
    type Harm<'a> = (&'static str, Box<dyn Fn() + 'a>, usize);
    let harms: Vec<Harm<'_>> = vec![
        (
            "edited",
            Box::new(|| {
                let mut bytes = std::fs::read(&data).unwrap();
                bytes[250_000] ^= 1;
                std::fs::write(&data, bytes).unwrap();
            }),
            1,
        ),
        ("removed", Box::new(|| std::fs::remove_file(&data).unwrap()), usize::MAX),
        ("a stranger", Box::new(|| std::fs::write(rig.file("a", "stranger"), b"x").unwrap()), 0),
        (
            "made writable",
            Box::new(|| {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o666)).unwrap();
            }),
            0,
        ),
        ("no link", Box::new(|| std::fs::remove_file(rig.dir.join("content/current/a")).unwrap()), 0),
    ];
    for (at, (what, harm, pieces)) in harms.iter().enumerate() {
        rig.forget_arrivals();
        harm();
        let repaired = |note: &Note| matches!(note, Note::Repaired(_));
        let found = running.notes.wait_for(|notes| notes.iter().filter(|note| repaired(note)).count() > at);
        let found = tokio::time::timeout(PATIENCE, found).await.map(|found| found.is_ok());
        assert_eq!(found, Ok(true), "{what}: {running:?}");
        assert_eq!(rig.in_force("a").unwrap(), plain(&stored.files), "{what}");
        assert!(rig.pieces().len() <= *pieces, "{what}: {:?}", rig.pieces());
    }
    running.stop().await;
}
