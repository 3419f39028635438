//! What the tests of the operator stand on: a real Kubernetes API server, a real fleet with agents, and an operator between
//! them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::{Chart, NAMESPACE, Objects, Plane, bindings, root};
use live::{AgentProcess, Cli, Fleet, Process, eventually};
use serde_json::{Value, json};

use super::collector::environment;

/// A fleet, a cluster with our custom resources, and an operator between them.
pub(crate) struct Rig {
    pub(crate) plane: Plane,
    pub(crate) fleet: Fleet,
    pub(crate) operators: Vec<Process>,
    pub(crate) installed: Installed,
    /// Where operators tell what they do.
    collector: Option<String>,
}

/// The operator of a chart.
pub(crate) struct Installed {
    pub(crate) objects: Objects,
    pub(crate) account: String,
    options: Vec<String>,
}

impl Installed {
    /// Gives its ServiceAccount its rights.
    async fn install(plane: &Plane, values: Value) -> Self {
        let chart = Chart::new().with(json!({ "operator": { "enabled": true } })).with(values);
        let objects = chart.rendered();
        let of_it =
            |object: &&Value| object["metadata"]["labels"]["app.kubernetes.io/component"] == "operator";
        let pod = &objects.of("Deployment").find(of_it).unwrap()["spec"]["template"]["spec"];
        let account = pod["serviceAccountName"].as_str().unwrap().to_owned();
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        plane.create(&accounts, objects.get("ServiceAccount", &account)).await;
        for (binding, role) in bindings(&objects, &account) {
            for object in [role, binding] {
                let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
                let place = match object["kind"].as_str().unwrap().starts_with("Cluster") {
                    true => String::new(),
                    false => format!(
                        "namespaces/{}/",
                        object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE)
                    ),
                };
                plane.create(&format!("/apis/rbac.authorization.k8s.io/v1/{place}{plural}"), object).await;
            }
        }
        let env = pod["containers"][0]["env"].as_array().unwrap();
        let options = env.iter().filter_map(|variable| {
            let option = match variable["name"].as_str()? {
                "MUSTER_OPERATOR_NAMESPACE" => "--namespace",
                "MUSTER_OPERATOR_LEASE" => "--lease",
                "MUSTER_OPERATOR_MARK" => "--mark",
                _ => return None,
            };
            Some(format!("{option}={}", variable["value"].as_str()?))
        });
        let options = options.collect();
        Self { objects, account, options }
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let plane = Plane::start().await;
        let crds = root().join("helm/muster-crds").display().to_string();
        plane.helm(&["install", "muster-crds", &crds], None).await.unwrap();
        Self::around(plane).await
    }

    /// On a control plane that has our custom resources.
    pub(crate) async fn around(plane: Plane) -> Self {
        let fleet = Fleet::start().await;
        let made = fleet.cli("all").json("api-token create kubernetes --role operator").await;
        // Where the operator looks for it.
        drop(fleet.cli("all").with_token("kubernetes", made["token"].as_str().unwrap()));
        let installed = Installed::install(&plane, json!({})).await;
        let mut rig = Self { plane, fleet, operators: Vec::new(), installed, collector: None };
        rig.operator("one").await;
        rig
    }

    /// Has an operator by other values of the chart in place of those that run.
    pub(crate) async fn instead(&mut self, values: Value, identity: &str) {
        for operator in &mut self.operators {
            operator.kill().await;
        }
        self.installed = Installed::install(&self.plane, values).await;
        self.operator(identity).await;
    }

    /// Has an operator that tells a collector in place of those that run.
    pub(crate) async fn tell(&mut self, collector: &str) {
        for operator in &mut self.operators {
            operator.stop().await;
        }
        self.collector = Some(collector.to_owned());
        self.operator("telling").await;
    }

    /// Starts an operator as its ServiceAccount.
    pub(crate) async fn operator(&mut self, identity: &str) {
        let address = self.plane.address().to_string();
        self.operator_by(identity, &address).await;
    }

    /// As [`Self::operator`], one whose way to Kubernetes leads over this address.
    pub(crate) async fn operator_by(&mut self, identity: &str, address: &str) {
        let account = self.plane.service_account(&self.installed.account).await;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{ "name": "it", "cluster": {
                "server": format!("https://{address}"), "certificate-authority": account.join("ca.crt") } }],
            "users": [{ "name": "it", "user": { "tokenFile": account.join("token") } }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it", "namespace": NAMESPACE } }],
        });
        let kubeconfig = self.plane.path("operator.kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let service = &self.fleet.services[0];
        let token = self.fleet.dir().join("kubernetes.token").display().to_string();
        let (server, ca) = (format!("https://{}", service.address), service.ca.display().to_string());
        let mut args = vec![
            "operator",
            "--listen=127.0.0.1:0",
            "--insecure-plaintext",
            "--server",
            &server,
            "--ca-file",
            &ca,
            "--identity",
            identity,
            "--resync=2s",
            "--token-file",
            &token,
        ];
        args.extend(self.installed.options.iter().map(String::as_str));
        let kubeconfig = kubeconfig.display().to_string();
        let name = format!("operator-{identity}");
        let mut env = vec![("KUBECONFIG", kubeconfig.as_str())];
        env.extend(self.collector.iter().flat_map(|endpoint| environment(endpoint)));
        self.operators.push(Process::start(self.fleet.dir(), &name, "musterd", &args, &env));
    }

    pub(crate) fn cli(&self) -> Cli {
        self.fleet.cli("all")
    }

    pub(crate) async fn apply(&self, kind: &str, name: &str, spec: Value) {
        apply(&self.plane, kind, name, spec).await;
    }

    pub(crate) async fn policy(&self, round: u64) {
        self.apply("Policy", "base", json!({ "kind": "firewall", "document": { "round": round } })).await;
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        get(&self.plane, kind, name).await
    }

    /// Waits for a condition of what stands there now.
    pub(crate) async fn reaches(&self, kind: &str, name: &str, (condition, wanted): (&str, &str)) -> Value {
        reaches(&self.plane, (kind, name), (condition, wanted), || self.logs()).await
    }

    pub(crate) fn logs(&self) -> String {
        let tail = |process: &Process| -> String {
            let log = process.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        self.operators.iter().map(tail).collect::<Vec<_>>().join("\n--\n")
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        let (status, answer) = self.plane.call("DELETE", &path(kind, name), None).await;
        assert!(status == 200 || status == 202, "{status} {answer}");
    }

    pub(crate) async fn gone(&self, kind: &str, name: &str) {
        eventually(format!("{kind} {name} is gone"), async || match self.get(kind, name).await {
            None => Ok(()),
            Some(object) => Err(format!("{object:#} {}", self.logs())),
        })
        .await;
    }

    /// The kind, a policy and a group.
    pub(crate) async fn begin(&self) {
        // In an order that helps nobody.
        let settings = json!({ "mode": "push", "heartbeatInterval": "1m" });
        self.apply("Group", "web", json!({ "path": "/web", "policies": ["base"], "settings": settings }))
            .await;
        self.policy(1).await;
        self.apply("PolicyKind", "firewall", json!({ "schema": { "type": "object" } })).await;
    }
}

