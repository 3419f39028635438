//! Real agents, a process each, that fetch the same content at once; and a web server that sends as many bytes.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use wire::api::v1::RevisionDetail;

use crate::children::Running;
use crate::control::{Control, GROUP};
use crate::{Bench, machine, say};

/// The channel of the work.
pub const CHANNEL: &str = "bench/made";
/// The stage that the agents follow.
const STAGE: &str = "stable";
/// How long one step may take: patches are made at a strong level.
const STEP_TIMEOUT: Duration = Duration::from_secs(900);
/// How often a state is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// What a delivery to all agents took.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// From the promote to the last agent's report that the content is in force.
    pub time: Duration,
    /// Bytes that the agents fetched, as they travelled.
    pub fetched: u64,
    /// Processor time of `musterd`, milliseconds of one core.
    pub musterd_ms: f64,
    /// Processor time of the broker, milliseconds of one core.
    pub broker_ms: f64,
    /// Processor time of all agents, milliseconds of one core.
    pub agents_ms: f64,
}

/// What a web server took to send the same bytes to as many clients.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// From the first connect to the last byte.
    pub time: Duration,
    /// Bytes of all bodies.
    pub bytes: u64,
    /// Processor time of the server, milliseconds of one core.
    pub server_ms: f64,
}

/// A control plane with a channel, and agents that follow it.
pub struct Fleet {
    control: Control,
    agents: Vec<Running>,
    muster: PathBuf,
    dir: TempDir,
}

fn beside(bench: &Bench, name: &str) -> Result<PathBuf> {
    let path = bench.musterd()?.with_file_name(name);
    ensure!(path.is_file(), "{} is missing: build it with cargo build --release --bins", path.display());
    Ok(path)
}

/// What the agents get of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// As much as everybody else.
    Fair,
    /// What everybody else leaves of the processor (`SCHED_IDLE` of Linux), and memory as their disk: nearly as if they
    /// were on machines of their own, whose `fsync` does not wait for that of the broker, nor the broker's for theirs.
    Rest,
}

impl Share {
    /// Where the agents keep their state.
    fn state_dir(self) -> Result<TempDir> {
        let mut prefixed = tempfile::Builder::new();
        let prefixed = prefixed.prefix("muster-bench-agents-");
        let memory = Path::new("/dev/shm");
        Ok(match self {
            Self::Rest if memory.is_dir() => prefixed.tempdir_in(memory)?,
            Self::Rest | Self::Fair => prefixed.tempdir()?,
        })
    }
}

fn agent_command(binary: &Path, share: Share) -> Command {
    match share {
        Share::Fair => Command::new(binary),
        Share::Rest => {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0"]).arg(binary);
            command
        }
    }
}

