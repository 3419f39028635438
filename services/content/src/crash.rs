//! Where a test can make the service die: see [`runtime::crash`].

/// Every crash point, in the order in which an upload, the deltas to it and a garbage collection pass them.
pub const CRASH_POINTS: &[&str] = &[
    "upload-begin",
    "upload-manifest",
    "upload-noted",
    "upload-batch",
    "finish-checked",
    "finish-signed",
    "finish-indexed",
    "finish-committed",
    "delta-encoded",
    "delta-part",
    "delta-indexed",
    "retired",
    "sweep-planned",
    "sweep-noted",
    "sweep-deleting",
    "sweep-done",
];

/// Ends the process here, if that was asked for.
pub(crate) fn point(name: &'static str) {
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not listed");
    runtime::crash::point(name);
}
