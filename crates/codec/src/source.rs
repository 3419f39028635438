//! Where content is read from, at any place and in any order.

use std::io;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_from_anywhere_within() {
        let source = &b"0123456789"[..];
        let mut found = [0; 3];
        source.read_at(7, &mut found).unwrap();
        assert_eq!(&found, b"789");
        assert!(source.read_at(8, &mut found).is_err());
        assert!(source.read_at(u64::MAX, &mut found).is_err());
        assert!(Source::is_empty(&Vec::new()) && Source::len(&source) == 10);
    }
}
