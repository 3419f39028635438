//! Agents that come by a WebSocket, through what an Ingress is made of.

use std::fs;
use std::net::SocketAddr;

use cluster::{Chart, have, tool};
use live::{Process, eventually};
use runtime::tls::LocalCa;
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::pods::{both, manifests, round};
use super::release::{Broker, Given, POLICY, Release, listens, loopback, plain_get};

/// Where the values of the chart say that agents come in.
const URL: &str = "wss://nats.example.org:443";

/// Starts the way in: HTTPS with a certificate of its own from outside, HTTPS to NATS.
async fn front(release: &Release, (address, ca): (SocketAddr, &LocalCa), name: &str) -> Process {
    let nats_ca = release.dir.join("nats-ca.pem");
    fs::write(&nats_ca, release.host.secret("muster-nats-tls", "ca.crt")).unwrap();
    let upstreams: Vec<Value> =
        release.broker.web.iter().map(|server| json!({ "dial": server.to_string() })).collect();
    let tls = json!({ "ca": { "provider": "file", "pem_files": [nats_ca] }, "server_name": "muster-nats" });
    let proxy = json!({
        "handler": "reverse_proxy", "upstreams": upstreams, "transport": { "protocol": "http", "tls": tls },
        "load_balancing": { "retries": 3 },
    });
    let server = json!({
        "listen": [address.to_string()], "automatic_https": { "disable": true }, "tls_connection_policies": [{}],
        "routes": [{ "handle": [proxy] }],
    });
    let files = ca.files();
    let certificates = json!({ "load_files": [{ "certificate": files.cert, "key": files.key }] });
    let config = json!({
        "admin": { "disabled": true },
        "apps": { "http": { "servers": { "front": server } }, "tls": { "certificates": certificates } },
    });
    let path = release.dir.join("front.json");
    fs::write(&path, config.to_string()).unwrap();
    let mut command = tokio::process::Command::new(tool("caddy"));
    command.arg("run").arg("--config").arg(path).env("HOME", &release.dir).env("XDG_DATA_HOME", &release.dir);
    let process = Process::of(&release.dir, name, command);
    listens(&process, address).await;
    process
}

/// Connections of agents at all servers, by their kind.
async fn connections(broker: &Broker) -> Vec<String> {
    let mut found = Vec::new();
    for address in &broker.monitors {
        let Ok(answer) = plain_get(*address, "/connz").await else { continue };
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let all: Value = serde_json::from_str(body).unwrap();
        for connection in all["connections"].as_array().unwrap() {
            if connection["name"].as_str().is_some_and(|name| name.starts_with("agent ")) {
                found.push(connection["type"].as_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_come_by_a_web_socket_through_an_ingress() {
    if !have(&PROGRAMS) || !have(&["nats-server", "caddy"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = LocalCa::open(dir.path(), &[]).unwrap();
    let address = loopback();
    let secret = [("ca.crt".to_owned(), fs::read(ca.ca()).unwrap())].into();
    let given = Given {
        secrets: [("agents-ca".to_owned(), secret)].into(),
        addresses: vec![(URL.to_owned(), format!("wss://{address}"))],
    };
    let chart = Chart::new().file(cluster::chart_dir().join("examples/web-socket.yaml"));
    let mut release = Release::start_with(&chart, given).await;
    let mut way_in = front(&release, (address, &ca), "front").await;

    release.first_token().await;
    let policy = release.cli(POLICY);
    policy.apply(&manifests("1s")).await;
    let agents = both(&release).await;
    round(&policy, 1, &agents).await;
    // One that pulls has a connection for moments only.
    eventually("the agent that is pushed to has a connection, by a WebSocket", async || {
        let found = connections(&release.broker).await;
        if !found.is_empty() && found.iter().all(|kind| kind == "websocket") {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;

    release.broker.pods[0].kill().await;
    round(&policy, 2, &agents).await;
    way_in.kill().await;
    let _way_in = front(&release, (address, &ca), "front-2").await;
    round(&policy, 3, &agents).await;
}
