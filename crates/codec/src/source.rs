//! Where content is read from, at any place and in any order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// Content that can be read at any place.
pub trait Source {
    /// How long it is.
    fn len(&self) -> u64;

    /// Fills `into` with what starts at `offset`.
    ///
    /// # Errors
    /// When it cannot be read, or ends too early.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the content ends before what was to be read")
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| too_short())?;
        let rest = self.get(start..).ok_or_else(too_short)?;
        into.copy_from_slice(rest.get(..into.len()).ok_or_else(too_short)?);
        Ok(())
    }
}

impl Source for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_at(offset, into)
    }
}

/// A file. It is opened for each read, so that a content of thousands of files needs one descriptor.
#[derive(Debug, Clone)]
pub struct FileSource {
    path: PathBuf,
    bytes: u64,
}

impl FileSource {
    /// The file at `path`, of which the first `bytes` count.
    #[must_use]
    pub fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes }
    }
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(into.len() as u64);
        if end > self.bytes {
            return Err(too_short());
        }
        File::open(&self.path)?.read_exact_at(into, offset)
    }
}

/// Several sources, one after the other: the files of a content.
#[derive(Debug, Clone)]
pub struct Joined<S> {
    /// Each with where it starts; none of them empty.
    parts: Vec<(u64, S)>,
    bytes: u64,
}

impl<S: Source> FromIterator<S> for Joined<S> {
    fn from_iter<I: IntoIterator<Item = S>>(parts: I) -> Self {
        let mut bytes = 0;
        let mut placed = Vec::new();
        for part in parts {
            let start = bytes;
            bytes += part.len();
            if !part.is_empty() {
                placed.push((start, part));
            }
        }
        Self { parts: placed, bytes }
    }
}

impl<S: Source> Source for Joined<S> {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(into.len() as u64) > self.bytes {
            return Err(too_short());
        }
        let first = self.parts.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        for (start, part) in &self.parts[first..] {
            if into.is_empty() {
                break;
            }
            let left = part.len() - (offset - start);
            let here = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
            let (now, later) = into.split_at_mut(here);
            part.read_at(offset - start, now)?;
            offset += here as u64;
            into = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn joined_sources_read_as_one() {
        let whole = b"one, two and three";
        let joined: Joined<&[u8]> = [&whole[..3], &[], &whole[3..4], &whole[4..]].into_iter().collect();
        assert_eq!(joined.len(), 18);
        for from in 0..=whole.len() {
            for to in from..=whole.len() {
                let mut found = vec![0; to - from];
                joined.read_at(from as u64, &mut found).unwrap();
                assert_eq!(found, whole[from..to]);
            }
        }
        assert!(joined.read_at(10, &mut [0; 9]).is_err());
        assert!(joined.read_at(u64::MAX, &mut [0]).is_err());
        assert!(Joined::<&[u8]>::from_iter([]).is_empty());
    }

    #[test]
    fn files_end_where_they_are_said_to_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let source = FileSource::new(file.path().to_owned(), 8);
        let mut found = [0; 3];
        source.read_at(5, &mut found).unwrap();
        assert_eq!(&found, b"567");
        assert!(source.read_at(6, &mut found).is_err());
        let longer = FileSource::new(file.path().to_owned(), 20);
        assert!(longer.read_at(9, &mut found).is_err());
    }
}
