//! Real agents in processes of their own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::Process;
use crate::tree::Tree;
use crate::wait::until;

/// A `muster-agent` process and its state directory, which outlives the process.
pub struct AgentProcess {
    /// Its id.
    pub id: String,
    /// Its state directory.
    pub state: PathBuf,
    token: String,
    dir: PathBuf,
    config: Option<PathBuf>,
    options: Vec<String>,
    process: Option<Process>,
}

/// What an agent has in force.
pub type Applied = Option<Value>;

impl AgentProcess {
    /// An agent that has not been started.
    ///
    /// # Panics
    /// If its directory cannot be made.
    #[must_use]
    pub fn new(dir: &Path, id: &str, token: &str) -> Self {
        let state = dir.join(format!("state-{id}"));
        Self {
            id: id.to_owned(),
            state,
            token: token.to_owned(),
            dir: dir.to_owned(),
            config: None,
            options: Vec::new(),
            process: None,
        }
    }

    /// Gives it a configuration file.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn with_config(mut self, toml: &str) -> Self {
        let path = self.dir.join(format!("{}.toml", self.id));
        fs::write(&path, toml).expect("the configuration can be written");
        self.config = Some(path);
        self
    }

    /// Gives it further options of `muster-agent run`.
    #[must_use]
    pub fn with_options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Another machine with a copy of this one's disk, which has not been started.
    ///
    /// # Panics
    /// If the disk cannot be copied.
    #[must_use]
    pub fn copied(&self) -> Self {
        let dir = self.dir.join("copy");
        fs::create_dir_all(&dir).expect("a directory can be made");
        let copied = std::process::Command::new("cp").arg("-a").arg(&self.state).arg(&dir).status();
        assert!(copied.is_ok_and(|status| status.success()), "the disk can be copied");
        Self::new(&dir, &self.id, &self.token)
    }

    /// Starts it (again).
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with an environment of its own, for example a crash point.
    pub fn start_with(&mut self, env: &[(&str, &str)]) {
        let state = self.state.to_string_lossy().into_owned();
        let config = self.config.as_ref().map(|path| path.to_string_lossy().into_owned());
        let mut args = vec!["run", "--join", &self.token, "--state-dir", &state, "--id", &self.id];
        if let Some(config) = &config {
            args.extend(["--config", config]);
        }
        args.extend(self.options.iter().map(String::as_str));
        self.process = Some(Process::start(&self.dir, &self.id, "muster-agent", &args, env));
    }

    /// Its process.
    ///
    /// # Panics
    /// If it was never started.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the agent was started")
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process().kill().await;
    }

    /// The document of a kind that is in force on its disk.
    #[must_use]
    pub fn applied(&self, kind: &str) -> Applied {
        let path = self.state.join("current/policies").join(format!("{kind}.json"));
        let text = fs::read_to_string(path).ok()?;
        Some(serde_json::from_str(&text).expect("what is in force is never half a document"))
    }

    /// Where the files of a channel that are in force are found.
    #[must_use]
    pub fn content_link(&self, channel: &str) -> PathBuf {
        self.state.join("content/current").join(channel.replace('/', "--"))
    }

    /// The files of a channel that are in force.
    #[must_use]
    pub fn content(&self, channel: &str) -> Option<Tree> {
        Tree::observe(&self.content_link(channel))
    }

    /// Waits until exactly these files of a channel are in force.
    #[track_caller]
    pub fn holds<'a>(&'a self, channel: &'a str, wanted: &'a Tree) -> impl Future<Output = ()> + 'a {
        until(format!("{} holds {channel}: {wanted:?}", self.id), move || {
            let held = self.content(channel);
            if held.as_ref() == Some(wanted) { Ok(()) } else { Err(format!("{held:?}")) }
        })
    }

    /// Waits until a value of a document is in force.
    #[track_caller]
    pub fn reaches<'a>(
        &'a self,
        kind: &'a str,
        pointer: &'a str,
        wanted: &'a Value,
    ) -> impl Future<Output = ()> + 'a {
        let what = format!("{}: {kind}{pointer} = {wanted}", self.id);
        until(what, move || {
            let applied = self.applied(kind);
            let seen = applied.as_ref().and_then(|document| document.pointer(pointer));
            if seen == Some(wanted) { Ok(()) } else { Err(format!("{applied:?}")) }
        })
    }
}
