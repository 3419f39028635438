//! The chart on this machine: NATS, services and agents as processes, with what the rendered Pods name.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use cluster::{Chart, Host, NAMESPACE, Plane, Pod, free_port, have, request};
use live::{ADMIN_TOKEN, AgentProcess, Cli, eventually, until};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::bootstrap::{PROGRAMS, done, secrets};

/// NATS servers of the chart.
const SERVERS: usize = 3;

const MANIFESTS: &str = "\
apiVersion: muster.dev/v1alpha1
kind: PolicyKind
metadata: {name: firewall}
spec: {schema: {type: object}}
---
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {name: base}
spec: {kind: firewall, document: {round: 0}}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: push}
spec: {path: /push, settings: {mode: push, heartbeatInterval: 10s}, policies: [base]}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: pull}
spec: {path: /pull, settings: {mode: pull, heartbeatInterval: 1s}, policies: [base]}
";

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// NATS servers: each with where its clients and its probes go.
struct Broker {
    pods: Vec<Pod>,
    monitors: Vec<SocketAddr>,
}

impl Broker {
    fn start(host: &mut Host) -> Self {
        let domain = format!("{NAMESPACE}.svc.cluster.local");
        let (clients, routes, monitors) = (
            [(); SERVERS].map(|()| loopback()),
            [(); SERVERS].map(|()| loopback()),
            [(); SERVERS].map(|()| loopback()),
        );
        for (number, route) in routes.iter().enumerate() {
            host.address(format!("muster-nats-{number}.muster-nats-nodes.{domain}:6222"), route.to_string());
        }
        // What a Service stands for: all that are behind it.
        let urls: Vec<String> = clients.iter().map(|client| format!("tls://{client}")).collect();
        host.address(format!("tls://muster-nats.{domain}:4222"), urls.join(","));
        let mut pods = Vec::new();
        for number in 0..SERVERS {
            let listen = [
                ("0.0.0.0:4222", clients[number]),
                ("0.0.0.0:6222", routes[number]),
                ("0.0.0.0:8222", monitors[number]),
            ];
            let mut pod = host.pod(("StatefulSet", "muster-nats"), &format!("muster-nats-{number}"), &listen);
            pod.start(host);
            pods.push(pod);
        }
        Self { pods, monitors: monitors.to_vec() }
    }

    async fn ready(&mut self, number: usize) {
        let (path, _) = self.pods[number].readiness();
        let address = self.monitors[number];
        let pod = &mut self.pods[number];
        eventually(format!("{} is ready", pod.name), async || {
            assert_eq!(pod.ended(), None, "{} ended: {}", pod.name, pod.log());
            match plain_get(address, &path).await {
                Ok(answer) if answer.contains(" 200 ") => Ok(()),
                Ok(answer) => Err(format!("{answer} {}", pod.log())),
                Err(error) => Err(format!("{error} {}", pod.log())),
            }
        })
        .await;
    }
}

pub(crate) async fn plain_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A service that runs, ready.
async fn service(host: &Host, name: &str, ca: &Path) -> (Pod, SocketAddr) {
    let address = loopback();
    let mut pod = host.pod(("Deployment", &format!("muster-{name}")), name, &[("0.0.0.0:7400", address)]);
    pod.start(host);
    let (path, secure) = pod.readiness();
    assert!(secure);
    eventually(format!("{name} is ready"), async || {
        assert_eq!(pod.ended(), None, "{name} ended: {}", pod.log());
        match request((ca, address), "", ("GET", &path), None).await {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(format!("{status} {body} {}", pod.log())),
            Err(error) => Err(format!("{error} {}", pod.log())),
        }
    })
    .await;
    (pod, address)
}

