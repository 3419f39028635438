//! The bytes of a content as they lie in the files of a tree.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::Digest;
use domain::content::manifest::{ChunkEntry, Manifest};
use rustix::fs::{Advice, fadvise};

use super::tree::{Stamp, Tree, read_at};

/// How long a file must have rested before its stamp speaks for its bytes: the file system's clock may tick
/// this seldom, and a second change within one tick leaves no trace.
const SETTLED_AFTER_MS: i64 = 2000;

/// A tree that holds a content, or a part of it.
#[derive(Debug)]
pub(crate) struct Files {
    tree: Tree,
    manifest: Arc<Manifest>,
    /// Where each file starts in the content, in the manifest's order.
    starts: Vec<u64>,
    /// Where each chunk starts.
    chunks: Vec<u64>,
    /// The file used last: runs of a content mostly lie in one.
    open: Mutex<Option<(usize, bool, Arc<File>)>>,
}

/// What was found when the chunks of a tree were compared with their digests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checked {
    /// Each file as it was before its bytes were read; `None` if they may have changed since.
    stamps: Vec<Option<Stamp>>,
    /// Whether each chunk holds.
    good: Vec<bool>,
}

impl Checked {
    /// Whether the whole content holds.
    pub(crate) fn is_whole(&self) -> bool {
        self.good.iter().all(|good| *good)
    }

    /// Whether a chunk, by its number, holds.
    pub(crate) fn holds(&self, chunk: usize) -> bool {
        self.good.get(chunk).copied().unwrap_or_default()
    }
}

impl Files {
    pub(crate) fn new(tree: Tree, manifest: Arc<Manifest>) -> Self {
        let starts = manifest.placed_files().map(|(at, _)| at).collect();
        let chunks = manifest.placed_chunks().map(|(at, _)| at).collect();
        Self { tree, manifest, starts, chunks, open: Mutex::new(None) }
    }

    pub(crate) fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn paths(&self) -> Vec<&str> {
        self.manifest.files().iter().map(|file| file.path.as_str()).collect()
    }

    /// Where a chunk lies in the content.
    pub(crate) fn place(&self, chunk: usize) -> Option<(u64, ChunkEntry)> {
        Some((*self.chunks.get(chunk)?, *self.manifest.chunks().get(chunk)?))
    }

    /// Makes the files, with room for all their bytes, and removes whatever else is there. On a disk that has no
    /// room for all of them nothing is taken.
    pub(crate) fn reserve(&self) -> io::Result<()> {
        self.tree.remove_strangers(&self.paths())?;
        let mut before = Vec::with_capacity(self.manifest.files().len());
        for file in self.manifest.files() {
            match self.tree.reserve(file.path.as_str(), file.bytes, file.executable) {
                Ok(bytes) => before.push((file.path.as_str(), bytes)),
                Err(error) => {
                    for (path, bytes) in before {
                        self.tree.release(path, bytes)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The parts of files that a run of the content lies in: number of the file, offset in it, range of the run.
    fn pieces(&self, offset: u64, bytes: usize) -> impl Iterator<Item = (usize, u64, Range<usize>)> {
        let end = offset.saturating_add(bytes as u64);
        // Files of no bytes start where the next one does; the last of those is the one with bytes.
        let first = self.starts.partition_point(|start| *start <= offset).saturating_sub(1);
        let of = move |number: usize| {
            let start = self.starts[number];
            let (from, to) = (offset.max(start), end.min(start + self.manifest.files()[number].bytes));
            let at = |place: u64| usize::try_from(place - offset).ok();
            (from < to).then(|| Some((number, from - start, at(from)?..at(to)?))).flatten()
        };
        (first..self.starts.len()).take_while(move |number| self.starts[*number] < end).filter_map(of)
    }

    fn file(&self, number: usize, write: bool) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, writable, file)) = &*open
            && *known == number
            && (*writable || !write)
        {
            return Ok(Arc::clone(file));
        }
        let path = self.manifest.files()[number].path.as_str();
        let file = Arc::new(if write { self.tree.write(path)? } else { self.tree.read(path)? });
        *open = Some((number, write, Arc::clone(&file)));
        Ok(file)
    }

    /// Forgets the open file: the next use looks again at what has its name.
    pub(crate) fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads a run of the content.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        for (number, at, range) in self.pieces(offset, into.len()) {
            let file = self.file(number, false)?;
            done += read_at(&file, at, &mut into[range])?;
        }
        if done == into.len() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Writes a run of the content.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (number, at, range) in self.pieces(offset, bytes.len()) {
            self.file(number, true)?.write_all_at(&bytes[range], at)?;
        }
        Ok(())
    }

    /// Reads a chunk; false if what is there is something else.
    pub(crate) fn chunk(&self, number: usize, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let Some((at, entry)) = self.place(number) else { return Ok(false) };
        buffer.resize(usize::try_from(entry.bytes).unwrap_or(usize::MAX), 0);
        match self.read(at, buffer) {
            Ok(()) => Ok(Digest::of(buffer) == entry.digest),
            Err(error) if super::tree::is_absent(&error) => Ok(false),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Compares all chunks with their digests, those of files that changed since `known` was found. Ends early,
    /// with an error, when `ending` is set.
    pub(crate) fn check(&self, known: &Checked, ending: &AtomicBool) -> io::Result<Checked> {
        self.close();
        let files = self.manifest.files();
        let mut found = Vec::with_capacity(files.len());
        for file in files {
            found.push(self.tree.stamp(file.path.as_str())?);
        }
        let changed = |number: usize| {
            found[number].is_none() || known.stamps.get(number).copied().flatten() != found[number]
        };
        let mut good = Vec::with_capacity(self.chunks.len());
        let mut buffer = Vec::new();
        for (number, (at, chunk)) in self.manifest.placed_chunks().enumerate() {
            if ending.load(Ordering::Relaxed) {
                return Err(io::Error::other("the agent is stopping"));
            }
            let length = usize::try_from(chunk.bytes).unwrap_or(usize::MAX);
            let stale =
                known.good.get(number).is_none() || self.pieces(at, length).any(|(file, _, _)| changed(file));
            good.push(if stale { self.chunk(number, &mut buffer)? } else { known.good[number] });
        }
        self.close();
        let now = i64::try_from(runtime::clock::now().0).unwrap_or(i64::MAX);
        let settled = |stamp: &Stamp| stamp.changed_ms().saturating_add(SETTLED_AFTER_MS) < now;
        let stamps = found.into_iter().map(|stamp| stamp.filter(settled)).collect();
        Ok(Checked { stamps, good })
    }

    /// Whether the tree is this content and nothing else: names, modes, lengths.
    pub(crate) fn is_exact(&self) -> io::Result<bool> {
        for file in self.manifest.files() {
            let stamp = self.tree.stamp(file.path.as_str())?;
            let fits = |stamp: Stamp| stamp.bytes() == file.bytes && stamp.has_mode(file.executable);
            if !stamp.is_some_and(fits) {
                return Ok(false);
            }
        }
        Ok(!self.tree.has_strangers(&self.paths())?)
    }

    /// Makes all files durable, and lets the next reading see what the disk has.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.close();
        for file in self.manifest.files() {
            let file = self.tree.write(file.path.as_str())?;
            file.sync_all()?;
            // Advice only: where it is not taken, the pages in memory are read back.
            let _advised = fadvise(&file, 0, None, Advice::DontNeed);
        }
        self.tree.sync_directories(&self.paths())
    }
}
