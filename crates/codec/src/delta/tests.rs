use domain::Digest;
use domain::content::{Delta, DeltaPart, OldRun};
use proptest::prelude::*;

use super::*;
use crate::made::{Chance, edited, text};
use crate::part::PART_BYTES;

type Made = Vec<(DeltaFrame, Vec<u8>)>;

fn made(old: Option<&[u8]>, new: &[u8]) -> Made {
    let mut frames = Vec::new();
    let old = old.as_ref().map(|old| old as &dyn Source);
    encode(old, &new, &mut |frame, stored| {
        frames.push((frame, stored.to_vec()));
        Ok(())
    })
    .unwrap();
    frames
}

/// As an agent does it: prefix from the runs of the old content, then what was just rebuilt.
fn undone(old: &[u8], frames: &Made) -> Result<Vec<u8>, DeltaError> {
    let mut new = Vec::new();
    for (frame, stored) in frames {
        let mut prefix = Vec::new();
        for run in &frame.old {
            append(&old, run.offset, run.bytes.into(), &mut prefix)?;
        }
        prefix.extend_from_slice(&new[new.len() - frame.new_bytes as usize..]);
        new.extend(decode(frame, stored, &prefix)?);
    }
    Ok(new)
}

fn stored_bytes(frames: &Made) -> usize {
    frames.iter().map(|(_, stored)| stored.len()).sum()
}

#[test]
fn long_contents_are_rebuilt_from_few_bytes() {
    let old = text(&mut Chance(1), 5 << 20);
    let mut chance = Chance(2);
    let new = edited(&mut chance, &old, 40);
    // Half of the edits bring something new, of 1,000 bytes on average.
    let fresh = 20 * 1000;
    let patch = made(Some(&old), &new);
    assert_eq!(undone(&old, &patch).unwrap(), new);
    assert!(stored_bytes(&patch) < fresh, "{}", stored_bytes(&patch));
    assert_eq!(patch.len(), new.len().div_ceil(4 << 20));

    let joined: Vec<u8> = patch.iter().flat_map(|(_, stored)| stored.clone()).collect();
    let part =
        |bytes: &[u8]| DeltaPart { bytes: u32::try_from(bytes.len()).unwrap(), digest: Digest::of(bytes) };
    let parts = joined.chunks(PART_BYTES).map(part).collect();
    let frames = patch.into_iter().map(|(frame, _)| frame).collect();
    let delta = Delta::new(Some(Digest::of(&old)), frames, parts).unwrap();
    assert_eq!(delta.bytes(), new.len() as u64);
}

#[test]
fn a_content_from_nothing_uses_what_was_before() {
    let half = text(&mut Chance(3), 3 << 20);
    let new = [&half[..], &half].concat();
    let full = made(None, &new);
    assert_eq!(undone(&[], &full).unwrap(), new);
    let [(first, _), (second, stored)] = &full[..] else { panic!("{}", full.len()) };
    assert_eq!((first.new_bytes, second.new_bytes), (0, 4 << 20));
    assert!(full.iter().all(|(frame, _)| frame.old.is_empty()));
    assert!(stored.len() < 1000, "{}", stored.len());
    assert_eq!(made(None, &[]), []);
    assert_eq!(made(Some(&half), &[]), []);
}

#[test]
fn unlike_contents_cost_no_more_than_from_nothing() {
    let (old, new) = (text(&mut Chance(4), 1 << 20), vec![0; 1 << 20]);
    let patch = made(Some(&old), &new);
    assert_eq!(undone(&old, &patch).unwrap(), new);
    assert!(stored_bytes(&patch) < 200);
}

#[test]
fn what_cannot_be_read_or_written_ends_it() {
    struct Broken;
    impl Source for Broken {
        fn len(&self) -> u64 {
            10
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::Error::other("broken"))
        }
    }
    let new = &b"0123456789"[..];
    let mut ok = |_: DeltaFrame, _: &[u8]| Ok(());
    assert!(matches!(encode(Some(&Broken), &new, &mut ok), Err(DeltaError::Io(_))));
    assert!(matches!(encode(None, &Broken, &mut ok), Err(DeltaError::Io(_))));
    let mut full = |_: DeltaFrame, _: &[u8]| Err(io::Error::from(io::ErrorKind::StorageFull));
    let error = encode(None, &new, &mut full).unwrap_err();
    assert!(matches!(error, DeltaError::Io(error) if error.kind() == io::ErrorKind::StorageFull));
}

#[test]
fn the_prefix_must_be_the_one_that_is_named() {
    let frame =
        DeltaFrame { bytes: 5, stored_bytes: 5, old: vec![OldRun { offset: 0, bytes: 3 }], new_bytes: 1 };
    let error = decode(&frame, b"12345", b"old").unwrap_err();
    assert_eq!(error.to_string(), "the prefix has 3 bytes, not 4");
}

#[test]
fn a_bomb_ends_at_the_length_that_was_told() {
    let (frame, stored) = made(None, &vec![0; 4 << 20]).remove(0);
    assert!(stored.len() < 1000);
    let told = DeltaFrame { bytes: 1000, ..frame.clone() };
    assert!(matches!(decode(&told, &stored, &[]), Err(DeltaError::Frame(FrameError::Damaged(_)))));
    let told = DeltaFrame { bytes: (4 << 20) + 1, ..frame };
    assert!(matches!(decode(&told, &stored, &[]), Err(DeltaError::Frame(FrameError::Length { .. }))));
}

#[test]
fn no_flipped_bit_goes_unseen() {
    let old = text(&mut Chance(5), 3000);
    let new = edited(&mut Chance(6), &old, 2);
    let good = made(Some(&old), &new);
    for at in 0..good[0].1.len() * 8 {
        let mut bad = good.clone();
        bad[0].1[at / 8] ^= 1 << (at % 8);
        if let Ok(found) = undone(&old, &bad) {
            // What is left is for the digest to see, or changed nothing: an unused bit of the frame's head.
            assert!(found.len() == new.len() && (found == new || Digest::of(&found) != Digest::of(&new)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_was_edited_is_rebuilt(seed in any::<u64>(), bytes in 0_usize..60_000, edits in 0_usize..30) {
        let mut chance = Chance(seed);
        let old = text(&mut chance, bytes);
        let new = edited(&mut chance, &old, edits);
        let patch = made(Some(&old), &new);
        prop_assert_eq!(&undone(&old, &patch).unwrap(), &new);
        let full = made(None, &new);
        prop_assert_eq!(undone(&[], &full).unwrap(), new);
        prop_assert!(stored_bytes(&patch) <= stored_bytes(&full) + 20);
    }

    #[test]
    fn no_bytes_make_it_panic(
        stored in proptest::collection::vec(any::<u8>(), 0..200),
        prefix in proptest::collection::vec(any::<u8>(), 0..50),
        magic in any::<bool>(),
        bytes in 0_u32..100_000,
    ) {
        let head: &[u8] = if magic { &[0x28, 0xb5, 0x2f, 0xfd] } else { &[] };
        let stored = [head, &stored].concat();
        let new_bytes = u32::try_from(prefix.len()).unwrap();
        let frame = DeltaFrame { bytes, stored_bytes: 1, old: Vec::new(), new_bytes };
        if let Ok(found) = decode(&frame, &stored, &prefix) {
            prop_assert_eq!(found.len(), bytes as usize);
        }
    }
}
