//! Where a fetch writes: a folder, or one file. What is there already is kept when it is right; a file gets its name
//! when all of it is there and has its digest; nothing is written outside the place that was named.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use domain::Digest;
use domain::content::Manifest;
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};

/// Folder inside the target, or beside the file, in which files grow until they are whole. It is left behind when a
/// fetch breaks off: the next one goes on from there.
const DRAFTS: &str = ".muster-fetch";
/// Bytes read at a time to take a digest: large enough that system calls do not count.
const BUFFER_BYTES: usize = 256 << 10;

/// Why a fetch cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("cannot {action} {}", place.display())]
    Io { action: &'static str, place: PathBuf, source: io::Error },
    #[error("{} is there already and is something else: name another place, or say --force to replace it", .0.display())]
    Differs(PathBuf),
    #[error("{} is a folder where the content has a file: name another place", .0.display())]
    Folder(PathBuf),
    #[error("{} is no folder, and nothing is written through it: name another place", .0.display())]
    NoFolder(PathBuf),
    #[error("{} is no file, though a fetch keeps its drafts there: remove it", .0.display())]
    NoDraft(PathBuf),
    #[error("the content has {0} files: fetch it into a folder with --to")]
    ManyFiles(usize),
    #[error(
        "the content has the file {0:?}, which is where a fetch keeps its drafts: fetch it with --as, or by agent"
    )]
    Drafts(String),
    #[error("chunk {0} is not what the manifest says: nothing of it was kept")]
    Chunk(usize),
    #[error("{0} is not what the manifest says: it was not kept")]
    File(String),
    #[error("the content as a whole is not what the manifest says: nothing new of it was kept")]
    Whole,
}

fn io<'a>(action: &'static str, place: &'a Path) -> impl FnOnce(io::Error) -> TargetError + 'a {
    move |source| TargetError::Io { action, place: place.to_owned(), source }
}

/// Where to write.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The files below this folder.
    Folder(PathBuf),
    /// The only file, under this name.
    File(PathBuf),
}

/// One file of the content on its way.
#[derive(Debug)]
struct Entry {
    /// Where its bytes start in the content.
    start: u64,
    bytes: u64,
    place: PathBuf,
    /// Bytes that have to be fetched still; none once it stands in its place.
    missing: u64,
    /// Whether it has its name.
    done: bool,
    /// Whether this fetch gave it its name.
    new: bool,
}

/// A content on its way to the disk.
#[derive(Debug)]
pub(crate) struct Target {
    manifest: Manifest,
    /// Where each chunk starts.
    chunk_starts: Vec<u64>,
    /// Whether each chunk has to be fetched still.
    wanted: Vec<bool>,
    entries: Vec<Entry>,
    root: PathBuf,
    /// The folder, if it is one that is fetched into.
    folder: Option<PathBuf>,
    drafts: PathBuf,
    open: Option<(usize, File)>,
}

impl Target {
    /// Looks at what is there. `bar` counts the bytes that were looked at.
    pub(crate) fn survey(
        place: &Place,
        manifest: Manifest,
        force: bool,
        bar: &ProgressBar,
    ) -> Result<Self, TargetError> {
        let mut target = Self::new(place, manifest)?;
        for at in 0..target.entries.len() {
            let whole = target.look_at_file(at, force)?;
            if !whole {
                target.look_at_draft(at)?;
            }
            bar.inc(target.entries[at].bytes);
        }
        for at in 0..target.entries.len() {
            target.count_missing(at);
        }
        Ok(target)
    }

