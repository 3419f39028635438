//! Compression of chunks, each alone.

use zstd_safe::{CCtx, CParameter, DCtx};

/// Level of compression: what it costs and saves stands in `docs/decisions/0008-content-codec.md`.
pub const LEVEL: i32 = 9;

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
