//! A Kubernetes control plane on this machine: etcd, API server, controllers, scheduler, and kwok in place of nodes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use live::eventually;
use runtime::tls::{LocalCa, TlsFiles};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::chart::{Chart, Refused, chart_dir};
use crate::ports::free_port;
use crate::request::request;
use crate::rights::Asked;
use crate::tools::tool;

/// Where tests install.
pub const NAMESPACE: &str = "fleet";

/// Token of whoever may do everything.
const TOKEN: &str = "administrator";

/// What the API server writes down: who of a namespace asked for what.
const AUDIT: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:fleet"]}
- {level: None}
"#;

/// What kwok makes of nodes and Pods: everything becomes ready at once, Pods of Jobs end well.
const STAGES: &str = include_str!("stages.yaml");

/// A control plane. All of it ends when it is dropped.
pub struct Plane {
    api: SocketAddr,
    ca: LocalCa,
    dir: TempDir,
    children: Vec<Child>,
}

impl Plane {
    /// Starts it, with one node, volumes, the custom resources that the chart knows, and a namespace that enforces Pod
    /// Security "restricted".
    pub async fn start() -> Self {
        let mut dir = tempfile::tempdir().expect("a temporary directory can be made");
        // Pods that run here have users of their own.
        let shared = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(dir.path(), shared).expect("it is our folder");
        dir.disable_cleanup(std::env::var_os("MUSTER_TEST_KEEP").is_some());
        let ca = LocalCa::open(dir.path().join("tls"), &[]).expect("a CA can be made");
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut plane = Self { api, ca, dir, children: Vec::new() };
        plane.write_files();
        plane.start_store_and_api().await;
        plane.start_controllers();
        plane.prepare().await;
        plane
    }

    fn write_files(&self) {
        let token = format!("{TOKEN},admin,admin,\"system:masters\"\n");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{}", self.api), "certificate-authority": self.ca.ca() } }],
            "users": [{ "name": "admin", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
        });
        for (name, text) in [
            ("tokens.csv", token.as_str()),
            ("kubeconfig", &config.to_string()),
            ("stages.yaml", STAGES),
            ("audit.yaml", AUDIT),
        ] {
            fs::write(self.path(name), text).expect("a file can be written");
        }
    }

    async fn start_store_and_api(&mut self) {
        let (client, peer) = (free_port(), free_port());
        let [client, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let data = self.path("etcd").display().to_string();
        self.spawn(
            "etcd",
            &[
                "--data-dir",
                &data,
                "--unsafe-no-fsync",
                "--log-level",
                "warn",
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &format!("default={peer}"),
            ],
        );
        let TlsFiles { cert, key, .. } = self.ca.files();
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let flags = [
            format!("--etcd-servers={client}"),
            format!("--secure-port={}", self.api.port()),
            "--bind-address=127.0.0.1".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            flag("service-account-signing-key-file", &key),
            flag("service-account-key-file", &cert),
            flag("tls-cert-file", &cert),
            flag("tls-private-key-file", &key),
            flag("token-auth-file", &self.path("tokens.csv")),
            flag("cert-dir", &self.path("api")),
            flag("audit-policy-file", &self.path("audit.yaml")),
            flag("audit-log-path", &self.path("audit.log")),
        ];
        self.spawn("kube-apiserver", &flags.iter().map(String::as_str).collect::<Vec<_>>());
        eventually("the API server is ready", async || match self.call("GET", "/readyz", None).await {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status} {body} {}", self.log("kube-apiserver"))),
        })
        .await;
    }

    fn start_controllers(&mut self) {
        let config = self.path("kubeconfig").display().to_string();
        let config = format!("--kubeconfig={config}");
        let key = format!("--service-account-private-key-file={}", self.ca.files().key.display());
        let root = format!("--root-ca-file={}", self.ca.ca().display());
        // Nodes are for show: on a busy machine a late heartbeat must not take their Pods away.
        let patience = "--node-monitor-grace-period=1h";
        for (name, further) in [
            ("kube-controller-manager", vec![key.as_str(), root.as_str(), patience]),
            ("kube-scheduler", vec![]),
        ] {
            let port = format!("--secure-port={}", free_port());
            let mut flags = vec![config.as_str(), "--leader-elect=false", "--bind-address=127.0.0.1", &port];
            flags.extend(further);
            self.spawn(name, &flags);
        }
        let stages = format!("--config={}", self.path("stages.yaml").display());
        self.spawn("kwok", &[&config, &stages, "--manage-all-nodes=true", "--server-address=127.0.0.1:0"]);
    }

