//! A content is written piece by piece, with everything that can go wrong in between.

use std::os::unix::fs::symlink;

use domain::FleetId;
use domain::content::{ChannelName, ChunkEntry, FilePath, ManifestFile};

use super::*;
use crate::content::cut::tests::noise;

const CHUNK_BYTES: usize = 100;

/// A content of these files, cut into pieces of [`CHUNK_BYTES`].
struct Content {
    manifest: Manifest,
    bytes: Vec<u8>,
}

impl Content {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let bytes = files.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>();
        let digest = Digest::of(&bytes);
        Self { manifest: manifest(files, &bytes, digest), bytes }
    }

    fn sample() -> Self {
        Self::new(&[("a", noise(250, 1)), ("d/b", noise(33, 2)), ("d/e", vec![]), ("z", noise(400, 3))])
    }

    fn chunk(&self, position: usize) -> &[u8] {
        self.bytes.chunks(CHUNK_BYTES).nth(position).unwrap()
    }

    fn survey(&self, root: &Path, force: bool) -> Result<Target, TargetError> {
        let place = Place::Folder(root.to_owned());
        Target::survey(&place, self.manifest.clone(), force, &ProgressBar::hidden())
    }

    /// Fetches what is wanted, at most `limit` chunks; which ones those were.
    fn fetch(&self, root: &Path, limit: usize) -> Result<Vec<usize>, TargetError> {
        let mut target = self.survey(root, false)?;
        let mut fetched = Vec::new();
        while let Some(run) = target.next_run() {
            for position in run {
                if fetched.len() == limit {
                    return Ok(fetched);
                }
                target.put(position, self.chunk(position))?;
                fetched.push(position);
            }
        }
        assert_eq!(target.missing(), 0);
        target.finish(&ProgressBar::hidden()).map(|_| fetched)
    }

    fn assert_at(&self, root: &Path) {
        for (start, file) in self.manifest.placed_files() {
            let start = usize::try_from(start).unwrap();
            let end = start + usize::try_from(file.bytes).unwrap();
            let written = fs::read(root.join(file.path.as_str())).unwrap();
            assert_eq!(written, self.bytes[start..end], "{}", file.path);
        }
        assert!(!root.join(DRAFTS).exists());
    }
}

fn manifest(files: &[(&str, Vec<u8>)], bytes: &[u8], digest: Digest) -> Manifest {
    let entry = |(path, bytes): &(&str, Vec<u8>)| ManifestFile {
        path: FilePath::new(path).unwrap(),
        bytes: bytes.len().try_into().unwrap(),
        digest: Digest::of(bytes),
        executable: *path == "a",
    };
    let chunk =
        |bytes: &[u8]| ChunkEntry { digest: Digest::of(bytes), bytes: bytes.len().try_into().unwrap() };
    let chunks = bytes.chunks(CHUNK_BYTES).map(chunk).collect();
    let (fleet, channel) = (FleetId::new("main").unwrap(), ChannelName::new("rules").unwrap());
    Manifest::new(fleet, channel, files.iter().map(entry).collect(), chunks, digest).unwrap()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("new/target");
    (temporary, root)
}

#[test]
fn everything_is_written_under_its_name() {
    let (content, (_temporary, root)) = (Content::sample(), folder());
    assert_eq!(content.fetch(&root, 99).unwrap(), [0, 1, 2, 3, 4, 5, 6]);
    content.assert_at(&root);
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o111;
    assert!(mode("a") != 0 && mode("z") == 0);
    assert_eq!(content.fetch(&root, 99).unwrap(), [0_usize; 0], "a second fetch has nothing to do");
}

#[test]
fn a_fetch_goes_on_where_it_broke_off_wherever_that_was() {
    let content = Content::sample();
    for limit in 0..7 {
        let (_temporary, root) = folder();
        assert_eq!(content.fetch(&root, limit).unwrap().len(), limit);
        let rest = content.fetch(&root, 99).unwrap();
        content.assert_at(&root);
        // A chunk that reaches into the next file is fetched once more if that file was not finished.
        assert!(rest.len() <= 7 - limit + 1, "{limit}: {rest:?}");
    }
}

