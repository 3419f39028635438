//! The real CLI.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::line::ADMIN_TOKEN;
use crate::process::{Process, binary};

/// `muster`, talking to one server as the administrator of the fleet that is kept in a directory.
#[derive(Clone)]
pub struct Cli {
    server: String,
    ca: PathBuf,
    dir: PathBuf,
    token_file: Option<PathBuf>,
    /// Where it keeps contexts.
    home: PathBuf,
    /// What else its environment has.
    environment: Vec<(String, String)>,
}

/// What a command did.
#[derive(Debug)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Notices and errors.
    pub stderr: String,
}

impl Output {
    /// The data of a command that went well.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The message of a command that failed with this exit code.
    ///
    /// # Panics
    /// If it ended otherwise.
    #[must_use]
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

impl Cli {
    /// For a server at `address` that the CA in a file vouches for.
    #[must_use]
    pub fn new(address: &str, ca: &Path, dir: PathBuf) -> Self {
        let token_file = Some(dir.join(ADMIN_TOKEN));
        let home = dir.clone();
        let (ca, environment) = (ca.to_owned(), Vec::new());
        Self { server: format!("https://{address}"), ca, dir, token_file, home, environment }
    }

    /// The same with these variables.
    #[must_use]
    pub fn with_environment(&self, variables: &[(&str, &str)]) -> Self {
        let mut cli = self.clone();
        cli.environment
            .extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        cli
    }

    /// The same with a token of its own.
    ///
    /// # Panics
    /// If the token cannot be kept in a file.
    #[must_use]
    pub fn with_token(&self, name: &str, token: &str) -> Self {
        let token_file = self.dir.join(format!("{name}.token"));
        crate::line::keep_token(&token_file, token);
        Self { token_file: Some(token_file), ..self.clone() }
    }

    /// The same without a token, and with a place for contexts of its own.
    #[must_use]
    pub fn nobody(&self, name: &str) -> Self {
        Self { token_file: None, home: self.dir.join(name), ..self.clone() }
    }

    /// Where it keeps what one logged in to.
    #[must_use]
    pub fn contexts(&self) -> PathBuf {
        self.home.join("muster/contexts.toml")
    }

    /// The environment that leads a `muster` to the server.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let token_file = self.token_file.iter().map(|file| ("MUSTER_TOKEN_FILE", file.display().to_string()));
        let server =
            [("MUSTER_SERVER", self.server.clone()), ("MUSTER_CA_FILE", self.ca.display().to_string())];
        server.into_iter().chain(token_file).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("muster"));
        for name in ["MUSTER_CONFIG", "MUSTER_CONTEXT", "MUSTER_TOKEN", "MUSTER_TOKEN_FILE"] {
            command.env_remove(name);
        }
        command.args(args).envs(self.env()).current_dir(&self.dir);
        // Contexts of whoever runs the tests are none of theirs.
        command.env("XDG_CONFIG_HOME", &self.home);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a command that waits for something.
    #[must_use]
    pub fn start(&self, args: &[&str]) -> Process {
        // Each has a log of its own.
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let name = format!("muster-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        Process::of(&self.dir, &name, self.command(args))
    }

    /// Runs a command line, words separated by spaces.
    pub async fn run(&self, line: &str) -> Output {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.run_with(&words, "").await
    }

    /// Runs a command with something on its standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn run_with(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("muster can be started");
        let mut input = child.stdin.take().expect("its input is a pipe");
        // A command that refuses its arguments ends without reading.
        drop(input.write_all(stdin.as_bytes()).await);
        drop(input);
        let output = child.wait_with_output().await.expect("muster ends");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Applies manifests that must be accepted.
    ///
    /// # Panics
    /// If they are not.
    #[track_caller]
    pub fn apply(&self, manifests: &str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        let (cli, manifests) = (self.clone(), manifests.to_owned());
        async move {
            let output = cli.run_with(&["apply", "-f", "-"], &manifests).await;
            assert_eq!(output.code, 0, "{caller}: {}{}", output.stdout, output.stderr);
            output.stdout
        }
    }

    /// The JSON that a command prints with `-o json`.
    ///
    /// # Panics
    /// If it fails or prints something else.
    pub async fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} -o json")).await.ok();
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{line}: {error}: {output}"))
    }
}
