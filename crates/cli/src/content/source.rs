//! The second of two passes over the files of a push: it reads single chunks again, and notices when they are not
//! what the first pass saw.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use domain::Digest;
use domain::content::ChunkEntry;

use super::cut::ReadError;
use super::tree::{Tree, TreeFile};

/// The bytes of a content by their place in it.
#[derive(Debug)]
pub(crate) struct Source {
    tree: Tree,
    starts: Vec<u64>,
}

impl Source {
    pub(crate) fn new(tree: Tree) -> Self {
        Self { starts: tree.starts(), tree }
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Reads the chunk that starts at this place.
    pub(crate) fn chunk(&self, at: u64, chunk: ChunkEntry) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; usize::try_from(chunk.bytes).unwrap_or_default()];
        let mut filled = 0;
        let end = at + u64::from(chunk.bytes);
        // The last file that starts at or before the chunk; empty ones before it have no bytes to give.
        let first = self.starts.partition_point(|start| *start <= at).saturating_sub(1);
        for (file, start) in self.tree.files.iter().zip(&self.starts).skip(first) {
            if *start >= end {
                break;
            }
            let from = at.max(*start) - start;
            let to = end.min(start + file.bytes) - start;
            let part = usize::try_from(to.saturating_sub(from)).unwrap_or_default();
            read(file, from, &mut bytes[filled..filled + part])?;
            filled += part;
        }
        if Digest::of(&bytes) == chunk.digest {
            return Ok(bytes);
        }
        Err(ReadError::Changed(self.tree.files[self.changed(first, end)].place.clone()))
    }

    /// The file of a chunk that another length gives away, or else the first.
    fn changed(&self, first: usize, end: u64) -> usize {
        let within = self.starts.iter().skip(first).take_while(|start| **start < end).count();
        let differs = |at: &usize| {
            let file = &self.tree.files[*at];
            file.place.metadata().map_or(true, |metadata| metadata.len() != file.bytes)
        };
        (first..first + within).find(differs).unwrap_or(first)
    }
}

fn read(file: &TreeFile, from: u64, into: &mut [u8]) -> Result<(), ReadError> {
    if into.is_empty() {
        return Ok(());
    }
    let place = || file.place.clone();
    let open = File::open(&file.place).map_err(|source| ReadError::Read { place: place(), source })?;
    open.read_exact_at(into, from).map_err(|source| {
        let is_short = source.kind() == std::io::ErrorKind::UnexpectedEof;
        if is_short { ReadError::Changed(place()) } else { ReadError::Read { place: place(), source } }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::content::cut::tests::{cut_all, noise};

    #[test]
    fn chunks_are_read_again_across_files() {
        let folder = tempfile::tempdir().unwrap();
        let parts = [noise(400_000, 1), vec![], noise(3, 2), noise(4, 3), noise(500_000, 4)];
        for (part, name) in parts.iter().zip(["a", "b", "c", "d", "e"]) {
            fs::write(folder.path().join(name), part).unwrap();
        }
        let whole = parts.concat();
        let (tree, cut) = cut_all(folder.path());
        let (source, cut) = (Source::new(tree), cut.unwrap());
        let mut at = 0;
        for chunk in cut.chunks {
            let bytes = source.chunk(at, chunk).unwrap();
            let start = usize::try_from(at).unwrap();
            assert_eq!(bytes, whole[start..start + bytes.len()]);
            at += u64::from(chunk.bytes);
        }
        let across = ChunkEntry { digest: Digest::of(&whole[399_990..400_020]), bytes: 30 };
        assert_eq!(source.chunk(399_990, across).unwrap(), whole[399_990..400_020]);
    }

    #[test]
    fn a_file_that_changed_since_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let (tree, cut) = cut_all(folder.path());
        let (source, chunk) = (Source::new(tree), cut.unwrap().chunks[0]);
        let told = || source.chunk(0, chunk).unwrap_err().to_string();
        fs::write(folder.path().join("b"), "xy").unwrap();
        assert!(told().contains("/b changed while"), "{}", told());
        fs::write(folder.path().join("b"), "").unwrap();
        assert!(told().contains("/b changed while"), "{}", told());
        fs::write(folder.path().join("b"), "x").unwrap();
        assert!(told().contains("/a changed while"), "{}", told());
        fs::remove_file(folder.path().join("c")).unwrap();
        assert!(told().starts_with("cannot read "), "{}", told());
    }
}
