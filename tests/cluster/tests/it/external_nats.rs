//! A release beside NATS servers that are there already, with keys that were made by hand.
//!
//! The servers are those that the official chart (2.14.2) makes of deploy/official-nats.yaml, written down here, because a test
//! cannot have that chart: nobody publishes it where the tools of these tests come from. What is different: they listen on an address
//! instead of at a port of all of them, have a user of their own instead of root, and nobody beside them looks for changed files.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use cluster::{Chart, Objects, Plane, Secrets, have, root, tool};
use runtime::tls::LocalCa;
use serde_json::{Value, json};
use tokio::process::Command;

use super::bootstrap::{PROGRAMS, every_secret};
use super::pods::{both, manifests, round};
use super::release::{Given, POLICY, PRESENCE, Places, Release, SERVERS, ended_well};

/// Commands that the page leaves to its readers.
const AND_SO_ON: &str = "\
kubectl create secret generic content-keys --from-file broker/fleets/default/roles/content --from-file content.key
kubectl create secret generic presence-keys --from-file broker/fleets/default/roles/presence
kubectl create secret generic backup-keys --from-file broker/fleets/default/roles/backup
kubectl create secret generic nats-tls --from-file tls.crt --from-file tls.key --from-file ca.crt
kubectl create secret generic nats-ca --from-file ca.crt
kubectl create secret generic api-tls --from-file tls.crt --from-file tls.key --from-file ca.crt
";

/// Runs lines of a shell in a folder; what they say.
async fn shell(plane: &Plane, dir: &Path, lines: &str) -> String {
    let folders =
        [tool("kubectl"), live::binary("muster")].map(|program| program.parent().unwrap().to_owned());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut command = Command::new("bash");
    command.args(["-euc", lines]).current_dir(dir).env("PATH", path).stdin(Stdio::null()).kill_on_drop(true);
    command.env("KUBECONFIG", plane.path("kubeconfig")).env("KUBECACHEDIR", plane.path("kubectl"));
    let output = command.output().await.unwrap();
    let [said, errors] =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{lines}\n{said}{errors}");
    said + &errors
}

/// Makes keys and Secrets as README.md of the chart says.
async fn secrets_by_hand(plane: &Plane) -> Secrets {
    let dir = plane.path("by-hand");
    fs::create_dir_all(&dir).unwrap();
    let ca = LocalCa::open(dir.join("tls"), &[]).unwrap();
    for (from, to) in [(ca.ca(), "ca.crt"), (ca.files().cert, "tls.crt"), (ca.files().key, "tls.key")] {
        fs::copy(from, dir.join(to)).unwrap();
    }
    let page = fs::read_to_string(cluster::chart_dir().join("README.md")).unwrap();
    let (_, section) = page.split_once("\n## Keys and certificates\n").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (keys, secrets) = block.split("```").next().unwrap().split_once("\nkubectl").unwrap();
    let said = shell(plane, &dir, keys).await;
    let public = said.lines().find(|line| line.contains("content.key")).unwrap_or_else(|| panic!("{said}"));
    let public = public.split_whitespace().last().unwrap();
    // The namespace of these tests, which the page does not say.
    plane.kubectl(&["config", "set-context", "--current"], "").await.unwrap();
    let secrets = secrets.replace("PUBLIC_KEY_OF_CONTENT_KEY", public);
    shell(plane, &dir, &format!("kubectl{secrets}\n{AND_SO_ON}")).await;
    every_secret(plane).await
}

/// Entries of a map as lines of a NATS configuration; of those that name a file to include, that line.
fn lines(map: &Value) -> String {
    let entries = map.as_object().unwrap().iter();
    let line = |(key, value): (&String, &Value)| match key.contains("$include") {
        true => format!("include {};\n", value.as_str().unwrap()),
        false => format!("{key}: {value}\n"),
    };
    entries.map(line).collect()
}

