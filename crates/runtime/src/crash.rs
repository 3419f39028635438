//! Crash points: where a test can make a process die, to see that the next start finds the old state or the
//! new one; or where it can make the process stand still, to change the world under it, and go on. Compiled in with
//! debug assertions or the feature `crash-points` only.

/// Environment variable that names a crash point, or `point:N` for the Nth time it is passed (from 1).
pub const CRASH_ENV: &str = "MUSTER_CRASH_AT";

/// The same for a point at which the process stops as SIGSTOP stops it: SIGCONT lets it go on.
pub const STOP_ENV: &str = "MUSTER_STOP_AT";

/// Ends or stops the process, if this is the point that was asked for.
#[cfg(any(debug_assertions, feature = "crash-points"))]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;

    static CRASH: OnceLock<Option<Wanted>> = OnceLock::new();
    static STOP: OnceLock<Option<Wanted>> = OnceLock::new();

    let is_at = |wanted: &OnceLock<Option<Wanted>>, env| {
        wanted.get_or_init(|| Wanted::read(env)).as_ref().is_some_and(|wanted| wanted.is_now(name))
    };
    if is_at(&CRASH, CRASH_ENV) {
        std::process::abort();
    }
    if is_at(&STOP, STOP_ENV) {
        use rustix::process::{Signal, getpid, kill_process};
        kill_process(getpid(), Signal::STOP).expect("invariant: a process may stop itself");
    }
}

/// A point that was asked for.
#[cfg(any(debug_assertions, feature = "crash-points"))]
struct Wanted {
    point: String,
    nth: u64,
    passed: std::sync::atomic::AtomicU64,
}

#[cfg(any(debug_assertions, feature = "crash-points"))]
impl Wanted {
    fn read(env: &str) -> Option<Self> {
        let text = std::env::var(env).ok()?;
        let (point, nth) = match text.split_once(':') {
            Some((point, nth)) => (point.to_owned(), nth.parse().unwrap_or(1)),
            None => (text, 1),
        };
        Some(Self { point, nth, passed: std::sync::atomic::AtomicU64::new(0) })
    }

    fn is_now(&self, name: &str) -> bool {
        self.point == name && self.passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 == self.nth
    }
}

/// Nothing, in release builds.
#[cfg(not(any(debug_assertions, feature = "crash-points")))]
pub fn point(_: &'static str) {}
