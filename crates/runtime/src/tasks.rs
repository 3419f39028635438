//! The one place that starts tasks, and the one way to stop.
//!
//! A long-lived task runs until [`Shutdown`] is requested. One that ends earlier, returns an error or panics
//! makes the whole process stop with a failure: half a process that looks alive is worse than none.
//! To stop, every task closes its intake when [`Shutdown::requested`] resolves, finishes what it holds,
//! flushes and returns; those that are not done within [`STOP_TIMEOUT`] are aborted and named.

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take to stop. Kubernetes kills after 30 s by default; this leaves time for the
/// connections and the supervised nats-server to close after the tasks.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Any error a task ends with.
pub type TaskFailure = Box<dyn Error + Send + Sync>;

/// The request to stop. Clones share it; it is never taken back.
#[derive(Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Not requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything that shares this to stop.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether stopping was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until stopping is requested.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// A shutdown that is requested with this one, and can be requested alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Requests it at SIGINT or SIGTERM. A second signal ends the process at once with code 130.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub fn request_on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = self.clone();
        // Not tracked: it waits for a second signal while everything else stops.
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            tracing::info!(signal = name, "stopping");
            shutdown.request();
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            tracing::warn!("second signal: ending at once");
            std::process::exit(130);
        });
        Ok(())
    }

    /// Ends `stream` when stopping is requested: for answers that stream without end.
    pub fn until<S: Stream>(&self, stream: S) -> impl Stream<Item = S::Item> + use<S> {
        stream.take_until(self.0.clone().cancelled_owned())
    }
}

/// Why the tasks did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    /// A task returned before it was asked to.
    #[error("task {name} ended although nobody asked it to stop")]
    EndedEarly {
        /// The task.
        name: String,
    },
    /// A task returned an error.
    #[error("task {name} failed")]
    Failed {
        /// The task.
        name: String,
        /// What it returned.
        source: TaskFailure,
    },
    /// A task panicked.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// The task.
        name: String,
        /// The panic's message.
        message: String,
    },
    /// Tasks were still busy when the time to stop was over.
    #[error("still busy {} s after the request to stop, aborted: {}", STOP_TIMEOUT.as_secs(), names.join(", "))]
    Stuck {
        /// The tasks.
        names: Vec<String>,
    },
}

/// A set of tasks with one [`Shutdown`]. Clones share it.
#[derive(Clone)]
pub struct Tasks {
    shutdown: Shutdown,
    tracker: TaskTracker,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, (String, Option<AbortHandle>)>,
    failure: Option<TasksError>,
}

#[derive(Clone, Copy, PartialEq)]
enum Life {
    UntilShutdown,
    Finite,
}