impl Fleet {
    /// Starts the control plane, pushes `content` and starts `count` agents whose group follows the channel;
    /// nothing is assigned yet. Returns the time of the push.
    ///
    /// # Errors
    /// When anything does not start.
    pub async fn start(
        bench: &Bench,
        content: &Path,
        (count, share): (usize, Share),
    ) -> Result<(Self, Duration)> {
        let mut control = Control::start(&bench.musterd()?, &bench.nats_server).await?;
        control.prepare(4096).await?;
        let dir = share.state_dir()?;
        let muster = beside(bench, "muster")?;
        let mut fleet = Self { control, agents: Vec::new(), muster, dir };
        let pushed = fleet.push(content).await?;
        fleet.control.follow(CHANNEL, STAGE).await?;
        let token = fleet.control.token(count).await?;
        let agent = beside(bench, "muster-agent")?;
        for n in 0..count {
            let log = std::fs::File::create(fleet.dir.path().join(format!("{n}.log")))?;
            let mut command = agent_command(&agent, share);
            command
                .args(["run", "--start-spread", "0s", "--id", &format!("agent-{n}"), "--join", &token])
                .arg("--state-dir")
                .arg(fleet.dir.path().join(n.to_string()))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            fleet.agents.push(Running::start("muster-agent", &mut command)?);
        }
        let begin = Instant::now();
        loop {
            let status = fleet.control.status(0).await?;
            if status.all.is_some_and(|all| all.current == u64::try_from(count).unwrap_or(u64::MAX)) {
                return Ok((fleet, pushed));
            }
            ensure!(begin.elapsed() < STEP_TIMEOUT, "the agents do not come up");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Pushes one more revision.
    ///
    /// # Errors
    /// When the upload fails.
    pub async fn push(&mut self, content: &Path) -> Result<Duration> {
        let begin = Instant::now();
        self.muster(&["content", "push", CHANNEL, &content.to_string_lossy()]).await?;
        Ok(begin.elapsed())
    }

    async fn muster(&self, args: &[&str]) -> Result<()> {
        let mut command = tokio::process::Command::new(&self.muster);
        command.args(args).env("MUSTER_DATA_DIR", self.control.data_dir()).kill_on_drop(true);
        let output = command.output().await?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "muster {} failed: {told}", args.join(" "));
        Ok(())
    }

    /// Waits until everything that leads to the newest revision has been made.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn prepared(&mut self) -> Result<RevisionDetail> {
        let begin = Instant::now();
        while begin.elapsed() < STEP_TIMEOUT {
            let detail = self.control.newest(CHANNEL).await?;
            let first = detail.revision.as_ref().is_some_and(|revision| revision.revision == 1);
            if detail.full_bytes > 0 && (first || !detail.patches.is_empty()) {
                return Ok(detail);
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("the patches are not made in time")
    }

    /// Promotes the newest revision and waits until all agents have it in force.
    ///
    /// # Errors
    /// When one fails or does not get there in time.
    pub async fn deliver(&mut self) -> Result<Delivery> {
        say(&format!("W3 delivers to {} agents", self.agents.len()));
        let before = (self.control.processor_ms(), self.agents_ms());
        let fetched_before = self.fetched().await?;
        let begin = Instant::now();
        let revision = self.control.promote(CHANNEL, STAGE).await?;
        let all = u64::try_from(self.agents.len())?;
        let time = loop {
            let status = self.control.content_status(CHANNEL).await?;
            if let Some(failure) = status.failures.first() {
                bail!("content failed on {}: {}", failure.agent, failure.reason);
            }
            let there = status.revisions.iter().find(|one| one.revision == revision);
            if status.current == all && there.is_some_and(|one| one.active == all) {
                break begin.elapsed();
            }
            ensure!(begin.elapsed() < STEP_TIMEOUT, "{} of {all} agents got it in time", status.current);
            tokio::time::sleep(POLL).await;
        };
        let (musterd, broker) = self.control.processor_ms();
        let fetched = self.fetched().await?.saturating_sub(if revision == 1 { fetched_before } else { 0 });
        let delivery = Delivery {
            time,
            fetched,
            musterd_ms: musterd - before.0.0,
            broker_ms: broker - before.0.1,
            agents_ms: self.agents_ms() - before.1,
        };
        say(&format!("W3 revision {revision} on {all} agents: {delivery:?}"));
        Ok(delivery)
    }

    /// Bytes fetched for what is assigned now, all agents together.
    async fn fetched(&mut self) -> Result<u64> {
        let status = self.control.content_status(CHANNEL).await?;
        Ok(status.bytes.map_or(0, |bytes| bytes.patch + bytes.chunk + bytes.full))
    }

    fn agents_ms(&self) -> f64 {
        self.agents.iter().map(|agent| machine::processor_ms(&agent.id().to_string())).sum()
    }

    /// The most resident memory that any agent had so far, in bytes.
    #[must_use]
    pub fn agent_peak_bytes(&self) -> u64 {
        let peaks = self.agents.iter().map(|agent| machine::peak_resident_bytes(&agent.id().to_string()));
        peaks.max().unwrap_or_default()
    }

    /// The most resident memory that `musterd`, all its services, had so far, in bytes.
    #[must_use]
    pub fn musterd_peak_bytes(&self) -> u64 {
        self.control.peak_bytes()
    }

    /// The control plane.
    pub fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Name of the agents' group.
    #[must_use]
    pub fn group(&self) -> &'static str {
        GROUP
    }
}

/// nginx with `sendfile` serves a file of `bytes` to `clients` at once. `None` if there is no nginx.
///
/// # Errors
/// When nginx is there and does not serve.
pub async fn nginx(bytes: u64, clients: usize) -> Result<Option<Sent>> {
    if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    let dir = tempfile::Builder::new().prefix("muster-bench-nginx-").tempdir()?;
    let path = dir.path();
    let mut file = std::fs::File::create(path.join("content"))?;
    let block: Vec<u8> = (0..1_u32 << 16).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut left = bytes;
    while left > 0 {
        let some = usize::try_from(left.min(block.len() as u64))?;
        file.write_all(&block[..some])?;
        left -= some as u64;
    }
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let place = path.display();
    std::fs::write(
        path.join("nginx.conf"),
        format!(
            "daemon off; user root; worker_processes auto; pid {place}/pid; error_log {place}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ sendfile on; tcp_nopush on; access_log off; client_body_temp_path {place}/a; proxy_temp_path {place}/b;\n\
             fastcgi_temp_path {place}/c; uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;\n\
             server {{ listen 127.0.0.1:{port}; root {place}; }} }}\n"
        ),
    )?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(path.join("nginx.conf")).arg("-p").arg(path).stderr(Stdio::null());
    let mut server = Running::start("nginx", &mut command)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    server.until(async || TcpStream::connect(address).await.ok()).await?;
    let workers = crate::children::children_of(server.id());
    let used = || workers.iter().map(|id| machine::processor_ms(&id.to_string())).sum::<f64>();
    let (begin, before) = (Instant::now(), used());
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(download(address));
    }
    let mut received = 0;
    while let Some(done) = tasks.join_next().await {
        received += done??;
    }
    let sent = Sent { time: begin.elapsed(), bytes: received, server_ms: used() - before };
    ensure!(received >= bytes * u64::try_from(clients)?, "nginx sent {received} bytes");
    say(&format!("W3 nginx to {clients} clients: {sent:?}"));
    Ok(Some(sent))
}

async fn download(address: SocketAddr) -> Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /content HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
    let mut buffer = vec![0; 1 << 16];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await.context("the download broke off")? {
            0 => return Ok(received),
            some => received += u64::try_from(some)?,
        }
    }
}