    fn new(place: &Place, manifest: Manifest) -> Result<Self, TargetError> {
        let (root, drafts) = match place {
            Place::Folder(folder) => (folder.clone(), folder.join(DRAFTS)),
            Place::File(file) => {
                if manifest.files().len() > 1 {
                    return Err(TargetError::ManyFiles(manifest.files().len()));
                }
                let name = Digest::of(file.as_os_str().as_encoded_bytes()).to_string();
                let folder = file.parent().unwrap_or(Path::new(""));
                (folder.to_owned(), folder.join(format!("{DRAFTS}-{}", &name[..16])))
            }
        };
        let entry = |(start, file): (u64, &domain::content::ManifestFile)| {
            let place = match place {
                Place::Folder(folder) => folder.join(file.path.as_str()),
                Place::File(file) => file.clone(),
            };
            Entry { start, bytes: file.bytes, place, missing: 0, done: false, new: false }
        };
        let entries: Vec<Entry> = manifest.placed_files().map(entry).collect();
        if matches!(place, Place::Folder(_)) {
            let taken = manifest.files().iter().find(|file| file.path.names().next() == Some(DRAFTS));
            if let Some(file) = taken {
                return Err(TargetError::Drafts(file.path.to_string()));
            }
        }
        let chunk_starts: Vec<u64> = manifest.placed_chunks().map(|(start, _)| start).collect();
        let wanted = vec![true; chunk_starts.len()];
        let folder = matches!(place, Place::Folder(_)).then(|| root.clone());
        Ok(Self { manifest, chunk_starts, wanted, entries, root, folder, drafts, open: None })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes that have to be fetched still.
    pub(crate) fn missing(&self) -> u64 {
        let chunks = self.manifest.chunks().iter().zip(&self.wanted);
        chunks.filter(|(_, wanted)| **wanted).map(|(chunk, _)| u64::from(chunk.bytes)).sum()
    }

    /// The next run of chunks to fetch.
    pub(crate) fn next_run(&self) -> Option<Range<usize>> {
        let start = self.wanted.iter().position(|wanted| *wanted)?;
        let length = self.wanted[start..].iter().take_while(|wanted| **wanted).count();
        Some(start..start + length)
    }

    /// Takes the bytes of a chunk, before compression.
    pub(crate) fn put(&mut self, position: usize, bytes: &[u8]) -> Result<(), TargetError> {
        let chunk = self.manifest.chunks().get(position).ok_or(TargetError::Chunk(position))?;
        if Digest::of(bytes) != chunk.digest {
            return Err(TargetError::Chunk(position));
        }
        if !std::mem::replace(&mut self.wanted[position], false) {
            return Ok(());
        }
        for at in self.files_of(position) {
            if !self.entries[at].done {
                self.write(at, position, bytes)?;
            }
        }
        Ok(())
    }

    /// Gives the last files their names, checks the whole, and clears away the drafts. The answer is a file in the same
    /// folder that is not of this content, if there is one: whoever reads the folder would take it for a part.
    pub(crate) fn finish(mut self, bar: &ProgressBar) -> Result<Option<PathBuf>, TargetError> {
        for at in 0..self.entries.len() {
            if !self.entries[at].done {
                self.complete(at)?;
            }
        }
        let mut whole = Sha256::new();
        for entry in &self.entries {
            hash_into(&entry.place, &mut whole)?;
            bar.inc(entry.bytes);
        }
        if Digest(whole.finalize().into()) != self.manifest.digest() {
            for entry in self.entries.iter().filter(|entry| entry.new) {
                fs::remove_file(&entry.place).map_err(io("remove", &entry.place))?;
            }
            return Err(TargetError::Whole);
        }
        match fs::remove_dir_all(&self.drafts) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", &self.drafts)(error)),
            Ok(()) | Err(_) => Ok(self.stranger()),
        }
    }

