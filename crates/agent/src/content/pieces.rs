//! Chunks of contents that were removed: a bounded cache for all channels. The least recently used go first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::SystemTime;

use domain::Digest;
use domain::content::manifest::MAX_CHUNK_BYTES;

use crate::disk::files;

/// Most chunks that are kept: a directory of this many names is still quick everywhere, and the list of them
/// takes some megabytes.
const MAX_PIECES: usize = 32 * 1024;

/// The cache.
#[derive(Debug)]
pub(crate) struct Pieces {
    dir: PathBuf,
    limit: u64,
    used: u64,
    /// Counts uses.
    clock: u64,
    known: BTreeMap<Digest, Piece>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    bytes: u64,
    used_at: u64,
}

impl Pieces {
    /// Reads what is there; what is not a chunk is removed.
    pub(crate) fn open(dir: PathBuf, limit: u64) -> io::Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let name = entry.file_name().to_str().and_then(super::dirs::digest);
            match name {
                Some(digest) if metadata.is_file() && metadata.len() <= MAX_CHUNK_BYTES.into() => {
                    found.push((
                        metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                        digest,
                        metadata.len(),
                    ));
                }
                _ if metadata.is_dir() => fs::remove_dir_all(entry.path())?,
                _ => fs::remove_file(entry.path())?,
            }
        }
        found.sort_unstable();
        let mut pieces = Self { dir, limit, used: 0, clock: 0, known: BTreeMap::new() };
        for (_, digest, bytes) in found {
            pieces.clock += 1;
            pieces.used += bytes;
            pieces.known.insert(digest, Piece { bytes, used_at: pieces.clock });
        }
        pieces.shrink(limit, &BTreeSet::new())?;
        Ok(pieces)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Whether a chunk is there, as far as its name says.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.known.contains_key(digest)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    /// A chunk, held against its name; one that does not hold is removed.
    pub(crate) fn get(&mut self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        if !self.has(digest) {
            return Ok(None);
        }
        let limit = usize::try_from(MAX_CHUNK_BYTES).unwrap_or(usize::MAX);
        let read = match files::read(&self.path(digest), limit) {
            Err(error) if matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidData) => None,
            other => other?,
        };
        let Some(bytes) = read.filter(|bytes| Digest::of(bytes) == *digest) else {
            self.remove(digest)?;
            return Ok(None);
        };
        self.clock += 1;
        let clock = self.clock;
        if let Some(piece) = self.known.get_mut(digest) {
            piece.used_at = clock;
        }
        Ok(Some(bytes))
    }

    /// Keeps a chunk, whose digest the caller has checked. Not synced: one that a power cut damages is found out
    /// when it is used.
    pub(crate) fn put(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if self.has(digest) || length > self.limit {
            return Ok(());
        }
        self.shrink(self.limit - length, &BTreeSet::new())?;
        if self.known.len() >= MAX_PIECES {
            self.remove_oldest(1, &BTreeSet::new())?;
        }
        let path = self.path(digest);
        if let Err(error) = fs::write(&path, bytes) {
            // What was begun would take room for nothing.
            let _removed = fs::remove_file(&path);
            return Err(error);
        }
        self.clock += 1;
        self.used += length;
        self.known.insert(*digest, Piece { bytes: length, used_at: self.clock });
        Ok(())
    }

    /// Removes the least recently used chunks until at most `bytes` are left, but none of `keep`.
    pub(crate) fn shrink(&mut self, bytes: u64, keep: &BTreeSet<Digest>) -> io::Result<()> {
        let excess = self.used.saturating_sub(bytes);
        if excess == 0 { Ok(()) } else { self.remove_oldest(excess, keep) }
    }

    fn remove_oldest(&mut self, bytes: u64, keep: &BTreeSet<Digest>) -> io::Result<()> {
        let mut order: Vec<(u64, Digest, u64)> = self
            .known
            .iter()
            .filter(|(digest, _)| !keep.contains(*digest))
            .map(|(digest, piece)| (piece.used_at, *digest, piece.bytes))
            .collect();
        order.sort_unstable();
        let mut removed = 0;
        for (_, digest, length) in order {
            if removed >= bytes {
                break;
            }
            self.remove(&digest)?;
            removed += length.max(1);
        }
        Ok(())
    }

    fn remove(&mut self, digest: &Digest) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if let Some(piece) = self.known.remove(digest) {
            self.used -= piece.bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &std::path::Path) -> BTreeSet<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_least_recently_used_go_first_and_damaged_ones_are_never_given() {
        let dir = tempfile::tempdir().unwrap();
        let chunk = |number: u8| (Digest::of(&[number; 10]), [number; 10]);
        let mut pieces = Pieces::open(dir.path().into(), 35).unwrap();
        for number in 1..=3 {
            pieces.put(&chunk(number).0, &chunk(number).1).unwrap();
        }
        assert_eq!(pieces.get(&chunk(1).0).unwrap().unwrap(), chunk(1).1);
        pieces.put(&chunk(4).0, &chunk(4).1).unwrap();
        assert!(!pieces.has(&chunk(2).0), "used least recently");
        assert_eq!((pieces.used(), names(dir.path()).len()), (30, 3));
        pieces.put(&Digest::of(&[9; 40]), &[9; 40]).unwrap();
        assert_eq!(pieces.used(), 30, "larger than the cache");

        fs::write(dir.path().join(chunk(1).0.to_string()), b"other").unwrap();
        assert_eq!(pieces.get(&chunk(1).0).unwrap(), None);
        assert!(!names(dir.path()).contains(&chunk(1).0.to_string()));

        fs::write(dir.path().join("stranger"), b"x").unwrap();
        fs::create_dir(dir.path().join("directory")).unwrap();
        let mut pieces = Pieces::open(dir.path().into(), 100).unwrap();
        assert_eq!((pieces.used(), names(dir.path()).len()), (20, 2));
        pieces.shrink(0, &BTreeSet::from([chunk(3).0])).unwrap();
        assert_eq!(names(dir.path()), BTreeSet::from([chunk(3).0.to_string()]));
        let pieces = Pieces::open(dir.path().into(), 5).unwrap();
        assert_eq!((pieces.used(), names(dir.path()).len()), (0, 0), "the bound was lowered");
    }
}
