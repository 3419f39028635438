//! The binary `musterd` as an operator meets it: starts, faults, refusals, stops.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use runtime::nats_server::{NatsServer, Setup, find};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use server::Addresses;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longest wait for any state. Reached only by a failure.
const SOON: Duration = Duration::from_secs(60);

/// A running `musterd`, killed when dropped.
struct Musterd(Child);

impl Drop for Musterd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_musterd"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER_")) {
        if name != "MUSTER_TOOLS_DIR" && name != "MUSTER_NATS_SERVER" {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Musterd {
    fn start(args: &[&str]) -> Self {
        Self(command(args).spawn().expect("musterd starts"))
    }

    fn all(dir: &Path, more: &[&str]) -> Self {
        let dir = dir.to_str().expect("a temporary directory has a plain name");
        Self::start(&[&["all", "--data-dir", dir, "--listen", "127.0.0.1:0"], more].concat())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("musterd runs");
    }

    fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.0.wait().expect("musterd is a child")
    }

    /// Runs a command line that succeeds; returns what it printed.
    fn run_to_its_end(args: &[&str]) -> String {
        let output = command(args).stdout(Stdio::piped()).output().expect("musterd starts");
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).expect("it speaks UTF-8")
    }

    /// Runs a command line that must be refused; returns its exit code and what it said.
    fn refused(args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
        let output =
            command(args).envs(env.iter().copied()).stderr(Stdio::piped()).output().expect("musterd starts");
        (
            output.status.code().expect("it was not killed"),
            String::from_utf8(output.stderr).expect("it speaks UTF-8"),
        )
    }
}

#[track_caller]
fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < SOON, "{what} did not come in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn addresses(dir: &Path) -> Option<Addresses> {
    serde_json::from_slice(&std::fs::read(dir.join("addresses.json")).ok()?).ok()
}

/// The answer of a probe, over TLS if the data directory has a CA: status code and body.
fn probe(dir: &Path, api: &str, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(api.rsplit('/').next()?).await.ok()?;
        let mut answer = String::new();
        if api.starts_with("https://") {
            let mut stream = runtime::tls::verified(&dir.join("tls/ca.pem"), stream).await.ok()?;
            stream.write_all(request.as_bytes()).await.ok()?;
            stream.read_to_string(&mut answer).await.ok()?;
        } else {
            stream.write_all(request.as_bytes()).await.ok()?;
            stream.read_to_string(&mut answer).await.ok()?;
        }
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some(format!("{} {body}", head.split(' ').nth(1)?))
    };
    // A thread of its own, because the test may itself run within a runtime.
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(asked)
    };
    std::thread::scope(|scope| scope.spawn(ask).join().expect("it does not panic"))
}

fn wait_ready(dir: &Path, api: &str) {
    soon("readiness", || (probe(dir, api, "/readyz")? == "200 ready\n").then_some(()));
}

fn nats_pid(dir: &Path) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(dir.join("nats/nats.pid")).ok()?.trim().parse().ok()?)
}

#[test]
fn all_services_start_survive_their_broker_and_stop_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let musterd = Musterd::all(dir.path(), &[]);
    let first = soon("addresses.json", || addresses(dir.path()));
    wait_ready(dir.path(), &first.api);
    assert_eq!(probe(dir.path(), &first.api, "/healthz").unwrap(), "200 ok\n");

    let pid = soon("the broker's pid", || nats_pid(dir.path()));
    kill_process(pid, Signal::KILL).unwrap();
    let other = soon("another broker", || nats_pid(dir.path()).filter(|other| *other != pid));
    wait_ready(dir.path(), &first.api);
    assert!(musterd.stop().success());
    assert!(test_kill_process(other).is_err(), "the broker has ended");
    assert_eq!(addresses(dir.path()), None);

    // Agents know the broker's port: it stays.
    let musterd = Musterd::all(dir.path(), &["--insecure-plaintext"]);
    let second = soon("addresses.json", || addresses(dir.path()));
    assert!(first.api.starts_with("https://127.0.0.1:") && first.nats[0].starts_with("tls://127.0.0.1:"));
    assert!(second.api.starts_with("http://127.0.0.1:"), "as asked for: {}", second.api);
    assert_eq!(second.nats, first.nats);
    wait_ready(dir.path(), &second.api);
    assert!(musterd.stop().success());
}

#[test]
fn a_killed_musterd_leaves_nothing_that_hinders_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut musterd = Musterd::all(dir.path(), &[]);
    let first = soon("addresses.json", || addresses(dir.path()));
    wait_ready(dir.path(), &first.api);
    musterd.0.kill().unwrap();
    musterd.0.wait().unwrap();
    let left_behind = nats_pid(dir.path()).unwrap();
    assert!(test_kill_process(left_behind).is_ok(), "the broker outlives a killed parent");
    let musterd = Musterd::all(dir.path(), &[]);
    let second = soon("new addresses", || addresses(dir.path()).filter(|second| second.pid != first.pid));
    wait_ready(dir.path(), &second.api);
    assert_eq!(second.nats, first.nats);
    assert_ne!(nats_pid(dir.path()).unwrap(), left_behind);
    assert!(musterd.stop().success());
}

