//! One child process: its configuration file, its start until it takes connections, its end.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::Notify;
use tokio::time::Instant;

#[cfg(target_os = "linux")]
use super::leftover;
use crate::broker::{InitError, server_config};
use crate::tasks::{Attached, attach};
use crate::tls::{ServerTls, verified};

/// Time until it takes connections. A store of gigabytes is read at the start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time to end by itself; then it is killed. With `sync_interval: always` nothing acknowledged is lost.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between looks at a starting server.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Lines of its log that are kept for the message when it ends unexpectedly.
const KEPT_LINES: usize = 8;

/// Storage that streams may reserve. More than their limits add up to: a disk that is full shows when it is
/// written to, with a clear error, and not as a server that does not start.
const MAX_FILE_STORE: &str = "64GB";

/// Ports that a server gets that was not told one. Below those that systems hand to outgoing connections
/// (Linux: from 32768, IANA: from 49152): agents know the port, so it must still be free after a restart.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Ports tried before the system is asked for one. One in two would have to be taken to try this many.
const PORT_TRIES: u32 = 16;

/// Its configuration.
const CONFIG: &str = "nats.conf";

/// Where it writes its process id.
const PID: &str = "nats.pid";

/// Folder for the accounts that it was told of.
const ACCOUNTS: &str = "accounts";

/// Where and how to run it.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The binary, from [`super::find`].
    pub binary: PathBuf,
    /// Its directory: configuration, process id and the JetStream store.
    pub dir: PathBuf,
    /// Port on 127.0.0.1; `None` takes a free one from 20000 to 31999 at the first start and keeps it over
    /// restarts.
    pub port: Option<u16>,
    /// Sync every write to disk before it is acknowledged. Off is for benches that measure something else.
    pub sync_always: bool,
    /// TLS; without it the server speaks plaintext, on loopback as always.
    pub tls: Option<ServerTls>,
    /// Who may do what, as [`crate::broker::server_config`] says it; `None` lets everyone in.
    pub operator: Option<String>,
}

impl Setup {
    /// A server in `dir` on a free port that syncs every write.
    #[must_use]
    pub fn new(binary: PathBuf, dir: impl Into<PathBuf>) -> Self {
        Self { binary, dir: dir.into(), port: None, sync_always: true, operator: None, tls: None }
    }

