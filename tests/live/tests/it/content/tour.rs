//! One channel from its first revision to retention, with every byte counted that agents fetch.

use live::{Fleet, Tree};
use serde_json::{Value, json};

use super::{
    CHANNEL, Edge, Fetched, channel_of, groups, number, patch_bytes, prepared, promote, push, raw, revision,
    settled,
};

/// Revision of the head of a group.
async fn head(fleet: &Fleet, group: &str) -> u64 {
    number(&fleet.cli("policy").json(&format!("group show {group}")).await["headRevision"])
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_reach_agents_by_the_cheapest_road_and_go_back_and_on() {
    let fleet = Fleet::start().await;
    let content = fleet.cli("content");
    let first = Tree::made(1, 3 << 20);
    let second = first.next(2);

    // Revision 1 on both stages.
    let pushed = push(&fleet, CHANNEL, &first).await;
    assert_eq!(pushed["created"], true, "{pushed}");
    for stage in ["stable", "canary"] {
        let _ = promote(&fleet, CHANNEL, 1, stage).await;
    }
    groups(&fleet).await;
    let full = number(&prepared(&fleet, CHANNEL, 1, &[]).await["fullBytes"]);
    let canary = Edge::start(&fleet, "canary-1", "/edge/canary").await;
    let stable = Edge::start(&fleet, "stable-1", "/edge").await;
    let pull = Edge::start(&fleet, "pull-1", "/pull").await;
    for edge in [&canary, &stable, &pull] {
        edge.agent.holds(CHANNEL, &first).await;
        let reported = settled(&fleet, &edge.agent.id, CHANNEL, 1).await;
        assert_eq!(edge.fetched(), Fetched { full, ..Fetched::default() }, "{reported}");
        assert_eq!(number(&reported["bytes"]["full"]), full, "{reported}");
    }

    // Revision 2: nobody moves before a stage names it; then its patch is all that travels.
    let _ = push(&fleet, CHANNEL, &second).await;
    let patch = patch_bytes(&prepared(&fleet, CHANNEL, 2, &[1]).await, 1);
    assert!(patch * 4 < full, "2 % differ: {patch} bytes of {full}");
    let diff = content.json(&format!("content diff {CHANNEL} 1 2")).await;
    assert_eq!(number(&diff["patchBytes"]), patch, "{diff}");
    let before = canary.fetched();
    let told = promote(&fleet, CHANNEL, 2, "canary").await;
    assert_eq!((number(&told["stageBefore"]), number(&told["agentsTouched"])), (1, 1), "{told}");
    canary.agent.holds(CHANNEL, &second).await;
    let reported = settled(&fleet, "canary-1", CHANNEL, 2).await;
    assert_eq!(canary.fetched().since(before), Fetched { patch, ..Fetched::default() }, "{reported}");
    assert_eq!(number(&reported["bytes"]["patch"]), patch, "{reported}");
    assert_eq!(stable.agent.content(CHANNEL).as_ref(), Some(&first), "only the canary moved");

    // Back: a new and higher revision of the group's head that names the older content.
    let (fetched, log) = (canary.fetched(), head(&fleet, "/edge/canary").await);
    let back = number(&content.json(&format!("content diff {CHANNEL} 2 1")).await["chunkBytes"]);
    let _ = content.run(&format!("content rollback {CHANNEL} --stage canary")).await.ok();
    canary.agent.holds(CHANNEL, &first).await;
    let _ = settled(&fleet, "canary-1", CHANNEL, 1).await;
    assert!(head(&fleet, "/edge/canary").await > log);
    let again = canary.fetched().since(fetched);
    assert!(again.all() <= back, "{again:?}: at most the {back} bytes of chunks that 2 lacks");

    // On again, and from canary to stable.
    let _ = promote(&fleet, CHANNEL, 2, "canary").await;
    canary.agent.holds(CHANNEL, &second).await;
    let _ = content.run(&format!("content promote {CHANNEL} @canary --stage stable")).await.ok();
    for edge in [&stable, &pull] {
        let before = Fetched { full, ..Fetched::default() };
        edge.agent.holds(CHANNEL, &second).await;
        let reported = settled(&fleet, &edge.agent.id, CHANNEL, 2).await;
        assert_eq!(edge.fetched().since(before), Fetched { patch, ..Fetched::default() }, "{reported}");
    }
    let status = content_status(&fleet).await;
    assert_eq!((number(&status["agents"]), number(&status["current"])), (3, 3), "{status}");
    keeping_and_forgetting(&fleet, &[&canary, &stable, &pull], &second).await;
}

async fn content_status(fleet: &Fleet) -> Value {
    live::eventually("all agents are current", async || {
        let status = fleet.cli("presence").json(&format!("content status {CHANNEL}")).await;
        if number(&status["current"]) == 3 { Ok(status) } else { Err(status.to_string()) }
    })
    .await
}

/// Pins, retirement and garbage collection, in a channel whose stages name revision 2.
async fn keeping_and_forgetting(fleet: &Fleet, edges: &[&Edge], in_force: &Tree) {
    let content = fleet.cli("content");
    let _ = content.run(&format!("content pin {CHANNEL} 1")).await.ok();
    assert_eq!(revision(fleet, CHANNEL, 1).await["revision"]["pinned"], true);
    let said = content.run(&format!("content retire {CHANNEL} 1 --yes")).await.refused(3);
    assert!(said.contains("pin"), "{said}");
    let said = content.run(&format!("content retire {CHANNEL} 2 --yes")).await.refused(3);
    assert!(said.contains("stable") && said.contains("canary"), "{said}");
    let _ = content.run(&format!("content unpin {CHANNEL} 1")).await.ok();
    let _ = content.run(&format!("content retire {CHANNEL} 1 --yes")).await.ok();

    let store = raw::Store::of(fleet).await;
    let before = store.bytes().await;
    let planned = content.json("content gc --dry-run").await;
    assert_eq!((&planned["dryRun"], store.bytes().await), (&json!(true), before), "{planned}");
    let done = content.json("content gc").await;
    for field in ["chunks", "patchParts", "manifests"] {
        assert_eq!(planned[field], done[field], "{planned} {done}");
        assert!(number(&done[field]) > 0, "revision 1 alone needed some: {done}");
    }
    // The plan does not know what the broker keeps beside each message.
    let [planned, freed] = [&planned, &done].map(|it| number(&it["freedBytes"]));
    assert!(planned <= freed && planned * 100 > freed * 98, "planned {planned}, freed {freed}");
    assert!(store.bytes().await < before);
    let again = content.json("content gc").await;
    assert_eq!(number(&again["freedBytes"]), 0, "{again}");

    // What is left is whole: a newcomer gets it, and the others have it.
    let newcomer = Edge::start(fleet, "newcomer", "/edge").await;
    newcomer.agent.holds(CHANNEL, in_force).await;
    for edge in edges {
        assert_eq!(edge.agent.content(CHANNEL).as_ref(), Some(in_force));
        let shown = fleet.cli("presence").json(&format!("agent show {}", edge.agent.id)).await;
        assert_eq!(channel_of(&shown, CHANNEL)["state"], "healthy", "{shown}");
    }
}
