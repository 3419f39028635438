//! Frames of a delta, one after the other, cut into messages.

use std::io;

use domain::Digest;
use domain::content::DeltaPart;

/// Length of each part but the last. Why: `docs/decisions/0008-content-codec.md`.
pub const PART_BYTES: usize = 256 * 1024;

/// Cuts what is pushed into parts and hands each out as soon as it is full.
#[derive(Debug, Default)]
pub struct Parts {
    pending: Vec<u8>,
    made: Vec<DeltaPart>,
}

impl Parts {
    /// Adds bytes. `send` is called for each part that they complete, with its number.
    ///
    /// # Errors
    /// What `send` returns; then the parts are of no more use.
    pub fn push(
        &mut self,
        bytes: &[u8],
        send: &mut dyn FnMut(u32, Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        while self.pending.len() >= PART_BYTES {
            let rest = self.pending.split_off(PART_BYTES);
            let part = std::mem::replace(&mut self.pending, rest);
            self.send(part, send)?;
        }
        Ok(())
    }

    /// Hands out what is left and gives the list of all parts.
    ///
    /// # Errors
    /// What `send` returns.
    pub fn finish(
        mut self,
        send: &mut dyn FnMut(u32, Vec<u8>) -> io::Result<()>,
    ) -> io::Result<Vec<DeltaPart>> {
        if !self.pending.is_empty() {
            let part = std::mem::take(&mut self.pending);
            self.send(part, send)?;
        }
        Ok(self.made)
    }

    fn send(
        &mut self,
        part: Vec<u8>,
        send: &mut dyn FnMut(u32, Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let bytes = u32::try_from(part.len()).expect("invariant: a part is no longer than PART_BYTES");
        let number = u32::try_from(self.made.len()).map_err(io::Error::other)?;
        self.made.push(DeltaPart { bytes, digest: Digest::of(&part) });
        send(number, part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_of_it() {
        for pushes in [&[][..], &[1], &[PART_BYTES], &[PART_BYTES - 1, 2, 3 * PART_BYTES, 0, 7]] {
            let whole: Vec<u8> = (0..pushes.iter().sum::<usize>()).map(|n| n.to_le_bytes()[0]).collect();
            let (mut parts, mut sent, mut at) = (Parts::default(), Vec::new(), 0);
            let mut send = |number: u32, part: Vec<u8>| {
                assert_eq!(number as usize, sent.len());
                sent.push(part);
                Ok(())
            };
            for bytes in pushes {
                parts.push(&whole[at..at + bytes], &mut send).unwrap();
                at += bytes;
            }
            let made = parts.finish(&mut send).unwrap();
            assert_eq!(sent.concat(), whole);
            let expected: Vec<_> = sent
                .iter()
                .map(|part| DeltaPart { bytes: u32::try_from(part.len()).unwrap(), digest: Digest::of(part) })
                .collect();
            assert_eq!(made, expected);
            assert!(sent.iter().rev().skip(1).all(|part| part.len() == PART_BYTES));
        }
    }
}