    /// A file in the folders of the content that is not of it.
    fn stranger(&self) -> Option<PathBuf> {
        let places: BTreeSet<&Path> = self.entries.iter().map(|entry| entry.place.as_path()).collect();
        // One file under a name of its own has no folder.
        let root = self.folder.as_deref()?;
        let within = places.iter().flat_map(|place| place.ancestors().skip(1));
        let folders: BTreeSet<&Path> = within.filter(|folder| folder.starts_with(root)).collect();
        let mut files = folders.into_iter().flat_map(fs::read_dir).flatten().flatten();
        let is_file = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| !kind.is_dir());
        files.find(|entry| is_file(entry) && !places.contains(entry.path().as_path())).map(|it| it.path())
    }

    /// Files that have bytes in a chunk.
    fn files_of(&self, position: usize) -> Range<usize> {
        let start = self.chunk_starts[position];
        let end = start + u64::from(self.manifest.chunks()[position].bytes);
        let first = self.entries.partition_point(|entry| entry.start + entry.bytes <= start);
        let last = self.entries.partition_point(|entry| entry.start < end);
        first..last.max(first)
    }

    /// Chunks that have bytes of a file.
    fn chunks_of(&self, at: usize) -> Range<usize> {
        let (start, end) = (self.entries[at].start, self.entries[at].start + self.entries[at].bytes);
        if start == end {
            return 0..0;
        }
        let first = self.chunk_starts.partition_point(|chunk| *chunk <= start) - 1;
        first..self.chunk_starts.partition_point(|chunk| *chunk < end)
    }

    /// What a chunk and a file share: where in the chunk, and where in the file.
    fn shared(&self, at: usize, position: usize) -> (Range<usize>, u64) {
        let (entry, chunk_start) = (&self.entries[at], self.chunk_starts[position]);
        let chunk_end = chunk_start + u64::from(self.manifest.chunks()[position].bytes);
        let from = chunk_start.max(entry.start);
        let to = chunk_end.min(entry.start + entry.bytes).max(from);
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or_default();
        (size(from - chunk_start)..size(to - chunk_start), from - entry.start)
    }

    /// Whether the file stands in its place and is right.
    fn look_at_file(&mut self, at: usize, force: bool) -> Result<bool, TargetError> {
        self.check_folders(at)?;
        let place = self.entries[at].place.clone();
        let Some(metadata) = look(&place)? else { return Ok(false) };
        if metadata.is_dir() {
            return Err(TargetError::Folder(place));
        }
        let file = &self.manifest.files()[at];
        if metadata.is_file() && metadata.len() == file.bytes && digest(&place)? == file.digest {
            set_executable(&place, file.executable)?;
            self.entries[at].done = true;
            return Ok(true);
        }
        if force { Ok(false) } else { Err(TargetError::Differs(place)) }
    }

    /// Marks the chunks as there that the draft of a file holds whole: what an earlier fetch got that far.
    fn look_at_draft(&mut self, at: usize) -> Result<(), TargetError> {
        let draft = self.draft(at);
        let metadata = match look(&draft)? {
            None => return Ok(()),
            Some(metadata) if metadata.is_file() => metadata,
            // Not of our making, and writing through a link would lead elsewhere.
            Some(_) => return Err(TargetError::NoDraft(draft)),
        };
        let file = File::open(&draft).map_err(io("read", &draft))?;
        for position in self.chunks_of(at) {
            let chunk = self.manifest.chunks()[position];
            let (within, offset) = self.shared(at, position);
            let whole = within.len() == usize::try_from(chunk.bytes).unwrap_or_default();
            if !whole || offset + u64::from(chunk.bytes) > metadata.len() {
                continue;
            }
            let mut bytes = vec![0; within.len()];
            file.read_exact_at(&mut bytes, offset).map_err(io("read", &draft))?;
            self.wanted[position] = Digest::of(&bytes) != chunk.digest;
        }
        Ok(())
    }

    /// A chunk is wanted only if a file needs it, and a file misses what its wanted chunks hold of it.
    fn count_missing(&mut self, at: usize) {
        let chunks = self.chunks_of(at);
        if self.entries[at].done {
            for position in chunks {
                let needed = self.files_of(position).any(|file| !self.entries[file].done);
                self.wanted[position] &= needed;
            }
            return;
        }
        let wanted = chunks.filter(|position| self.wanted[*position]);
        let bytes: usize = wanted.map(|position| self.shared(at, position).0.len()).sum();
        self.entries[at].missing = u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    fn draft(&self, at: usize) -> PathBuf {
        self.drafts.join(at.to_string())
    }

    fn write(&mut self, at: usize, position: usize, bytes: &[u8]) -> Result<(), TargetError> {
        let (within, offset) = self.shared(at, position);
        if within.is_empty() {
            return Ok(());
        }
        let draft = self.draft(at);
        let file = match self.open.take() {
            Some((open, file)) if open == at => file,
            Some(_) | None => {
                make_folder(&self.drafts)?;
                open_draft(&draft)?
            }
        };
        file.write_all_at(&bytes[within.clone()], offset).map_err(io("write", &draft))?;
        let left = self.entries[at].missing.saturating_sub(u64::try_from(within.len()).unwrap_or_default());
        self.entries[at].missing = left;
        self.open = Some((at, file));
        if left == 0 { self.complete(at) } else { Ok(()) }
    }

    /// Checks a file whose bytes are all there and gives it its name.
    fn complete(&mut self, at: usize) -> Result<(), TargetError> {
        self.open = None;
        let (draft, expected) = (self.draft(at), &self.manifest.files()[at]);
        make_folder(&self.drafts)?;
        open_draft(&draft)?.set_len(expected.bytes).map_err(io("write", &draft))?;
        if digest(&draft)? != expected.digest {
            fs::remove_file(&draft).map_err(io("remove", &draft))?;
            return Err(TargetError::File(expected.path.to_string()));
        }
        set_executable(&draft, expected.executable)?;
        self.check_folders(at)?;
        let place = self.entries[at].place.clone();
        make_folder(place.parent().unwrap_or(Path::new("")))?;
        fs::rename(&draft, &place).map_err(io("write", &place))?;
        (self.entries[at].done, self.entries[at].new, self.entries[at].missing) = (true, true, 0);
        Ok(())
    }

    /// The folders between the target and a file are folders, not links that lead elsewhere.
    fn check_folders(&self, at: usize) -> Result<(), TargetError> {
        let above = self.entries[at].place.ancestors().skip(1);
        for folder in above.take_while(|folder| *folder != self.root).chain([self.drafts.as_path()]) {
            match look(folder)? {
                Some(metadata) if !metadata.is_dir() => return Err(TargetError::NoFolder(folder.to_owned())),
                Some(_) | None => {}
            }
        }
        Ok(())
    }
}

