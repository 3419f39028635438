//! Handlers that run commands. Which command runs for which kind of policy and which channel of content stands in
//! the agent's own configuration; policies and content are only ever data to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use domain::KindName;
use domain::content::ChannelName;
use futures::FutureExt;
use futures::future::FusedFuture;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::handler::{ContentChange, Handler, PolicyChange};

/// Time for a command that sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time that may be set: while a handler runs, nothing else is applied.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// How much of a command's error output is kept for its report: its end says the most.
const STDERR_TAIL_BYTES: usize = 800;
/// How long the error output may stay open after a command ended, because a child of it holds it.
const STDERR_GRACE: Duration = Duration::from_millis(200);
/// What a command must not see of the agent's environment.
const SECRET_ENV: &str = "MUSTER_JOIN";

/// Why the table `[handlers]` or `[content]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HandlersError {
    /// Not a table of commands.
    #[error("the table [{table}] cannot be read")]
    Table {
        /// `handlers` or `content`.
        table: &'static str,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// A key that is not a kind.
    #[error("[handlers.{kind}]: {kind:?} is not the name of a kind")]
    Kind {
        /// The key.
        kind: String,
        /// What is wrong with it.
        source: domain::IdError,
    },
    /// A key that is not a channel.
    #[error("[content.{channel:?}]: {channel:?} is not the name of a channel")]
    Channel {
        /// The key.
        channel: String,
        /// What is wrong with it.
        source: domain::content::ChannelNameError,
    },
    /// A command without a program, or with one that is not an absolute path or a plain name.
    #[error("[{table}]: {field} must name a program, as in [\"/usr/local/bin/reload\", \"--now\"]")]
    Command {
        /// The kind's or channel's table.
        table: String,
        /// `command` or `health`.
        field: &'static str,
    },
    /// A timeout out of bounds.
    #[error("[{table}]: timeout: {problem}")]
    Timeout {
        /// The kind's or channel's table.
        table: String,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    command: Vec<String>,
    #[serde(default)]
    health: Option<Vec<String>>,
    #[serde(default)]
    timeout: Option<String>,
}

#[derive(Debug, Clone)]
struct Commands {
    apply: Vec<String>,
    health: Option<Vec<String>>,
    timeout: Duration,
}

/// Runs a command for each kind and each channel that has one.
#[derive(Debug, Clone, Default)]
pub struct CommandHandler {
    by_kind: BTreeMap<KindName, Commands>,
    by_channel: BTreeMap<ChannelName, Commands>,
    /// Working directory of the commands.
    directory: PathBuf,
}

impl CommandHandler {
    /// Reads the table `[handlers]`: `[handlers.<kind>]` with `command`, and optionally `health` and `timeout`
    /// (for each of the two; `30s` unless set, at most `1h`).
    ///
    /// # Errors
    /// [`HandlersError`] names the kind and the key.
    pub fn from_table(table: Option<&toml::Value>, directory: PathBuf) -> Result<Self, HandlersError> {
        let mut by_kind = BTreeMap::new();
        for (key, entry) in entries("handlers", table)? {
            let kind =
                KindName::new(&key).map_err(|source| HandlersError::Kind { kind: key.clone(), source })?;
            by_kind.insert(kind, Commands::new(&format!("handlers.{key}"), entry)?);
        }
        Ok(Self { by_kind, by_channel: BTreeMap::new(), directory })
    }

    /// Reads the table `[content]` as well: `[content."<channel>"]` with the same keys.
    ///
    /// # Errors
    /// [`HandlersError`] names the channel and the key.
    pub fn with_content(mut self, table: Option<&toml::Value>) -> Result<Self, HandlersError> {
        for (key, entry) in entries("content", table)? {
            let channel = ChannelName::new(&key)
                .map_err(|source| HandlersError::Channel { channel: key.clone(), source })?;
            self.by_channel.insert(channel, Commands::new(&format!("content.{key:?}"), entry)?);
        }
        Ok(self)
    }

    /// Identifies the configuration for policies: an item that failed is tried again when its handler changed.
    #[must_use]
    pub fn fingerprint(&self) -> domain::Digest {
        domain::Digest::of(format!("{:?}", self.by_kind).as_bytes())
    }

    /// Identifies the configuration for content, for the same reason.
    #[must_use]
    pub fn content_fingerprint(&self) -> domain::Digest {
        domain::Digest::of(format!("{:?}", self.by_channel).as_bytes())
    }

    async fn run(&self, argv: &[String], timeout: Duration, env: &[(&str, String)]) -> Result<(), String> {
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .current_dir(&self.directory)
            .env_remove(SECRET_ENV)
            .envs(env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("cannot run {:?}: {error}", argv[0]))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stderr = child.stderr.take().expect("invariant: stderr is piped");
        let mut tail = Vec::new();
        let ended = {
            let mut reading = std::pin::pin!(read_tail(stderr, &mut tail).fuse());
            let wait = async {
                tokio::select! {
                    status = child.wait() => status,
                    () = &mut reading => child.wait().await,
                }
            };
            let ended = tokio::time::timeout(timeout, wait).await;
            if ended.is_err() {
                // The whole group: a shell's children would live on otherwise.
                if let Some(group) = group {
                    let _gone = kill_process_group(group, Signal::KILL);
                }
            }
            if !reading.is_terminated() {
                let _rest = tokio::time::timeout(STDERR_GRACE, &mut reading).await;
            }
            ended
        };
        let tail = String::from_utf8_lossy(&tail);
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{:?} {}: {}", argv[0], how(status), tail.trim())),
            Ok(Err(error)) => Err(format!("cannot wait for {:?}: {error}", argv[0])),
            Err(_) => {
                Err(format!("{:?} took longer than {} s: {}", argv[0], timeout.as_secs_f32(), tail.trim()))
            }
        }
    }
}

