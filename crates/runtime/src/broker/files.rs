//! Files of the broker's directory: made whole or not at all, secrets for their owner only.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nkeys::KeyPair;
use rustix::fs::{FlockOperation, flock};

/// Largest file that is read: claims and keys are a few KiB.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Ending of the directory in which something is made before it is renamed into its place.
const DRAFT: &str = "draft";

/// Makes `place` by filling a directory beside it and renaming that. What an earlier try left half made is
/// removed; processes that do this at once wait for each other. False if `place` was there already.
pub(super) fn make(place: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<bool> {
    let parent = place.parent().unwrap_or(Path::new("."));
    make_dir(parent)?;
    let lock = File::open(parent)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if is_there(place)? {
        return Ok(false);
    }
    let draft = place.with_extension(DRAFT);
    match fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make_dir(&draft)?;
    fill(&draft)?;
    sync_tree(&draft)?;
    fs::rename(&draft, place)?;
    lock.sync_all()?;
    Ok(true)
}

/// Whether something is there. An empty directory is nothing.
fn is_there(place: &Path) -> io::Result<bool> {
    match fs::read_dir(place) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
        }
    }
    File::open(path)?.sync_all()
}

/// Writes a file that its owner alone reads.
pub(super) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Writes the seed of a key.
pub(super) fn write_key(path: &Path, key: &KeyPair) -> io::Result<()> {
    write_secret(path, &format!("{}\n", key.seed().map_err(io::Error::other)?))
}

/// Replaces a file as a whole, if it says something else. Processes that do this at once wait for each other.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let lock = File::open(path.parent().unwrap_or(Path::new(".")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if read(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let draft = path.with_extension(DRAFT);
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

/// Reads a file of text.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a secret that nobody but its owner may read, or [`keys::is_private`](crate::keys::is_private) says why not.
pub(super) fn read_secret(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    let mode = metadata.mode() & 0o777;
    if !crate::keys::is_private(&metadata) {
        return Err(io::Error::other(format!(
            "it has mode {mode:04o}: others may read it; if only its owner ever could, run chmod 600, else make new credentials"
        )));
    }
    read(path)
}

/// Reads the seed of a key.
pub(super) fn read_key(path: &Path) -> io::Result<KeyPair> {
    let seed = read_secret(path)?;
    KeyPair::from_seed(seed.trim()).map_err(|_| io::Error::other("it holds no nkey seed"))
}