impl Tasks {
    /// No tasks yet. A failing task requests `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tracker: TaskTracker::new(), state: Arc::default() }
    }

    /// The request to stop that these tasks obey.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task that runs until the shutdown is requested. If it ends earlier, fails or panics, the
    /// whole set is asked to stop and [`Tasks::finish`] returns the failure.
    pub fn spawn<F, E>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskFailure>,
    {
        self.start(name.into(), Life::UntilShutdown, task.map(|end| end.map_err(Into::into)));
    }

    /// Starts a task that may end at any time; only an error or a panic stops the set. The caller bounds
    /// how many of these run at once.
    pub fn spawn_finite<F, E>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskFailure>,
    {
        self.start(name.into(), Life::Finite, task.map(|end| end.map_err(Into::into)));
    }

    /// [`Shutdown::request_on_signals`] for these tasks.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub fn stop_on_signals(&self) -> std::io::Result<()> {
        self.shutdown.request_on_signals()
    }

    /// Waits until the shutdown is requested, then until all tasks have ended, at most [`STOP_TIMEOUT`].
    /// Tasks that are late are aborted.
    ///
    /// # Errors
    /// [`TasksError`]: the first failure of a task, or the names of those that did not stop in time.
    pub async fn finish(&self) -> Result<(), TasksError> {
        self.shutdown.requested().await;
        self.tracker.close();
        let in_time = tokio::time::timeout(STOP_TIMEOUT, self.tracker.wait()).await.is_ok();
        let mut state = self.state();
        if !in_time {
            let running = std::mem::take(&mut state.running);
            let names = running.into_values().map(|(name, abort)| {
                if let Some(abort) = abort {
                    abort.abort();
                }
                name
            });
            let stuck = TasksError::Stuck { names: names.collect() };
            return Err(state.failure.take().unwrap_or(stuck));
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    fn start<F>(&self, name: String, life: Life, task: F)
    where
        F: Future<Output = Result<(), TaskFailure>> + Send + 'static,
    {
        let id = {
            let mut state = self.state();
            let id = state.next;
            state.next += 1;
            state.running.insert(id, (name.clone(), None));
            id
        };
        tracing::debug!(task = %name, "task starts");
        let tasks = self.clone();
        let handle = self.tracker.spawn(async move {
            let end = AssertUnwindSafe(task).catch_unwind().await;
            tasks.ended(id, name, life, end);
        });
        if let Some((_, abort)) = self.state().running.get_mut(&id) {
            *abort = Some(handle.abort_handle());
        }
    }

    fn ended(
        &self,
        id: u64,
        name: String,
        life: Life,
        end: Result<Result<(), TaskFailure>, Box<dyn Any + Send>>,
    ) {
        let requested = self.shutdown.is_requested();
        let failure = match end {
            Ok(Ok(())) if requested || life == Life::Finite => None,
            Ok(Ok(())) => Some(TasksError::EndedEarly { name: name.clone() }),
            Ok(Err(source)) => Some(TasksError::Failed { name: name.clone(), source }),
            Err(panic) => Some(TasksError::Panicked { name: name.clone(), message: panic_message(&*panic) }),
        };
        let mut state = self.state();
        state.running.remove(&id);
        tracing::debug!(task = %name, failed = failure.is_some(), "task ended");
        if let Some(failure) = failure {
            tracing::error!(task = %name, error = %crate::log::chain(&failure), "task failed: stopping");
            state.failure.get_or_insert(failure);
            drop(state);
            self.shutdown.request();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds this lock, and the map stays usable if it did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// A task that serves the value which holds this, and is aborted when that is dropped.
pub struct Attached(AbortHandle);

/// Starts a task that lives no longer than the returned [`Attached`]. For the inner tasks of a connection
/// or a subscription, which must not outlive it and hold nothing that needs a flush.
#[must_use]
pub fn attach(task: impl Future<Output = ()> + Send + 'static) -> Attached {
    Attached(tokio::spawn(task).abort_handle())
}

/// How much a thread in the background stands back for all others: as far as it still gets a tenth of a busy core.
#[cfg(target_os = "linux")]
const BACKGROUND_NICENESS: i32 = 10;

/// The work in the background did not come to an end.
#[derive(Debug, thiserror::Error)]
pub enum BackgroundError {
    /// There is no thread for it.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// It panicked.
    #[error("the work in the background panicked")]
    Panicked,
}

/// Does work that keeps a core busy for long, on a thread of its own that stands back for all others. The work goes on
/// when the future is dropped, and ends with the process: who starts it gives it a way to be told to end.
///
/// # Errors
/// [`BackgroundError`] if it cannot start or panics.
pub async fn background<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BackgroundError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    let started = thread.spawn(move || {
        stand_back();
        // Nobody may wait for it any more.
        drop(sender.send(work()));
    });
    started.map_err(BackgroundError::Thread)?;
    receiver.await.map_err(|_| BackgroundError::Panicked)
}

/// Lowers the priority of the calling thread for good: for threads whose work nobody waits for.
pub fn stand_back() {
    // On Linux this is about the calling thread alone; elsewhere it would slow the whole process down.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICENESS) {
        tracing::debug!(%error, "a thread in the background has the priority of all others");
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