fn entries(
    name: &'static str,
    table: Option<&toml::Value>,
) -> Result<BTreeMap<String, Entry>, HandlersError> {
    let Some(table) = table else { return Ok(BTreeMap::new()) };
    table.clone().try_into().map_err(|error| HandlersError::Table { table: name, source: Box::new(error) })
}

impl Commands {
    fn new(table: &str, entry: Entry) -> Result<Self, HandlersError> {
        let check = |field, argv: &[String]| match argv.first() {
            Some(program) if !program.is_empty() => Ok(()),
            _ => Err(HandlersError::Command { table: table.to_owned(), field }),
        };
        check("command", &entry.command)?;
        entry.health.as_deref().map_or(Ok(()), |argv| check("health", argv))?;
        let refuse = |problem| HandlersError::Timeout { table: table.to_owned(), problem };
        let timeout = match entry.timeout.as_deref() {
            None => DEFAULT_TIMEOUT,
            Some(text) => runtime::config::duration(text).map_err(refuse)?,
        };
        if timeout.is_zero() || timeout > MAX_TIMEOUT {
            return Err(refuse("must be more than 0 and at most 1h".to_owned()));
        }
        Ok(Self { apply: entry.command, health: entry.health, timeout })
    }
}

/// Reads to the end and keeps the last [`STDERR_TAIL_BYTES`].
async fn read_tail(mut from: impl AsyncRead + Unpin, tail: &mut Vec<u8>) {
    let mut buffer = [0; 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => tail.extend_from_slice(&buffer[..read]),
        }
        let excess = tail.len().saturating_sub(STDERR_TAIL_BYTES);
        tail.drain(..excess);
    }
}

fn how(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with code {code}"),
        None => "was killed by a signal".to_owned(),
    }
}

impl Handler for CommandHandler {
    fn handles(&self, kind: &KindName) -> bool {
        self.by_kind.contains_key(kind)
    }

    async fn apply(&self, change: PolicyChange) -> Result<(), String> {
        let Some(commands) = self.by_kind.get(&change.kind) else { return Ok(()) };
        let action = if change.document.is_some() { "apply" } else { "remove" };
        let file = change.file.map(|file| file.display().to_string()).unwrap_or_default();
        let env = [
            ("MUSTER_KIND", change.kind.to_string()),
            ("MUSTER_ACTION", action.to_owned()),
            ("MUSTER_FILE", file),
        ];
        self.run(&commands.apply, commands.timeout, &env).await
    }

    async fn check_health(&self, kind: &KindName) -> Result<(), String> {
        let Some(commands) = self.by_kind.get(kind) else { return Ok(()) };
        let Some(health) = &commands.health else { return Ok(()) };
        let env = [("MUSTER_KIND", kind.to_string()), ("MUSTER_ACTION", "health".to_owned())];
        self.run(health, commands.timeout, &env).await.map_err(|reason| format!("health check: {reason}"))
    }

    async fn apply_content(&self, change: ContentChange) -> Result<(), String> {
        let Some(commands) = self.by_channel.get(&change.channel) else { return Ok(()) };
        let action = if change.revision.is_some() { "apply" } else { "remove" };
        self.run(&commands.apply, commands.timeout, &content_env(&change, action)).await
    }

    async fn check_content(&self, change: &ContentChange) -> Result<(), String> {
        let Some(commands) = self.by_channel.get(&change.channel) else { return Ok(()) };
        let Some(health) = &commands.health else { return Ok(()) };
        let ended = self.run(health, commands.timeout, &content_env(change, "health")).await;
        ended.map_err(|reason| format!("health check: {reason}"))
    }
}

/// What a command for content learns.
fn content_env(change: &ContentChange, action: &str) -> [(&'static str, String); 5] {
    let revision = change.revision;
    [
        ("MUSTER_CHANNEL", change.channel.to_string()),
        ("MUSTER_ACTION", action.to_owned()),
        ("MUSTER_CONTENT_DIR", change.dir.display().to_string()),
        ("MUSTER_CONTENT_REVISION", revision.map(|held| held.number.to_string()).unwrap_or_default()),
        ("MUSTER_CONTENT_MANIFEST", revision.map(|held| held.manifest.to_string()).unwrap_or_default()),
    ]
}
