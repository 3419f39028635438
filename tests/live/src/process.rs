//! Child processes whose output is kept in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use tokio::process::{Child, Command};

use crate::wait::until;

/// One of the binaries of this build.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = std::env::var_os("MUSTER_BIN_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(test.parent()?.parent()?.to_owned()))
        .expect("tests lie two folders below the binaries");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bins` (or `make test`)",
        path.display()
    );
    path
}

/// A child process. Killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a binary of this build; its output goes to `<dir>/<name>.log`, appended over restarts.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(dir: &Path, name: &str, program: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary(program));
        command.args(args).env("MUSTER_TOKEN_FILE", dir.join(crate::line::ADMIN_TOKEN));
        command.envs(env.iter().copied());
        Self::of(dir, name, command)
    }

    /// Starts any command, as above.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn of(dir: &Path, name: &str, mut command: Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("the log can be opened");
        let child = command
            .current_dir(dir)
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// All it said so far, in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it has ended and been waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the process runs")
    }

    /// Whether it still runs; if not, how it ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// SIGKILL, and waits for its end.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// SIGTERM.
    ///
    /// # Panics
    /// If it does not run.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGCONT, after it stood still.
    ///
    /// # Panics
    /// If it does not run.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} can be signalled", self.name);
    }

    /// Waits until all of its threads stand still, as `MUSTER_STOP_AT` lets them at a point of the code.
    ///
    /// # Panics
    /// If they do not.
    pub async fn stands_still(&mut self) {
        let name = self.name.clone();
        until(format!("{name} stands still"), || {
            assert_eq!(self.ended(), None, "{name} ended: {}", self.log());
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it has threads");
            // What ends meanwhile stands still for good.
            let states =
                threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
            let state = |stat: &str| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            let moving = states.filter(|stat| state(stat) != Some('T')).count();
            if moving == 0 { Ok(()) } else { Err(format!("{moving} of its threads run")) }
        })
        .await;
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait().await
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        let name = self.name.clone();
        until(format!("{name} ends"), || {
            status = self.ended();
            status.map(|_| ()).ok_or_else(|| "it runs".to_owned())
        })
        .await;
        status.expect("it has ended")
    }
}
