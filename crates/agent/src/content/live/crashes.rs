//! Agents that die at each step, as processes of their own.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::rig::{Rig, eventually};
use super::store::Store;
use crate::content::test_content::{Stored, files, plain};
use crate::crash::{CONTENT_CRASH_POINTS, CRASH_ENV};

const OLD: &[(&str, usize)] = &[("data/a", 700_000)];
const ROOT: &str = "MUSTER_TEST_ROOT";
const SERVER: &str = "MUSTER_TEST_SERVER";
/// Where arrivals are noted, over the ends of processes.
const ARRIVALS: &str = "arrivals";

/// The contents that all processes of the test know: made anew, they are the same.
fn contents() -> [Stored; 3] {
    let (first, _) = crate::content::test_content::make("a", 1, files(1, OLD));
    let mut new = first.files.clone();
    new.get_mut("data/a").unwrap().0.splice(300_000..300_000, *b"inserted");
    let (mut second, _) = crate::content::test_content::make("a", 2, new);
    // The delta is the shorter road, so that its steps are passed as well.
    second.stored.fill(512 * 1024);
    drop(second.short_delta(150_000, 30_000));
    let (third, _) = crate::content::test_content::make("a", 3, files(9, OLD));
    [first, second, third]
}

fn rig(url: &str, root: &Path) -> Rig {
    let arrivals = root.join(ARRIVALS);
    let mut rig = Rig::of(vec![url.to_owned()], root);
    rig.options.pieces = Some(Arc::new(move |subject: &str, length| {
        let mut file = OpenOptions::new().append(true).create(true).open(&arrivals).unwrap();
        // One write: whole or not there.
        file.write_all(format!("{subject} {length}\n").as_bytes()).unwrap();
    }));
    rig
}

/// The agent that the test below kills: runs only as its child.
#[tokio::test]
async fn crashing_child() {
    let (Ok(root), Ok(url)) = (std::env::var(ROOT), std::env::var(SERVER)) else { return };
    let rig = rig(&url, Path::new(&root));
    let [first, second, third] = contents();
    let mut running = rig.start();
    let _granting = running.generous();
    for stored in [&second, &third] {
        rig.assign(&running, &[stored]);
        running.applied(stored).await;
    }
    let gone = rig.dir.join("content/revisions/a").join(first.item.manifest.to_string());
    eventually("what nothing names is removed", || !gone.exists()).await;
    running.stop().await;
}

/// Pieces that came more than once.
fn repeated(root: &Path) -> usize {
    let text = std::fs::read_to_string(root.join(ARRIVALS)).unwrap_or_default();
    let lines: Vec<&str> =
        text.lines().filter(|l| l.contains("content.chunk") || l.contains("content.patch")).collect();
    let mut all = lines.clone();
    all.sort_unstable();
    all.dedup();
    lines.len() - all.len()
}

#[tokio::test]
async fn killed_at_any_point_it_finds_the_old_content_or_the_new_one() {
    let store = Store::start().await;
    let [first, second, third] = contents();
    for (stored, number) in [(&first, 1), (&second, 2), (&third, 3)] {
        let (made, messages) = crate::content::test_content::make("a", number, stored.files.clone());
        assert_eq!(made.item, stored.item);
        store.put_all(messages).await;
    }
    let mut again = second.clone();
    again.deltas.clear();
    store.put_all(again.short_delta(150_000, 30_000)).await;
    for point in CONTENT_CRASH_POINTS.iter().flat_map(|point| [format!("{point}:1"), format!("{point}:3")]) {
        let dir = tempfile::tempdir().unwrap();
        let before = rig(&store.server.url(), dir.path());
        let mut running = before.start();
        let _granting = running.generous();
        before.assign(&running, &[&first]);
        running.applied(&first).await;
        running.stop().await;
        std::fs::remove_file(dir.path().join(ARRIVALS)).unwrap();

        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "content::live::crashes::crashing_child"])
            .env(ROOT, dir.path())
            .env(SERVER, store.server.url())
            .env(CRASH_ENV, &point)
            .output()
            .unwrap();
        assert!(!child.status.success() || point.ends_with(":3"), "{point} was never passed");
        let found = before.in_force("a").unwrap();
        let allowed = [&first, &second, &third].map(|stored| plain(&stored.files));
        assert!(allowed.contains(&found), "{point}: mixed");

        let mut running = before.start();
        let _granting = running.generous();
        before.assign(&running, &[&second]);
        running.settled(&second).await;
        before.assign(&running, &[&third]);
        running.settled(&third).await;
        running.stop().await;
        assert_eq!(before.in_force("a").unwrap(), plain(&third.files), "{point}");
        assert!(repeated(dir.path()) <= 1, "{point}: {} pieces came twice", repeated(dir.path()));
    }
}
