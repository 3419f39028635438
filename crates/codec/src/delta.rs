//! Deltas: a content rebuilt from an older one, or from nothing, frame by frame.

use std::io;

use domain::content::index::{MAX_FRAME_BYTES, MAX_PREFIX_BYTES};
use domain::content::{DeltaFrame, OldRun};
use zstd_safe::{CCtx, CParameter, DCtx};

use crate::Source;
use crate::frame::{FrameError, decompress_with};

/// Level of compression: what it costs and saves stands in `docs/decisions/0008-content-codec.md`.
pub const LEVEL: i32 = 19;
/// Longest run of the new content in one frame.
const FRAME_BYTES: u64 = 8 << 20;
/// Most old content in a prefix.
const OLD_BYTES: u64 = 24 << 20;

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
/// Keeps one core busy for seconds a frame. An error that `each` returns ends it early.
///
/// # Errors
/// [`DeltaError`]
pub fn encode(
    old: Option<&dyn Source>,
    new: &dyn Source,
    each: &mut dyn FnMut(DeltaFrame, &[u8]) -> io::Result<()>,
) -> Result<(), DeltaError> {
    let mut at = 0;
    while at < new.len() {
        let bytes = FRAME_BYTES.min(new.len() - at);
        let runs = old.map(|old| runs(old, at)).unwrap_or_default();
        let in_old: u64 = runs.iter().map(|run| u64::from(run.bytes)).sum();
        let new_bytes = at.min(MAX_PREFIX_BYTES - in_old);
        let mut prefix = Vec::new();
        for run in &runs {
            if let Some(old) = old {
                append(old, run.offset, run.bytes.into(), &mut prefix)?;
            }
        }
        append(new, at - new_bytes, new_bytes, &mut prefix)?;
        let mut raw = Vec::new();
        append(new, at, bytes, &mut raw)?;
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

fn runs(old: &dyn Source, at: u64) -> Vec<OldRun> {
    let bytes = OLD_BYTES.min(old.len());
    let offset = at.saturating_sub(OLD_BYTES / 3).min(old.len() - bytes);
    if bytes == 0 { Vec::new() } else { vec![OldRun { offset, bytes: length(bytes) }] }
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
    let window = (raw.len() + prefix.len()).next_power_of_two().trailing_zeros().clamp(10, 27);
    for parameter in [CParameter::CompressionLevel(LEVEL), CParameter::WindowLog(window)] {
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
