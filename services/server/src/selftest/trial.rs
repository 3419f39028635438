//! What a test does, and takes back.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use wire::api_token::BearerToken;

use super::SelftestArgs;
use crate::work::Work;

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longest run of one command.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// Longest time for cleaning up: services hear of each other's deletions within moments.
const CLEAN_WITHIN: Duration = Duration::from_secs(60);
/// How long join tokens are good for.
const JOIN_TTL: &str = "1h";
/// Exit code of `muster` for what is not there.
const NOT_FOUND: i32 = 4;

/// Modes of agents: each has a group and an agent of its own.
const MODES: [&str; 2] = ["push", "pull"];

/// A run of the test.
pub(super) struct Trial {
    name: String,
    dir: PathBuf,
    /// Folder of `muster` and `muster-agent`.
    bin: PathBuf,
    /// Options of `muster` that are the same for each service.
    common: Vec<String>,
    policy: String,
    identity: String,
    presence: String,
    ends: Instant,
    agents: Vec<(&'static str, Child)>,
    /// Commands that take back what was made, with their service. The last one comes first.
    undo: Vec<(String, Vec<String>)>,
}

impl Trial {
    pub(super) fn new(
        args: &SelftestArgs,
        name: &str,
        (work, bearer): (&Work, &BearerToken),
    ) -> anyhow::Result<Self> {
        let dir = work.path().to_owned();
        let program = std::env::current_exe().context("this program cannot tell where it lies")?;
        let token = dir.join("api-token");
        keep(&token, &bearer.encode())?;
        let mut common = vec!["--token-file".to_owned(), token.display().to_string()];
        if let Some(ca) = &args.ca_file {
            common.extend(["--ca-file".to_owned(), ca.display().to_string()]);
        }
        let or = |other: &Option<String>| other.clone().unwrap_or_else(|| args.server.clone());
        Ok(Self {
            name: name.to_owned(),
            bin: program.parent().unwrap_or(Path::new("/")).to_owned(),
            common,
            policy: args.server.clone(),
            identity: or(&args.identity_server),
            presence: or(&args.presence_server),
            ends: Instant::now() + args.timeout,
            agents: Vec::new(),
            undo: Vec::new(),
            dir,
        })
    }

    /// All that is tried.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        self.publish(1).await?;
        tracing::info!("published a policy");
        for mode in MODES {
            self.join(mode).await?;
        }
        self.until("both agents run the policy", async |trial| trial.run_round(1)).await?;
        tracing::info!("an agent in push mode and one in pull mode run it");
        self.publish(2).await?;
        self.until("both agents run its change", async |trial| trial.run_round(2)).await?;
        tracing::info!("both run its change");
        self.until("presence shows both agents", async |trial| {
            let group = format!("/{}", trial.name);
            let list = ["agent", "list", "--group", &group, "--children", "--output", "json"];
            let said = trial.muster(&trial.presence, &list).await?;
            Ok(seen(&serde_json::from_str(&said).context("`muster agent list` printed no JSON")?))
        })
        .await?;
        tracing::info!("presence shows both, online and at the head of their groups");
        Ok(())
    }

