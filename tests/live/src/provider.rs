//! An OpenID provider that people of the tests sign in at: node-oidc-provider, which `deploy/tools.sh` installs.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::process::Process;
use crate::wait::until;

/// A provider on loopback. It knows ana (groups ops and all), bob (web) and eve (none), and clients muster and other.
pub struct Provider {
    dir: PathBuf,
    port: u16,
    seconds: u64,
    process: Process,
}

/// The scripts beside the tests.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc").join(name)
}

/// Where the provider is installed.
fn installed() -> PathBuf {
    let tools = std::env::var_os("MUSTER_TOOLS_DIR").map(PathBuf::from);
    let tools = tools.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools"));
    let found = tools.join("oidc-provider");
    assert!(found.exists(), "{} is missing: run `deploy/tools.sh oidc-provider`", found.display());
    found
}

impl Provider {
    /// Starts one whose ID tokens are good for so many seconds. It keeps its key in `dir`.
    pub async fn start(dir: &Path, seconds: u64) -> Self {
        let process = run(dir, 0, seconds);
        let mut provider = Self { dir: dir.to_owned(), port: 0, seconds, process };
        provider.listens(0).await;
        provider
    }

    /// Its name.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// SIGKILL. It forgets who signed in.
    pub async fn stop(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again, at the same address, with the key that it had.
    pub async fn restart(&mut self) {
        let mark = self.process.log().len();
        self.process = run(&self.dir, self.port, self.seconds);
        self.listens(mark).await;
    }

    /// Throws its key away; the next start makes another.
    ///
    /// # Panics
    /// If it has none.
    pub fn forget_key(&self) {
        std::fs::remove_file(self.dir.join(KEYS)).expect("it has a key");
    }

    async fn listens(&mut self, mark: usize) {
        let (process, port) = (&mut self.process, &mut self.port);
        until("the provider listens", || {
            assert_eq!(process.ended(), None, "it ended: {}", process.log());
            let log = process.log();
            let said = log[mark..].lines().find_map(|line| line.strip_prefix("listening "));
            *port = said.and_then(|port| port.parse().ok()).ok_or(log.clone())?;
            Ok(())
        })
        .await;
    }

    /// How often somebody asked for its keys, in all its lives.
    #[must_use]
    pub fn asked_for_keys(&self) -> usize {
        self.process.log().lines().filter(|line| *line == "GET /jwks").count()
    }

    /// A person opens an address in a browser, and agrees to everything, or to nothing.
    ///
    /// # Panics
    /// If the provider does not come to an end with it.
    pub async fn person(&self, url: &str, name: &str, agrees: bool) {
        let mut command = node("person.mjs");
        command.args([url, name]);
        if !agrees {
            command.arg("deny");
        }
        let _ = out(command).await;
    }

    /// A token of its own making: these claims over those of ana, for an hour from now.
    pub async fn token(&self, claims: Value) -> String {
        self.signed(json!({}), claims).await
    }

    /// The same with something else in the header.
    ///
    /// # Panics
    /// If it cannot be signed.
    pub async fn signed(&self, header: Value, changed: Value) -> String {
        let now = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs();
        let mut claims = json!({"iss": self.issuer(), "aud": "muster", "sub": "ana", "groups": ["ops"],
            "iat": now, "exp": now + 3600});
        for (claim, value) in changed.as_object().expect("claims are an object") {
            claims[claim] = value.clone();
        }
        let mut command = node("sign.mjs");
        command.arg(self.dir.join(KEYS)).args([header.to_string(), claims.to_string()]);
        String::from_utf8(out(command).await.stdout).expect("a token is text").trim().to_owned()
    }
}

/// The file with its key.
const KEYS: &str = "provider-keys.json";

fn run(dir: &Path, port: u16, seconds: u64) -> Process {
    let mut command = node("provider.mjs");
    command.arg(port.to_string()).arg(dir.join(KEYS)).arg(seconds.to_string());
    Process::of(dir, "provider", command)
}

fn node(name: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(script(name)).env("MUSTER_OIDC_PROVIDER", installed());
    command
}

async fn out(mut command: Command) -> Output {
    let output = command.kill_on_drop(true).output().await.expect("node can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    output
}