#[test]
fn what_is_right_is_kept_and_what_is_not_is_refused_or_replaced() {
    let (content, (_temporary, root)) = (Content::sample(), folder());
    content.fetch(&root, 99).unwrap();
    fs::remove_file(root.join("d/b")).unwrap();
    assert_eq!(content.fetch(&root, 99).unwrap(), [2]);
    content.assert_at(&root);
    let stranger = || content.survey(&root, false).unwrap().finish(&ProgressBar::hidden()).unwrap();
    fs::create_dir(root.join("mine")).unwrap();
    assert_eq!(stranger(), None);
    fs::write(root.join("d/old"), "old").unwrap();
    assert_eq!(stranger(), Some(root.join("d/old")));

    fs::write(root.join("z"), "mine").unwrap();
    let error = content.fetch(&root, 99).unwrap_err().to_string();
    assert!(error.ends_with(
        "/z is there already and is something else: name another place, or say --force to replace it"
    ));
    assert_eq!(fs::read(root.join("z")).unwrap(), b"mine");
    let mut target = content.survey(&root, true).unwrap();
    while let Some(run) = target.next_run() {
        run.for_each(|position| target.put(position, content.chunk(position)).unwrap());
    }
    target.finish(&ProgressBar::hidden()).unwrap();
    content.assert_at(&root);
}

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    let (content, (_temporary, root)) = (Content::sample(), folder());
    let mut target = content.survey(&root, false).unwrap();
    let mut wrong = content.chunk(0).to_vec();
    wrong[99] ^= 1;
    assert!(matches!(target.put(0, &wrong), Err(TargetError::Chunk(0))));
    assert!(matches!(target.put(0, &wrong[..50]), Err(TargetError::Chunk(0))));
    assert!(matches!(target.put(7, &[]), Err(TargetError::Chunk(7))));
    assert!(!root.exists());
    assert_eq!(content.fetch(&root, 99).unwrap().len(), 7);
}

#[test]
fn a_draft_that_was_damaged_is_fetched_again() {
    let (content, (_temporary, root)) = (Content::sample(), folder());
    content.fetch(&root, 5).unwrap();
    let draft = root.join(DRAFTS).join("3");
    let mut bytes = fs::read(&draft).unwrap();
    bytes[20] ^= 1;
    fs::write(&draft, bytes).unwrap();
    assert_eq!(content.fetch(&root, 99).unwrap(), [2, 3, 5, 6]);
    content.assert_at(&root);
}

#[test]
fn a_manifest_that_contradicts_itself_leaves_nothing() {
    let (_temporary, root) = folder();
    let files = [("a", noise(150, 1)), ("b", noise(150, 2))];
    let mut content = Content::new(&files);
    content.manifest = manifest(&files, &content.bytes, Digest::of(b"other"));
    assert!(matches!(content.fetch(&root, 99), Err(TargetError::Whole)));
    assert!(!root.join("a").exists() && !root.join("b").exists());

    let swapped = [("a", noise(150, 2)), ("b", noise(150, 1))];
    content.manifest = manifest(&swapped, &content.bytes, Digest::of(&content.bytes));
    let (_temporary, root) = folder();
    assert!(matches!(content.fetch(&root, 99), Err(TargetError::File(path)) if path == "a"));
    assert!(!root.join("a").exists());
}

#[test]
fn nothing_is_written_outside() {
    let (content, (temporary, root)) = (Content::sample(), folder());
    let outside = temporary.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(&root).unwrap();
    symlink(&outside, root.join("d")).unwrap();
    assert!(matches!(content.fetch(&root, 99), Err(TargetError::NoFolder(_))));
    fs::remove_file(root.join("d")).unwrap();
    symlink(&outside, root.join(DRAFTS)).unwrap();
    assert!(matches!(content.fetch(&root, 99), Err(TargetError::NoFolder(_))));
    fs::remove_file(root.join(DRAFTS)).unwrap();
    fs::create_dir(root.join(DRAFTS)).unwrap();
    symlink(outside.join("x"), root.join(DRAFTS).join("0")).unwrap();
    assert!(matches!(content.fetch(&root, 99), Err(TargetError::NoDraft(_))));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn one_file_may_have_another_name() {
    let (temporary, content) = (tempfile::tempdir().unwrap(), Content::new(&[("d/data", noise(250, 1))]));
    let place = Place::File(temporary.path().join("latest.bin"));
    let mut target = Target::survey(&place, content.manifest.clone(), false, &ProgressBar::hidden()).unwrap();
    (0..3).for_each(|position| target.put(position, content.chunk(position)).unwrap());
    target.finish(&ProgressBar::hidden()).unwrap();
    assert_eq!(fs::read(temporary.path().join("latest.bin")).unwrap(), content.bytes);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    let many = Target::survey(&place, Content::sample().manifest, true, &ProgressBar::hidden());
    assert!(matches!(many, Err(TargetError::ManyFiles(4))));
}