/// What lies at a place; a symbolic link is looked at itself.
fn look(place: &Path) -> Result<Option<Metadata>, TargetError> {
    match fs::symlink_metadata(place) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A file where a folder should be: whoever needs the folder says so.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(io("read", place)(error)),
    }
}

fn make_folder(folder: &Path) -> Result<(), TargetError> {
    fs::create_dir_all(folder).map_err(io("make the folder", folder))
}

fn open_draft(draft: &Path) -> Result<File, TargetError> {
    File::options().write(true).create(true).truncate(false).open(draft).map_err(io("write", draft))
}

fn digest(place: &Path) -> Result<Digest, TargetError> {
    let mut hasher = Sha256::new();
    hash_into(place, &mut hasher)?;
    Ok(Digest(hasher.finalize().into()))
}

fn hash_into(place: &Path, hasher: &mut Sha256) -> Result<(), TargetError> {
    let mut file = File::open(place).map_err(io("read", place))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer).map_err(io("read", place))? {
            0 => return Ok(()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Whoever may read the file may also run it, or nobody may.
fn set_executable(place: &Path, executable: bool) -> Result<(), TargetError> {
    let metadata = fs::metadata(place).map_err(io("read", place))?;
    let mode = metadata.permissions().mode();
    let wanted = if executable { mode | ((mode & 0o444) >> 2) } else { mode & !0o111 };
    if wanted == mode {
        return Ok(());
    }
    fs::set_permissions(place, fs::Permissions::from_mode(wanted)).map_err(io("set the mode of", place))
}

#[cfg(test)]
mod tests;
