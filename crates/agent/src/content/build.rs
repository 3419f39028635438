//! Building a content beside all others from what is held and what is fetched, and making sure of it. Everything
//! here blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::Digest;
use domain::agent::Reason;
use domain::content::agent::Failure;
use domain::content::index::PlacedFrame;
use domain::content::{ChannelName, Delta};
use sha2::{Digest as _, Sha256};

use super::dirs::{FILES, PARTS};
use super::files::Files;
use super::library::Library;
use super::survey::{Place, Surveyed, part_name};
use super::tree::Tree;
use crate::crash;

/// Something to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A chunk.
    Chunk {
        /// Its name.
        digest: Digest,
        /// Its length before compression.
        raw_bytes: u32,
    },
    /// A part of the delta of the plan, by its number.
    Part(u32),
}

/// Why a piece is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// What came is not the piece: the next answer may be.
    #[error("it is not what it should be: {0}")]
    Wrong(String),
    /// The disk refuses.
    #[error("the disk refuses it")]
    Disk(#[from] io::Error),
    /// The delta does not lead to the content.
    #[error("the delta leads to something else: {0}")]
    Delta(String),
}

/// A content that is being built.
#[derive(Debug)]
pub(crate) struct Build {
    library: Arc<Library>,
    surveyed: Arc<Surveyed>,
    draft: Files,
    /// Numbers of the chunks with each digest that has to be fetched or copied.
    numbers: BTreeMap<Digest, Vec<usize>>,
    /// Frames that have not been decoded yet, the next one last.
    frames: Vec<u32>,
    /// Parts that are on disk.
    parts: BTreeSet<u32>,
    /// Where each part starts in the joined parts.
    part_starts: Vec<u64>,
    /// What a frame is decoded with: one buffer for all of them.
    prefix: Vec<u8>,
}

impl Build {
    /// Makes room for the whole content, and copies into it what is held and not rebuilt by a delta. Ends early
    /// when `stop` is set.
    pub(crate) fn begin(
        library: Arc<Library>,
        surveyed: Arc<Surveyed>,
        stop: &AtomicBool,
    ) -> Result<Self, Failure> {
        let item = &surveyed.item;
        let path = library.dirs().draft(&item.channel, &item.manifest);
        let place = || {
            library.dirs().prepare(&item.channel)?;
            Tree::create(&path)?;
            library.share_manifest(item)
        };
        place().map_err(disk("make", &item.channel))?;
        let open = || {
            let tree = Tree::create(&path.join(FILES))?;
            let files = Files::new(tree, Arc::clone(&surveyed.manifest));
            files.reserve().map(|()| files)
        };
        let draft = open().map_err(disk("make room for", &item.channel))?;
        crash::point("content-reserved");
        let mut numbers: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        for (number, chunk) in surveyed.manifest.chunks().iter().enumerate() {
            numbers.entry(chunk.digest).or_default().push(number);
        }
        let mut build = Self {
            draft,
            numbers,
            frames: surveyed.plan.frames.iter().rev().copied().collect(),
            parts: BTreeSet::new(),
            part_starts: Vec::new(),
            library: Arc::clone(&library),
            surveyed: Arc::clone(&surveyed),
            prefix: Vec::new(),
        };
        build.copy_held(stop)?;
        build.find_parts().map_err(disk("read parts of", &item.channel))?;
        crash::point("content-copied");
        match build.decode_ready() {
            Ok(()) => Ok(build),
            Err(error) => Err(build.failed(&error)),
        }
    }

    fn delta(&self) -> Option<&Delta> {
        self.surveyed.delta()
    }

    /// Runs of the content that frames will rebuild.
    fn rebuilt(&self) -> Vec<(u64, u64)> {
        let Some(delta) = self.delta() else { return Vec::new() };
        let wanted: BTreeSet<u32> = self.frames.iter().copied().collect();
        let frames = (0u32..).zip(delta.placed_frames()).filter(|(number, _)| wanted.contains(number));
        frames.map(|(_, placed)| (placed.offset, placed.offset + u64::from(placed.frame.bytes))).collect()
    }

