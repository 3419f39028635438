//! Building a content from pieces, good and bad ones, without a network.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use domain::Digest;
use domain::content::agent::Failure;
use domain::content::plan::Road;
use domain::content::{ChunkEntry, Manifest};

use super::build::{Build, KeepError, Piece};
use super::library::{Bounds, Library};
use super::survey::Surveyed;
use super::test_content::{Message, SmallDisk, Stored, content_trust, files, make, sealed};
use crate::test_fleet::trust_in;

static NEVER: AtomicBool = AtomicBool::new(false);

fn library(dir: &Path) -> Arc<Library> {
    library_with(dir, Bounds { quota: None, cache_bytes: 1 << 20 })
}

fn library_with(dir: &Path, bounds: Bounds) -> Arc<Library> {
    Arc::new(Library::open(dir, &trust_in(&content_trust()), Digest::default(), bounds).unwrap())
}

/// Surveys a content whose messages are at hand.
fn survey(library: &Library, stored: &Stored, messages: &[Message]) -> Arc<Surveyed> {
    let envelope = message(messages, "content.manifest.");
    let manifest = library.open_manifest(&stored.item, envelope).unwrap();
    library.keep_manifest(&stored.item, envelope).unwrap();
    Arc::new(library.survey(&stored.item, manifest, Some(stored.content_index())).unwrap())
}

fn message<'a>(messages: &'a [Message], prefix: &str) -> &'a [u8] {
    &messages.iter().rev().find(|(subject, _)| subject.as_str().starts_with(prefix)).unwrap().1
}

fn begin(library: &Arc<Library>, surveyed: &Arc<Surveyed>) -> Result<Build, Failure> {
    Build::begin(Arc::clone(library), Arc::clone(surveyed), &NEVER)
}

/// The pieces of a plan and the messages that hold them.
fn pieces<'a>(stored: &Stored, surveyed: &Surveyed, messages: &'a [Message]) -> Vec<(Piece, &'a [u8])> {
    let find = |subject: &wire::subject::Subject| {
        &messages.iter().rev().find(|(known, _)| known == subject).unwrap().1[..]
    };
    let of = |number: &u32| match surveyed.plan.road {
        Road::Chunks => {
            let at = usize::try_from(*number).unwrap();
            let ChunkEntry { digest, bytes } = stored.manifest.chunks()[at];
            (Piece::Chunk { digest, raw_bytes: bytes }, find(&stored.chunk(at)))
        }
        Road::Full => (Piece::Part(*number), find(&stored.part(None, *number))),
        Road::Patch { from } => {
            let subject = wire::subject::content_patch(Some(&from), &stored.item.manifest, *number);
            (Piece::Part(*number), find(&subject))
        }
    };
    surveyed.plan.pieces.iter().map(of).collect()
}

/// Fetches, builds and finishes a content.
fn build(library: &Arc<Library>, stored: &Stored, messages: &[Message]) -> Arc<Surveyed> {
    let surveyed = survey(library, stored, messages);
    let mut build = begin(library, &surveyed).unwrap();
    for (piece, bytes) in pieces(stored, &surveyed, messages) {
        build.keep(piece, bytes).unwrap();
    }
    build.finish(&NEVER).unwrap();
    surveyed
}

fn place(dir: &Path, stored: &Stored) -> PathBuf {
    let channel = stored.item.channel.as_str().replace('/', "--");
    dir.join("content/revisions").join(channel).join(stored.item.manifest.to_string())
}

#[test]
fn a_content_is_built_with_modes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let (stored, messages) = make("a/b", 1, files(1, &[("bin/x", 70_000), ("d/e/f", 5), ("empty", 0)]));
    build(&library, &stored, &messages);
    let root = place(dir.path(), &stored).join("files");
    for (path, (bytes, executable)) in &stored.files {
        assert_eq!(fs::read(root.join(path)).unwrap(), *bytes);
        let metadata = fs::metadata(root.join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, if *executable { 0o755 } else { 0o644 });
        assert_eq!(metadata.nlink(), 1);
    }
    assert!(library.has_drifted(&stored.item).unwrap(), "it is not in force yet");
    library.switch(&stored.item.channel, Some(&stored.item)).unwrap();
    assert!(!library.has_drifted(&stored.item).unwrap());
}

