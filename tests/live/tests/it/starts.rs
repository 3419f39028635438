//! Starts that cannot succeed say why and what to do, and leave everything as it was.

use std::path::Path;

use live::{Fleet, Process, SmallDisk};
use serde_json::json;

use crate::seed;

/// Runs `musterd` until it ends by itself; what it said.
async fn refused(dir: &Path, name: &str, args: &[&str], env: &[(&str, &str)]) -> String {
    let mut process = Process::start(dir, name, "musterd", args, env);
    let status = process.wait().await;
    assert!(!status.success(), "{name}: {}", process.log());
    process.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn musterd_says_why_it_does_not_start() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let old = dir.path().join("old-nats-server");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.9.10'\n").expect("a script can be written");
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let old = old.to_string_lossy().into_owned();
    let found = runtime::nats_server::find(None).await.expect("nats-server is there: make tools");
    let found = found.canonicalize().expect("it exists").to_string_lossy().into_owned();
    let free = "127.0.0.1:0";
    for (name, args, env, says) in [
        (
            "everywhere",
            vec!["all", "--listen", "0.0.0.0:0", "--insecure-plaintext"],
            vec![],
            vec!["0.0.0.0:0", "without TLS"],
        ),
        ("port", vec!["all", "--listen", &address], vec![], vec![address.as_str(), "in use", "--listen"]),
        (
            "nats-port",
            vec!["all", "--listen", free, "--nats-port", &port],
            vec![("MUSTER_NATS_SERVER", found.as_str())],
            vec!["in use", "--nats-port"],
        ),
        (
            "missing",
            vec!["all", "--listen", free, "--nats-server-bin", "/nowhere/nats-server"],
            vec![],
            vec!["/nowhere/nats-server"],
        ),
        (
            "old",
            vec!["all", "--listen", free],
            vec![("MUSTER_NATS_SERVER", old.as_str())],
            vec!["2.9.10", "2.14.7"],
        ),
        ("no-key", vec!["policy", "--listen", free, "--insecure-plaintext"], vec![], vec!["--director-key"]),
        ("no-cert", vec!["policy", "--listen", free], vec![], vec!["--tls-cert", "--insecure-plaintext"]),
    ] {
        let data = dir.path().join(name).to_string_lossy().into_owned();
        let fleet = if name.starts_with("no-") { Some(Fleet::start().await) } else { None };
        let url = fleet.as_ref().map(|fleet| fleet.nats.url());
        let creds =
            fleet.as_ref().map(|fleet| fleet.creds().to_string_lossy().into_owned()).unwrap_or_default();
        let mut args = args;
        match &url {
            Some(url) => args.extend(["--nats-url", url, "--nats-creds", &creds]),
            None => args.extend(["--data-dir", &data]),
        }
        let said = refused(dir.path(), name, &args, &env).await;
        for text in says {
            assert!(said.contains(text), "{name}: {said}\nwithout: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_damaged_state_says_so_and_comes_back() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let mut agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    fleet.shows("push-1", "at the head", |s| s["progress"] == "CURRENT").await;
    agent.kill().await;
    let state = agent.state.join("state.json");
    let mut bytes = std::fs::read(&state).expect("the state is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    std::fs::write(&state, bytes).expect("the state can be written");
    let _ = fleet.cli("policy").apply(&seed::app_push(1)).await;
    agent.start();
    agent.reaches("app", "/n", &json!(1)).await;
    assert!(agent.process().log().contains("state.json"), "{}", agent.process().log());
    let kept = std::fs::read_dir(&agent.state).expect("readable").filter_map(Result::ok);
    let kept: Vec<_> = kept.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(kept.iter().any(|name| name.starts_with("state.json") && name != "state.json"), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_one_state_directory_is_refused() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let state = agent.state.to_string_lossy().into_owned();
    let mut second =
        Process::start(fleet.dir(), "second", "muster-agent", &["run", "--state-dir", &state], &[]);
    assert!(!second.wait().await.success());
    assert!(second.log().contains(&state), "{}", second.log());
    let id = std::fs::read_to_string(agent.state.join("identity.json")).expect("untouched");
    assert!(id.contains("push-1"), "{id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_full_disk_keeps_the_old_state_and_goes_on_when_there_is_room() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let token = fleet.token("/push", 1).await;
    let mut agent = live::AgentProcess::new(fleet.dir(), "push-1", &token);
    let Some(_disk) = SmallDisk::mount(&agent.state, "256k") else {
        println!("SKIPPED: mounting a tmpfs needs root");
        return;
    };
    agent.start();
    agent.reaches("app", "/n", &json!(0)).await;
    fleet.shows("push-1", "at the head", |s| s["progress"] == "CURRENT").await;
    let ballast = agent.state.join("ballast");
    // Fills the disk to the last byte; the error is the purpose.
    drop(std::fs::write(&ballast, vec![0; 1 << 20]));
    let _ = policy.apply(&seed::app_push(1)).await;
    let shown = fleet
        .shows("push-1", "waiting for room", |s| {
            s["progress"] == "PENDING" && s["items"][0]["reason"].is_string()
        })
        .await;
    assert!(shown["items"][0]["reason"].as_str().is_some_and(|why| why.contains("space")), "{shown}");
    assert_eq!(agent.applied("app"), Some(json!({"n": 0, "fixed": "here"})));
    std::fs::remove_file(ballast).expect("it is there");
    agent.reaches("app", "/n", &json!(1)).await;
    fleet.shows("push-1", "at the head", |s| s["progress"] == "CURRENT").await;
    agent.kill().await;
}