    fn copy_held(&self, stop: &AtomicBool) -> Result<(), Failure> {
        let rebuilt = self.rebuilt();
        let is_rebuilt = |from: u64, to: u64| {
            let next = rebuilt.partition_point(|(_, end)| *end <= from);
            // Frames that touch each other cover a chunk together.
            let mut at = from;
            for (start, end) in &rebuilt[next..] {
                if *start > at || at >= to {
                    break;
                }
                at = *end;
            }
            at >= to
        };
        let chunks = self.surveyed.manifest.placed_chunks();
        for (number, (at, chunk)) in chunks.enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            let place = self.surveyed.places.get(&chunk.digest);
            if place.is_none() || is_rebuilt(at, at + u64::from(chunk.bytes)) {
                continue;
            }
            let copied = match place {
                // A chunk that occurs twice may be there once only.
                Some(Place::Draft) => self.copy_within(number, &chunk.digest),
                Some(Place::Other(..) | Place::Cache) | None => self.copy(at, &chunk.digest),
            };
            if !copied.map_err(disk("copy into", &self.surveyed.item.channel))? {
                // It changed since it was surveyed; the next survey sees that.
                return Err(failure("content that was held has changed"));
            }
        }
        Ok(())
    }

    fn copy(&self, at: u64, digest: &Digest) -> io::Result<bool> {
        let Some(bytes) = self.library.held(&self.surveyed, digest)? else { return Ok(false) };
        self.draft.write(at, &bytes).map(|()| true)
    }

    fn copy_within(&self, number: usize, digest: &Digest) -> io::Result<bool> {
        let all = self.numbers.get(digest).map_or(&[][..], Vec::as_slice);
        if all.len() < 2 {
            return Ok(true);
        }
        let mut buffer = Vec::new();
        if self.draft.chunk(number, &mut buffer)? {
            return Ok(true);
        }
        for other in all {
            if self.draft.chunk(*other, &mut buffer)? {
                let Some((at, _)) = self.draft.place(number) else { return Ok(false) };
                return self.draft.write(at, &buffer).map(|()| true);
            }
        }
        Ok(false)
    }

    fn parts_dir(&self) -> std::path::PathBuf {
        let item = &self.surveyed.item;
        self.library.dirs().draft(&item.channel, &item.manifest).join(PARTS)
    }

    /// Parts that were fetched before: all that the plan does not fetch and its frames need.
    fn find_parts(&mut self) -> io::Result<()> {
        let Some(delta) = self.surveyed.delta() else { return Ok(()) };
        let mut at = 0;
        for part in delta.parts() {
            self.part_starts.push(at);
            at += u64::from(part.bytes);
        }
        let dir = Tree::create(&self.parts_dir())?;
        for number in 0..u32::try_from(delta.parts().len()).unwrap_or(u32::MAX) {
            if dir.stamp(&part_name(delta.from(), number))?.is_some() {
                self.parts.insert(number);
            }
        }
        // What is to be fetched is not there, or is not what it should be.
        for number in &self.surveyed.plan.pieces {
            self.parts.remove(number);
        }
        Ok(())
    }

    /// Keeps a piece that came, once it is sure that it is the right one.
    pub(crate) fn keep(&mut self, piece: Piece, bytes: &[u8]) -> Result<(), KeepError> {
        match piece {
            Piece::Chunk { digest, raw_bytes } => self.keep_chunk(&digest, raw_bytes, bytes)?,
            Piece::Part(number) => self.keep_part(number, bytes)?,
        }
        crash::point("content-piece-kept");
        self.decode_ready()
    }

    fn keep_chunk(&self, digest: &Digest, raw_bytes: u32, bytes: &[u8]) -> Result<(), KeepError> {
        let length = usize::try_from(raw_bytes).unwrap_or(usize::MAX);
        let raw =
            codec::frame::decompress(bytes, length).map_err(|error| KeepError::Wrong(error.to_string()))?;
        if Digest::of(&raw) != *digest {
            return Err(KeepError::Wrong("its digest is another one".to_owned()));
        }
        for number in self.numbers.get(digest).into_iter().flatten() {
            if let Some((at, _)) = self.draft.place(*number) {
                self.draft.write(at, &raw)?;
            }
        }
        Ok(())
    }

    fn keep_part(&mut self, number: u32, bytes: &[u8]) -> Result<(), KeepError> {
        let delta = self.surveyed.delta();
        let part = delta.and_then(|delta| delta.parts().get(usize::try_from(number).ok()?));
        let (Some(delta), Some(part)) = (delta, part) else { return Ok(()) };
        if Digest::of(bytes) != part.digest {
            return Err(KeepError::Wrong("its digest is another one".to_owned()));
        }
        let path = self.parts_dir().join(part_name(delta.from(), number));
        if let Err(error) = fs::write(&path, bytes) {
            // What was begun would take room for nothing.
            let _removed = fs::remove_file(&path);
            return Err(error.into());
        }
        self.parts.insert(number);
        Ok(())
    }

    /// Decodes the frames whose bytes are all there, in order.
    fn decode_ready(&mut self) -> Result<(), KeepError> {
        while let Some(number) = self.frames.last().copied() {
            let surveyed = Arc::clone(&self.surveyed);
            let placed = surveyed.delta().and_then(|delta| {
                let number = usize::try_from(number).ok()?;
                Some((delta, delta.placed_frames().nth(number)?))
            });
            let Some((delta, placed)) = placed else { return Ok(()) };
            let end = placed.stored_offset + u64::from(placed.frame.stored_bytes);
            let Some(stored) = self.stored(delta, placed.stored_offset, end)? else { return Ok(()) };
            self.decode(delta, placed, &stored)?;
            self.frames.pop();
            crash::point("content-frame-decoded");
        }
        Ok(())
    }

    /// A run of the joined parts; `None` while not all of it is there.
    fn stored(&self, delta: &Delta, from: u64, to: u64) -> io::Result<Option<Vec<u8>>> {
        let first = self.part_starts.partition_point(|start| *start <= from).saturating_sub(1);
        let last = self.part_starts.partition_point(|start| *start < to);
        let numbers = || (first..last).filter_map(|number| u32::try_from(number).ok());
        if !numbers().all(|number| self.parts.contains(&number)) {
            return Ok(None);
        }
        let capacity = usize::try_from(to - from).map_err(io::Error::other)?;
        let mut stored = Vec::with_capacity(capacity);
        for (number, start) in numbers().zip(&self.part_starts[first..last]) {
            let bytes = fs::read(self.parts_dir().join(part_name(delta.from(), number)))?;
            let cut = |place: u64| {
                usize::try_from(place.saturating_sub(*start)).unwrap_or(usize::MAX).min(bytes.len())
            };
            stored.extend_from_slice(&bytes[cut(from)..cut(to)]);
        }
        Ok(Some(stored))
    }

    fn decode(&mut self, delta: &Delta, placed: PlacedFrame<'_>, stored: &[u8]) -> Result<(), KeepError> {
        let frame = placed.frame;
        let mut prefix = std::mem::take(&mut self.prefix);
        prefix.resize(usize::try_from(frame.prefix_bytes()).map_err(io::Error::other)?, 0);
        let mut rest = &mut prefix[..];
        let old = delta.from().and_then(|from| {
            let is_base = |(manifest, files): &&(Digest, Arc<Files>)| {
                *manifest == from
                    && files.tree().path().parent().is_some_and(|dir| dir.ends_with(from.to_string()))
            };
            self.surveyed.others.iter().find(is_base)
        });
        for run in &frame.old {
            let (into, after) = rest.split_at_mut(usize::try_from(run.bytes).map_err(io::Error::other)?);
            let Some((_, old)) = old else {
                return Err(KeepError::Delta("what it starts from is gone".into()));
            };
            old.read(run.offset, into).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => {
                    KeepError::Delta("it reads behind the end of the old content".into())
                }
                _ => KeepError::Disk(error),
            })?;
            rest = after;
        }
        self.draft.read(placed.offset.saturating_sub(frame.new_bytes.into()), rest)?;
        let raw = codec::delta::decode(frame, stored, &prefix)
            .map_err(|error| KeepError::Delta(runtime::log::chain(&error)))?;
        self.draft.write(placed.offset, &raw)?;
        self.prefix = prefix;
        Ok(())
    }

    /// Makes the content durable, reads all of it back, holds it against its manifest, and puts it in its place.
    pub(crate) fn finish(&self, stop: &AtomicBool) -> Result<(), Failure> {
        let (item, dirs) = (&self.surveyed.item, self.library.dirs());
        self.draft.sync().map_err(disk("write", &item.channel))?;
        crash::point("content-synced");
        match verify(&self.draft, stop).map_err(disk("read back", &item.channel))? {
            Verdict::Whole => {}
            Verdict::Stopped => return Err(stopped()),
            Verdict::Chunk(number) => {
                self.library.distrust(&self.surveyed);
                self.library.forget(self.draft.tree().path());
                let text = format!("chunk {number} of the content that was built is not what it should be");
                return Err(failure(&text));
            }
            Verdict::Contradiction(what) => {
                let reason = Reason::new(format!("the manifest contradicts itself: {what}"));
                return Err(Failure { reason, retry: false });
            }
        }
        crash::point("content-verified");
        let place = || {
            match fs::remove_dir_all(self.parts_dir()) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let draft = dirs.draft(&item.channel, &item.manifest);
            crate::disk::files::sync_dir(&draft)?;
            self.library.forget(self.draft.tree().path());
            self.library.forget(&dirs.content(&item.channel, &item.manifest).join(FILES));
            dirs.place(&item.channel, &item.manifest)
        };
        place().map_err(disk("put in its place", &item.channel))?;
        crash::point("content-placed");
        Ok(())
    }

    /// What a piece that could not be kept means for all of it.
    pub(crate) fn failed(&self, error: &KeepError) -> Failure {
        match error {
            KeepError::Delta(_) => self.library.distrust(&self.surveyed),
            KeepError::Wrong(_) | KeepError::Disk(_) => {}
        }
        failure(&runtime::log::chain(error))
    }
}

