//! Waiting for a state.

use std::future::Future;
use std::time::{Duration, Instant};

/// Longest wait for any state. What these tests wait for takes milliseconds to seconds; a machine that is
/// busy with other things may take much longer, and a failure is not worth less for being late.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks again and again until `look` sees what it wants; `Err` says what it saw instead.
///
/// # Panics
/// If that takes longer than a minute, with the last thing seen.
#[track_caller]
pub fn eventually<T>(
    what: impl Into<String>,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    let (caller, what) = (std::panic::Location::caller(), what.into());
    async move {
        let start = Instant::now();
        loop {
            match look().await {
                Ok(seen) => return seen,
                Err(instead) if start.elapsed() > PATIENCE => {
                    panic!("{caller}: {what}: not within {PATIENCE:?}; last seen: {instead}")
                }
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

/// As [`eventually`], for a condition that needs no await and yields nothing.
#[track_caller]
pub fn until(
    what: impl Into<String>,
    mut holds: impl FnMut() -> Result<(), String>,
) -> impl Future<Output = ()> {
    eventually(what, async move || holds())
}
