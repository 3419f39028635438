//! A directory of files that is read and written without following any link: what a manifest names stays
//! below it, whatever else lies on the disk.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Permission bits of directories.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);
/// Permission bits of files.
const PLAIN: Mode = Mode::from_raw_mode(0o644);
/// Permission bits of programs.
const PROGRAM: Mode = Mode::from_raw_mode(0o755);
/// Most entries of one directory that are looked at: far more than a manifest may name, so that what a hook
/// left behind can be removed, and little memory.
const MAX_ENTRIES: usize = 64 * 1024;

/// A file as the file system describes it. While this stays the same, so do its bytes: whoever changes them
/// changes the time of the change with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: i64,
    modified: (i64, i64),
    changed: (i64, i64),
    mode: u32,
}

impl Stamp {
    #[expect(clippy::useless_conversion, reason = "the fields have other widths on other platforms")]
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev.into(),
            inode: stat.st_ino.into(),
            bytes: stat.st_size.into(),
            modified: (stat.st_mtime.into(), i64::try_from(stat.st_mtime_nsec).unwrap_or_default()),
            changed: (stat.st_ctime.into(), i64::try_from(stat.st_ctime_nsec).unwrap_or_default()),
            mode: stat.st_mode.into(),
        }
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or_default()
    }

    /// When it was changed last, ms since 1970 by the clock of the file system.
    pub(crate) fn changed_ms(&self) -> i64 {
        self.changed.0.saturating_mul(1000).saturating_add(self.changed.1 / 1_000_000)
    }

    /// Whether it is a file of this mode: executable or not, writable by its owner alone.
    pub(crate) fn has_mode(&self, executable: bool) -> bool {
        let wanted = if executable { PROGRAM } else { PLAIN };
        Mode::from_raw_mode(self.mode & 0o7777) == wanted
    }
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

impl Tree {
    /// Opens a directory that is there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::openat(CWD, path, DIRECTORY_FLAGS, Mode::empty())?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Opens a directory, made if it is not there.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        make_directory(CWD, path)?;
        Self::open(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a file, and the file's name in it.
    fn parent<'a>(&self, file: &'a str, create: bool) -> io::Result<(OwnedFd, &'a str)> {
        let (directories, name) = file.rsplit_once('/').map_or((None, file), |(all, name)| (Some(all), name));
        let mut at = self.root.as_fd().try_clone_to_owned()?;
        for directory in directories.into_iter().flat_map(|all| all.split('/')) {
            let directory = plain(directory)?;
            if create {
                make_directory(&at, directory)?;
            }
            at = rustix::fs::openat(&at, directory, DIRECTORY_FLAGS, Mode::empty())?;
        }
        Ok((at, plain(name)?))
    }

    /// Opens a regular file to read.
    pub(crate) fn read(&self, file: &str) -> io::Result<File> {
        let (at, name) = self.parent(file, false)?;
        regular(rustix::fs::openat(&at, name, OFlags::RDONLY | FILE_FLAGS, Mode::empty())?)
    }

    /// Opens a regular file to read and write that this tree has already.
    pub(crate) fn write(&self, file: &str) -> io::Result<File> {
        let (at, name) = self.parent(file, false)?;
        regular(rustix::fs::openat(&at, name, OFlags::RDWR | FILE_FLAGS, Mode::empty())?)
    }