/// A content that is there as a whole but for its modes, or for what does not belong there.
pub(crate) fn mend(library: &Library, surveyed: &Surveyed) -> io::Result<bool> {
    let item = &surveyed.item;
    let tree = Tree::open(&library.dirs().content(&item.channel, &item.manifest).join(FILES))?;
    let files = Files::new(tree, Arc::clone(&surveyed.manifest));
    if !files.is_exact()? {
        files.reserve()?;
        files.sync()?;
    }
    Ok(files.is_exact()? && library.check(&files)?.is_whole())
}

enum Verdict {
    Whole,
    Stopped,
    /// The first chunk that does not hold.
    Chunk(usize),
    /// All chunks hold, and something else that the manifest says does not.
    Contradiction(String),
}

/// Reads a tree back: each chunk, each file, the whole, and nothing else beside them.
fn verify(files: &Files, stop: &AtomicBool) -> io::Result<Verdict> {
    let manifest = files.manifest();
    let (mut whole, mut buffer) = (Sha256::new(), Vec::new());
    let mut left = manifest.files().iter();
    let mut file: Option<(u64, Sha256, &domain::content::ManifestFile)> = None;
    let mut wrong = None;
    let mut end_files = |bytes: &mut &[u8]| {
        loop {
            let (rest, mut hasher, current) = match file.take() {
                Some(open) => open,
                None => match left.next() {
                    Some(next) => (next.bytes, Sha256::new(), next),
                    None => return,
                },
            };
            let take = usize::try_from(rest).unwrap_or(usize::MAX).min(bytes.len());
            hasher.update(&bytes[..take]);
            *bytes = &bytes[take..];
            let rest = rest - take as u64;
            if rest > 0 {
                file = Some((rest, hasher, current));
                return;
            }
            if Digest(hasher.finalize().into()) != current.digest && wrong.is_none() {
                wrong = Some(format!("the digest of {:?}", current.path.as_str()));
            }
        }
    };
    for number in 0..manifest.chunks().len() {
        if stop.load(Ordering::Relaxed) {
            return Ok(Verdict::Stopped);
        }
        if !files.chunk(number, &mut buffer)? {
            return Ok(Verdict::Chunk(number));
        }
        whole.update(&buffer);
        end_files(&mut &buffer[..]);
    }
    end_files(&mut &[][..]);
    files.close();
    if let Some(wrong) = wrong {
        return Ok(Verdict::Contradiction(wrong));
    }
    if Digest(whole.finalize().into()) != manifest.digest() {
        return Ok(Verdict::Contradiction("the digest of the whole content".to_owned()));
    }
    if files.is_exact()? {
        Ok(Verdict::Whole)
    } else {
        Err(io::Error::other("files changed while they were read"))
    }
}

/// A failure after which another attempt may work.
pub(crate) fn failure(text: &str) -> Failure {
    Failure { reason: Reason::new(text), retry: true }
}

/// The fetch was asked to end.
pub(crate) fn stopped() -> Failure {
    failure("stopped")
}

/// The disk refused.
pub(crate) fn disk(what: &'static str, channel: &ChannelName) -> impl FnOnce(io::Error) -> Failure {
    let channel = channel.clone();
    move |error| failure(&format!("cannot {what} the content of {channel}: {error}"))
}
