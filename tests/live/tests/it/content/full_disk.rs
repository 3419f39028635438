//! Disks that are full, at every place where content takes room and at every step: what was there stays, the failure
//! says its cause, and once there is room again all goes on by itself or by the same command.

use futures::future::join_all;
use live::{AgentProcess, Fleet, SmallDisk, Tree, eventually};
use serde_json::Value;
use tonic::Code;

use super::observer::Observer;
use super::{
    CHANNEL, Edge, Fetched, PROMPT, number, on_disk, patch_bytes, prepared, promote, push, raw, revision,
    seeded, settled,
};

/// An agent on a disk of its own that fills up at one point of its code.
struct Filling {
    point: &'static str,
    agent: AgentProcess,
    disk: SmallDisk,
}

impl Filling {
    async fn start(fleet: &Fleet, token: &str, point: &'static str) -> Option<Self> {
        let mut agent = AgentProcess::new(fleet.dir(), &format!("edge-{point}"), token).with_options(&PROMPT);
        let disk = SmallDisk::mount(&agent.state, "4m")?;
        agent.start();
        let _ = settled(fleet, &agent.id, CHANNEL, 1).await;
        Some(Self { point, agent, disk })
    }

    /// Starts it again, to stand still at its point.
    async fn start_to_stand(&mut self, fleet: &Fleet, held: u32) {
        let _ = settled(fleet, &self.agent.id, CHANNEL, held).await;
        self.agent.kill().await;
        // A start removes what is of no use, too: that is not the step that is meant.
        let nth = if self.point == "content-pruned" { 2 } else { 1 };
        self.agent.start_with(&[("MUSTER_STOP_AT", &format!("{}:{nth}", self.point))]);
    }

    /// Fills the disk where the agent stands still, sees what comes of it, and makes room again.
    async fn fill(mut self, fleet: &Fleet, [first, second]: [&Tree; 2], observer: Observer) {
        let Self { point, agent, disk } = &mut self;
        agent.process().stands_still().await;
        let ballast = disk.fill();
        agent.process().go_on();
        let what = format!("{point}: it goes on without room, or says what it waits for");
        let shown = fleet.shows(&agent.id, &what, has_said).await;
        let active = number(&super::channel_of(&shown, CHANNEL)["active"]);
        let held = agent.content(CHANNEL);
        let wanted = if active == 3 { second } else { first };
        assert!(held.as_ref() == Some(wanted), "{point}: holds {held:?} and says {shown}");
        drop(ballast);
        agent.holds(CHANNEL, second).await;
        let _ = settled(fleet, &agent.id, CHANNEL, 3).await;
        assert_eq!(observer.seen(), [0, 1], "{point}");
        // What it says is also what it finds after a crash.
        agent.kill().await;
        agent.start();
        let _ = settled(fleet, &agent.id, CHANNEL, 3).await;
        agent.kill().await;
    }
}

/// A fleet whose broker has a small disk of its own, and an agent that holds the first revision; `None` if this machine may
/// not mount one.
async fn on_small_store(first: &Tree) -> Option<(Fleet, AgentProcess)> {
    let fleet = Fleet::with_store_of("24m", &[]).await?;
    super::seed(&fleet, first).await;
    let agent = fleet.agent("edge-1", "/edge").await;
    agent.holds(CHANNEL, first).await;
    Some((fleet, agent))
}

/// An agent that holds the first revision, which has no patches.
async fn edge_with(fleet: &Fleet, first: &Tree) -> Edge {
    super::seed(fleet, first).await;
    let _ = prepared(fleet, CHANNEL, 1, &[]).await;
    let edge = Edge::start(fleet, "edge-1", "/edge").await;
    edge.agent.holds(CHANNEL, first).await;
    let _ = settled(fleet, "edge-1", CHANNEL, 1).await;
    edge
}

/// It gets the second revision by its chunks alone.
async fn goes_by_chunks(fleet: &Fleet, edge: &Edge, (second, before): (&Tree, Fetched)) {
    edge.agent.holds(CHANNEL, second).await;
    let _ = settled(fleet, "edge-1", CHANNEL, 2).await;
    let fetched = edge.fetched().since(before);
    assert!(fetched.chunk > 0 && fetched.patch == 0 && fetched.full == 0, "{fetched:?}");
}

/// Waits until the log says why a delta was not made.
async fn says_why_not(fleet: &Fleet, cause: &str) {
    let log = || fleet.services[0].process.log();
    live::until("the failure is logged with its cause", || {
        let said = log().lines().any(|line| line.contains("a delta was not made") && line.contains(cause));
        if said { Ok(()) } else { Err(log()) }
    })
    .await;
}

