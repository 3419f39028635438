//! Deltas: made in the background, listed, right, once, and again when they are lost.

use content::Config;
use domain::Digest;
use domain::content::retention::Piece;
use domain::content::{ContentIndex, Delta};
use wire::api::v1;
use wire::subject::STREAM_CONTENT;

use crate::fleet::{Content, Fleet, noise, numbered, push, quiet, until};

const CHANNEL: &str = "rules";

fn working() -> Config {
    Config { patch_workers: 1, ..quiet() }
}

/// Text of which the next version differs here and there: it compresses, and patches are small.
fn text(version: u64, lines: u64) -> Vec<u8> {
    let line = |number: u64| {
        let changed = if number.is_multiple_of(97) { version } else { 0 };
        let digest = Digest::of(&[number.to_be_bytes(), changed.to_be_bytes()].concat());
        format!("rule {number} matches {digest} and denies\n")
    };
    (0..lines).flat_map(|number| line(number).into_bytes()).collect()
}

/// Rebuilds a content from its delta, as an agent does.
async fn rebuilt(fleet: &Fleet, to: Digest, delta: &Delta, old: &[u8]) -> Vec<u8> {
    let mut stored = Vec::new();
    for (part, number) in delta.parts().iter().zip(0..) {
        let piece = Piece::Part { from: delta.from(), to, number };
        let subject = wire::piece::subject(&piece);
        let message = fleet.nats.direct_get_last(STREAM_CONTENT, &subject).await.unwrap().unwrap();
        assert_eq!(Digest::of(&message.payload), part.digest);
        stored.extend_from_slice(&message.payload);
    }
    let (mut new, mut at) = (Vec::new(), 0);
    for frame in delta.frames() {
        let mut prefix = Vec::new();
        for run in &frame.old {
            let start = run.offset as usize;
            prefix.extend_from_slice(&old[start..start + run.bytes as usize]);
        }
        prefix.extend_from_slice(&new[new.len() - frame.new_bytes as usize..]);
        let end = at + frame.stored_bytes as usize;
        new.extend(codec::delta::decode(frame, &stored[at..end], &prefix).unwrap());
        at = end;
    }
    new
}

