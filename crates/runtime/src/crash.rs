//! Crash points: where a test can make a process die, to see that the next start finds the old state or the
//! new one. Compiled in with debug assertions or the feature `crash-points` only.

/// Environment variable that names a crash point, or `point:N` for the Nth time it is passed (from 1).
pub const CRASH_ENV: &str = "MUSTER_CRASH_AT";

/// Ends the process as a crash would, if this is the point that was asked for.
#[cfg(any(debug_assertions, feature = "crash-points"))]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var(CRASH_ENV).ok()?;
        match text.split_once(':') {
            Some((point, nth)) => Some((point.to_owned(), nth.parse().unwrap_or(1))),
            None => Some((text, 1)),
        }
    });
    if let Some((point, nth)) = wanted
        && point == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *nth
    {
        std::process::abort();
    }
}

/// Nothing, in release builds.
#[cfg(not(any(debug_assertions, feature = "crash-points")))]
pub fn point(_: &'static str) {}