    async fn prepare(&self) {
        for definition in crate::schemas::definitions() {
            self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
        }
        self.create(
            "/api/v1/nodes",
            &json!({
            "metadata": { "name": "node", "labels": { "kubernetes.io/hostname": "node" } } }),
        )
        .await;
        let class = json!({
            "metadata": { "name": "standard", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer" });
        self.create("/apis/storage.k8s.io/v1/storageclasses", &class).await;
        for number in 0..6 {
            self.create(
                "/api/v1/persistentvolumes",
                &json!({
                "metadata": { "name": format!("volume-{number}") },
                "spec": { "capacity": { "storage": "2Ti" }, "accessModes": ["ReadWriteOnce"],
                          "storageClassName": "standard", "hostPath": { "path": "/nowhere" } } }),
            )
            .await;
        }
        self.namespace(NAMESPACE).await;
        eventually("the node is ready", async || {
            let (_, node) = self.call("GET", "/api/v1/nodes/node", None).await;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
            if ready { Ok(()) } else { Err(format!("{node} {}", self.log("kwok"))) }
        })
        .await;
    }

    /// Makes a namespace that enforces Pod Security "restricted".
    pub async fn namespace(&self, name: &str) {
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace = json!({ "metadata": { "name": name, "labels": labels } });
        self.create("/api/v1/namespaces", &namespace).await;
        eventually("the namespace has its ServiceAccount", async || {
            let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
            match self.call("GET", &path, None).await {
                (200, _) => Ok(()),
                (status, _) => Err(status.to_string()),
            }
        })
        .await;
    }

    /// Makes an object that must be accepted.
    ///
    /// # Panics
    /// If it is not.
    pub async fn create(&self, path: &str, object: &Value) {
        let (status, answer) = self.call("POST", path, Some(object)).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
    }

    /// Calls the API as who may do everything. Without an answer the status is 0.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.call_as(TOKEN, method, path, body).await
    }

    /// Calls the API with a token.
    pub async fn call_as(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let answer = request((&self.ca.ca(), self.api), token, (method, path), body).await;
        answer.unwrap_or_else(|error| (0, error.to_string().into()))
    }

    /// An object of [`NAMESPACE`]: `api/v1`, `apps/v1` and so on, plural, name.
    pub async fn get(&self, group: &str, plural: &str, name: &str) -> Option<Value> {
        let root = if group == "v1" { "/api".to_owned() } else { "/apis".to_owned() };
        let path = format!("{root}/{group}/namespaces/{NAMESPACE}/{plural}/{name}");
        match self.call("GET", &path, None).await {
            (200, object) => Some(object),
            (404, _) => None,
            (status, answer) => panic!("{path}: {status} {answer}"),
        }
    }

    /// Runs Helm in [`NAMESPACE`].
    ///
    /// # Errors
    /// What it says when it fails.
    ///
    /// # Panics
    /// If it cannot be run.
    pub async fn helm(&self, arguments: &[&str], chart: Option<&Chart>) -> Result<String, Refused> {
        let files = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = Command::new(tool("helm"));
        command.args(arguments).args(["--namespace", NAMESPACE]);
        if let Some(chart) = chart {
            command.arg(chart_dir()).args(chart.arguments(files.path()));
        }
        let home = self.path("helm");
        let output = command
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("HELM_CACHE_HOME", &home)
            .env("HELM_CONFIG_HOME", &home)
            .env("HELM_DATA_HOME", &home)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("helm can be run");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Refused(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// Runs kubectl in [`NAMESPACE`], with something to read.
    ///
    /// # Errors
    /// What it says when it fails.
    ///
    /// # Panics
    /// If it cannot be run.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, Refused> {
        let mut child = Command::new(tool("kubectl"))
            .args(arguments)
            .args(["--namespace", NAMESPACE])
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("KUBECACHEDIR", self.path("kubectl"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl can be run");
        let mut stdin = child.stdin.take().expect("invariant: it is piped");
        // One that reads nothing may have ended.
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
        let output = child.wait_with_output().await.expect("kubectl can be waited for");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Refused(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// A token of a ServiceAccount in [`NAMESPACE`], in a folder as Pods have it.
    ///
    /// # Panics
    /// If there is none.
    pub async fn service_account(&self, name: &str) -> PathBuf {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token");
        let wanted = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let (status, answer) = self.call("POST", &path, Some(&wanted)).await;
        let token = answer["status"]["token"].as_str().unwrap_or_else(|| panic!("{status} {answer}"));
        let folder = self.path(&format!("account-{name}"));
        fs::create_dir_all(&folder).expect("a folder can be made");
        fs::write(folder.join("token"), token).expect("a token can be written");
        fs::copy(self.ca.ca(), folder.join("ca.crt")).expect("a CA can be copied");
        folder
    }

    /// What a ServiceAccount of [`NAMESPACE`] has asked for, in order.
    ///
    /// # Panics
    /// If the API server wrote nothing down.
    #[must_use]
    pub fn asked_by(&self, account: &str) -> Vec<Asked> {
        let text = fs::read_to_string(self.path("audit.log")).expect("the API server writes it");
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
        let of_it = events.filter(|event| event["user"]["username"] == user.as_str());
        of_it.filter_map(|event| Asked::read(&event)).collect()
    }

    /// Where the API server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.api
    }

    /// Directory for whatever a test leaves.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The end of a process's log.
    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }

    fn spawn(&mut self, name: &str, arguments: &[&str]) {
        let log = fs::File::create(self.path(&format!("{name}.log"))).expect("a log can be made");
        let child = Command::new(tool(name))
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        self.children.push(child);
    }
}
