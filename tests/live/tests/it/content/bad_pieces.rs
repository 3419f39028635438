//! Whoever rules the broker puts wrong bytes where content lies: agents refuse them, say so, and go on once the
//! right ones are back.

use ed25519_dalek::SigningKey;
use live::{Fleet, Tree};
use prost::Message as _;
use prost::bytes::Bytes;
use wire::agent::v1::{Envelope, Manifest};

use super::{CHANNEL, Edge, channel_of, number, prepared, promote, push, raw, seeded, settled};

/// What is done to a stored message, given another one of the same sort.
type Damage = fn(&Bytes, &Bytes) -> Option<Vec<u8>>;

/// A frame that holds far more than it says: its header claims `claimed` bytes.
fn bomb(claimed: u32) -> Vec<u8> {
    // Magic, a header with a single segment and a content size of four bytes, then blocks of one repeated byte
    // that come to 128 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
    frame.extend_from_slice(&claimed.to_le_bytes());
    let block = 128 << 10_u32;
    for left in (0..1024_u32).rev() {
        let header: u32 = block << 3 | 1 << 1 | u32::from(left == 0);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// Everything that can be wrong with a chunk or a part of a patch.
const DAMAGES: &[(&str, Damage)] = &[
    ("deleted", |_, _| None),
    ("truncated", |bytes, _| Some(bytes[..bytes.len() - 1].to_vec())),
    ("empty", |_, _| Some(Vec::new())),
    ("flipped", |bytes, _| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        Some(bytes)
    }),
    ("swapped", |_, other| Some(other.to_vec())),
    ("longer", |bytes, _| Some([bytes, b"more".as_slice()].concat())),
    ("oversized", |_, _| Some(vec![0; 900_000])),
    ("small-bomb", |_, _| Some(bomb(1000))),
    ("large-bomb", |_, _| Some(bomb(u32::MAX))),
];

/// A group that follows `stable` of many channels.
fn follower(channels: &[String]) -> String {
    let content: Vec<String> =
        channels.iter().map(|channel| format!("{{channel: {channel}, stage: stable}}")).collect();
    format!(
        "apiVersion: muster.dev/v1alpha1\nkind: Group\nmetadata: {{name: many}}\nspec: {{path: /many, settings: {{mode: push, heartbeatInterval: 1s, offlineAfter: 5s, contentSpread: 0s}}, content: [{}]}}\n",
        content.join(", ")
    )
}

/// A change that makes `stable` of each channel name a revision.
fn release(channels: &[String], revision: u32) -> String {
    let one = |channel: &String| {
        format!(
            "apiVersion: muster.dev/v1alpha1\nkind: ContentRelease\nmetadata: {{name: {}}}\nspec: {{channel: {channel}, stage: stable, revision: {revision}}}\n",
            channel.replace('/', "-")
        )
    };
    channels.iter().map(one).collect::<Vec<_>>().join("---\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_in_a_chunk_get_past_its_digest() {
    let fleet = Fleet::start().await;
    let channels: Vec<String> = DAMAGES.iter().map(|(what, _)| format!("bad/{what}")).collect();
    let old: Vec<Tree> = (0..channels.len() as u64).map(|seed| Tree::made(seed, 100_000)).collect();
    // Wholly new bytes, so that no road but that over the damaged chunk is short or even possible.
    let new: Vec<Tree> = (0..channels.len() as u64).map(|seed| Tree::dense(100 + seed, 100_000)).collect();
    for (channel, tree) in channels.iter().zip(&old) {
        let _ = push(&fleet, channel, tree).await;
    }
    let policy = fleet.cli("policy");
    let _ = policy.apply(&release(&channels, 1)).await;
    let _ = policy.apply(&follower(&channels)).await;
    let edge = Edge::start(&fleet, "edge-1", "/many").await;
    for (channel, tree) in channels.iter().zip(&old) {
        edge.agent.holds(channel, tree).await;
    }
    for (channel, tree) in channels.iter().zip(&new) {
        let _ = push(&fleet, channel, tree).await;
        let _ = prepared(&fleet, channel, 2, &[]).await;
    }
    let store = raw::Store::of(&fleet).await;
    let mut kept = Vec::new();
    for kind in ["patch", "chunk"] {
        for subject in store.subjects(kind).await {
            kept.push((subject.clone(), store.get(&subject).await.expect("it is listed")));
        }
    }
    for (index, (what, damage)) in DAMAGES.iter().enumerate() {
        let chunks = raw::chunk_subjects(&raw::Upload::of(&channels[index], &new[index]));
        let good = store.get(&chunks[0]).await.expect("it was pushed");
        let other = kept.iter().rfind(|(subject, _)| *subject != chunks[0]).expect("others");
        match damage(&good, &other.1) {
            Some(bytes) => store.put(&chunks[0], bytes.into()).await,
            None => store.delete(&chunks[0]).await,
        }
        assert_ne!(store.get(&chunks[0]).await, Some(good), "{what}");
    }
    // Without patches and whole contents chunks are the only road.
    for (subject, _) in kept.iter().filter(|(subject, _)| subject.contains(".patch.")) {
        store.delete(subject).await;
    }
    let _ = policy.apply(&release(&channels, 2)).await;
    let shown = fleet
        .shows("edge-1", "every channel says why it waits", |shown| {
            channels.iter().all(|channel| {
                let one = channel_of(shown, channel);
                number(&one["wanted"]) == 2 && number(&one["active"]) == 1 && one["reason"].is_string()
            })
        })
        .await;
    for (channel, tree) in channels.iter().zip(&old) {
        assert_eq!(edge.agent.content(channel).as_ref(), Some(tree), "{channel}: {shown}");
    }
    for (subject, bytes) in kept {
        store.put(&subject, bytes).await;
    }
    for (channel, tree) in channels.iter().zip(&new) {
        edge.agent.holds(channel, tree).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_patch_costs_bytes_and_nothing_else() {
    let fleet = Fleet::start().await;
    let channels: Vec<String> = DAMAGES.iter().map(|(what, _)| format!("bad/{what}")).collect();
    let old: Vec<Tree> = (0..channels.len() as u64).map(|seed| Tree::made(seed, 200_000)).collect();
    let new: Vec<Tree> = old.iter().map(|tree| tree.next(2)).collect();
    for (channel, tree) in channels.iter().zip(&old) {
        let _ = push(&fleet, channel, tree).await;
    }
    let policy = fleet.cli("policy");
    let _ = policy.apply(&release(&channels, 1)).await;
    let _ = policy.apply(&follower(&channels)).await;
    let edge = Edge::start(&fleet, "edge-1", "/many").await;
    for (channel, tree) in channels.iter().zip(&old) {
        edge.agent.holds(channel, tree).await;
    }
    for (channel, tree) in channels.iter().zip(&new) {
        let _ = push(&fleet, channel, tree).await;
    }
    for channel in &channels {
        let _ = prepared(&fleet, channel, 2, &[1]).await;
    }
    let store = raw::Store::of(&fleet).await;
    let all = store.subjects("patch").await;
    let other = store.get(&all[0]).await.expect("it is listed");
    for (index, (_, damage)) in DAMAGES.iter().enumerate() {
        let shown = super::revision(&fleet, &channels[index], 2).await;
        let to = super::digest(&shown["revision"]["manifest"]);
        for subject in all.iter().filter(|subject| subject.contains(&format!(".{to}."))) {
            let good = store.get(subject).await.expect("it is listed");
            match damage(&good, &other) {
                Some(bytes) => store.put(subject, bytes.into()).await,
                None => store.delete(subject).await,
            }
        }
    }
    let _ = policy.apply(&release(&channels, 2)).await;
    for (channel, tree) in channels.iter().zip(&new) {
        edge.agent.holds(channel, tree).await;
        let _ = settled(&fleet, "edge-1", channel, 2).await;
    }
    assert!(edge.fetched().chunk > 0, "chunks were the way round");
}

/// Overwrites of a manifest: none of them is what the snapshot names.
fn forgeries(good: &Bytes) -> Vec<(&'static str, Vec<u8>)> {
    let envelope = Envelope::decode(good.clone()).expect("as it is stored");
    let manifest = Manifest::decode(envelope.payload.clone()).expect("as it was signed");
    let stranger = SigningKey::from_bytes(&[7; 32]);
    let kind = wire::envelope::MANIFEST;
    let sealed = |payload: Vec<u8>| wire::envelope::seal(kind, payload, &stranger).encode_to_vec();
    let foreign_channel = Manifest { channel: "rules/other".to_owned(), ..manifest.clone() };
    let foreign_fleet = Manifest { fleet: "other".to_owned(), ..manifest };
    let mut unsigned = envelope.clone();
    unsigned.signatures.clear();
    let mut flipped = good.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut twice = envelope.clone();
    twice.signatures.push(envelope.signatures[0].clone());
    twice.payload = foreign_channel.encode_to_vec().into();
    vec![
        ("truncated", good[..good.len() - 1].to_vec()),
        ("flipped", flipped),
        ("empty", Vec::new()),
        ("oversized", vec![0; 1_000_000]),
        ("no-envelope", b"\xff\xff\xff not protobuf".to_vec()),
        ("unsigned", unsigned.encode_to_vec()),
        ("another-key", sealed(envelope.payload.to_vec())),
        ("another-channel", sealed(foreign_channel.encode_to_vec())),
        ("another-fleet", sealed(foreign_fleet.encode_to_vec())),
        ("another-payload", twice.encode_to_vec()),
    ]
}

/// How many forgeries there are.
const FORGERIES: usize = 11;

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_nobody_signed_for_this_channel_moves_no_agent() {
    let fleet = Fleet::start().await;
    let channels: Vec<String> = (0..FORGERIES).map(|n| format!("forged/{n}")).collect();
    let old = Tree::made(1, 50_000);
    let new = old.next(2);
    for channel in &channels {
        let _ = push(&fleet, channel, &old).await;
    }
    let policy = fleet.cli("policy");
    let _ = policy.apply(&release(&channels, 1)).await;
    let _ = policy.apply(&follower(&channels)).await;
    let edge = Edge::start(&fleet, "edge-1", "/many").await;
    for channel in &channels {
        edge.agent.holds(channel, &old).await;
    }
    let store = raw::Store::of(&fleet).await;
    let mut kept = Vec::new();
    for channel in &channels {
        let pushed = push(&fleet, channel, &new).await;
        let subject = format!("content.manifest.{}", super::digest(&pushed["revision"]["manifest"]));
        let good = store.get(&subject).await.expect("it was made");
        kept.push((subject, good));
    }
    for (at, (subject, good)) in kept.iter().enumerate() {
        let mut all = forgeries(good);
        // Whole, signed and true, in another channel's place.
        all.push(("that of another channel", kept[(at + 1) % FORGERIES].1.to_vec()));
        assert_eq!(all.len(), FORGERIES);
        store.put(subject, all.swap_remove(at).1.into()).await;
    }
    let _ = policy.apply(&release(&channels, 2)).await;
    let shown = fleet
        .shows("edge-1", "every channel says why it waits", |shown| {
            channels.iter().all(|channel| {
                let one = channel_of(shown, channel);
                let says = one["reason"].as_str().is_some_and(|why| why.contains("manifest"));
                number(&one["wanted"]) == 2 && number(&one["active"]) == 1 && says
            })
        })
        .await;
    for channel in &channels {
        assert_eq!(edge.agent.content(channel).as_ref(), Some(&old), "{channel}: {shown}");
    }
    for (subject, good) in kept {
        store.put(&subject, good).await;
    }
    for channel in &channels {
        edge.agent.holds(channel, &new).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_index_costs_bytes_and_nothing_else() {
    let mut tree = Tree::made(1, 100_000);
    let fleet = seeded(&tree).await;
    let edge = Edge::start(&fleet, "edge-1", "/edge").await;
    edge.agent.holds(CHANNEL, &tree).await;
    let store = raw::Store::of(&fleet).await;
    let old = store.subjects("index").await;
    let foreign = store.get(&old[0]).await.expect("it is listed");
    type Damage = fn(&Bytes, &Bytes) -> Option<Vec<u8>>;
    let damages: [(&str, Damage); 5] = [
        ("deleted", |_, _| None),
        ("garbage", |_, _| Some(b"\xff\xff\xff".to_vec())),
        ("truncated", |good, _| Some(good[..good.len() / 2].to_vec())),
        ("oversized", |_, _| Some(vec![0; 1_000_000])),
        ("of another revision", |_, other| Some(other.to_vec())),
    ];
    for (number, (what, damage)) in (2..).zip(damages) {
        let known = store.subjects("index").await;
        tree = tree.next(number.into());
        let _ = push(&fleet, CHANNEL, &tree).await;
        let _ = prepared(&fleet, CHANNEL, number, &[number - 1]).await;
        let now = store.subjects("index").await;
        let subject = now.iter().find(|subject| !known.contains(subject)).expect("a new index");
        let good = store.get(subject).await.expect("it is listed");
        match damage(&good, &foreign) {
            Some(bytes) => store.put(subject, bytes.into()).await,
            None => store.delete(subject).await,
        }
        let _ = promote(&fleet, CHANNEL, number, "stable").await;
        edge.agent.holds(CHANNEL, &tree).await;
        let reported = settled(&fleet, "edge-1", CHANNEL, number).await;
        assert!(super::number(&reported["bytes"]["chunk"]) > 0, "{what}: {reported}");
    }
}