/// A policy that has reached both agents.
async fn round(cli: &Cli, number: u64, agents: &[AgentProcess]) {
    let policy = format!(
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {{name: base}}\nspec: {{kind: firewall, document: {{round: {number}}}}}\n"
    );
    eventually(format!("change {number} is taken"), async || {
        let output = cli.run_with(&["apply", "-f", "-"], &policy).await;
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    for agent in agents {
        agent.reaches("firewall", "/round", &json!(number)).await;
    }
}

fn dir(plane: &Plane) -> PathBuf {
    let dir = plane.path("host");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rendered_runs_and_goes_on_when_a_server_is_gone() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let plane = Plane::start().await;
    let values =
        json!({ "nats": { "config": { "lameDuckDuration": "30s" } }, "backup": { "enabled": true } });
    let chart = Chart::new().with(values);
    plane.helm(&["install", "muster"], Some(&chart)).await.unwrap();
    done(&plane, &chart).await;
    let dir = dir(&plane);
    let mut host = Host::new(&dir, chart.render().unwrap(), secrets(&plane).await);
    let ca = dir.join("api-ca.pem");
    std::fs::write(&ca, host.secret("muster-api-tls", "ca.crt")).unwrap();

    let mut broker = Broker::start(&mut host);
    // Together, for each may wait for what another makes.
    let names = ["policy", "identity", "content", "presence"];
    let running = futures::future::join_all(names.map(|name| service(&host, name, &ca))).await;
    for number in 0..SERVERS {
        broker.ready(number).await;
    }
    // The notes say how to get the first token, and how to let agents in.
    let notes = plane.helm(&["get", "notes", "muster"], None).await.unwrap();
    let between = |from: &str, to: &str| {
        let (_, rest) = notes.split_once(from).unwrap_or_else(|| panic!("no {from:?} in {notes}"));
        rest.split(to).next().unwrap().to_owned()
    };
    let words = between("deploy/muster-identity -- ", " > admin.token");
    let made = running[1].0.exec(&host, &words.split(' ').collect::<Vec<_>>()).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(dir.join(ADMIN_TOKEN), &made.stdout).unwrap();
    std::fs::set_permissions(dir.join(ADMIN_TOKEN), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let cli = |at: usize| Cli::new(&running[at].1.to_string(), &ca, dir.clone());

    let token = cli(1).run(&between("--token-file admin.token ", "\n")).await.ok();
    assert!(token.contains("mjt1_"), "{token}");
    cli(0).apply(MANIFESTS).await;
    let mut agents = Vec::new();
    for mode in ["push", "pull"] {
        let made = cli(1).json(&format!("token create --group /{mode} --uses 1")).await;
        let mut agent = AgentProcess::new(&dir, mode, made["token"].as_str().unwrap());
        agent.start();
        agents.push(agent);
    }
    round(&cli(0), 1, &agents).await;
    let listed = cli(3).json("agent list").await.to_string();
    assert!(listed.contains("push") && listed.contains("pull"), "{listed}");

    broker.pods[0].kill().await;
    round(&cli(0), 2, &agents).await;
    broker.pods[0].start(&host);
    broker.ready(0).await;
    // The quorum is now the one that came back and one other.
    broker.pods[1].kill().await;
    round(&cli(0), 3, &agents).await;
    broker.pods[1].start(&host);
    broker.ready(1).await;

    let command = broker.pods[2].before_end();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let sent = broker.pods[2].exec(&host, &words).await;
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    round(&cli(0), 4, &agents).await;
    until("the lame duck ends", || broker.pods[2].ended().map(drop).ok_or_else(|| "it runs".to_owned()))
        .await;
    round(&cli(0), 5, &agents).await;

    let mut backup = host.pod(("CronJob", "muster-backup"), "backup", &[]);
    backup.start(&host);
    until("the backup is taken", || backup.ended().map(drop).ok_or_else(|| "it runs".to_owned())).await;
    assert!(backup.ended().is_some_and(|status| status.success()), "{}", backup.log());
    let taken = std::fs::read_dir(dir.join("backup/var/lib/muster-backups")).unwrap().flatten().count();
    assert_eq!(taken, 1, "{}", backup.log());
}