#[test]
fn what_cannot_work_is_refused_with_the_way_out() {
    #[track_caller]
    fn check(args: &[&str], env: &[(&str, &str)], (code, expected): (i32, &[&str])) {
        let (found, said) = Musterd::refused(args, env);
        assert_eq!(found, code, "{said}");
        for part in expected {
            assert!(said.contains(part), "{said}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let all = |more: &[&'static str]| [&["all", "--data-dir", data], more].concat();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let address: &'static str = address.to_string().leak();
    check(&all(&["--listen", address]), &[], (1, &["port is in use", "--listen"]));
    check(
        &all(&["--listen", "0.0.0.0:0", "--insecure-plaintext"]),
        &[],
        (1, &["refusing to listen", "without TLS"]),
    );
    let absent = [("MUSTER_NATS_SERVER", "/absent/nats-server")];
    check(
        &all(&["--listen", "127.0.0.1:0"]),
        &absent,
        (1, &["/absent/nats-server cannot be run", "No such file"]),
    );
    check(&all(&["--nats-port", "1", "--nats-url", "nats://x"]), &[], (2, &["cannot be used with"]));
    check(
        &["policy", "--config", "/absent.toml"],
        &[],
        (2, &["cannot read the configuration file /absent.toml"]),
    );
    check(&["policy", "--fleet", "a.b"], &[], (2, &["--fleet", "has the character '.' at byte 1"]));

    let file = dir.path().join("musterd.toml");
    std::fs::write(&file, "fleet = 'x'\nlisten-on = 'y'\n").unwrap();
    check(&["all", "--config", file.to_str().unwrap()], &[], (2, &["unknown key \"listen-on\"", "listen"]));

    std::fs::create_dir_all(data).unwrap();
    std::fs::write(Path::new(data).join("director.key"), "short").unwrap();
    let (code, said) = Musterd::refused(&all(&["--listen", "127.0.0.1:0"]), &[]);
    assert_eq!(code, 1);
    assert!(said.contains("director.key has mode") || said.contains("instead of 32"), "{said}");
}

#[test]
fn one_data_directory_has_one_musterd() {
    let dir = tempfile::tempdir().unwrap();
    let musterd = Musterd::all(dir.path(), &[]);
    soon("addresses.json", || addresses(dir.path()));
    let (code, said) = Musterd::refused(
        &["all", "--data-dir", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"],
        &[],
    );
    assert_eq!(code, 1);
    assert!(said.contains("in use by another musterd"), "{said}");
    assert!(musterd.stop().success());
}

#[tokio::test]
async fn services_run_alone_and_in_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let binary = find(None).await.unwrap();
    let made = Musterd::run_to_its_end(&["init", "--dir", dir.path().join("broker").to_str().unwrap()]);
    assert!(made.contains("made now") && made.contains("--nats-creds"), "{made}");
    let setup = Setup::new(binary, dir.path().join("nats"));
    let setup = setup.with_operator(&dir.path().join("broker")).unwrap();
    let mut nats = NatsServer::start(setup).await.unwrap();
    let url = nats.url();
    let key = dir.path().join("director.key");
    runtime::keys::load_or_create(&key).unwrap();
    let key = key.to_str().unwrap();
    let root_key = dir.path().join("root.key");
    runtime::keys::load_or_create(&root_key).unwrap();
    let root_key = root_key.to_str().unwrap();

    let plain = "--insecure-plaintext";
    let keyed = ["policy", "--nats-url", &url, "--director-key", key, "--listen", "127.0.0.1:0", plain];
    let (_, said) = Musterd::refused(&keyed, &[]);
    assert!(said.contains("refuses the login of musterd policy") && said.contains("--nats-creds"), "{said}");
    let creds = dir.path().join("broker/fleets/default");
    let creds = creds.to_str().unwrap();
    let refused = ["policy", "--nats-url", &url, "--nats-creds", creds, "--listen", "127.0.0.1:0", plain];
    let (code, said) = Musterd::refused(&refused, &[]);
    assert_eq!(code, 1);
    assert!(said.contains("needs the director key") && said.contains("--director-key"), "{said}");

    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let replica = |service: &str| {
        let listen = free();
        // Each is given its own part, as a pod would be.
        let own = format!("{creds}/roles/{service}");
        let args = [service, "--nats-url", &url, "--nats-creds", &own, "--listen", &listen];
        let mut args = [&args[..], &["--director-key", key, plain]].concat();
        if service == "identity" {
            args.extend(["--root-key", root_key]);
        }
        (Musterd::start(&args), format!("http://{listen}"))
    };
    let replicas: Vec<_> =
        ["policy", "presence", "identity"].into_iter().flat_map(|s| [replica(s), replica(s)]).collect();
    for (_, api) in &replicas {
        wait_ready(dir.path(), api);
    }
    nats.kill().await.unwrap();
    let (_, api) = &replicas[0];
    let told = soon("a probe that names NATS", || {
        probe(dir.path(), api, "/readyz").filter(|told| told.starts_with("503"))
    });
    assert!(told.contains("nats: is not connected"), "{told}");
    nats.start_again().await.unwrap();
    for (_, api) in &replicas {
        wait_ready(dir.path(), api);
    }
    for (replica, _) in replicas {
        assert!(replica.stop().success());
    }
}
