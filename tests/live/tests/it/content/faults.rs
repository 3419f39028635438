//! Agents whose disk is full or damaged, and content that does not do.

use std::os::unix::fs::PermissionsExt as _;

use live::{AgentProcess, SmallDisk, Tree};

use super::observer::Observer;
use super::{CHANNEL, Edge, number, prepared, promote, push, seeded, settled, shows};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_the_old_content_until_there_is_room() {
    let first = Tree::dense(1, 1 << 20);
    let fleet = seeded(&first).await;
    let mut edge = Edge::new(&fleet, "edge-1", "/edge").await;
    let Some(_disk) = SmallDisk::mount(&edge.agent.state, "16m") else {
        println!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    edge.agent.start();
    edge.agent.holds(CHANNEL, &first).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let second = Tree::dense(2, 4 << 20);
    let ballast = edge.agent.state.join("ballast");
    std::fs::write(&ballast, vec![0; 12 << 20]).expect("there is room for that");
    let observer = Observer::watch(edge.agent.content_link(CHANNEL), &[&first, &second]);
    let before = edge.fetched();
    let _ = push(&fleet, CHANNEL, &second).await;
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    let shown = shows(&fleet, "edge-1", CHANNEL, "it says that room is missing", |one| {
        number(&one["wanted"]) == 2 && one["reason"].as_str().is_some_and(|why| why.contains("disk"))
    })
    .await;
    assert_eq!(number(&shown["active"]), 1, "{shown}");
    assert_eq!(edge.fetched(), before, "space is looked at before anything is fetched");
    std::fs::remove_file(ballast).expect("it is there");
    edge.agent.holds(CHANNEL, &second).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 2).await;
    assert_eq!(observer.seen(), [0, 1]);
    edge.agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_amid_a_download_is_survived() {
    let first = Tree::dense(1, 1 << 20);
    let fleet = seeded(&first).await;
    let mut edge = Edge::new(&fleet, "edge-1", "/edge").await;
    let Some(_disk) = SmallDisk::mount(&edge.agent.state, "16m") else {
        println!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    edge.agent.start();
    edge.agent.holds(CHANNEL, &first).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let second = Tree::dense(2, 4 << 20);
    let observer = Observer::watch(edge.agent.content_link(CHANNEL), &[&first, &second]);
    let _ = push(&fleet, CHANNEL, &second).await;
    let _ = prepared(&fleet, CHANNEL, 2, &[]).await;
    let hold = live::Lane { hold_after: Some(2_500_000), ..live::Lane::default() };
    edge.proxy.set(super::CONTENT, live::Faults::down(hold));
    let before = edge.fetched().all();
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    live::until("the download is under way", || {
        let fetched = edge.fetched().all() - before;
        if fetched > 1 << 20 { Ok(()) } else { Err(format!("{fetched} bytes")) }
    })
    .await;
    let ballast = edge.agent.state.join("ballast");
    drop(std::fs::write(&ballast, vec![0; 16 << 20]));
    edge.proxy.calm();
    let _ = shows(&fleet, "edge-1", CHANNEL, "it says that room is missing", |one| {
        number(&one["active"]) == 1 && one["reason"].as_str().is_some_and(|why| why.contains("space"))
    })
    .await;
    std::fs::remove_file(ballast).expect("it is there");
    edge.agent.holds(CHANNEL, &second).await;
    assert_eq!(observer.seen(), [0, 1]);
    edge.agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_in_force_are_repaired() {
    let tree = Tree::made(1, 600_000);
    let fleet = seeded(&tree).await;
    let edge = Edge::start(&fleet, "edge-1", "/edge").await;
    edge.agent.holds(CHANNEL, &tree).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let place = edge.agent.content_link(CHANNEL);
    type Harm = fn(&std::path::Path);
    let harms: &[(&str, Harm)] = &[
        ("a byte", |dir| {
            let file = dir.join("models/classifier.bin");
            let mut bytes = std::fs::read(&file).expect("it is there");
            bytes[1000] ^= 1;
            std::fs::write(file, bytes).expect("it can be written");
        }),
        ("a file gone", |dir| std::fs::remove_file(dir.join("a/b/c/d/version")).expect("it is there")),
        ("cut short", |dir| {
            std::fs::write(dir.join("rules/ips.rules"), b"alert").expect("it can be written")
        }),
        ("a mode", |dir| {
            let mode = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(dir.join("bin/scan"), mode).expect("it can be changed");
        }),
        ("a stranger", |dir| {
            std::fs::write(dir.join("rules/extra.rules"), b"allow").expect("it can be written")
        }),
        ("a directory gone", |dir| std::fs::remove_dir_all(dir.join("rules")).expect("it is there")),
        ("a link", |dir| {
            std::fs::remove_file(dir.join("empty")).expect("it is there");
            std::os::unix::fs::symlink("/etc/passwd", dir.join("empty")).expect("a link");
        }),
    ];
    for (what, harm) in harms {
        harm(&place);
        live::until(format!("{what} is repaired"), || match Tree::read(&place) {
            Ok(now) if now == tree => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let worth = tree.bytes() * 3;
    assert!(edge.fetched().all() < worth, "only what was damaged is fetched: {:?}", edge.fetched());
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_fails_its_check_goes_back_and_is_not_tried_again() {
    let first = Tree::made(1, 200_000);
    let mut second = first.next(2);
    second.put("bad", b"this one does not start\n".to_vec());
    let fleet = seeded(&first).await;
    let token = fleet.token("/edge", 1).await;
    let said = fleet.dir().join("said");
    // Notes what it is told, and refuses a tree with a file `bad`.
    let config = format!(
        "[content.\"{CHANNEL}\"]\ncommand = [\"sh\", \"-c\", \"env | grep ^MUSTER_ | sort >> {}; if test -e \\\"$MUSTER_CONTENT_DIR/bad\\\"; then cat \\\"$MUSTER_CONTENT_DIR/bad\\\" >&2; exit 1; fi\"]\n",
        said.display()
    );
    let mut agent =
        AgentProcess::new(fleet.dir(), "edge-1", &token).with_config(&config).with_options(&super::PROMPT);
    agent.start();
    agent.holds(CHANNEL, &first).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let told = std::fs::read_to_string(&said).expect("the hook ran");
    for name in ["MUSTER_CHANNEL=rules/ips", "MUSTER_CONTENT_DIR=", "MUSTER_CONTENT_REVISION=1"] {
        assert!(told.contains(name), "{told}\nwithout {name}");
    }

    let _ = push(&fleet, CHANNEL, &second).await;
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    let failed = shows(&fleet, "edge-1", CHANNEL, "failed", |one| one["state"] == "failed").await;
    assert_eq!((number(&failed["active"]), number(&failed["wanted"])), (1, 2), "{failed}");
    let why = failed["reason"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("does not start"), "{failed}");
    agent.holds(CHANNEL, &first).await;

    // Neither time nor a restart nor another change brings it back.
    let tries = |text: &str| text.matches("MUSTER_CONTENT_REVISION=2").count();
    let before = tries(&std::fs::read_to_string(&said).expect("the hook ran"));
    agent.kill().await;
    agent.start();
    let _ = fleet.cli("policy").run("settings set --group /edge --heartbeat-interval 2s").await.ok();
    let again = shows(&fleet, "edge-1", CHANNEL, "still failed", |one| one["state"] == "failed").await;
    assert_eq!(again["reason"], why.as_str(), "{again}");
    let _ = fleet.shows("edge-1", "at the head", |shown| shown["progress"] == "CURRENT").await;
    assert_eq!(tries(&std::fs::read_to_string(&said).expect("the hook ran")), before);
    assert_eq!(agent.content(CHANNEL).as_ref(), Some(&first));

    // Promoted anew it is tried anew; and the next revision does.
    let _ = promote(&fleet, CHANNEL, 1, "stable").await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    live::until("it is tried anew", || {
        let told = std::fs::read_to_string(&said).expect("the hook ran");
        if tries(&told) > before { Ok(()) } else { Err(told) }
    })
    .await;
    let third = first.next(3);
    let _ = push(&fleet, CHANNEL, &third).await;
    let _ = promote(&fleet, CHANNEL, 3, "stable").await;
    agent.holds(CHANNEL, &third).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 3).await;
}
