//! SIGKILL anywhere: the old content or the new one, and nothing is lost.

use std::collections::BTreeSet;
use std::path::Path;

use domain::Digest;
use live::{Faults, Fleet, Lane, Proxy, Service, Tree, eventually};
use prost::Message as _;
use wire::agent::v1::{ContentIndex, Envelope, Manifest};
use wire::api::v1::{CollectGarbageRequest, PromoteRequest, RevisionSelector};

use super::observer::Observer;
use super::{
    CHANNEL, CONTENT, Edge, number, on_disk, prepared, promote, push, raw, revision, seeded, settled,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_step_holds_the_old_content_or_the_new_one() {
    let mut old = Tree::made(1, 300_000);
    let fleet = seeded(&old).await;
    let mut edge = Edge::new(&fleet, "edge-1", "/edge").await;
    edge.agent.start();
    edge.agent.holds(CHANNEL, &old).await;
    for (number, point) in (2..).zip(agent::CONTENT_CRASH_POINTS) {
        let new = old.next(number.into());
        let _ = push(&fleet, CHANNEL, &new).await;
        let _ = prepared(&fleet, CHANNEL, number, &[]).await;
        edge.agent.kill().await;
        let observer = Observer::watch(edge.agent.content_link(CHANNEL), &[&old, &new]);
        let before = edge.fetched_again().len();
        edge.agent.start_with(&[("MUSTER_CRASH_AT", point)]);
        let _ = promote(&fleet, CHANNEL, number, "stable").await;
        let status = edge.agent.process().wait().await;
        assert!(!status.success(), "{point} is passed");
        edge.agent.start();
        edge.agent.holds(CHANNEL, &new).await;
        let _ = settled(&fleet, "edge-1", CHANNEL, number).await;
        let seen = observer.seen();
        assert!(seen == [0, 1] || seen == [1], "{point}: {seen:?}");
        let again = edge.fetched_again().len() - before;
        assert!(again <= 1, "{point}: {again} pieces again");
        old = new;
    }
}

/// A signed message as it is stored; it has to be there.
async fn opened<M: prost::Message + Default>(store: &raw::Store, subject: &str) -> M {
    let stored = store.get(subject).await.unwrap_or_else(|| panic!("{subject} is lost"));
    let envelope = Envelope::decode(stored).expect("an envelope");
    M::decode(envelope.payload).expect("what it says it is")
}

/// Subjects that a revision needs: its manifest, its chunks, its index and the parts of the deltas in it.
async fn needed(store: &raw::Store, manifest: Digest) -> BTreeSet<String> {
    let hex = |digest: &[u8]| Digest(digest.try_into().expect("32 bytes")).to_string();
    let subjects = [format!("content.manifest.{manifest}"), format!("content.index.{manifest}")];
    let chunks = opened::<Manifest>(store, &subjects[0]).await.chunk_digests;
    let deltas = opened::<ContentIndex>(store, &subjects[1]).await.deltas;
    let parts = deltas.iter().flat_map(|delta| {
        let from = if delta.from.is_empty() { "none".to_owned() } else { hex(&delta.from) };
        (0..delta.parts.len()).map(move |number| format!("content.patch.{from}.{manifest}.{number}"))
    });
    let chunks = chunks.chunks(32).map(|digest| format!("content.chunk.{}", hex(digest)));
    subjects.iter().cloned().chain(chunks).chain(parts).collect()
}

/// Holds the stream against the revisions of a channel: all that they need is there. What else there is.
async fn orphans(fleet: &Fleet, channel: &str) -> BTreeSet<String> {
    let store = raw::Store::of(fleet).await;
    let shown = fleet.cli("content").json(&format!("content show {channel}")).await;
    let mut wanted = BTreeSet::new();
    for one in shown["revisions"].as_array().expect("revisions") {
        wanted.extend(needed(&store, super::digest(&one["manifest"])).await);
    }
    let mut found = BTreeSet::new();
    for kind in ["manifest", "index", "chunk", "patch"] {
        found.extend(store.subjects(kind).await);
    }
    let lost: Vec<&String> = wanted.difference(&found).collect();
    assert!(lost.is_empty(), "revisions need these: {lost:?}");
    found.difference(&wanted).cloned().collect()
}

/// What makes a service pass its crash points, once a push is under way: a stage moves, so that retention finds
/// something to retire, and garbage is collected. Whatever comes of it.
async fn stir(service: &Service, dir: &Path) -> Result<(), tonic::Status> {
    let api = raw::api(service, dir).await;
    let mut api = api.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let selector = RevisionSelector { channel: CHANNEL.to_owned(), which: None };
    let promote =
        PromoteRequest { selector: Some(selector), stage: "stable".to_owned(), ..PromoteRequest::default() };
    let _ = api.promote(promote).await?;
    let _ = api.collect_garbage(CollectGarbageRequest { dry_run: false }).await?;
    Ok(())
}

/// Kills content at each of these points while it takes a push, makes deltas, applies retention and collects
/// garbage; every time it comes back, the push goes on by itself, and agents get it.
async fn killed_at(points: &[&str]) {
    let mut tree = Tree::made(1, 400_000);
    let mut fleet = Fleet::with_content_replicas(1).await;
    super::seed(&fleet, &tree).await;
    let keep = format!("content set {CHANNEL} --keep-revisions 1 --keep-for 1ms");
    let _ = fleet.cli("content").run(&keep).await.ok();
    // Enough of them that retention finds some to remove from the first round on.
    for number in 2..5 {
        tree = tree.next(number.into());
        let _ = push(&fleet, CHANNEL, &tree).await;
        let _ = promote(&fleet, CHANNEL, number, "stable").await;
    }
    let agent = fleet.agent("edge-1", "/edge").await;
    agent.holds(CHANNEL, &tree).await;
    let at = fleet.replicas("content")[0];
    let proxy = Proxy::start(&fleet.services[at].address).await;
    let cli = fleet.cli_at(proxy.address());
    for (round, point) in (5..).zip(points) {
        fleet.services[at].process.kill().await;
        fleet.restart_with(at, &[("MUSTER_CRASH_AT", point)]).await;
        proxy.lead_to(&fleet.services[at].address);
        tree = tree.next(round);
        let path = on_disk(&fleet, &tree).to_string_lossy().into_owned();
        let line = format!("content push {CHANNEL} {path}");
        let dir = fleet.dir().to_owned();
        let dying = async {
            let service = &mut fleet.services[at];
            eventually(format!("{point} is passed"), async || {
                if service.process.ended().is_some() {
                    return Ok(());
                }
                let stirred = stir(service, &dir).await;
                Err(format!("it lives: {stirred:?}"))
            })
            .await;
            fleet.restart(at).await;
            proxy.lead_to(&fleet.services[at].address);
        };
        // The push goes on by itself where the service that died left it.
        let (pushed, ()) = tokio::join!(cli.json(&line), dying);
        let newest = u32::try_from(number(&pushed["revision"]["revision"])).expect("small");
        let _ = promote(&fleet, CHANNEL, newest, "stable").await;
        agent.holds(CHANNEL, &tree).await;
        let content = fleet.cli("content");
        let to = fleet.dir().join(format!("got-{point}"));
        let _ = content.run(&format!("content fetch {CHANNEL} {newest} --to {}", to.display())).await.ok();
        assert_eq!(Tree::read(&to).expect("it was written"), tree, "{point}");
        eventually(format!("{point}: nothing is stored that nothing needs"), async || {
            let collected = content.json("content gc").await;
            let orphans = orphans(&fleet, CHANNEL).await;
            if orphans.is_empty() { Ok(()) } else { Err(format!("{orphans:?} {collected}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_killed_at_any_step_loses_nothing() {
    // A garbage collection that dies is waited for until its time is over: several fleets wait at once.
    let (before, sweep) = content::CRASH_POINTS.split_at(content::CRASH_POINTS.len() - 4);
    let (noted, deleting) = sweep.split_at(2);
    assert_eq!(sweep[1..3], ["sweep-noted", "sweep-deleting"]);
    tokio::join!(killed_at(before), killed_at(noted), killed_at(deleting));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_amid_a_download_costs_one_piece() {
    // Without deltas the content comes in many pieces, and on such a line one after the other.
    let fleet = Fleet::start_with(&["--patch-workers", "0"]).await;
    let line = Lane { bytes_per_second: Some(2 << 20), ..Lane::default() };
    let mut tree = Tree::dense(1, 3 << 19);
    super::seed(&fleet, &tree).await;
    let mut edge = Edge::new(&fleet, "edge-1", "/edge").await;
    edge.proxy.set(CONTENT, Faults::down(line));
    let points = ["content-piece-received:1", "content-piece-kept:5", "content-piece-received:12"];
    for (number, point) in (1..).zip(points) {
        if number > 1 {
            tree = Tree::dense(number.into(), 3 << 19);
            let _ = push(&fleet, CHANNEL, &tree).await;
            let _ = promote(&fleet, CHANNEL, number, "stable").await;
        }
        let (before, again) = (edge.fetched().all(), edge.fetched_again().len());
        edge.agent.start_with(&[("MUSTER_CRASH_AT", point)]);
        let status = edge.agent.process().wait().await;
        assert!(!status.success(), "{point} is passed");
        edge.agent.start();
        edge.agent.holds(CHANNEL, &tree).await;
        let all = super::number(&revision(&fleet, CHANNEL, number).await["chunkBytes"]);
        let (fetched, again) = (edge.fetched().all() - before, edge.fetched_again().len() - again);
        assert!(again <= 1, "{point}: {again} pieces again, {fetched} bytes of {all}");
        edge.agent.kill().await;
    }
}
