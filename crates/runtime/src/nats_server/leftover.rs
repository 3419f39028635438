//! A server that outlived the process that started it: a killed parent ends nobody.

use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::{STOP_TIMEOUT, ServerError};

/// Ends the server that runs with the configuration file `config` and wrote its process id to `pid_file`: two
/// servers must never share a store. Another process that has this id by now is left alone.
///
/// # Errors
/// [`ServerError::Signal`] if it may not be ended.
pub(super) async fn end(config: &Path, pid_file: &Path) -> std::result::Result<(), ServerError> {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return Ok(()) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    let config = config.to_owned();
    let ended = tokio::task::spawn_blocking(move || end_process(pid, &config)).await;
    ended
        .map_err(|panicked| ServerError::Signal(panicked.into()))?
        .map_err(|error| ServerError::Signal(error.into()))
}

/// Signals and waits for the end of the process itself (`pidfd_open(2)`: readable then). Its command line is gone
/// earlier, while it still holds its port and its store.
fn end_process(pid: Pid, config: &Path) -> Result<()> {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    if !command.split(|byte| *byte == 0).any(|argument| argument == config.as_os_str().as_encoded_bytes()) {
        return Ok(());
    }
    let timeout = Timespec::try_from(STOP_TIMEOUT).expect("invariant: seconds fit");
    for signal in [Signal::TERM, Signal::KILL] {
        tracing::warn!(pid = %pid.as_raw_nonzero(), "ending the nats-server that an earlier process left behind");
        match pidfd_send_signal(&process, signal) {
            Err(Errno::SRCH) => return Ok(()),
            sent => sent?,
        }
        if retry_on_intr(|| poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)))? > 0 {
            return Ok(());
        }
    }
    // It hangs in the kernel. Whether it is in the way, the start of the next one tells.
    Ok(())
}