    /// Makes sure that there is a regular file of this length and mode, with room on the disk for all of it.
    /// What is in the way is removed; what is in a file of the right length stays. Says how long it was; where
    /// there is no room it stays as long.
    pub(crate) fn reserve(&self, file: &str, bytes: u64, executable: bool) -> io::Result<u64> {
        let (at, name) = match self.parent(file, true) {
            Err(error) if is_in_the_way(&error) => {
                self.clear_way(file)?;
                self.parent(file, true)?
            }
            other => other?,
        };
        match rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat)
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 =>
            {
                remove(&at, name.as_bytes())?;
            }
            Err(Errno::NOENT) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mode = if executable { PROGRAM } else { PLAIN };
        let made =
            rustix::fs::openat(&at, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FILE_FLAGS, mode);
        let fd = match made {
            Err(Errno::EXIST) => rustix::fs::openat(&at, name, OFlags::RDWR | FILE_FLAGS, mode)?,
            other => other?,
        };
        let file = regular(fd)?;
        // The bits asked for, whatever the process masks.
        rustix::fs::fchmod(&file, mode)?;
        let before = file.metadata()?.len();
        if before > bytes {
            file.set_len(bytes)?;
        }
        if bytes > 0 {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(bytes)?,
                Err(error) => {
                    file.set_len(before.min(bytes))?;
                    return Err(error.into());
                }
                Ok(()) => {}
            }
        }
        Ok(before)
    }

    /// Gives back what was reserved of a file beyond this length.
    pub(crate) fn release(&self, file: &str, bytes: u64) -> io::Result<()> {
        let file = self.write(file)?;
        if file.metadata()?.len() > bytes { file.set_len(bytes) } else { Ok(()) }
    }

    /// Removes what stands where a directory of `file` should be.
    fn clear_way(&self, file: &str) -> io::Result<()> {
        let mut at = self.root.as_fd().try_clone_to_owned()?;
        let Some((directories, _)) = file.rsplit_once('/') else { return Ok(()) };
        for directory in directories.split('/') {
            at = match rustix::fs::openat(&at, plain(directory)?, DIRECTORY_FLAGS, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(()),
                Err(_) => return remove(&at, directory.as_bytes()),
            };
        }
        Ok(())
    }

    /// How the file system describes a regular file; `None` if there is none.
    pub(crate) fn stamp(&self, file: &str) -> io::Result<Option<Stamp>> {
        let (at, name) = match self.parent(file, false) {
            Err(error) if is_absent(&error) => return Ok(None),
            other => other?,
        };
        match rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Some(Stamp::of(&stat)))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes all that is neither one of `files` (in order) nor a directory on the way to one. Says whether
    /// there was such a thing.
    pub(crate) fn remove_strangers(&self, files: &[&str]) -> io::Result<bool> {
        self.walk(files, &mut remove)
    }

    /// Whether there is anything that is neither one of `files` (in order) nor a directory on the way to one.
    pub(crate) fn has_strangers(&self, files: &[&str]) -> io::Result<bool> {
        self.walk(files, &mut |_, _| Ok(()))
    }

    fn walk(
        &self,
        files: &[&str],
        each: &mut dyn FnMut(&OwnedFd, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut waiting = vec![(String::new(), self.root.as_fd().try_clone_to_owned()?)];
        let mut found = false;
        while let Some((prefix, at)) = waiting.pop() {
            for name in names(&at)? {
                let Some(path) = std::str::from_utf8(&name).ok().map(|name| format!("{prefix}{name}")) else {
                    each(&at, &name)?;
                    found = true;
                    continue;
                };
                if files.binary_search(&path.as_str()).is_ok() {
                    continue;
                }
                let below = format!("{path}/");
                let from = files.partition_point(|file| **file < *below);
                let leads = files.get(from).is_some_and(|file| file.starts_with(&below));
                match rustix::fs::openat(&at, &name[..], DIRECTORY_FLAGS, Mode::empty()) {
                    Ok(directory) if leads => waiting.push((below, directory)),
                    Ok(_) | Err(_) => {
                        each(&at, &name)?;
                        found = true;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Makes all directories durable: those on the way to `files`, and this one.
    pub(crate) fn sync_directories(&self, files: &[&str]) -> io::Result<()> {
        let mut last = None;
        for file in files {
            let mut directory = file.rsplit_once('/').map(|(directory, _)| directory);
            if directory == last {
                continue;
            }
            last = directory;
            while let Some(path) = directory {
                let (at, name) = self.parent(path, false)?;
                let opened = rustix::fs::openat(&at, name, DIRECTORY_FLAGS, Mode::empty())?;
                rustix::fs::fsync(&opened)?;
                directory = path.rsplit_once('/').map(|(directory, _)| directory);
            }
        }
        Ok(rustix::fs::fsync(&self.root)?)
    }
}

const DIRECTORY_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Not blocking: a pipe in the place of a file must not hold up the agent.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Whether an error says that something else stands where a directory should be.
fn is_in_the_way(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTDIR | Errno::LOOP))
}

/// Whether an error says that there is no such file.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || is_in_the_way(error)
}

/// One name: manifests are checked for this, and nothing else gets past here.
fn plain(name: &str) -> io::Result<&str> {
    let bad = name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']);
    if bad {
        Err(io::Error::new(ErrorKind::InvalidInput, format!("{name:?} is not a name")))
    } else {
        Ok(name)
    }
}

fn make_directory(at: impl AsFd, path: impl rustix::path::Arg + Copy) -> io::Result<()> {
    match rustix::fs::mkdirat(&at, path, DIRECTORY) {
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
        // The bits asked for, whatever the process masks.
        Ok(()) => Ok(rustix::fs::chmodat(&at, path, DIRECTORY, AtFlags::empty())?),
    }
}

fn regular(fd: OwnedFd) -> io::Result<File> {
    let file = File::from(fd);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(ErrorKind::InvalidData, "is not a regular file"))
    }
}

/// Removes a file, a link or a directory with all that is in it.
fn remove(at: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) | Ok(()) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let directory = rustix::fs::openat(at, name, DIRECTORY_FLAGS, Mode::empty())?;
    for name in names(&directory)? {
        remove(&directory, &name)?;
    }
    Ok(rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

/// The names in a directory.
fn names(at: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(at)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
            if names.len() > MAX_ENTRIES {
                return Err(io::Error::other("a directory has more entries than any content"));
            }
        }
    }
    Ok(names)
}

/// Reads as much as there is, up to all of `into`.
pub(crate) fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
