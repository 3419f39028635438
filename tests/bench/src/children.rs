//! Programs that the benchmark starts. Each ends with the value that holds it, also after an error or Ctrl-C.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to stop after it was asked to; longer than `musterd` gives its tasks.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a program may take to become ready.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a state is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(10);

/// A running program.
pub struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {name} ({command:?})"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` gives a value, as long as the program runs.
    ///
    /// # Errors
    /// When the program ends or [`START_TIMEOUT`] passes.
    pub async fn until<T>(&mut self, mut ready: impl AsyncFnMut() -> Option<T>) -> Result<T> {
        let begin = Instant::now();
        while begin.elapsed() < START_TIMEOUT {
            if let Some(value) = ready().await {
                return Ok(value);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once: {status}", self.name);
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("{} is not ready after {} s", self.name, START_TIMEOUT.as_secs())
    }

    /// Takes the program's standard input: it sees the end of it when the value is dropped.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }
}

/// Asks the program to stop, and ends it if it does not.
impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && matches!(self.child.try_wait(), Ok(None))
        {
            // The only failure is that the process ended meanwhile, which is what is wanted.
            let _ = kill_process(pid, Signal::TERM);
        }
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begin.elapsed() > STOP_TIMEOUT {
                drop(self.child.kill());
                drop(self.child.wait());
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Ids of the processes that a process started.
#[must_use]
pub fn children_of(process: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}