    /// Takes back what was made. What cannot be is named; the rest is done all the same.
    pub(super) async fn clean_up(&mut self) -> anyhow::Result<()> {
        let ends = Instant::now() + CLEAN_WITHIN;
        let mut left = Vec::new();
        for (mode, agent) in &mut self.agents {
            if let Err(error) = agent.kill().await {
                left.push(format!("the agent in {mode} mode cannot be stopped: {error}"));
            }
        }
        for (server, words) in self.undo.iter().rev() {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            while let Err(error) = self.muster(server, &words).await {
                if Instant::now() >= ends {
                    left.push(format!("`muster {}`: {error:#}", words.join(" ")));
                    break;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        anyhow::ensure!(left.is_empty(), "{}", left.join("; "));
        tracing::info!("took everything back");
        Ok(())
    }

    /// A round of the policy, with all that it needs.
    async fn publish(&mut self, round: u64) -> anyhow::Result<()> {
        if self.undo.is_empty() {
            let name = self.name.clone();
            let groups = MODES.map(|mode| ("group", format!("/{name}/{mode}")));
            let made = [("kind", name.clone()), ("policy", name.clone()), ("group", format!("/{name}"))];
            for (what, which) in made.into_iter().chain(groups) {
                self.undo.push((self.policy.clone(), words(&[what, "delete", &which, "--yes"])));
            }
        }
        let file = self.dir.join("manifests.yaml");
        tokio::fs::write(&file, manifests(&self.name, round)).await?;
        let apply = ["apply", "--file", &file.display().to_string(), "--message", "musterd selftest"];
        self.muster(&self.policy, &apply).await.map(drop)
    }

    /// Lets an agent join.
    async fn join(&mut self, mode: &'static str) -> anyhow::Result<()> {
        let (id, group) = (format!("{}-{mode}", self.name), format!("/{}/{mode}", self.name));
        self.undo.push((self.identity.clone(), words(&["token", "revoke", &id, "--yes"])));
        let create =
            ["token", "create", "--group", &group, "--ttl", JOIN_TTL, "--name", &id, "--output", "json"];
        // Identity may not have heard of the group yet.
        let mut made = Value::Null;
        self.until("identity makes a join token", async |trial| {
            made = match trial.muster(&trial.identity, &create).await {
                Ok(said) => serde_json::from_str(&said).context("`muster token create` printed no JSON")?,
                Err(error) => return Ok(Err(format!("{error:#}"))),
            };
            Ok(Ok(()))
        })
        .await?;
        let token = made["token"].as_str().context("`muster token create` printed no token")?;
        let (state, file) = (self.dir.join(mode), self.dir.join(format!("{mode}.join")));
        keep(&file, token)?;
        self.undo.push((self.identity.clone(), words(&["agent", "delete", &id, "--yes"])));
        let mut agent = self.program("muster-agent");
        agent.arg("run").arg("--join-file").arg(file).arg("--state-dir").arg(state);
        agent.args(["--id", &id, "--start-spread", "0s"]);
        let child = agent.spawn().context("muster-agent cannot be started")?;
        self.agents.push((mode, child));
        Ok(())
    }

    /// Whether both agents run a round of the policy, by what is on their disks.
    fn run_round(&mut self, round: u64) -> anyhow::Result<Result<(), String>> {
        for (mode, child) in &mut self.agents {
            if let Some(status) = child.try_wait()? {
                bail!("the agent in {mode} mode ended: {status}");
            }
            let path = self.dir.join(*mode).join("current/policies").join(format!("{}.json", self.name));
            let text = std::fs::read(&path).unwrap_or_default();
            let document: Value = serde_json::from_slice(&text).unwrap_or_default();
            if document["round"] != round {
                return Ok(Err(format!("the agent in {mode} mode runs {document}")));
            }
        }
        Ok(Ok(()))
    }

    /// Looks until it is so. An error ends the test, `Ok(Err)` is what was seen instead.
    async fn until(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut(&mut Self) -> anyhow::Result<Result<(), String>>,
    ) -> anyhow::Result<()> {
        while let Err(instead) = look(self).await.with_context(|| format!("waiting until {what}"))? {
            if Instant::now() >= self.ends {
                bail!("the time is over before {what}; last seen: {instead}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Runs `muster` against a service. To delete what is not there is as good.
    async fn muster(&self, server: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.program("muster");
        command.args(words).args(&self.common).args(["--server", server]);
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = tokio::time::timeout(COMMAND_WITHIN, output).await;
        let output = output.with_context(|| format!("`muster {}` takes too long", words[0]))?;
        let output = output.context("muster cannot be run")?;
        let gone = output.status.code() == Some(NOT_FOUND) && words.last() == Some(&"--yes");
        if output.status.success() || gone {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        bail!("`muster {}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())
    }

    /// One of our programs, with nothing of this one's surroundings but how to log.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env_clear().stdin(Stdio::null()).kill_on_drop(true).current_dir(&self.dir);
        command.env("XDG_CONFIG_HOME", &self.dir);
        for log in ["MUSTER_LOG", "MUSTER_LOG_FORMAT"] {
            if let Some(value) = std::env::var_os(log) {
                command.env(log, value);
            }
        }
        command
    }
}

/// A secret in a file of our own.
fn keep(path: &Path, secret: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|&word| word.to_owned()).collect()
}

/// A kind, a policy, and a group for each mode.
fn manifests(name: &str, round: u64) -> String {
    let mut text = format!(
        "apiVersion: muster.dev/v1alpha1
kind: PolicyKind
metadata: {{name: {name}}}
spec: {{schema: {{type: object}}}}
---
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {{name: {name}}}
spec: {{kind: {name}, document: {{round: {round}}}}}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {{name: {name}}}
spec: {{path: /{name}, policies: [{name}]}}
"
    );
    for mode in MODES {
        text += &format!(
            "---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {{name: {name}-{mode}}}
spec: {{path: /{name}/{mode}, settings: {{mode: {mode}, heartbeatInterval: 5s}}}}
"
        );
    }
    text
}

/// Whether presence shows an agent of each mode, online and at the head of its group.
fn seen(list: &Value) -> Result<(), String> {
    let agents = list["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let good = |mode: &str| {
        let fits = |agent: &&Value| {
            agent["mode"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(mode))
                && agent["state"] == "ONLINE"
                && agent["progress"] == "CURRENT"
        };
        agents.iter().filter(fits).count() == 1
    };
    if agents.len() == MODES.len() && MODES.into_iter().all(good) { Ok(()) } else { Err(list.to_string()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_applied_can_be_read() {
        let read = wire::manifest::read("selftest", manifests("selftest-a", 2).as_bytes()).unwrap();
        assert_eq!(read.len(), 5);
    }

    #[test]
    fn presence_shows_one_agent_of_each_mode() {
        let agent = |mode: &str, state: &str| json!({ "mode": mode, "state": state, "progress": "CURRENT" });
        let check = |agents: &[Value], holds: bool| {
            assert_eq!(seen(&json!({ "agents": agents })).is_ok(), holds, "{agents:?}");
        };
        check(&[agent("PUSH", "ONLINE"), agent("PULL", "ONLINE")], true);
        check(&[agent("PUSH", "ONLINE")], false);
        check(&[agent("PUSH", "ONLINE"), agent("PUSH", "ONLINE")], false);
        check(&[agent("PUSH", "ONLINE"), agent("PULL", "LATE")], false);
        check(
            &[agent("PUSH", "ONLINE"), json!({ "mode": "PULL", "state": "ONLINE", "progress": "PENDING" })],
            false,
        );
        assert!(seen(&Value::Null).is_err());
    }
}
