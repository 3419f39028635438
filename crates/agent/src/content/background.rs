//! The threads on which content is worked on. They stand back for policies and for what the machine is there for, and
//! they stay: each thread has memory of its own from the allocator, which a new one for each piece would add up.

use std::sync::OnceLock;

use runtime::tasks::stand_back;
use tokio::runtime::{Builder, Runtime};

/// What is under way at once: something long and something short for each content. Only tests run more than one.
const THREADS: usize = if cfg!(test) { 16 } else { 2 };

/// Does what blocks on one of the threads. Dropping the future does not end the work.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match threads().spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// They live as long as the process. Its end waits for none of them: whatever they write may be cut off anywhere.
fn threads() -> &'static Runtime {
    static POOL: OnceLock<Runtime> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut builder = Builder::new_current_thread();
        builder.max_blocking_threads(THREADS).thread_name("content").on_thread_start(stand_back);
        builder.build().expect("invariant: a runtime without drivers needs nothing of the system")
    })
}
