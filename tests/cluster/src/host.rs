//! The chart on this machine: Pods as processes, with the commands, variables and files that their templates name.
//!
//! Paths are laid below a folder of the Pod, those of the node below one of the host, addresses are those of loopback; nothing
//! else differs. Who runs the tests as root gets what a kubelet makes: files of Secrets belong to root and are lent to the group
//! of the Pod, whose user is another one, or root without what makes it one.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::objects::Objects;
use crate::plane::NAMESPACE;
use crate::tools::tool;

/// The node on which Pods think that they are.
pub const NODE: &str = "this-node";

/// Secrets by name, with what is in them.
pub type Secrets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// A machine that runs Pods.
pub struct Host {
    dir: PathBuf,
    objects: Objects,
    secrets: Secrets,
    /// What stands in variables and files, and what stands there here: addresses.
    addresses: Vec<(String, String)>,
    /// Where the API of Kubernetes is, and folders of ServiceAccounts by name.
    kubernetes: Option<(SocketAddr, BTreeMap<String, PathBuf>)>,
    /// Whether processes get the user of their Pod.
    root: bool,
}

/// A Pod that runs here: one container, as all of the chart have.
pub struct Pod {
    /// Its name.
    pub name: String,
    template: Value,
    dir: PathBuf,
    /// Where mounted folders are.
    mounts: Vec<(String, PathBuf)>,
    addresses: Vec<(String, String)>,
    root: bool,
    child: Option<Child>,
    /// Variables that a kubelet adds.
    account: Vec<(String, String)>,
}

