//! Compression of chunks, each alone.

use zstd_safe::{CCtx, CParameter, DCtx};

/// Level of compression: what it costs and saves stands in `docs/decisions/0008-content-codec.md`.
pub const LEVEL: i32 = 6;

/// Why bytes are not the frame they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a zstd frame, or a damaged one.
    #[error("the frame cannot be decompressed: {0}")]
    Damaged(&'static str),
    /// It holds fewer bytes than it should.
    #[error("the frame holds {found} bytes, not {wanted}")]
    Length {
        /// What it holds.
        found: usize,
        /// What it should hold.
        wanted: usize,
    },
}

/// Compresses the bytes of one chunk.
#[must_use]
pub fn compress(raw: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
    let mut context = CCtx::create();
    context
        .set_parameter(CParameter::CompressionLevel(LEVEL))
        .and_then(|_| context.compress2(&mut stored, raw))
        .expect("invariant: the buffer holds whatever comes out, and the level exists");
    stored
}

/// Decompresses a frame that holds exactly `raw_bytes`. Never takes more memory than that and what zstd needs to
/// work, whatever the frame says of itself.
///
/// # Errors
/// [`FrameError`] if it is damaged, or holds more or fewer bytes.
pub fn decompress(stored: &[u8], raw_bytes: usize) -> Result<Vec<u8>, FrameError> {
    decompress_with(&mut DCtx::create(), stored, raw_bytes)
}

/// As [`decompress`], with a context that may have a prefix.
pub(crate) fn decompress_with(
    context: &mut DCtx<'_>,
    stored: &[u8],
    raw_bytes: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut raw = Vec::with_capacity(raw_bytes);
    let found = context
        .decompress(&mut raw, stored)
        .map_err(|code| FrameError::Damaged(zstd_safe::get_error_name(code)))?;
    if found == raw_bytes { Ok(raw) } else { Err(FrameError::Length { found, wanted: raw_bytes }) }
}

#[cfg(test)]
mod tests {
    use domain::Digest;
    use domain::content::index::MAX_EXPANSION_BYTES;
    use domain::content::manifest::MAX_CHUNK_BYTES;
    use proptest::prelude::*;

    use super::*;
    use crate::made::{Chance, text};

    #[test]
    fn what_does_not_compress_still_fits_its_message() {
        let mut chance = Chance(1);
        let noise: Vec<u8> = (0..MAX_CHUNK_BYTES).map(|_| u8::try_from(chance.below(256)).unwrap()).collect();
        let stored = compress(&noise);
        assert!(stored.len() <= noise.len() + MAX_EXPANSION_BYTES as usize, "{}", stored.len());
        assert_eq!(decompress(&stored, noise.len()), Ok(noise));
        assert_eq!(decompress(&compress(&[]), 0), Ok(Vec::new()));
    }

    #[test]
    fn a_bomb_ends_at_the_length_that_was_told() {
        let bomb = compress(&vec![0; 100 << 20]);
        assert!(bomb.len() < 20_000);
        assert!(matches!(decompress(&bomb, 65_536), Err(FrameError::Damaged(_))));
        // Two frames in one message are no way around.
        let two = [compress(b"one"), compress(b"two")].concat();
        assert!(matches!(decompress(&two, 3), Err(FrameError::Damaged(_))));
    }

    #[test]
    fn every_flipped_bit_of_a_chunk_is_seen() {
        let raw = text(&mut Chance(2), 700);
        let stored = compress(&raw);
        for at in 0..stored.len() * 8 {
            let mut flipped = stored.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            if let Ok(found) = decompress(&flipped, raw.len()) {
                assert!(found == raw || Digest::of(&found) != Digest::of(&raw), "bit {at}");
            }
        }
    }

    #[test]
    fn truncated_frames_are_refused() {
        let raw = text(&mut Chance(3), 700);
        let stored = compress(&raw);
        for end in 0..stored.len() {
            assert!(decompress(&stored[..end], raw.len()).is_err(), "{end}");
        }
        let error = decompress(&stored, raw.len() + 1).unwrap_err();
        assert_eq!(error.to_string(), "the frame holds 700 bytes, not 701");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(stored in proptest::collection::vec(any::<u8>(), 0..200), bytes in 0_usize..9999) {
            for stored in [stored.clone(), [&[0x28, 0xb5, 0x2f, 0xfd], &stored[..]].concat()] {
                if let Ok(raw) = decompress(&stored, bytes) {
                    prop_assert_eq!(raw.len(), bytes);
                }
            }
        }
    }
}
