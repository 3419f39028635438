use super::*;
use crate::content::manifest::{ChunkEntry, ManifestFile};
use crate::content::{ChannelName, FilePath};

fn digest(name: u32) -> Digest {
    Digest::of(&name.to_be_bytes())
}

fn frame(bytes: u32, stored_bytes: u32) -> DeltaFrame {
    DeltaFrame { bytes, stored_bytes, old: Vec::new(), new_bytes: 0 }
}

fn with_old(runs: &[(u64, u32)]) -> DeltaFrame {
    let old = runs.iter().map(|&(offset, bytes)| OldRun { offset, bytes }).collect();
    DeltaFrame { old, ..frame(10, 5) }
}

fn part(bytes: u32) -> DeltaPart {
    DeltaPart { bytes, digest: digest(bytes) }
}

#[track_caller]
fn check(from: Option<u32>, frames: &[DeltaFrame], parts: &[u32], expected: Result<(u64, u64), &str>) {
    let parts = parts.iter().map(|bytes| part(*bytes)).collect();
    let got = Delta::new(from.map(digest), frames.to_vec(), parts);
    let got = got.map(|delta| (delta.bytes(), delta.stored_bytes())).map_err(|error| error.to_string());
    assert_eq!(got, expected.map_err(str::to_owned));
}

#[test]
fn frames_and_parts_must_agree() {
    check(None, &[frame(10, 5)], &[5], Ok((10, 5)));
    check(None, &[frame(10, 5), DeltaFrame { new_bytes: 10, ..frame(4, 2) }], &[4, 3], Ok((14, 7)));
    check(Some(1), &[with_old(&[(7, 1), (0, 9)])], &[5], Ok((10, 5)));

    check(None, &[], &[], Err("has no frames"));
    check(None, &[frame(0, 5)], &[5], Err("has a frame of 0 bytes; 1 to 8388608 are allowed"));
    let long = "has a frame of 8388609 bytes; 1 to 8388608 are allowed";
    check(None, &[frame(8_388_609, 5)], &[5], Err(long));
    let stored = "has a frame stored in 0 bytes, which is none or more than it rebuilds";
    check(None, &[frame(10, 0)], &[], Err(stored));
    let stored = "has a frame stored in 523 bytes, which is none or more than it rebuilds";
    check(None, &[frame(10, 523)], &[523], Err(stored));
    check(None, &[frame(10, 5)], &[0, 5], Err("has a part of 0 bytes; 1 to 524288 are allowed"));
    let sums = "has frames stored in 5 bytes and parts of 4 bytes; both must be all of it";
    check(None, &[frame(10, 5)], &[4], Err(sums));
    check(
        None,
        &vec![frame(8 << 20, 5); 513],
        &[5 * 513],
        Err("rebuilds 4303355904 bytes; at most 4294967296 are allowed"),
    );
}

#[test]
fn prefixes_are_bounded() {
    let nothing = "uses old content and starts from nothing";
    check(None, &[with_old(&[(0, 1)])], &[5], Err(nothing));
    let run = "has a run of old content that is empty or ends behind 4294967296 bytes";
    check(Some(1), &[with_old(&[(0, 0)])], &[5], Err(run));
    check(Some(1), &[with_old(&[(u64::MAX, 1)])], &[5], Err(run));
    check(Some(1), &[with_old(&[(4 << 30, 1)])], &[5], Err(run));
    let many = vec![(0, 1); 257];
    let told = "has a frame with 257 runs of old content; at most 256 are allowed";
    check(Some(1), &[with_old(&many)], &[5], Err(told));
    let told = "has a frame with a prefix of 33554433 bytes; at most 33554432 are allowed";
    check(Some(1), &[with_old(&[(0, 32 << 20), (0, 1)])], &[5], Err(told));
    let told = "has a frame that uses 11 bytes of the new content when 10 are rebuilt";
    check(None, &[frame(10, 5), DeltaFrame { new_bytes: 11, ..frame(4, 2) }], &[7], Err(told));
}

#[test]
fn frames_know_their_places() {
    let frames = vec![frame(10, 5), frame(7, 3), frame(1, 1)];
    let delta = Delta::new(None, frames, vec![part(9)]).unwrap();
    let places: Vec<_> = delta.placed_frames().map(|placed| (placed.offset, placed.stored_offset)).collect();
    assert_eq!(places, [(0, 0), (10, 5), (17, 8)]);
}

fn delta(from: Option<Digest>, bytes: u32) -> Delta {
    Delta::new(from, vec![frame(bytes, 1)], vec![part(1)]).unwrap()
}

fn index(stored: &[u32], deltas: Vec<Delta>) -> Result<ContentIndex, IndexError> {
    ContentIndex::new(FleetId::new("main").unwrap(), digest(0), stored.to_vec(), deltas)
}

#[test]
fn deltas_start_at_different_places() {
    let told = |stored: &[u32], deltas| index(stored, deltas).unwrap_err().to_string();
    let (mut a, mut b) = (digest(1), digest(2));
    if a > b {
        std::mem::swap(&mut a, &mut b);
    }
    let good = index(&[1], vec![delta(None, 4), delta(Some(a), 4), delta(Some(b), 4)]).unwrap();
    assert_eq!(good.delta(Some(b)), Some(&delta(Some(b), 4)));
    assert_eq!(good.delta(Some(digest(3))), None);

    let order = "has deltas twice from one content or out of order";
    assert_eq!(told(&[1], vec![delta(Some(b), 4), delta(Some(a), 4)]), order);
    assert_eq!(told(&[1], vec![delta(None, 4), delta(None, 4)]), order);
    assert_eq!(told(&[1], vec![delta(Some(digest(0)), 4)]), "has a delta that starts where it ends");
    assert_eq!(told(&[0], vec![]), "has a stored chunk of 0 bytes; 1 to 524800 are allowed");
    assert_eq!(told(&[524_801], vec![]), "has a stored chunk of 524801 bytes; 1 to 524800 are allowed");
    assert_eq!(told(&vec![1; 20_481], vec![]), "has 20481 chunks; at most 20480 are allowed");
    assert_eq!(told(&[1], vec![delta(None, 4); 129]), "has 129 deltas; at most 128 are allowed");

    let heavy = Delta::new(None, vec![frame(8 << 20, 1 << 20)], vec![part(32); 1 << 15]).unwrap();
    assert_eq!(index(&[], vec![heavy]), Err(IndexError::TooHeavy(512 + 48 + 32 + 44 * (1 << 15))));
}

#[test]
fn an_index_belongs_to_one_manifest() {
    let content = |bytes: u32| {
        let (fleet, channel) = (FleetId::new("main").unwrap(), ChannelName::new("rules").unwrap());
        let path = FilePath::new("a").unwrap();
        let files = vec![ManifestFile { path, bytes: bytes.into(), digest: digest(9), executable: false }];
        Manifest::new(fleet, channel, files, vec![ChunkEntry { digest: digest(9), bytes }], digest(9))
            .unwrap()
    };
    let good = index(&[1], vec![delta(None, 4)]).unwrap();
    assert_eq!(good.check_against(&digest(0), &content(4)), Ok(()));
    assert_eq!(good.check_against(&digest(0), &content(5)), Err(IndexError::Manifest));
    assert_eq!(good.check_against(&digest(1), &content(4)), Err(IndexError::Manifest));
    let chunks = index(&[1, 1], vec![]).unwrap();
    assert_eq!(chunks.check_against(&digest(0), &content(4)), Err(IndexError::Manifest));
}
