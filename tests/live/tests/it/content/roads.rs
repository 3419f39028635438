//! Which bytes travel, and what decides which revision an agent should have.

use std::os::unix::fs::FileExt as _;

use live::{AgentProcess, Fleet, Proxy, Tree};

use super::{
    CHANNEL, Edge, Fetched, number, on_disk, patch_bytes, prepared, promote, push, raw, revision, seeded,
    settled,
};

/// The manifest of a group that follows channels.
fn group(name: &str, path: &str, content: &str) -> String {
    format!(
        "apiVersion: muster.dev/v1alpha1\nkind: Group\nmetadata: {{name: {name}}}\nspec: {{path: {path}, settings: {{mode: push, heartbeatInterval: 1s, offlineAfter: 5s, contentSpread: 0s}}, content: {content}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_content_is_stored_once_and_fetched_once() {
    let tree = Tree::made(1, 1 << 20);
    let fleet = seeded(&tree).await;
    let store = raw::Store::of(&fleet).await;
    let chunks = store.subjects("chunk").await;
    let again = push(&fleet, CHANNEL, &tree).await;
    assert!(!again["created"].as_bool().unwrap_or(false), "{again}");
    assert_eq!(number(&again["revision"]["revision"]), 1, "{again}");
    let other = push(&fleet, "rules/copy", &tree).await;
    assert_eq!((number(&other["revision"]["revision"]), &other["created"]), (1, &true.into()), "{other}");
    assert_eq!(store.subjects("chunk").await, chunks, "the other channel brought no chunk of its own");
    let _ = promote(&fleet, "rules/copy", 1, "stable").await;

    let edge = Edge::start(&fleet, "edge-1", "/edge").await;
    edge.agent.holds(CHANNEL, &tree).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let before = edge.fetched();
    let both = "[{channel: rules/ips, stage: stable}, {channel: rules/copy, stage: stable}]";
    let _ = fleet.cli("policy").apply(&group("edge", "/edge", both)).await;
    edge.agent.holds("rules/copy", &tree).await;
    let reported = settled(&fleet, "edge-1", "rules/copy", 1).await;
    assert_eq!(edge.fetched(), before, "all of it was on the agent's disk");
    assert_eq!(number(&reported["bytes"]["held"]), tree.bytes(), "{reported}");

    // What is assigned no more goes away.
    let _ = fleet.cli("policy").apply(&group("edge", "/edge", "[{channel: rules/ips, stage: stable}]")).await;
    live::until("the copy is gone", || match edge.agent.content("rules/copy") {
        None => Ok(()),
        Some(tree) => Err(format!("{tree:?}")),
    })
    .await;
    assert_eq!(edge.agent.content(CHANNEL).as_ref(), Some(&tree));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_pins_a_number_where_its_parent_follows_a_stage() {
    let first = Tree::made(1, 200_000);
    let second = first.next(2);
    let fleet = seeded(&first).await;
    let policy = fleet.cli("policy");
    let _ = policy.apply(&group("pinned", "/edge/pinned", "[{channel: rules/ips, revision: 1}]")).await;
    let follower = Edge::start(&fleet, "follower", "/edge").await;
    let pinned = Edge::start(&fleet, "pinned-1", "/edge/pinned").await;
    let _ = push(&fleet, CHANNEL, &second).await;
    // The same as `muster content promote`, as a document among others.
    let release = "apiVersion: muster.dev/v1alpha1\nkind: ContentRelease\nmetadata: {name: ips-stable}\nspec: {channel: rules/ips, stage: stable, revision: 2}\n";
    let said = policy.apply(release).await;
    assert!(said.contains("ips-stable"), "{said}");
    follower.agent.holds(CHANNEL, &second).await;
    let _ = settled(&fleet, "pinned-1", CHANNEL, 1).await;
    assert_eq!(pinned.agent.content(CHANNEL).as_ref(), Some(&first));

    let content = fleet.cli("content");
    let said = content.run(&format!("content rollback {CHANNEL} --stage canary --to 1")).await;
    let _ = said.ok();
    let said = content.run(&format!("content retire {CHANNEL} 1 --yes")).await.refused(3);
    assert!(said.contains("/edge/pinned") && said.contains("canary"), "{said}");

    let _ = policy.apply(&group("pinned", "/edge/pinned", "[]")).await;
    pinned.agent.holds(CHANNEL, &second).await;
    let _ = settled(&fleet, "pinned-1", CHANNEL, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn assignments_that_lead_nowhere_are_refused_with_the_way_out() {
    let fleet = seeded(&Tree::made(1, 50_000)).await;
    let policy = fleet.cli("policy");
    let before = policy.json("group list").await;
    for (content, names) in [
        ("[{channel: rules/absent, stage: stable}]", vec!["rules/absent", "muster content push"]),
        ("[{channel: rules/ips, revision: 7}]", vec!["rules/ips", "7"]),
        ("[{channel: rules/ips, revision: 0}]", vec!["revision"]),
        ("[{channel: rules/ips}]", vec!["stage", "revision"]),
        ("[{channel: rules/ips, stage: stable, revision: 1}]", vec!["stage", "revision"]),
        ("[{channel: Rules, stage: stable}]", vec!["Rules"]),
        ("[{channel: rules/ips, stage: a}, {channel: rules/ips, stage: b}]", vec!["rules/ips"]),
    ] {
        let output = policy.run_with(&["apply", "-f", "-"], &group("lost", "/lost", content)).await;
        let said = output.refused(3);
        for name in names {
            assert!(said.contains(name), "{content}\nsaid: {said}\nwithout: {name}");
        }
    }
    assert_eq!(policy.json("group list").await, before);
    // A stage that names nothing yet assigns nothing yet.
    let _ = policy.apply(&group("early", "/early", "[{channel: rules/ips, stage: beta}]")).await;
    let early = Edge::start(&fleet, "early-1", "/early").await;
    let _ = fleet.shows("early-1", "at the head", |shown| shown["progress"] == "CURRENT").await;
    assert_eq!(early.agent.content(CHANNEL), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_away_gets_the_newest_by_one_road() {
    let first = Tree::made(1, 1 << 20);
    let fleet = seeded(&first).await;
    let _ = prepared(&fleet, CHANNEL, 1, &[]).await;
    let mut edge = Edge::start(&fleet, "edge-1", "/edge").await;
    edge.agent.holds(CHANNEL, &first).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    edge.agent.kill().await;
    let mut newest = first;
    for number in 2..=4 {
        newest = newest.next(number);
        let _ = push(&fleet, CHANNEL, &newest).await;
        let _ = promote(&fleet, CHANNEL, u32::try_from(number).expect("small"), "stable").await;
    }
    let patch = patch_bytes(&prepared(&fleet, CHANNEL, 4, &[1]).await, 1);
    let before = edge.fetched();
    edge.agent.start();
    edge.agent.holds(CHANNEL, &newest).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 4).await;
    assert_eq!(edge.fetched().since(before), Fetched { patch, ..Fetched::default() });

    // One that holds none of it takes all of it, and that as one strong frame after the other.
    let full = number(&revision(&fleet, CHANNEL, 4).await["fullBytes"]);
    let fresh = Edge::start(&fleet, "fresh-1", "/edge").await;
    fresh.agent.holds(CHANNEL, &newest).await;
    assert_eq!(fresh.fetched(), Fetched { full, ..Fetched::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn people_fetch_a_revision_and_what_is_there_is_verified() {
    let tree = Tree::made(1, 500_000);
    let fleet = seeded(&tree).await;
    let content = fleet.cli("content");
    let to = fleet.dir().join("fetched");
    let line = format!("content fetch {CHANNEL} @stable --to {}", to.display());
    let _ = content.run(&line).await.ok();
    assert_eq!(Tree::read(&to).expect("it was written"), tree);
    std::fs::write(to.join("bin/scan"), b"mine").expect("it can be written");
    let said = content.run(&line).await.refused(3);
    assert!(said.contains("bin/scan") && said.contains("--force"), "{said}");
    let _ = content.run(&format!("{line} --force")).await.ok();
    assert_eq!(Tree::read(&to).expect("it was written"), tree);

    let upload = raw::Upload::of(CHANNEL, &tree);
    let subjects = raw::chunk_subjects(&upload);
    let store = raw::Store::of(&fleet).await;
    let other = store.get(&subjects[1]).await.expect("a chunk");
    store.put(&subjects[0], other).await;
    let wrong = fleet.dir().join("wrong");
    let said = content.run(&format!("content fetch {CHANNEL} 1 --to {}", wrong.display())).await;
    assert_ne!(said.code, 0, "{}", said.stdout);
    let left = Tree::read(&wrong).unwrap_or_default();
    let names: Vec<&String> = left.0.keys().filter(|name| tree.0.contains_key(*name)).collect();
    assert!(names.iter().all(|&name| left.0[name] == tree.0[name]), "{names:?}: only what is verified");
    assert!(names.len() < tree.0.len(), "{names:?}: a file lacks its bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_find_revisions_and_a_file_is_content_too() {
    let fleet = Fleet::start().await;
    let content = fleet.cli("content");
    let tree = Tree::dense(1, 100_000);
    let file = on_disk(&fleet, &tree).join("model.bin");
    let line = format!("content push models/one {} --label first --note because", file.display());
    let pushed = content.json(&line).await;
    assert_eq!(
        (&pushed["revision"]["label"], &pushed["revision"]["note"]),
        (&"first".into(), &"because".into())
    );
    let shown = content.json("content show models/one first").await;
    assert_eq!(shown["files"][0]["path"], "model.bin", "{shown}");
    assert_eq!(number(&shown["revision"]["bytes"]), tree.bytes(), "{shown}");
}

/// Turns over one byte of the large file in force.
fn rot(edge: &Edge) {
    let path = edge.agent.content_link(CHANNEL).join("model.bin");
    let file = std::fs::File::options().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1000).expect("it is as long");
    file.write_all_at(&[byte[0] ^ 1], 1000).expect("it can be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_from_a_damaged_revision_leads_to_the_right_content_by_chunks() {
    // Chunks are a shorter way to it than the whole content.
    let mut old = Tree::dense(1, 400_000);
    let fleet = seeded(&old).await;
    // It does not look through what is in force while the test runs, and so does not repair it before.
    let proxy = Proxy::start(&fleet.nats.url()).await;
    let agent = AgentProcess::new(fleet.dir(), "edge-1", &fleet.token("/edge", 1).await);
    let seldom = ["--start-spread", "0s", "--drift-every", "1h", "--nats-url", &proxy.nats_url()];
    let mut edge = Edge { agent: agent.with_options(&seldom), proxy };
    edge.agent.start();
    edge.agent.holds(CHANNEL, &old).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    // Damaged before the agent looks at what it holds, and after it looked and chose the patch.
    for (number, point) in [(2, None), (3, Some("content-surveyed")), (4, Some("content-copied"))] {
        let new = old.next(number.into());
        let _ = push(&fleet, CHANNEL, &new).await;
        let _ = prepared(&fleet, CHANNEL, number, &[number - 1]).await;
        let before = edge.fetched();
        if let Some(point) = point {
            edge.agent.kill().await;
            edge.agent.start_with(&[("MUSTER_STOP_AT", point)]);
        } else {
            rot(&edge);
        }
        let _ = promote(&fleet, CHANNEL, number, "stable").await;
        if point.is_some() {
            edge.agent.process().stands_still().await;
            rot(&edge);
            edge.agent.process().go_on();
        }
        edge.agent.holds(CHANNEL, &new).await;
        let _ = settled(&fleet, "edge-1", CHANNEL, number).await;
        let fetched = edge.fetched().since(before);
        assert!(fetched.chunk > 0 && fetched.full == 0, "{point:?}: {fetched:?}");
        assert_eq!(fetched.patch > 0, point.is_some(), "{point:?}: {fetched:?}");
        old = new;
    }
}