/// The servers, as far as it takes containers.
fn servers() -> Objects {
    let file = fs::read_to_string(root().join("deploy/official-nats.yaml")).unwrap();
    let Objects(values) = Objects::read(&file);
    let (config, container) = (&values[0]["config"], &values[0]["container"]);
    assert_eq!(config["cluster"]["replicas"], SERVERS);
    let tls = |what: &str| {
        let file = |name: &str| format!("/etc/nats-certs/{what}/{name}");
        json!({ "cert_file": file("tls.crt"), "key_file": file("tls.key"), "ca_file": "/etc/nats-ca-cert/ca.crt" })
    };
    let routes: Vec<String> =
        (0..SERVERS).map(|number| format!("tls://nats-{number}.nats-headless:6222")).collect();
    let cluster = json!({
        "name": "nats", "no_advertise": true, "listen": "0.0.0.0:6222", "routes": routes, "tls": tls("cluster"),
    });
    let conf = json!({ "cluster": cluster, "http": "0.0.0.0:8222", "lame_duck_duration": "30s",
        "lame_duck_grace_period": "10s", "listen": "0.0.0.0:4222", "pid_file": "/var/run/nats/nats.pid", "tls": tls("nats") });
    let store = json!({ "max_memory_store": 0, "store_dir": "/data" });
    let jetstream =
        format!("max_file_store: 20Gi\n{}{}", lines(&store), lines(&config["jetstream"]["merge"]));
    let conf = format!(
        "server_name: $SERVER_NAME\n{}jetstream {{\n{jetstream}}}\n{}",
        lines(&conf),
        lines(&config["merge"])
    );
    let secret = |name: &str, secret: &Value, keys: &[&str]| {
        let items: Vec<Value> = keys.iter().map(|key| json!({ "key": key, "path": key })).collect();
        json!({ "name": name, "secret": { "secretName": secret, "items": items } })
    };
    let of_tls = &config["nats"]["tls"]["secretName"];
    let pair = ["tls.crt", "tls.key"];
    let operator = &values[0]["podTemplate"]["patch"][0]["value"];
    let pod = json!({
        "securityContext": { "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532 },
        "containers": [{
            "command": ["nats-server"], "args": ["--config", "/etc/nats-config/nats.conf"],
            "workingDir": container["merge"]["workingDir"],
            "env": [
                { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                { "name": "SERVER_NAME", "value": "$(POD_NAME)" },
            ],
            "readinessProbe": { "httpGet": { "path": "/healthz?js-server-only=true" } },
            "volumeMounts": [
                { "name": "config", "mountPath": "/etc/nats-config" },
                { "name": "pid", "mountPath": "/var/run/nats" },
                { "name": "nats-js", "mountPath": "/data" },
                { "name": "tls-ca", "mountPath": "/etc/nats-ca-cert" },
                { "name": "nats-tls", "mountPath": "/etc/nats-certs/nats" },
                { "name": "cluster-tls", "mountPath": "/etc/nats-certs/cluster" },
                container["patch"][0]["value"],
            ],
        }],
        "volumes": [
            { "name": "config", "configMap": { "name": "nats-config", "items": [{ "key": "nats.conf", "path": "nats.conf" }] } },
            { "name": "pid", "emptyDir": {} },
            secret("tls-ca", &values[0]["tlsCA"]["secretName"], &["ca.crt"]),
            secret("nats-tls", of_tls, &pair),
            secret("cluster-tls", &config["cluster"]["tls"]["secretName"], &pair),
            secret("operator", &operator["secret"]["secretName"], &["nats.conf"]),
        ],
    });
    Objects(vec![
        json!({ "kind": "ConfigMap", "metadata": { "name": "nats-config" }, "data": { "nats.conf": conf } }),
        json!({ "kind": "StatefulSet", "metadata": { "name": "nats" }, "spec": { "template": { "spec": pod } } }),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_works_beside_nats_servers_that_are_there_already() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let plane = Plane::start().await;
    let given = Given { secrets: secrets_by_hand(&plane).await, ..Given::default() };
    let chart = Chart::new().file(cluster::chart_dir().join("examples/external-nats.yaml"));
    let chart = chart.with(json!({ "backup": { "enabled": true, "existingSecret": "backup-keys" } }));
    let mut release = Release::installed(plane, &chart, given).await;
    release.host.also(servers());
    let places = Places::choose();
    for (number, (client, route)) in places.clients.iter().zip(&places.routes).enumerate() {
        release.host.address(format!("nats-{number}.example.org:4222"), client.to_string());
        release.host.address(format!("nats-{number}.nats-headless:6222"), route.to_string());
    }
    release.run("nats", places, "api-tls").await;

    release.first_token().await;
    let mut others = [("Pod", "muster-selftest"), ("CronJob", "muster-backup")]
        .map(|(kind, name)| release.host.pod((kind, name), name, &[]));
    others.iter_mut().for_each(|pod| pod.start(&release.host));
    let policy = release.cli(POLICY);
    policy.apply(&manifests("1s")).await;
    let agents = both(&release).await;
    round(&policy, 1, &agents).await;
    for pod in &mut others {
        ended_well(pod).await;
    }
    let listed = release.cli(PRESENCE).json("agent list").await["agents"].clone();
    let online = listed.as_array().unwrap().iter().filter(|agent| agent["state"] == "ONLINE").count();
    assert_eq!(online, agents.len(), "{listed}");
}