/// Whether an agent has the new content, or says that room is missing.
fn has_said(shown: &Value) -> bool {
    let content = super::channel_of(shown, CHANNEL);
    let lacks = |why: &Value| {
        why.as_str().is_some_and(|why| why.contains("No space left") || why.contains("disk has"))
    };
    let is_new = number(&content["active"]) == 3 && content["state"] == "healthy";
    is_new || (number(&content["active"]) == 2 && lacks(&content["reason"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_any_step_of_an_agent_leaves_the_old_content_or_the_new_one() {
    // One before the two that this is about: it is removed at the end, which is a step too.
    let before = Tree::dense(9, 20_000);
    let first = Tree::made(1, 60_000);
    let second = first.next(2);
    let fleet = seeded(&before).await;
    let points = agent::CONTENT_CRASH_POINTS;
    let token = fleet.token("/edge", u32::try_from(points.len()).expect("few")).await;
    let start = points.iter().map(|point| Filling::start(&fleet, &token, point));
    let started: Option<Vec<Filling>> = join_all(start).await.into_iter().collect();
    let Some(mut started) = started else {
        println!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    let _ = push(&fleet, CHANNEL, &first).await;
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    let _ = push(&fleet, CHANNEL, &second).await;
    let _ = prepared(&fleet, CHANNEL, 3, &[2]).await;
    let _ended: Vec<()> = join_all(started.iter_mut().map(|one| one.start_to_stand(&fleet, 2))).await;
    let watch = |one: &Filling| Observer::watch(one.agent.content_link(CHANNEL), &[&first, &second]);
    let observers: Vec<Observer> = started.iter().map(watch).collect();
    let _ = promote(&fleet, CHANNEL, 3, "stable").await;
    let watched = started.into_iter().zip(observers);
    let fill = watched.map(|(one, observer)| one.fill(&fleet, [&first, &second], observer));
    let _ended: Vec<()> = join_all(fill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_a_full_store_says_so_loses_nothing_and_goes_on_later() {
    let first = Tree::dense(1, 1 << 20);
    let Some((fleet, agent)) = on_small_store(&first).await else {
        println!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    let second = Tree::dense(2, 4 << 20);
    let path = on_disk(&fleet, &second).to_string_lossy().into_owned();
    let (content, push_line) = (fleet.cli("content"), format!("content push {CHANNEL} {path}"));
    let ballast = fleet.store.as_ref().expect("it has one").leave(2 << 20);
    let said = content.run(&push_line).await.refused(3);
    for part in ["its disk is full", "content cannot be stored", "free some"] {
        assert!(said.contains(part), "{said}\nwithout: {part}");
    }
    // What was there is there, and the smaller things go on.
    let to = fleet.dir().join("got");
    let _ = content.run(&format!("content fetch {CHANNEL} --to {}", to.display())).await.ok();
    assert_eq!(Tree::read(&to).expect("it was written"), first);
    let _ = promote(&fleet, CHANNEL, 1, "beta").await;
    let _ = content.run("content gc").await.ok();
    let said = content.run(&format!("content promote {CHANNEL} 2 --stage stable")).await;
    assert_ne!(said.code, 0, "there is no second revision: {said:?}");
    assert_eq!(agent.content(CHANNEL).as_ref(), Some(&first));
    drop(ballast);
    let pushed = content.json(&push_line).await;
    assert_eq!((&pushed["created"], number(&pushed["revision"]["revision"])), (&true.into(), 2), "{pushed}");
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    agent.holds(CHANNEL, &second).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_work_dir_costs_patches_and_nothing_else() {
    let work = tempfile::tempdir().expect("a temporary directory can be made");
    let Some(disk) = SmallDisk::mount(work.path(), "1m") else {
        println!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    let mut fleet = Fleet::start_with(&["--work-dir", &work.path().to_string_lossy()]).await;
    let first = Tree::made(1, 400_000);
    let second = first.next(2);
    let mut edge = edge_with(&fleet, &first).await;
    let (ballast, before) = (disk.fill(), edge.fetched());
    let _ = push(&fleet, CHANNEL, &second).await;
    says_why_not(&fleet, "No space left").await;
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    goes_by_chunks(&fleet, &edge, (&second, before)).await;
    // It is tried again later, and at the next start.
    drop(ballast);
    fleet.services[0].process.kill().await;
    fleet.restart(0).await;
    let _ = prepared(&fleet, CHANNEL, 2, &[1]).await;
    edge.agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_reached_amid_an_upload_stops_it_and_it_goes_on_later() {
    let fleet = Fleet::start_with(&["--content-quota", "2MiB", "--patch-workers", "0"]).await;
    let mut api = raw::content(&fleet).await;
    // Each fits alone.
    let [one, two] =
        [1, 2].map(|seed| raw::Upload::of(&format!("rules/{seed}"), &Tree::dense(seed, 1_300_000)));
    let [first, second] = [
        api.begin_upload(one.begin.clone()).await.expect("it fits").into_inner(),
        api.begin_upload(two.begin.clone()).await.expect("it fits").into_inner(),
    ];
    let _ = raw::send(&mut api, one.chunks(&first.manifest, &first.missing)).await.expect("they are taken");
    let _ = api.finish_upload(one.finish(&first.manifest)).await.expect("all is there");
    let (some, rest) = second.missing.split_at(second.missing.len() / 3);
    let _ = raw::send(&mut api, two.chunks(&second.manifest, some)).await.expect("so many fit");
    let refused = raw::send(&mut api, two.chunks(&second.manifest, rest)).await.expect_err("these do not");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    for part in ["2.0 MiB", "--content-quota", "muster content gc"] {
        assert!(refused.message().contains(part), "{refused}\nwithout: {part}");
    }
    // What was there is there; with room it goes on where it was.
    let content = fleet.cli("content");
    let to = fleet.dir().join("got");
    let _ = content.run(&format!("content fetch rules/1 --to {}", to.display())).await.ok();
    assert_eq!(Tree::read(&to).expect("it was written"), Tree::dense(1, 1_300_000));
    let _ = content.run("content retire rules/1 1 --yes").await.ok();
    eventually("there is room again", async || {
        let _ = content.run("content gc").await.ok();
        let begun = api.begin_upload(two.begin.clone()).await;
        begun.map(drop).map_err(|status| status.to_string())
    })
    .await;
    let resumed = api.begin_upload(two.begin.clone()).await.expect("it goes on").into_inner();
    assert!(resumed.missing.len() <= rest.len(), "{} of {}", resumed.missing.len(), rest.len());
    let _ =
        raw::send(&mut api, two.chunks(&second.manifest, &resumed.missing)).await.expect("they are taken");
    let finished = api.finish_upload(two.finish(&second.manifest)).await.expect("all is there").into_inner();
    assert!(finished.created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_beyond_the_quota_is_not_made_and_agents_go_by_chunks() {
    let first = Tree::made(1, 400_000);
    let second = first.next(2);
    let mut fleet = Fleet::start_with(&[]).await;
    let mut edge = edge_with(&fleet, &first).await;
    let before = edge.fetched();
    fleet.services[0].process.kill().await;
    fleet.restart_with(0, &[("MUSTER_PATCH_WORKERS", "0")]).await;
    let _ = push(&fleet, CHANNEL, &second).await;
    let quota = raw::Store::of(&fleet).await.bytes().await.to_string();
    fleet.services[0].process.kill().await;
    fleet.restart_with(0, &[("MUSTER_CONTENT_QUOTA", &quota)]).await;
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    goes_by_chunks(&fleet, &edge, (&second, before)).await;
    says_why_not(&fleet, "--content-quota").await;
    assert_eq!(patch_bytes(&revision(&fleet, CHANNEL, 2).await, 1), 0);
    edge.agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_to_a_full_disk_leaves_no_half_file_and_goes_on_later() {
    let mut tree = Tree::dense(1, 900_000);
    tree.put("rules", b"alert".to_vec());
    let fleet = seeded(&tree).await;
    let at = fleet.dir().join("small");
    let Some(disk) = SmallDisk::mount(&at, "2m") else {
        println!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    let to = at.join("got");
    let line = format!("content fetch {CHANNEL} --to {}", to.display());
    let content = fleet.cli("content");
    for left in [300_000, 0] {
        let ballast = disk.leave(left);
        let said = content.run(&line).await;
        assert_ne!(said.code, 0, "{said:?}");
        assert!(said.stderr.contains("No space left"), "{said:?}");
        assert!(!to.join("model.bin").exists(), "no half file has the name");
        drop(ballast);
    }
    let _ = content.run(&line).await.ok();
    assert_eq!(Tree::read(&to).expect("it was written"), tree);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_byte_left_loses_nothing_and_goes_on_after_its_restart() {
    let first = Tree::dense(1, 1 << 20);
    let Some((mut fleet, agent)) = on_small_store(&first).await else {
        println!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let content = fleet.cli("content");
    // Small changes fit into what the broker's files have taken already, for a while. Then it answers no write any
    // more, and takes none until it is started again.
    let ballast = fleet.store.as_ref().expect("it has one").fill();
    let mut stages = 0;
    eventually("a change does not fit", async || {
        stages += 1;
        let promoted = content.run(&format!("content promote {CHANNEL} 1 --stage s{stages}")).await;
        if promoted.code == 5 { Ok(()) } else { Err(format!("{promoted:?}")) }
    })
    .await;
    assert_eq!(agent.content(CHANNEL).as_ref(), Some(&first));
    drop(ballast);
    fleet.nats.kill().await.expect("it can be killed");
    fleet.nats.start_again().await.expect("it starts");
    eventually("changes are made again", async || {
        let promoted = content.run("content promote rules/ips 1 --stage beta").await;
        if promoted.code == 0 { Ok(()) } else { Err(promoted.stderr) }
    })
    .await;
    let to = fleet.dir().join("got");
    let _ = content.run(&format!("content fetch {CHANNEL} --to {}", to.display())).await.ok();
    assert_eq!(Tree::read(&to).expect("it was written"), first);
    let second = Tree::dense(2, 2 << 20);
    let _ = push(&fleet, CHANNEL, &second).await;
    let _ = promote(&fleet, CHANNEL, 2, "stable").await;
    agent.holds(CHANNEL, &second).await;
}
