//! How a delta is cut into messages.

/// Length of each part but the last. Why: `docs/decisions/0008-content-codec.md`.
pub const PART_BYTES: usize = 256 * 1024;