async fn index(fleet: &Fleet, revision: &v1::Revision) -> ContentIndex {
    fleet.index(revision).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_content_and_a_patch_are_made_and_are_right() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&working()).await;
    let [old, new] = [1, 2].map(|version| Content::new(CHANNEL, text(version, 20_000)));
    let first = push(&mut replica.api, &old).await.unwrap().revision;
    let second = push(&mut replica.api, &new).await.unwrap().revision;
    until(async || index(&fleet, &second).await.deltas().len() == 2).await;
    let (manifest, listed) = fleet.index(&second).await;
    let to = wire::content::manifest_digest(&manifest);
    let full = listed.delta(None).unwrap();
    assert_eq!(rebuilt(&fleet, to, full, &[]).await, new.bytes);
    let from = Digest(first.manifest.as_slice().try_into().unwrap());
    let patch = listed.delta(Some(from)).unwrap();
    assert_eq!(rebuilt(&fleet, to, patch, &old.bytes).await, new.bytes);
    assert!(
        patch.stored_bytes() * 4 < full.stored_bytes(),
        "{} {}",
        patch.stored_bytes(),
        full.stored_bytes()
    );

    let detail = v1::GetRevisionRequest { selector: numbered(CHANNEL, 2) };
    let detail = replica.api.get_revision(detail).await.unwrap().into_inner();
    assert_eq!((detail.full_bytes, detail.patches_pending), (full.stored_bytes(), 0));
    assert!(detail.full_bytes < detail.chunk_bytes);
    assert_eq!(detail.patches, [v1::Patch { from: 1, bytes: patch.stored_bytes() }]);
    let diff = v1::DiffRevisionsRequest { from: numbered(CHANNEL, 1), to: numbered(CHANNEL, 2) };
    let diff = replica.api.diff_revisions(diff).await.unwrap().into_inner();
    assert_eq!((diff.patch_bytes, diff.full_bytes), (Some(patch.stored_bytes()), full.stored_bytes()));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_saves_nothing_is_dropped() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&working()).await;
    // One chunk of noise, and another one: neither the whole nor the patch is smaller.
    push(&mut replica.api, &Content::new(CHANNEL, noise(1, 10_000))).await.unwrap();
    let second = push(&mut replica.api, &Content::new(CHANNEL, noise(2, 10_000))).await.unwrap().revision;
    let pending = async |api: &mut crate::fleet::Client| {
        let detail = v1::GetRevisionRequest { selector: numbered(CHANNEL, 2) };
        api.get_revision(detail).await.unwrap().into_inner().patches_pending
    };
    let mut api = replica.api.clone();
    until(async || pending(&mut api).await == 0).await;
    assert_eq!(index(&fleet, &second).await.deltas(), []);
    let parts = fleet.pieces().await.into_iter().filter(|it| matches!(it, Piece::Part { .. }));
    assert_eq!(parts.count(), 0, "nothing of it was stored");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_work_and_undo_nothing() {
    let fleet = Fleet::start().await;
    let mut quiet = fleet.replica(&quiet()).await;
    let mut last = None;
    for version in 1..=6 {
        let content = Content::new(CHANNEL, text(version, 4_000));
        last = Some(push(&mut quiet.api, &content).await.unwrap().revision);
    }
    let [a, b] = [fleet.replica(&working()).await, fleet.replica(&working()).await];
    let last = last.unwrap();
    // From the one before, and from 2 and 4 before, beside the whole.
    until(async || index(&fleet, &last).await.deltas().len() == 4).await;
    let listed = index(&fleet, &last).await;
    a.stop().await;
    b.stop().await;
    assert_eq!(index(&fleet, &last).await, listed, "nothing is listed twice or taken away");
    quiet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_to_where_no_agent_is_led_any_more_are_garbage() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&working()).await;
    let mut made = Vec::new();
    for version in 1..=4 {
        let content = Content::new(CHANNEL, text(version, 4_000));
        made.push(push(&mut replica.api, &content).await.unwrap().revision);
        let expected = [1, 2, 3, 3][made.len() - 1];
        until(async || index(&fleet, made.last().unwrap()).await.deltas().len() == expected).await;
    }
    let promote = v1::PromoteRequest {
        selector: numbered(CHANNEL, 2),
        stage: "stable".to_owned(),
        ..v1::PromoteRequest::default()
    };
    replica.api.promote(promote).await.unwrap();
    let planned = v1::CollectGarbageRequest { dry_run: true };
    let planned = replica.api.collect_garbage(planned).await.unwrap().into_inner();
    assert_eq!(index(&fleet, &made[2]).await.deltas().len(), 3, "a dry run takes nothing away");
    let done = replica.api.collect_garbage(v1::CollectGarbageRequest::default()).await.unwrap().into_inner();
    assert_eq!((done.chunks, done.manifests, done.patch_parts), (0, 0, planned.patch_parts));
    // 4 is the newest and 2 is staged.
    let mut left = Vec::new();
    for revision in &made {
        let (manifest, listed) = fleet.index(revision).await;
        let to = wire::content::manifest_digest(&manifest);
        let parts = |it: &&Piece| matches!(it, Piece::Part { to: lead, .. } if *lead == to);
        let stored = fleet.pieces().await.iter().filter(parts).count();
        assert_eq!(stored, listed.deltas().iter().map(|delta| delta.parts().len()).sum::<usize>());
        left.push(listed.deltas().len());
    }
    assert_eq!(left, [0, 2, 0, 3]);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_lost_a_part_is_made_again() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&working()).await;
    push(&mut replica.api, &Content::new(CHANNEL, text(1, 4_000))).await.unwrap();
    let second = push(&mut replica.api, &Content::new(CHANNEL, text(2, 4_000))).await.unwrap().revision;
    until(async || index(&fleet, &second).await.deltas().len() == 2).await;
    replica.stop().await;
    let listed = index(&fleet, &second).await;
    let lost =
        fleet.pieces().await.into_iter().find(|it| matches!(it, Piece::Part { from: None, .. })).unwrap();
    fleet.nats.purge(STREAM_CONTENT, wire::piece::subject(&lost).as_str(), u64::MAX).await.unwrap();
    let replica = fleet.replica(&working()).await;
    until(async || fleet.pieces().await.contains(&lost) && index(&fleet, &second).await == listed).await;
    replica.stop().await;
}