impl Host {
    /// A machine that keeps its things in `dir`.
    ///
    /// # Panics
    /// If programs cannot be copied there.
    #[must_use]
    pub fn new(dir: &Path, objects: Objects, secrets: Secrets) -> Self {
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).expect("a folder can be made");
        // The user of a Pod may not be able to reach the folder of the build.
        let image = ["musterd", "muster", "muster-agent"].map(|name| (name, live::binary(name)));
        for (program, from) in image.into_iter().chain([("nats-server", tool("nats-server"))]) {
            fs::copy(&from, bin.join(program)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("it is our folder");
        let root =
            fs::metadata(dir).is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
        Self { dir: dir.to_owned(), objects, secrets, addresses: Vec::new(), kubernetes: None, root }
    }

    /// What a Pod of a workload would find at an address is at another one here.
    pub fn address(&mut self, from: impl Into<String>, to: impl Into<String>) {
        self.addresses.push((from.into(), to.into()));
    }

    /// Tells Pods with a token of their ServiceAccount where Kubernetes is. Their programs look at a path that is not ours
    /// to make, so they are told the folder.
    ///
    /// # Panics
    /// If the folder cannot be written to.
    pub fn account(&mut self, api: SocketAddr, name: &str, folder: PathBuf) {
        let [token, ca] = ["token", "ca.crt"].map(|file| folder.join(file));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "pod",
            "clusters": [{ "name": "pod", "cluster": { "server": format!("https://{api}"), "certificate-authority": ca } }],
            "users": [{ "name": "pod", "user": { "tokenFile": token } }],
            "contexts": [{ "name": "pod", "context": { "cluster": "pod", "user": "pod", "namespace": NAMESPACE } }],
        });
        fs::write(folder.join("kubeconfig"), config.to_string()).expect("a file can be written");
        let (_, accounts) = self.kubernetes.get_or_insert_with(|| (api, BTreeMap::new()));
        accounts.insert(name.to_owned(), folder);
    }

    /// What another chart, or another release of ours, makes beside what is there.
    pub fn also(&mut self, objects: Objects) {
        self.objects.0.extend(objects.0);
    }

    /// A folder of the node.
    #[must_use]
    pub fn of_node(&self, path: &str) -> PathBuf {
        self.dir.join(NODE).join(path.trim_start_matches('/'))
    }

    /// What Secrets hold from now on; Pods that run keep what they were given.
    pub fn fill(&mut self, secrets: Secrets) {
        self.secrets = secrets;
    }

    /// Variables of a Pod that may speak to Kubernetes.
    fn of_account(&self, template: &Value) -> Vec<(String, String)> {
        if template["spec"]["automountServiceAccountToken"] != true {
            return Vec::new();
        }
        let name =
            template["spec"]["serviceAccountName"].as_str().expect("a Pod with a token has an account");
        let (api, accounts) = self.kubernetes.as_ref().expect("it is said where Kubernetes is");
        let folder = accounts.get(name).unwrap_or_else(|| panic!("no account {name}"));
        let path = |path: &Path| path.display().to_string();
        [
            ("KUBERNETES_SERVICE_HOST", api.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", api.port().to_string()),
            ("MUSTER_SERVICE_ACCOUNT_DIR", path(folder)),
            ("KUBECONFIG", path(&folder.join("kubeconfig"))),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Makes a Pod of a workload, with all that it mounts, and what it listens on moved to `listen`.
    ///
    /// # Panics
    /// If something that it mounts is not there.
    #[must_use]
    pub fn pod(&self, (kind, workload): (&str, &str), name: &str, listen: &[(&str, SocketAddr)]) -> Pod {
        let object = self.objects.get(kind, workload);
        let template = crate::pod_of(object).expect("it makes Pods").clone();
        let dir = self.dir.join(name);
        let mut addresses: Vec<(String, String)> =
            listen.iter().map(|(from, to)| ((*from).to_owned(), to.to_string())).collect();
        addresses.extend(self.addresses.iter().cloned());
        let mut pod = Pod {
            name: name.to_owned(),
            dir,
            mounts: Vec::new(),
            addresses,
            root: self.root,
            child: None,
            account: self.of_account(&template),
            template,
        };
        let mounts = pod.mounts_of_container().to_vec();
        pod.mounts = mounts
            .iter()
            .map(|mount| {
                let path = mount["mountPath"].as_str().expect("a mount has a path").to_owned();
                let of_node = pod.volume(mount).and_then(|volume| volume["hostPath"]["path"].as_str());
                let in_pod = || pod.dir.join(path.trim_start_matches('/'));
                let place = of_node.map_or_else(in_pod, |path| self.of_node(path));
                (path, place)
            })
            .collect();
        for (mount, (_, place)) in mounts.iter().zip(&pod.mounts) {
            fs::create_dir_all(place).expect("a folder can be made");
            match pod.volume(mount) {
                // As a kubelet makes one: it is root's, and lent to nobody.
                Some(volume) if volume["hostPath"].is_object() => {
                    assert_eq!(volume["hostPath"]["type"], "DirectoryOrCreate", "{volume}");
                }
                Some(volume) => self.mount(&pod, volume, place),
                None => pod.lend(place, 0o2770),
            }
        }
        pod
    }

    fn mount(&self, pod: &Pod, volume: &Value, place: &Path) {
        let (source, files) = if let Some(name) = volume["secret"]["secretName"].as_str() {
            let data = self.secrets.get(name).unwrap_or_else(|| panic!("no Secret {name}"));
            (&volume["secret"], data.clone())
        } else if let Some(name) = volume["configMap"]["name"].as_str() {
            let data = self.objects.get("ConfigMap", name)["data"].as_object().expect("it has data");
            let text = |value: &Value| pod.here(value.as_str().unwrap_or_default()).into_bytes();
            let data = data.iter().map(|(key, value)| (key.clone(), text(value))).collect();
            (&volume["configMap"], data)
        } else {
            return pod.lend(place, 0o2770);
        };
        // As a kubelet lays it out: all files are switched at once, by one link.
        let version = (0..).map(|number| format!("..{number}")).find(|name| !place.join(name).exists());
        let version = version.expect("numbers do not end");
        fs::create_dir(place.join(&version)).expect("a folder can be made");
        for item in source["items"].as_array().expect("a volume names what it needs") {
            let [key, path] = ["key", "path"].map(|field| item[field].as_str().expect("an item has both"));
            let body = files.get(key).unwrap_or_else(|| panic!("{}: {key} is not there", volume["name"]));
            let file = place.join(&version).join(path);
            fs::write(&file, body).expect("a file can be written");
            let mode = source["defaultMode"].as_u64().unwrap_or(0o644);
            pod.lend(&file, u32::try_from(mode).expect("a mode"));
            if fs::symlink_metadata(place.join(path)).is_err() {
                symlink(Path::new("..data").join(path), place.join(path)).expect("a link can be made");
            }
        }
        symlink(&version, place.join("..new")).expect("a link can be made");
        fs::rename(place.join("..new"), place.join("..data")).expect("a link can be switched");
    }

    /// Gives a Pod that runs what the Secrets that it mounts hold now, as a kubelet does after a while.
    pub fn deliver(&self, pod: &Pod) {
        for (mount, (_, place)) in pod.mounts_of_container().iter().zip(&pod.mounts) {
            if let Some(volume) = pod.volume(mount).filter(|volume| volume["secret"].is_object()) {
                self.mount(pod, volume, place);
            }
        }
    }

    /// How many Pods a Deployment asks for.
    ///
    /// # Panics
    /// If it does not say.
    #[must_use]
    pub fn replicas(&self, deployment: &str) -> u64 {
        let wanted = &self.objects.get("Deployment", deployment)["spec"]["replicas"];
        wanted.as_u64().expect("a Deployment has replicas")
    }

    /// Secrets as they were when the machine was made.
    #[must_use]
    pub fn secret(&self, name: &str, key: &str) -> &[u8] {
        &self.secrets[name][key]
    }
}

impl Pod {
    fn container(&self) -> &Value {
        &self.template["spec"]["containers"][0]
    }

    fn mounts_of_container(&self) -> &[Value] {
        self.container()["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// What is mounted, unless it is a claim of a StatefulSet.
    fn volume(&self, mount: &Value) -> Option<&Value> {
        let volumes = self.template["spec"]["volumes"].as_array();
        volumes.into_iter().flatten().find(|volume| volume["name"] == mount["name"])
    }

    fn user(&self, key: &str) -> u32 {
        let id = self.template["spec"]["securityContext"][key].as_u64().expect("the Pod has a user");
        u32::try_from(id).expect("an id")
    }

    /// Gives a file or folder to the group of the Pod, as a kubelet does; without being root we keep it.
    fn lend(&self, path: &Path, mode: u32) {
        let mode = if self.root { mode } else { mode & !0o077 };
        if self.root {
            std::os::unix::fs::chown(path, None, Some(self.user("fsGroup"))).expect("root may do this");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is our file");
    }

    /// A text with the paths and addresses of this machine.
    fn here(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.addresses {
            text = text.replace(from, to);
        }
        for (mount, place) in &self.mounts {
            // Nothing names it but as the folder for temporary files.
            if mount == "/tmp" {
                continue;
            }
            let mut moved = String::new();
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once(mount.as_str()) {
                let ends = after.chars().next().is_none_or(|c| ['/', '"', ','].contains(&c));
                let begins = before.chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '.');
                moved += before;
                moved += &if ends && begins { place.display().to_string() } else { mount.clone() };
                rest = after;
            }
            text = moved + rest;
        }
        text
    }

    fn command(&self, words: &[String], secrets: &Secrets) -> Command {
        let bin = self.dir.parent().expect("a Pod lies in a host").join("bin");
        let program = bin.join(Path::new(&words[0]).file_name().expect("a command has a name"));
        // Another user than root has lost its capabilities by being another one.
        let mut command = if self.root && self.user("runAsUser") == 0 {
            assert_eq!(self.container()["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
            let mut command = Command::new("/usr/bin/setpriv");
            command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(&words[1..]).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        command.env("TMPDIR", self.dir.join("tmp")).envs(self.account.iter().cloned());
        let folder =
            self.container()["workingDir"].as_str().map_or(self.dir.clone(), |path| self.here(path).into());
        command.current_dir(folder);
        // Images of ours hold no certificates.
        command.env("SSL_CERT_FILE", "/dev/null");
        let mut before: Vec<(String, String)> = Vec::new();
        for variable in self.container()["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().expect("a variable has a name");
            let from = &variable["valueFrom"];
            let value = if let Some(secret) = from["secretKeyRef"]["name"].as_str() {
                let key = from["secretKeyRef"]["key"].as_str().expect("a reference has a key");
                String::from_utf8_lossy(&secrets[secret][key]).into_owned()
            } else if from["fieldRef"]["fieldPath"] == "metadata.name" {
                self.name.clone()
            } else if from["fieldRef"]["fieldPath"] == "metadata.namespace" {
                NAMESPACE.to_owned()
            } else if from["fieldRef"]["fieldPath"] == "spec.nodeName" {
                NODE.to_owned()
            } else {
                let value = variable["value"].as_str().unwrap_or_else(|| panic!("{name} has no value"));
                let put = |value: String, (name, known): &(String, String)| {
                    value.replace(&format!("$({name})"), known)
                };
                before.iter().fold(self.here(value), put)
            };
            command.env(name, &value);
            before.push((name.to_owned(), value));
        }
        if self.root {
            command.uid(self.user("runAsUser")).gid(self.user("runAsGroup"));
        }
        command
    }

    fn words(&self) -> Vec<String> {
        let words = |key: &str| self.container()[key].as_array().cloned().unwrap_or_default();
        let all = words("command").into_iter().chain(words("args"));
        all.map(|word| self.here(word.as_str().unwrap_or_default())).collect()
    }

    /// Starts its container (again); what it says goes to a file.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&mut self, host: &Host) {
        let log = fs::File::options().create(true).append(true).open(self.log_path());
        let log = log.expect("a log can be made");
        let mut command = self.command(&self.words(), &host.secrets);
        let child = command.stdout(log.try_clone().expect("a file can be shared")).stderr(log).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name)));
    }

    /// Runs another command in it, as `kubectl exec` does.
    ///
    /// # Panics
    /// If it cannot be run.
    pub async fn exec(&self, host: &Host, words: &[&str]) -> Output {
        let words: Vec<String> = words.iter().map(|word| self.here(word)).collect();
        self.command(&words, &host.secrets).output().await.expect("a command can be run")
    }

    /// The command before its end, as its template has it.
    #[must_use]
    pub fn before_end(&self) -> Vec<String> {
        let words = self.container().pointer("/lifecycle/preStop/exec/command").and_then(Value::as_array);
        words.into_iter().flatten().map(|word| word.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// How long it may take to stop before it is killed.
    ///
    /// # Panics
    /// If its template does not say.
    #[must_use]
    pub fn grace(&self) -> Duration {
        let seconds = self.template["spec"]["terminationGracePeriodSeconds"].as_u64();
        Duration::from_secs(seconds.expect("the Pod has a grace"))
    }

    /// Path and scheme of the probe that says whether it is ready.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn readiness(&self) -> (String, bool) {
        let probe = &self.container()["readinessProbe"]["httpGet"];
        (probe["path"].as_str().expect("a probe has a path").to_owned(), probe["scheme"] == "HTTPS")
    }

    /// SIGTERM, as a kubelet sends it.
    ///
    /// # Panics
    /// If it does not run.
    pub fn terminate(&self) {
        let pid = self.child.as_ref().and_then(Child::id).expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} can be signalled", self.name);
    }

    /// SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn kill(&mut self) {
        self.child.as_mut().expect("it runs").kill().await.expect("a child can be killed");
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("a child can be asked")
    }

    /// The end of what it said.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }
}