#[test]
fn every_flipped_byte_and_every_cut_of_a_small_chunk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let (stored, messages) = make("a", 1, files(1, &[("x", 300)]));
    let surveyed = survey(&library, &stored, &messages);
    let mut build = begin(&library, &surveyed).unwrap();
    let (piece, good) = pieces(&stored, &surveyed, &messages)[0];
    for at in 0..good.len() * 8 {
        let mut flipped = good.to_vec();
        flipped[at / 8] ^= 1 << (at % 8);
        // A bit of a frame may mean nothing; then what comes out is the same.
        match build.keep(piece, &flipped) {
            Ok(()) | Err(KeepError::Wrong(_)) => {}
            Err(error) => panic!("bit {at}: {error}"),
        }
    }
    for length in 0..good.len() {
        let kept = build.keep(piece, &good[..length]);
        assert!(matches!(kept, Err(KeepError::Wrong(_))), "cut to {length}");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert!(matches!(build.keep(piece, &longer), Err(KeepError::Wrong(_))));
    build.keep(piece, good).unwrap();
    build.finish(&NEVER).unwrap();
}

#[test]
fn other_chunks_and_zip_bombs_are_refused_and_cost_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let (stored, messages) = make("a", 1, files(1, &[("x", 400_000)]));
    let surveyed = survey(&library, &stored, &messages);
    let mut build = begin(&library, &surveyed).unwrap();
    let pieces = pieces(&stored, &surveyed, &messages);
    let bomb = codec::frame::compress(&vec![0; 512 << 20]);
    assert!(bomb.len() < 64 * 1024);
    for (at, (piece, _)) in pieces.iter().enumerate() {
        let other = pieces[(at + 1) % pieces.len()].1;
        assert!(matches!(build.keep(*piece, other), Err(KeepError::Wrong(_))), "another chunk");
        assert!(matches!(build.keep(*piece, &bomb), Err(KeepError::Wrong(_))), "a bomb");
        assert!(matches!(build.keep(*piece, &[]), Err(KeepError::Wrong(_))), "nothing");
    }
}

#[test]
fn a_delta_goes_on_where_it_was_and_decodes_only_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut stored, mut messages) = make("a", 1, files(1, &[("x", 1_500_000)]));
    // As if chunks took more than they do: the delta is the shorter road.
    stored.stored.fill(512 * 1024);
    messages.extend(stored.short_delta(200_000, 30_000));
    let surveyed = survey(&library(dir.path()), &stored, &messages);
    let all = pieces(&stored, &surveyed, &messages);
    assert!(surveyed.plan.frames.len() > 1 && all.len() > 9, "{:?}", surveyed.plan.road);
    for stop in [0, 1, 2, all.len() / 2, all.len() - 1] {
        let dir = tempfile::tempdir().unwrap();
        let before = library(dir.path());
        let surveyed = survey(&before, &stored, &messages);
        let mut build = begin(&before, &surveyed).unwrap();
        for (piece, bytes) in &all[..stop] {
            build.keep(*piece, bytes).unwrap();
        }
        drop((build, before));
        let after = library(dir.path());
        let surveyed = survey(&after, &stored, &messages);
        let left = pieces(&stored, &surveyed, &messages);
        assert_eq!(left.len(), all.len() - stop, "nothing is fetched twice");
        let mut build = begin(&after, &surveyed).unwrap();
        for (piece, bytes) in left {
            build.keep(piece, bytes).unwrap();
        }
        build.finish(&NEVER).unwrap();
        assert_eq!(fs::read(place(dir.path(), &stored).join("files/x")).unwrap(), stored.bytes[..]);
        assert!(!place(dir.path(), &stored).join("parts").exists());
    }
}

#[test]
fn a_draft_that_was_damaged_costs_what_was_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (stored, messages) = make("a", 1, files(1, &[("x", 900_000), ("y", 900_000)]));
    let surveyed = survey(&library(dir.path()), &stored, &messages);
    let all = pieces(&stored, &surveyed, &messages).len();
    let mut build = begin(&library(dir.path()), &surveyed).unwrap();
    for (piece, bytes) in pieces(&stored, &surveyed, &messages) {
        build.keep(piece, bytes).unwrap();
    }
    drop(build);
    let draft = place(dir.path(), &stored).with_extension("draft").join("files");
    let mut bytes = fs::read(draft.join("x")).unwrap();
    bytes[450_000] ^= 1;
    fs::write(draft.join("x"), bytes).unwrap();
    let surveyed = survey(&library(dir.path()), &stored, &messages);
    assert_eq!(pieces(&stored, &surveyed, &messages).len(), 1, "of {all}");

    fs::remove_file(draft.join("y")).unwrap();
    symlink("/etc/passwd", draft.join("y")).unwrap();
    fs::create_dir_all(draft.join("stranger/below")).unwrap();
    symlink("/", draft.join("stranger/link")).unwrap();
    build_again(dir.path(), &stored, &messages);
}

fn build_again(dir: &Path, stored: &Stored, messages: &[Message]) {
    build(&library(dir), stored, messages);
    let root = place(dir, stored).join("files");
    assert_eq!(fs::read(root.join("y")).unwrap(), stored.files["y"].0);
    assert!(!root.join("y").is_symlink() && !root.join("stranger").exists());
    assert!(fs::read("/etc/passwd").is_ok());
}

