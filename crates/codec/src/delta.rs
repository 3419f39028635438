//! Deltas: a content rebuilt from an older one, or from nothing, frame by frame.

use std::io;

use domain::content::DeltaFrame;
use domain::content::index::MAX_FRAME_BYTES;
use zstd_safe::{CCtx, CParameter, DCtx};

use crate::Source;
use crate::align::Pieces;
use crate::frame::{FrameError, decompress_with};

/// Level of compression: what it costs and saves stands in `docs/decisions/0008-content-codec.md`.
pub const LEVEL: i32 = 19;
/// Longest run of the new content in one frame. Longer ones take more memory and compress no better.
const FRAME_BYTES: u64 = 4 << 20;
/// How much of the new content the prefix of a delta from nothing has.
const NEW_BYTES: u64 = 12 << 20;
/// A prefix with this much old content needs nothing of the new one: what is near in the old content serves better.
const ENOUGH_BYTES: u64 = 8 << 20;
/// How far zstd may look back: all of the longest prefix and the longest frame, rounded up to a power of two. The
/// decoder takes no memory for it, for it works in one step.
const MAX_WINDOW_LOG: u32 = 26;
/// zstd's own lower bound.
const MIN_WINDOW_LOG: u32 = 10;

/// Why a delta could not be made or undone.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The old or the new content cannot be read, or what was made cannot be written.
    #[error("cannot read the content or write the delta")]
    Io(#[from] io::Error),
    /// zstd refuses to work: no memory.
    #[error("cannot compress: {0}")]
    Compress(&'static str),
    /// The frame does not hold what it should, or not for this prefix.
    #[error("a frame of the delta is damaged")]
    Frame(#[from] FrameError),
    /// The prefix is not as long as the frame says.
    #[error("the prefix has {found} bytes, not {wanted}")]
    Prefix {
        /// What it has.
        found: u64,
        /// What the frame says.
        wanted: u64,
    },
}

/// Makes the frames that rebuild `new` from `old`, or from nothing, and gives each to `each` in order.
///
/// Keeps one core busy for a second or more a frame, and takes about 140 MiB of memory whatever the length of the
/// contents. An error that `each` returns ends it early.
///
/// # Errors
/// [`DeltaError`]
pub fn encode(
    old: Option<&dyn Source>,
    new: &dyn Source,
    each: &mut dyn FnMut(DeltaFrame, &[u8]) -> io::Result<()>,
) -> Result<(), DeltaError> {
    let mut from = old.map(|old| Ok::<_, io::Error>((old, Pieces::of(old)?))).transpose()?;
    let (mut raw, mut prefix) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < new.len() {
        let bytes = FRAME_BYTES.min(new.len() - at);
        raw.clear();
        append(new, at, bytes, &mut raw)?;
        prefix.clear();
        let mut runs = Vec::new();
        if let Some((old, pieces)) = &mut from {
            runs = pieces.runs(at, &raw);
            for run in &runs {
                append(*old, run.offset, run.bytes.into(), &mut prefix)?;
            }
        }
        let wanted = if runs.is_empty() { NEW_BYTES } else { ENOUGH_BYTES };
        let new_bytes = at.min(wanted.saturating_sub(prefix.len() as u64));
        append(new, at - new_bytes, new_bytes, &mut prefix)?;
        let stored = compress(&raw, &prefix)?;
        let frame = DeltaFrame {
            bytes: length(bytes),
            stored_bytes: length(stored.len() as u64),
            old: runs,
            new_bytes: length(new_bytes),
        };
        each(frame, &stored)?;
        at += bytes;
    }
    Ok(())
}

fn length(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("invariant: frames and prefixes are bounded")
}

/// Adds `bytes` of the source, from `offset` on.
fn append(source: &dyn Source, offset: u64, bytes: u64, to: &mut Vec<u8>) -> io::Result<()> {
    let start = to.len();
    to.resize(start + usize::try_from(bytes).map_err(io::Error::other)?, 0);
    source.read_at(offset, &mut to[start..])
}

fn compress(raw: &[u8], prefix: &[u8]) -> Result<Vec<u8>, DeltaError> {
    let mut stored = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
    let refused = |code| DeltaError::Compress(zstd_safe::get_error_name(code));
    let mut context = CCtx::try_create().ok_or(DeltaError::Compress("no memory"))?;
    let window = (raw.len() + prefix.len()).next_power_of_two().ilog2();
    let parameters = [
        CParameter::CompressionLevel(LEVEL),
        CParameter::WindowLog(window.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG)),
        // The search tree of the level forgets what lies far back; this finds it all the same.
        CParameter::EnableLongDistanceMatching(true),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).map_err(refused)?;
    }
    context.ref_prefix(prefix).map_err(refused)?;
    context.compress2(&mut stored, raw).map_err(refused)?;
    Ok(stored)
}

/// Rebuilds the run of a frame from what is stored and its prefix: the runs of the old content in their order,
/// then the new content just before this frame. Takes as much memory as the frame says it rebuilds, and no more.
///
/// What comes out is not checked: hold the content against its digests.
///
/// # Errors
/// [`DeltaError`] if the frame is damaged, or the prefix is not as long as the frame says.
pub fn decode(frame: &DeltaFrame, stored: &[u8], prefix: &[u8]) -> Result<Vec<u8>, DeltaError> {
    if prefix.len() as u64 != frame.prefix_bytes() {
        return Err(DeltaError::Prefix { found: prefix.len() as u64, wanted: frame.prefix_bytes() });
    }
    let bytes = usize::try_from(frame.bytes.min(MAX_FRAME_BYTES)).map_err(io::Error::other)?;
    let mut context = DCtx::create();
    context.ref_prefix(prefix).map_err(|code| FrameError::Damaged(zstd_safe::get_error_name(code)))?;
    Ok(decompress_with(&mut context, stored, bytes)?)
}

#[cfg(test)]
mod tests;
