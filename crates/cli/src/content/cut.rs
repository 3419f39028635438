//! The first of two passes over the files of a push: it cuts them into chunks and names everything by digest,
//! and keeps none of their bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use codec::chunk::Chunker;
use domain::Digest;
use domain::content::ChunkEntry;
use domain::content::manifest::MAX_CHUNKS;
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};

use super::tree::Tree;

/// Why files could not be read to their end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {}", place.display())]
    Read { place: PathBuf, source: io::Error },
    #[error("{} changed while it was being pushed: push again when nothing writes to it", .0.display())]
    Changed(PathBuf),
    #[error("{} gives more than {MAX_CHUNKS} chunks, the most of one content", .0.display())]
    TooManyChunks(PathBuf),
}

/// What a content consists of, without its bytes.
#[derive(Debug)]
pub(crate) struct Cut {
    /// SHA-256 of each file of the tree, in order.
    pub(crate) files: Vec<Digest>,
    pub(crate) chunks: Vec<ChunkEntry>,
    /// SHA-256 of the whole content.
    pub(crate) digest: Digest,
}

/// Reads the files one after the other and cuts the whole. `bar` counts bytes.
pub(crate) fn cut(tree: &Tree, bar: &ProgressBar) -> Result<Cut, ReadError> {
    let mut files = Files::new(tree);
    let mut chunks: Vec<ChunkEntry> = Vec::new();
    for chunk in Chunker::new(&mut files, tree.bytes) {
        let Ok(chunk) = chunk else { break };
        let bytes = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
        bar.inc(u64::from(bytes));
        if chunks.len() == MAX_CHUNKS {
            return Err(ReadError::TooManyChunks(files.place()));
        }
        chunks.push(ChunkEntry { digest: chunk.digest, bytes });
    }
    let (digests, digest) = files.finish()?;
    Ok(Cut { files: digests, chunks, digest })
}

/// The files of a tree as one stream that takes their digests as it goes by.
struct Files<'a> {
    tree: &'a Tree,
    open: Option<Open>,
    digests: Vec<Digest>,
    whole: Sha256,
    failure: Option<ReadError>,
}

struct Open {
    file: File,
    left: u64,
    hasher: Sha256,
}

impl<'a> Files<'a> {
    fn new(tree: &'a Tree) -> Self {
        Self { tree, open: None, digests: Vec::new(), whole: Sha256::new(), failure: None }
    }

    /// The file that is being read, or else the last one.
    fn place(&self) -> PathBuf {
        let at = self.digests.len().min(self.tree.files.len() - 1);
        self.tree.files[at].place.clone()
    }

    fn finish(self) -> Result<(Vec<Digest>, Digest), ReadError> {
        match self.failure {
            Some(failure) => Err(failure),
            None if self.digests.len() == self.tree.files.len() => {
                // With one file its digest is that of the whole.
                let only = (self.digests.len() == 1).then(|| self.digests[0]);
                let whole = only.unwrap_or_else(|| Digest(self.whole.finalize().into()));
                Ok((self.digests, whole))
            }
            None => Err(ReadError::Changed(self.place())),
        }
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        while !buffer.is_empty() && self.digests.len() < self.tree.files.len() {
            let expected = &self.tree.files[self.digests.len()];
            let fail = |source| ReadError::Read { place: expected.place.clone(), source };
            let mut open = match self.open.take() {
                Some(open) => open,
                None => {
                    let file = File::open(&expected.place).map_err(fail)?;
                    Open { file, left: expected.bytes, hasher: Sha256::new() }
                }
            };
            let read = open.file.read(buffer).map_err(fail)?;
            if u64::try_from(read).unwrap_or(u64::MAX) > open.left || (read == 0 && open.left > 0) {
                return Err(ReadError::Changed(expected.place.clone()));
            }
            if read == 0 {
                self.digests.push(Digest(open.hasher.finalize().into()));
                continue;
            }
            let bytes = &buffer[..read];
            open.hasher.update(bytes);
            if self.tree.files.len() > 1 {
                self.whole.update(bytes);
            }
            open.left -= u64::try_from(read).unwrap_or_default();
            self.open = Some(open);
            return Ok(read);
        }
        Ok(0)
    }
}

impl Read for Files<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(|failure| {
            self.failure = Some(failure);
            io::Error::other("the files cannot be read to their end")
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Bytes without repetition, the same in each run.
    pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        std::iter::repeat_with(next).take(bytes).collect()
    }

    pub(crate) fn cut_all(root: &Path) -> (Tree, Result<Cut, ReadError>) {
        let tree = Tree::walk(root).unwrap();
        let cut = cut(&tree, &ProgressBar::hidden());
        (tree, cut)
    }

    #[test]
    fn chunks_and_files_cover_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (noise(700_000, 1), noise(300_001, 2));
        fs::write(folder.path().join("a"), &a).unwrap();
        fs::write(folder.path().join("b"), &b).unwrap();
        fs::write(folder.path().join("empty"), b"").unwrap();
        let (_, cut) = cut_all(folder.path());
        let cut = cut.unwrap();
        assert_eq!(cut.files, [Digest::of(&a), Digest::of(&b), Digest::of(b"")]);
        let whole = [a, b].concat();
        assert_eq!(cut.digest, Digest::of(&whole));
        assert!(cut.chunks.len() > 2, "{}", cut.chunks.len());
        let mut at = 0;
        for chunk in &cut.chunks {
            let end = at + usize::try_from(chunk.bytes).unwrap();
            assert_eq!(chunk.digest, Digest::of(&whole[at..end]));
            at = end;
        }
        assert_eq!(at, whole.len());
    }

    #[test]
    fn one_file_is_hashed_once_and_nothing_is_a_content_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"abc").unwrap();
        let cut = cut_all(&path).1.unwrap();
        assert_eq!((cut.files.as_slice(), cut.digest), ([Digest::of(b"abc")].as_slice(), Digest::of(b"abc")));
        fs::write(&path, b"").unwrap();
        let cut = cut_all(&path).1.unwrap();
        assert_eq!((cut.chunks.len(), cut.digest), (0, Digest::of(b"")));
    }

    #[test]
    fn a_file_that_grew_shrank_or_went_away_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"abc").unwrap();
        let tree = Tree::walk(&path).unwrap();
        let told = |tree: &Tree| cut(tree, &ProgressBar::hidden()).unwrap_err().to_string();
        for changed in [&b"abcd"[..], b"ab", b""] {
            fs::write(&path, changed).unwrap();
            assert!(
                told(&tree)
                    .ends_with("/a changed while it was being pushed: push again when nothing writes to it")
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(told(&tree).starts_with("cannot read "));
    }
}