#[test]
fn a_delta_that_leads_elsewhere_is_found_out_and_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let (first, messages) = make("a", 1, files(1, &[("x", 600_000)]));
    build(&library, &first, &messages);
    let mut new = first.files.clone();
    new.get_mut("x").unwrap().0[300_000..300_009].copy_from_slice(b"different");
    let (mut second, mut messages) = make("a", 2, new);
    // Made from something else than it says: its frames decode, to other bytes.
    let made_from = second.bytes.to_vec();
    messages.extend(second.delta(Some(&first), Some(&made_from)));
    let surveyed = survey(&library, &second, &messages);
    assert!(matches!(surveyed.plan.road, Road::Patch { .. }), "{:?}", surveyed.plan);
    let mut attempt = begin(&library, &surveyed).unwrap();
    let kept = pieces(&second, &surveyed, &messages)
        .into_iter()
        .try_for_each(|(piece, bytes)| attempt.keep(piece, bytes));
    let failure = match kept {
        Ok(()) => attempt.finish(&NEVER).unwrap_err(),
        Err(error) => attempt.failed(&error),
    };
    assert!(failure.retry, "{failure:?}");
    let surveyed = build(&library, &second, &messages);
    assert_eq!(surveyed.plan.road, Road::Chunks);
}

#[test]
fn a_manifest_that_contradicts_itself_fails_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let (good, messages) = make("a", 1, files(1, &[("x", 70_000), ("y", 70_000)]));
    let change = |file: bool| {
        let mut files = good.manifest.files().to_vec();
        let mut whole = good.manifest.digest();
        if file {
            files[1].digest = Digest([1; 32])
        } else {
            whole = Digest([1; 32])
        }
        let (fleet, channel) = (good.manifest.fleet().clone(), good.manifest.channel().clone());
        Manifest::new(fleet, channel, files, good.manifest.chunks().to_vec(), whole).unwrap()
    };
    for (manifest, expected) in
        [(change(true), "the digest of \"y\""), (change(false), "the digest of the whole")]
    {
        let (item, message) = sealed(&manifest, 1);
        let stored = Stored { item, manifest: Arc::new(manifest), ..good.clone() };
        let messages: Vec<Message> = messages.iter().cloned().chain([message]).collect();
        let surveyed = survey(&library, &stored, &messages);
        let mut build = begin(&library, &surveyed).unwrap();
        for (piece, bytes) in pieces(&stored, &surveyed, &messages) {
            build.keep(piece, bytes).unwrap();
        }
        let failure = build.finish(&NEVER).unwrap_err();
        assert!(!failure.retry && failure.reason.as_str().contains(expected), "{failure:?}");
    }
}

#[test]
fn removed_contents_leave_their_chunks_behind_and_the_cache_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let (first, messages) = make("a", 1, files(1, &[("x", 700_000)]));
    build(&library, &first, &messages);
    library.prune(&[], &[]).unwrap();
    assert!(!place(dir.path(), &first).exists());
    let surveyed = survey(&library, &first, &messages);
    assert_eq!((surveyed.plan.fetch_bytes, surveyed.plan.held_bytes), (0, 700_000));
    begin(&library, &surveyed).unwrap().finish(&NEVER).unwrap();
    assert_eq!(fs::read(place(dir.path(), &first).join("files/x")).unwrap(), first.bytes[..]);
    library.prune(&[], &[]).unwrap();

    let used = library.dirs().used().unwrap();
    assert!(used >= 700_000, "{used}");
    let tight = library_with(dir.path(), Bounds { quota: Some(1_000_000), cache_bytes: 900_000 });
    let (other, messages) = make("b", 1, files(50, &[("x", 600_000)]));
    let space = survey(&tight, &other, &messages).space;
    assert!(space.used + space.needed <= 1_000_000, "{space:?}");
    let (large, messages) = make("b", 1, files(50, &[("x", 1_600_000)]));
    let space = survey(&tight, &large, &messages).space;
    assert!(space.used < 100_000 && space.needed > 1_600_000, "the cache is empty: {space:?}");
}

#[test]
fn what_finds_no_room_takes_none() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path(), "2m") else { return };
    let library = library(dir.path());
    let (stored, messages) = make("a", 1, files(1, &[("a", 900_000), ("b", 900_000), ("c", 900_000)]));
    let surveyed = survey(&library, &stored, &messages);
    assert!(surveyed.space.needed > surveyed.space.free, "{:?}", surveyed.space);
    let failure = begin(&library, &surveyed).unwrap_err();
    assert!(failure.retry && failure.reason.as_str().contains("room"), "{failure:?}");
    let used = library.dirs().used().unwrap();
    assert!(used < 100_000, "{used} bytes are still taken");
}
