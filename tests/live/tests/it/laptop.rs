//! `musterd all` as it runs on a laptop: beside a broker of its own, with nothing prepared.

use std::path::{Path, PathBuf};

use live::{ADMIN_TOKEN, AgentProcess, Cli, Process, until};

/// One that was stopped; its directory stays.
pub(crate) struct Stopped(tempfile::TempDir);

impl Stopped {
    /// Starts it again.
    pub(crate) async fn started(self, env: &[(&str, &str)]) -> Laptop {
        Laptop::start_in(self.0, env).await
    }
}

/// The broker of a `musterd all`, which outlives one that is killed: ended when this is dropped.
struct Broker(PathBuf);

impl Drop for Broker {
    fn drop(&mut self) {
        let Ok(pid) = std::fs::read_to_string(self.0.join("nats.pid")) else { return };
        let command = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
        if command.contains(&*self.0.to_string_lossy()) {
            drop(std::process::Command::new("kill").arg(pid.trim()).status());
        }
    }
}

/// A `musterd all` with a broker of its own.
pub(crate) struct Laptop {
    pub(crate) musterd: Process,
    _broker: Broker,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) api: String,
    pub(crate) broker: String,
}

impl Laptop {
    /// Starts it, with an environment of its own, and waits until it is ready.
    pub(crate) async fn start(env: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory can be made"), env).await
    }

    /// Stops it and starts it again, with another environment.
    pub(crate) async fn restart(self, env: &[(&str, &str)]) -> Self {
        self.stopped().await.started(env).await
    }

    /// Stops it.
    pub(crate) async fn stopped(mut self) -> Stopped {
        assert!(self.musterd.stop().await.success(), "{}", self.musterd.log());
        Stopped(self.dir)
    }

    async fn start_in(dir: tempfile::TempDir, env: &[(&str, &str)]) -> Self {
        let args = ["all", "--data-dir", "data", "--listen", "127.0.0.1:0"];
        let found = runtime::nats_server::find(None).await.expect("nats-server is there: make tools");
        let found = found.canonicalize().expect("it exists").to_string_lossy().into_owned();
        let env = [&[("MUSTER_NATS_SERVER", found.as_str())], env].concat();
        // A log begins where that of the life before ended.
        let said = std::fs::read_to_string(dir.path().join("musterd.log")).map_or(0, |log| log.len());
        let musterd = Process::start(dir.path(), "musterd", "musterd", &args, &env);
        until("musterd is ready", || {
            let log = musterd.log().split_off(said);
            // Each fleet says so.
            let fleets = 1 + env.iter().filter(|(name, _)| *name == "MUSTER_ALSO_FLEET").count();
            if log.matches("all services are ready").count() >= fleets { Ok(()) } else { Err(log) }
        })
        .await;
        std::fs::copy(dir.path().join("data/admin.token"), dir.path().join(ADMIN_TOKEN))
            .expect("it made a token for its owner");
        let addresses = std::fs::read(dir.path().join("data/addresses.json")).expect("it says where it is");
        let addresses: serde_json::Value = serde_json::from_slice(&addresses).expect("JSON");
        let text = |value: &serde_json::Value| value.as_str().expect("an address").to_owned();
        let broker = Broker(dir.path().join("data/nats"));
        Self {
            api: text(&addresses["api"]),
            broker: text(&addresses["nats"][0]),
            musterd,
            _broker: broker,
            dir,
        }
    }

    /// The CA that vouches for it.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("data/tls/ca.pem")
    }

    /// The CLI, with a CA of its own choice.
    pub(crate) fn cli(&self, ca: &Path) -> Cli {
        Cli::new(self.api.trim_start_matches("https://"), ca, self.dir.path().to_owned())
    }

    /// An agent in the group `/push`, not started.
    pub(crate) async fn agent(&self, id: &str) -> AgentProcess {
        let made = self.cli(&self.ca()).json("token create --group /push").await;
        AgentProcess::new(self.dir.path(), id, made["token"].as_str().expect("an answer has a token"))
    }
}
