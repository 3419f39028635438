use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::nats::{Connection, Nats, POLICY};
use crate::tasks::Shutdown;

async fn start(dir: &Path) -> NatsServer {
    NatsServer::start(Setup::new(find(None).await.unwrap(), dir)).await.unwrap()
}

async fn connect(server: &NatsServer) -> Nats {
    Nats::connect(&Connection::service(vec![server.url()], "test")).await.unwrap()
}

#[tokio::test]
async fn it_keeps_store_and_port_when_killed_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path()).await;
    let (port, pid) = (server.port(), server.pid());
    let created = connect(&server).await.ensure_stream(&POLICY, 1).await.unwrap().created;
    server.kill().await.unwrap();
    assert_eq!(server.pid(), None);
    server.start_again().await.unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    assert_eq!(connect(&server).await.ensure_stream(&POLICY, 1).await.unwrap().created, created);
    server.stop().await.unwrap();
    assert_eq!(server.pid(), None);
}

#[tokio::test]
async fn a_supervised_server_comes_back_and_stops_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let nats = connect(&server).await;
    let mut link = nats.link();
    let pid = rustix::process::Pid::from_raw(server.pid().unwrap().try_into().unwrap()).unwrap();
    let (shutdown, port) = (Shutdown::new(), server.port());
    let supervisor = tokio::spawn(supervise(server, shutdown.clone()));
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let back = link.wait_for(|link| link.connections >= 2);
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("it comes back").unwrap();
    shutdown.request();
    supervisor.await.unwrap().unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "it has ended");
}

#[tokio::test]
async fn a_server_left_behind_is_gone_before_its_store_and_port_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut left_behind = start(dir.path()).await;
    let port = Some(left_behind.port());
    // More than once: a process that ends loses its command line a moment before it loses its port.
    for _ in 0..10 {
        let setup = Setup { port, ..Setup::new(find(None).await.unwrap(), dir.path()) };
        let server = NatsServer::start(setup).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), left_behind.ended());
        ended.await.expect("it was ended").unwrap();
        left_behind = server;
    }
    left_behind.stop().await.unwrap();
}

#[tokio::test]
async fn what_keeps_it_from_running_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let binary = find(None).await.unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let setup = Setup { port: Some(port), ..Setup::new(binary.clone(), dir.path()) };
    let error = NatsServer::start(setup).await.err().unwrap().to_string();
    assert!(error.contains(&format!("port {port}")) && error.contains("--nats-port"), "{error}");

    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let broken = script("broken", "#!/bin/sh\necho '[1] [FTL] no room' >&2\nexit 3\n");
    let error = NatsServer::start(Setup::new(broken, dir.path())).await.err().unwrap().to_string();
    assert!(error.contains("ended at its start") && error.contains("no room"), "{error}");

    let old = script("old", "#!/bin/sh\necho 'nats-server: v2.9.10'\n");
    let error = find(Some(&old)).await.unwrap_err().to_string();
    assert!(
        error.contains("old is 2.9.10") && error.contains("2.14.7") && error.contains("make tools"),
        "{error}"
    );
    let error = find(Some(Path::new("/absent/nats-server"))).await.unwrap_err().to_string();
    assert!(error.contains("/absent/nats-server cannot be run"), "{error}");
}
