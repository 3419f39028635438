//! Networks as they are: cut, slow, silent, and wrong.

use std::time::Duration;

use live::{Faults, Fleet, Lane, Tree};

use super::{CHANNEL, CONTENT, Edge, prepared, seeded, settled, whole_bytes};

/// A content that takes several messages, and how long the whole of it is as it travels.
async fn scene() -> (Fleet, Tree, u64) {
    let tree = Tree::dense(1, 3 << 20);
    let fleet = seeded(&tree).await;
    let full = whole_bytes(&prepared(&fleet, CHANNEL, 1, &[]).await);
    (fleet, tree, full)
}

/// An agent whose content goes through a proxy with these faults.
async fn edge(fleet: &Fleet, faults: Faults) -> Edge {
    let mut edge = Edge::new(fleet, "edge-1", "/edge").await;
    edge.proxy.set(CONTENT, faults);
    edge.agent.start();
    edge
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_again_and_again_costs_no_piece_twice() {
    let (fleet, tree, full) = scene().await;
    let every = 1_300_000;
    let edge = edge(&fleet, Faults::down(Lane { cut_after: Some(every), ..Lane::default() })).await;
    edge.agent.holds(CHANNEL, &tree).await;
    let (made, _) = edge.proxy.connections(CONTENT);
    assert!(made >= 3, "{made} connections for {full} bytes");
    assert_eq!(edge.fetched_again(), [], "what arrived was kept");
    assert_eq!(edge.fetched().all(), full);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_and_a_long_one_are_only_slow() {
    let (fleet, tree, full) = scene().await;
    let slow =
        Lane { latency: Duration::from_millis(20), bytes_per_second: Some(4 << 20), ..Lane::default() };
    let edge = edge(&fleet, Faults { down: slow, up: slow }).await;
    edge.agent.holds(CHANNEL, &tree).await;
    assert_eq!((edge.fetched().all(), edge.fetched_again()), (full, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_falls_silent_is_given_up_and_made_anew() {
    // Without deltas the content comes in chunks, and the time that a piece is given is short.
    let fleet = Fleet::start_with(&["--patch-workers", "0"]).await;
    let tree = Tree::dense(1, 400_000);
    super::seed(&fleet, &tree).await;
    let edge = edge(&fleet, Faults::down(Lane { hold_after: Some(100_000), ..Lane::default() })).await;
    live::until("another line is made, for the first one stays as it is", || {
        let (made, open) = edge.proxy.connections(CONTENT);
        if made > 1 { Ok(()) } else { Err(format!("{made} made, {open} open")) }
    })
    .await;
    let again = edge.fetched_again();
    assert_eq!(again, [], "what came before was kept");
    edge.proxy.calm();
    edge.agent.holds(CHANNEL, &tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_on_the_way_is_noticed() {
    let (fleet, tree, full) = scene().await;
    let edge = edge(&fleet, Faults::down(Lane { flip_at: Some(1_000_000), ..Lane::default() })).await;
    edge.agent.holds(CHANNEL, &tree).await;
    let _ = settled(&fleet, "edge-1", CHANNEL, 1).await;
    let again = edge.fetched().all() - full;
    assert!(again <= 512 << 10, "{again} bytes were fetched again: at most a piece");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_amid_a_download_costs_what_was_on_its_way() {
    let (mut fleet, tree, full) = scene().await;
    let edge = edge(&fleet, Faults::down(Lane { hold_after: Some(1_500_000), ..Lane::default() })).await;
    live::until("half of it is there", || {
        let down = edge.proxy.bytes_down(CONTENT);
        if down >= 1_500_000 { Ok(()) } else { Err(format!("{down} bytes")) }
    })
    .await;
    fleet.nats.kill().await.expect("it can be killed");
    fleet.nats.start_again().await.expect("it starts again");
    edge.proxy.calm();
    edge.agent.holds(CHANNEL, &tree).await;
    // The last piece may have been whole at the proxy and not at the agent.
    let again = edge.fetched_again();
    assert!(again.len() <= 1, "{again:?}");
    assert_eq!(edge.fetched().all(), full + again.iter().map(|piece| piece.bytes).sum::<u64>());
}