/// Where a custom resource lies.
pub(crate) fn path(kind: &str, name: &str) -> String {
    format!("/apis/muster.dev/v1alpha1/namespaces/{NAMESPACE}/{}/{name}", plural(kind))
}

/// Server-side apply, as a tool of GitOps does it.
pub(crate) async fn try_apply(plane: &Plane, kind: &str, name: &str, spec: Value) -> (u16, Value) {
    let object = json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
    });
    plane.call("PATCH", &format!("{}?fieldManager=gitops", path(kind, name)), Some(&object)).await
}

/// As [`try_apply`], and it must be taken.
pub(crate) async fn apply(plane: &Plane, kind: &str, name: &str, spec: Value) {
    let (status, answer) = try_apply(plane, kind, name, spec).await;
    assert!((200..300).contains(&status), "{kind} {name}: {status} {answer}");
}

/// A custom resource, if it is there.
pub(crate) async fn get(plane: &Plane, kind: &str, name: &str) -> Option<Value> {
    plane.get("muster.dev/v1alpha1", plural(kind), name).await
}

/// Waits for a condition of what stands there now.
pub(crate) async fn reaches(
    plane: &Plane,
    (kind, name): (&str, &str),
    (condition, wanted): (&str, &str),
    logs: impl Fn() -> String,
) -> Value {
    eventually(format!("{kind} {name} has {condition}={wanted}"), async || {
        let object = get(plane, kind, name).await.unwrap_or_default();
        let observed = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        match observed && condition_of(&object, condition)["status"] == wanted {
            true => Ok(object),
            false => Err(format!("{object:#} {}", logs())),
        }
    })
    .await
}

/// The join token that the Secret of an EnrollmentToken holds.
pub(crate) async fn join_token(plane: &Plane, name: &str, logs: impl Fn() -> String) -> String {
    let secret = eventually("there is a Secret", async || {
        let secret = plane.get("v1", "secrets", &format!("{name}-join-token")).await;
        secret.ok_or_else(&logs)
    })
    .await;
    let token = STANDARD.decode(secret["data"]["token"].as_str().unwrap()).unwrap();
    String::from_utf8(token).unwrap()
}

/// Waits for an event about an object by its type and reason, and gives it.
pub(crate) async fn event(rig: &Rig, object: &Value, (kind, reason): (&str, &str)) -> Value {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events");
    let about = &object["metadata"]["uid"];
    eventually(format!("an event: {kind} {reason}"), async || {
        let (_, events) = rig.plane.call("GET", &path, None).await;
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let is_it = |event: &&Value| {
            event["regarding"]["uid"] == *about && event["type"] == kind && event["reason"] == reason
        };
        all.iter().find(is_it).cloned().ok_or_else(|| format!("{events:#} {}", rig.logs()))
    })
    .await
}

pub(crate) fn plural(kind: &str) -> &'static str {
    let kind = operator::Kind::ALL.into_iter().find(|known| known.name() == kind);
    kind.expect("it is a kind").plural()
}

pub(crate) fn condition_of<'a>(object: &'a Value, name: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|one| one["type"] == name).unwrap_or(&Value::Null)
}

pub(crate) async fn agent(rig: &Rig) -> AgentProcess {
    joined(rig, "web-1").await
}

/// An agent that joins with what the Secret holds.
pub(crate) async fn joined(rig: &Rig, id: &str) -> AgentProcess {
    rig.apply("EnrollmentToken", "web", json!({ "group": "/web", "uses": 5 })).await;
    rig.reaches("EnrollmentToken", "web", ("Ready", "True")).await;
    let mut agent =
        AgentProcess::new(rig.fleet.dir(), id, &join_token(&rig.plane, "web", || rig.logs()).await);
    agent.start();
    agent
}
