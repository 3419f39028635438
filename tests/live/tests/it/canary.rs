//! T30: secrets that are known to the test go through everything, at the highest level of logs, and come out nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use live::until;
use serde_json::json;

use crate::laptop::Laptop;
use crate::seed;

/// A password in a URL, which people put there although they should not.
const PASSWORD: &str = "canary-password-7f3a";
/// Bytes of a secret that, found in a row, give it away.
const TELLING: usize = 12;

/// What must not be found anywhere.
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn text(&mut self, name: &str, text: &str) {
        self.0.push((name.to_owned(), text.as_bytes().to_vec()));
    }

    /// A secret of bytes, in each form in which programs print bytes.
    fn bytes(&mut self, name: &str, secret: &[u8]) {
        let start = &secret[..TELLING];
        let numbers: Vec<String> = start.iter().map(u8::to_string).collect();
        let hex: String = start.iter().map(|byte| format!("{byte:02x}")).collect();
        for (form, bytes) in [
            ("raw", start.to_vec()),
            ("numbers", numbers.join(", ").into_bytes()),
            ("hex", hex.clone().into_bytes()),
            ("HEX", hex.to_uppercase().into_bytes()),
            ("base64", STANDARD.encode(start).into_bytes()),
            ("base64url", URL_SAFE_NO_PAD.encode(start).into_bytes()),
        ] {
            self.0.push((format!("{name} ({form})"), bytes));
        }
    }

    /// A private key in a PEM file: its lines.
    fn pem(&mut self, path: &Path) {
        let text = fs::read_to_string(path).expect("the key is there");
        for line in text.lines().filter(|line| !line.starts_with("-----") && line.len() > 20) {
            self.text(&path.display().to_string(), line);
        }
    }

    fn look(&self, place: &str, found: &[u8]) {
        for (name, secret) in &self.0 {
            let at = found.windows(secret.len()).position(|window| window == secret);
            let Some(at) = at else { continue };
            let around = &found[at.saturating_sub(300)..found.len().min(at + 300)];
            panic!("{name} is in {place}:\n…{}…", String::from_utf8_lossy(around));
        }
    }
}

/// Looks into every file below a directory that others than its owner may read; the rest must be meant so.
fn look_at_files(secrets: &Secrets, dir: &Path, kept: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("it is a directory") {
        let (path, kind) =
            entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))).expect("it can be read");
        if kind.is_dir() {
            look_at_files(secrets, &path, kept);
        } else if kind.is_file() {
            let mode = fs::metadata(&path).expect("it is there").permissions().mode();
            if mode & 0o077 == 0 {
                kept.push(path.display().to_string());
            } else {
                secrets.look(&path.display().to_string(), &fs::read(&path).expect("it can be read"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t30_no_secret_is_logged_printed_or_left_where_others_read() {
    let laptop = Laptop::start(&[("MUSTER_LOG", "trace")]).await;
    let (dir, cli) = (laptop.dir.path(), laptop.cli(&laptop.ca()));
    seed::groups(&cli).await;
    let mut secrets = Secrets(Vec::new());
    secrets.text("password of a URL", PASSWORD);
    for key in ["director.key", "content.key"] {
        secrets.bytes(key, &fs::read(dir.join("data").join(key)).expect("the key is there"));
    }
    for key in ["ca.key", "server.key"] {
        secrets.pem(&dir.join("data/tls").join(key));
    }
    let admin = fs::read_to_string(dir.join("data/admin.token")).expect("it made a token for its owner");
    secrets.text("API token of the administrator", admin.trim());
    let made = cli.json("api-token create canary --role viewer").await;
    secrets.text("API token", made["token"].as_str().expect("an answer has a token"));
    let made = cli.json("token create --group /push --uses 2").await;
    let token = made["token"].as_str().expect("an answer has a token");
    secrets.text("join token", token);
    secrets
        .bytes("secret of the join token", &wire::join::JoinToken::decode(token).expect("it is one").secret);

    let mut agent = live::AgentProcess::new(dir, "push-1", token);
    agent.start_with(&[("MUSTER_LOG", "trace")]);
    agent.reaches("app", "/n", &json!(0)).await;
    let seed = fs::read_to_string(agent.state.join("agent.key")).expect("it has a key");
    secrets.text("key of the agent", seed.trim());

    // What goes wrong is told to people; it must not tell them this.
    let url = format!("tls://user:{PASSWORD}@127.0.0.1:1");
    let mut lost = live::AgentProcess::new(dir, "push-2", token).with_options(&["--nats-url", &url]);
    lost.start_with(&[("MUSTER_LOG", "trace")]);
    until("the other agent tries", || {
        let log = lost.process().log();
        if log.contains("agent starts") { Ok(()) } else { Err(log) }
    })
    .await;
    let args = ["presence", "--nats-url", &url, "--listen", "127.0.0.1:0", "--insecure-plaintext"];
    let mut refused = live::Process::start(dir, "refused", "musterd", &args, &[("MUSTER_LOG", "trace")]);
    assert!(!refused.wait().await.success());
    let damaged = format!("{}x", &token[..token.len() - 1]);
    let args = ["run", "--join", &damaged, "--state-dir", "state-damaged"];
    let mut refused = live::Process::start(dir, "damaged", "muster-agent", &args, &[("MUSTER_LOG", "trace")]);
    assert!(!refused.wait().await.success());

    for line in ["status", "agent list", "agent show push-1", "token list", "api-token list", "group list"] {
        let output = cli.run(&format!("{line} -o json")).await;
        secrets.look(line, output.stdout.as_bytes());
        secrets.look(line, output.stderr.as_bytes());
    }
    agent.process().stop().await;
    lost.process().stop().await;
    let mut kept = Vec::new();
    look_at_files(&secrets, dir, &mut kept);
    for name in ["director.key", "content.key", "ca.key", "server.key", "agent.key", "data/admin.token"] {
        assert!(kept.iter().any(|path| path.ends_with(name)), "{name} is for its owner alone: {kept:?}");
    }
    let log = laptop.musterd.log();
    assert!(log.contains("\"TRACE\""), "the level of logs was the highest");
}