    /// The same, in the hands of the operator in `broker`, which [`crate::broker::init`] made.
    ///
    /// # Errors
    /// [`InitError`] if something is missing there.
    pub fn with_operator(self, broker: &Path) -> Result<Self, InitError> {
        let operator = Some(server_config(broker, &self.dir.join(ACCOUNTS))?);
        Ok(Self { operator, ..self })
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its directory or a file in it cannot be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// "create", "write" or "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The binary cannot be started.
    #[error("cannot start {}", binary.display())]
    Spawn {
        /// The binary.
        binary: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended instead of taking connections.
    #[error("nats-server ended at its start ({status}); it said: {said}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        said: String,
    },
    /// It takes no connections.
    #[error("nats-server takes no connections {} s after its start", START_TIMEOUT.as_secs())]
    Late,
    /// Another process has the port.
    #[error(
        "nats-server cannot listen on port {port} of 127.0.0.1: it is in use; agents know this port, so free it, or choose another with --nats-port"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// A signal could not be sent, or its end not be awaited.
    #[error("nats-server cannot be signalled")]
    Signal(#[source] std::io::Error),
}

/// A running (or killed) server. Killed when dropped.
pub struct NatsServer {
    setup: Setup,
    port: u16,
    child: Child,
    said: Said,
    reload: Reload,
    _log: Attached,
}

/// Tells a supervised server that its certificate is another. Clones tell the same server.
#[derive(Debug, Clone, Default)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// Lets the server read its files again, soon.
    pub fn request(&self) {
        self.0.notify_one();
    }

    pub(super) async fn requested(&self) {
        self.0.notified().await;
    }
}

type Said = Arc<Mutex<VecDeque<String>>>;

impl NatsServer {
    /// Starts it and waits until it takes connections. A server that an earlier process left behind in the
    /// same directory is ended first.
    ///
    /// # Errors
    /// [`ServerError`] with the end of its log.
    pub async fn start(setup: Setup) -> Result<Self, ServerError> {
        let store = setup.dir.join("store");
        std::fs::create_dir_all(&store).map_err(|source| ServerError::File {
            action: "create",
            path: store,
            source,
        })?;
        #[cfg(target_os = "linux")]
        leftover::end(&setup.dir.join(CONFIG), &setup.dir.join(PID)).await?;
        if let Some(port) = setup.port
            && std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
        {
            return Err(ServerError::PortInUse { port });
        }
        let mut tries = PORT_TRIES;
        loop {
            let port = setup.port.or_else(free_port);
            let (child, said, log) = spawn(&setup, port)?;
            let (port, reload) = (port.unwrap_or_default(), Reload::default());
            let mut server = Self { port, setup: setup.clone(), child, said, reload, _log: log };
            tries -= 1;
            match server.wait_ready().await {
                Ok(()) => return Ok(server),
                // Another process may have taken the free port in the meantime.
                Err(ServerError::Ended { .. }) if setup.port.is_none() && tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls.is_some() { "tls" } else { "nats" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.setup.dir
    }

    /// Its process id; `None` once it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// How others ask that it reads its files again, while it is supervised.
    #[must_use]
    pub fn reloads(&self) -> Reload {
        self.reload.clone()
    }

    /// Lets it read its configuration and certificates again (SIGHUP). Connections stay.
    ///
    /// # Errors
    /// [`ServerError::Signal`].
    pub fn reload(&self) -> Result<(), ServerError> {
        self.signal(Signal::HUP)
    }

    /// Stops it in its tracks (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    /// [`ServerError::Signal`].
    pub fn pause(&self) -> Result<(), ServerError> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`NatsServer::pause`].
    ///
    /// # Errors
    /// [`ServerError::Signal`].
    pub fn resume(&self) -> Result<(), ServerError> {
        self.signal(Signal::CONT)
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// [`ServerError::Signal`].
    pub async fn kill(&mut self) -> Result<(), ServerError> {
        self.child.kill().await.map_err(ServerError::Signal)
    }

    /// Ends it in order (SIGTERM); kills it if it takes longer than 5 s.
    ///
    /// # Errors
    /// [`ServerError::Signal`].
    pub async fn stop(&mut self) -> Result<(), ServerError> {
        if self.child.id().is_none() {
            return Ok(());
        }
        // One that is paused could not obey.
        self.signal(Signal::CONT)?;
        self.signal(Signal::TERM)?;
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            tracing::warn!("nats-server does not stop: killing it");
            self.kill().await?;
        }
        Ok(())
    }

    /// Starts it again after it ended, with the same store and port.
    ///
    /// # Errors
    /// [`ServerError`] as for [`NatsServer::start`].
    pub async fn start_again(&mut self) -> Result<(), ServerError> {
        (self.child, self.said, self._log) = spawn(&self.setup, Some(self.port))?;
        self.wait_ready().await
    }

    /// Waits until it ends. Cancel-safe.
    ///
    /// # Errors
    /// [`ServerError::Signal`] if that cannot be found out.
    pub async fn ended(&mut self) -> Result<ExitStatus, ServerError> {
        self.child.wait().await.map_err(ServerError::Signal)
    }

    /// The end of its log in one line.
    pub(crate) fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().cloned().collect::<Vec<_>>().join("; ")
    }

    fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)) else {
            return Ok(());
        };
        kill_process(pid, signal).map_err(|error| ServerError::Signal(error.into()))
    }

    async fn wait_ready(&mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let ports = self.child.id().map(|pid| self.setup.dir.join(format!("nats-server_{pid}.ports")));
        loop {
            if let Some(status) = self.child.try_wait().map_err(ServerError::Signal)? {
                // Its last words may still be in the pipe.
                tokio::time::sleep(LOOK_AGAIN).await;
                return Err(ServerError::Ended { status, said: self.said() });
            }
            if let Some(port) = ports.as_deref().and_then(read_port)
                && takes_connections(port, self.setup.tls.as_ref()).await
            {
                self.port = port;
                return Ok(());
            }
            if Instant::now() >= deadline {
                self.kill().await?;
                return Err(ServerError::Late);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// A port of 127.0.0.1 that nobody listens on at this moment, from 20000 to 31999: none that the system gives to an
/// outgoing connection before it is used. `None` if many tries found none.
fn free_port() -> Option<u16> {
    (0..PORT_TRIES)
        .map(|_| rand::random_range(FREE_PORTS))
        .find(|port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
}

fn spawn(setup: &Setup, port: Option<u16>) -> Result<(Child, Said, Attached), ServerError> {
    let path = setup.dir.join(CONFIG);
    std::fs::write(&path, configuration(setup, port)).map_err(|source| ServerError::File {
        action: "write",
        path: path.clone(),
        source,
    })?;
    let mut child = Command::new(&setup.binary)
        .arg("--config")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C in a terminal goes to the whole foreground group; this child is stopped last instead.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ServerError::Spawn { binary: setup.binary.clone(), source })?;
    let stderr = child.stderr.take().expect("invariant: stderr is piped");
    let said = Said::default();
    let log = attach(pass_on(stderr, Arc::clone(&said)));
    Ok((child, said, log))
}

fn configuration(setup: &Setup, port: Option<u16>) -> String {
    let dir = setup.dir.display();
    let port = port.map_or("-1".to_owned(), |port| port.to_string());
    let mut text = String::from("# Written at each start.\n");
    let sync = if setup.sync_always { "always" } else { "2m" };
    let lines = format!(
        "listen: \"127.0.0.1:{port}\"\n\
         server_name: muster\n\
         ports_file_dir: {dir:?}\n\
         pid_file: \"{dir}/{PID}\"\n\
         logtime: false\n\
         max_connections: 200000\n\
         ping_interval: \"30s\"\n\
         jetstream {{\n  store_dir: \"{dir}/store\"\n  max_file_store: {MAX_FILE_STORE}\n  sync_interval: {sync}\n}}\n",
        dir = dir.to_string(),
    );
    text.write_str(&lines).expect("invariant: writing to a String succeeds");
    text.extend(setup.tls.as_ref().map(ServerTls::configuration));
    text.push_str(setup.operator.as_deref().unwrap_or_default());
    text
}

fn read_port(ports: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(ports).ok()?;
    let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

/// Whether it greets with its INFO line, with JetStream up.
async fn takes_connections(port: u16, tls: Option<&ServerTls>) -> bool {
    let greeting = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        match tls {
            Some(tls) if tls.first => {
                BufReader::new(verified(&tls.ca, stream).await.ok()?).lines().next_line().await.ok()?
            }
            _ => BufReader::new(stream).lines().next_line().await.ok()?,
        }
    };
    let greeting = tokio::time::timeout(Duration::from_secs(1), greeting).await.ok().flatten();
    greeting.is_some_and(|line| line.starts_with("INFO ") && line.contains("\"jetstream\":true"))
}

/// Passes its log on to ours, one level lower than it thinks of itself.
async fn pass_on(stderr: ChildStderr, said: Said) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let text = line.split_once("] ").map_or(line.as_str(), |(_, text)| text);
        match text.get(..5) {
            Some("[ERR]" | "[FTL]") => tracing::warn!(target: "nats_server", "{text}"),
            Some("[WRN]") => tracing::info!(target: "nats_server", "{text}"),
            _ => tracing::debug!(target: "nats_server", "{text}"),
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() == KEPT_LINES {
            said.pop_front();
        }
        said.push_back(text.to_owned());
    }
}
