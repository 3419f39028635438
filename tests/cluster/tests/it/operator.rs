//! The operator between a real Kubernetes API server and a real fleet with agents.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::{Chart, NAMESPACE, Objects, Plane, have, root};
use live::{AgentProcess, Cli, Fleet, Process, eventually};
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;

/// A fleet, a cluster with our custom resources, and an operator between them.
struct Rig {
    plane: Plane,
    fleet: Fleet,
    operators: Vec<Process>,
}

/// The ServiceAccount that the chart makes.
const ACCOUNT: &str = "muster-operator";

/// The chart with an operator.
fn objects() -> Objects {
    let values = json!({ "operator": { "enabled": true } });
    Chart::new().with(values).render().unwrap_or_else(|refused| panic!("{}", refused.0))
}

/// Roles of the operator.
fn roles(objects: &Objects) -> Vec<&Value> {
    let of_it =
        |role: &&Value| role["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(ACCOUNT));
    objects.of("Role").filter(of_it).collect()
}

/// All that its roles allow: verb, group and resource.
fn allowed() -> BTreeSet<(String, String, String)> {
    let objects = objects();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut all = BTreeSet::new();
    for rule in roles(&objects).iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        for verb in texts(&rule["verbs"]) {
            for resource in texts(&rule["resources"]) {
                all.insert((verb.clone(), texts(&rule["apiGroups"])[0].clone(), resource));
            }
        }
    }
    all
}

impl Rig {
    async fn start() -> Self {
        let plane = Plane::start().await;
        let crds = root().join("helm/muster-crds").display().to_string();
        plane.helm(&["install", "muster-crds", &crds], None).await.unwrap();
        let fleet = Fleet::start().await;
        let made = fleet.cli("all").json("api-token create kubernetes --role operator").await;
        // Where the operator looks for it.
        drop(fleet.cli("all").with_token("kubernetes", made["token"].as_str().unwrap()));
        let objects = objects();
        plane
            .create(
                &format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"),
                objects.get("ServiceAccount", ACCOUNT),
            )
            .await;
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}");
        for role in roles(&objects) {
            let name = role["metadata"]["name"].as_str().unwrap();
            plane.create(&format!("{rbac}/roles"), role).await;
            plane.create(&format!("{rbac}/rolebindings"), objects.get("RoleBinding", name)).await;
        }
        let mut rig = Self { plane, fleet, operators: Vec::new() };
        rig.operator("one").await;
        rig
    }

    /// Starts an operator as its ServiceAccount.
    async fn operator(&mut self, identity: &str) {
        let account = self.plane.service_account(ACCOUNT).await;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{ "name": "it", "cluster": {
                "server": format!("https://{}", self.plane.address()), "certificate-authority": account.join("ca.crt") } }],
            "users": [{ "name": "it", "user": { "tokenFile": account.join("token") } }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it", "namespace": NAMESPACE } }],
        });
        let kubeconfig = self.plane.path("operator.kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let service = &self.fleet.services[0];
        let token = self.fleet.dir().join("kubernetes.token").display().to_string();
        let (server, ca) = (format!("https://{}", service.address), service.ca.display().to_string());
        let args = [
            "operator",
            "--listen",
            "127.0.0.1:0",
            "--insecure-plaintext",
            "--server",
            &server,
            "--ca-file",
            &ca,
            "--namespace",
            NAMESPACE,
            "--identity",
            identity,
            "--resync",
            "2s",
            "--lease",
            ACCOUNT,
            "--token-file",
            &token,
        ];
        let kubeconfig = kubeconfig.display().to_string();
        let name = format!("operator-{identity}");
        let env = [("KUBECONFIG", kubeconfig.as_str())];
        self.operators.push(Process::start(self.fleet.dir(), &name, "musterd", &args, &env));
    }

    fn cli(&self) -> Cli {
        self.fleet.cli("all")
    }

    async fn apply(&self, kind: &str, name: &str, spec: Value) {
        apply(&self.plane, kind, name, spec).await;
    }

    async fn policy(&self, round: u64) {
        self.apply("Policy", "base", json!({ "kind": "firewall", "document": { "round": round } })).await;
    }

    async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        get(&self.plane, kind, name).await
    }

    /// Waits for a condition of what stands there now.
    async fn reaches(&self, kind: &str, name: &str, (condition, wanted): (&str, &str)) -> Value {
        reaches(&self.plane, (kind, name), (condition, wanted), || self.logs()).await
    }

    fn logs(&self) -> String {
        let tail = |process: &Process| -> String {
            let log = process.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        self.operators.iter().map(tail).collect::<Vec<_>>().join("\n--\n")
    }

    async fn delete(&self, kind: &str, name: &str) {
        let (status, answer) = self.plane.call("DELETE", &path(kind, name), None).await;
        assert!(status == 200 || status == 202, "{status} {answer}");
    }

    async fn gone(&self, kind: &str, name: &str) {
        eventually(format!("{kind} {name} is gone"), async || match self.get(kind, name).await {
            None => Ok(()),
            Some(object) => Err(format!("{object:#} {}", self.logs())),
        })
        .await;
    }

    async fn join_token(&self, name: &str) -> String {
        join_token(&self.plane, name, || self.logs()).await
    }

    /// The kind, a policy and a group.
    async fn begin(&self) {
        // In an order that helps nobody.
        let settings = json!({ "mode": "push", "heartbeatInterval": "1m" });
        self.apply("Group", "web", json!({ "path": "/web", "policies": ["base"], "settings": settings }))
            .await;
        self.policy(1).await;
        self.apply("PolicyKind", "firewall", json!({ "schema": { "type": "object" } })).await;
    }
}

fn path(kind: &str, name: &str) -> String {
    format!("/apis/muster.dev/v1alpha1/namespaces/{NAMESPACE}/{}/{name}", plural(kind))
}

/// Server-side apply, as a tool of GitOps does it.
async fn try_apply(plane: &Plane, kind: &str, name: &str, spec: Value) -> (u16, Value) {
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

fn plural(kind: &str) -> &'static str {
    let kind = operator::Kind::ALL.into_iter().find(|known| known.name() == kind);
    kind.expect("it is a kind").plural()
}

pub(crate) fn condition_of<'a>(object: &'a Value, name: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|one| one["type"] == name).unwrap_or(&Value::Null)
}

async fn agent(rig: &Rig) -> AgentProcess {
    rig.apply("EnrollmentToken", "web", json!({ "group": "/web", "uses": 5 })).await;
    rig.reaches("EnrollmentToken", "web", ("Ready", "True")).await;
    let mut agent = AgentProcess::new(rig.fleet.dir(), "web-1", &rig.join_token("web").await);
    agent.start();
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_kubernetes_reaches_agents_and_its_status_returns() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let rig = Rig::start().await;
    rig.begin().await;
    let mut agent = agent(&rig).await;
    agent.reaches("firewall", "/round", &json!(1)).await;
    let policy = eventually("the status counts the agent", async || {
        let policy = rig.get("Policy", "base").await.unwrap_or_default();
        match policy["status"]["agents"] == json!({ "total": 1, "atRevision": 1, "failed": 0 }) {
            true => Ok(policy),
            false => Err(format!("{policy:#} {}", rig.logs())),
        }
    })
    .await;
    assert_eq!(condition_of(&policy, "Ready")["status"], "True");
    assert!(policy["status"]["revision"].as_u64() > Some(0));
    // Each field has one who writes it: a tool of GitOps sees no difference.
    for entry in policy["metadata"]["managedFields"].as_array().unwrap() {
        let of = |field: &str| entry["fieldsV1"].get(field).is_some();
        match entry["manager"].as_str().unwrap() {
            "gitops" => assert!(of("f:spec") && !of("f:status"), "{entry}"),
            "muster-operator" => assert!(!of("f:spec"), "{entry}"),
            other => panic!("{other} wrote as well"),
        }
    }

    // Ready waits for agents: this one is thought to be there and does not answer.
    agent.kill().await;
    rig.policy(2).await;
    let waiting = rig.reaches("Policy", "base", ("Ready", "False")).await;
    assert_eq!(condition_of(&waiting, "Synced")["status"], "True", "{waiting:#}");
    assert_eq!(condition_of(&waiting, "Ready")["reason"], "AgentsPending", "{waiting:#}");
    agent.start();
    agent.reaches("firewall", "/round", &json!(2)).await;
    rig.reaches("Policy", "base", ("Ready", "True")).await;

    by_hand(&rig, &agent).await;
    ends(&rig).await;
    asked_for_what_it_may(&rig);
}

/// The rights in the chart are what the operator needs, and no more.
fn asked_for_what_it_may(rig: &Rig) {
    let asked = rig.plane.asked_by(ACCOUNT);
    let refused: Vec<_> = asked.iter().filter(|(.., code)| *code == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let used: BTreeSet<_> = asked.into_iter().map(|(verb, group, what, _)| (verb, group, what)).collect();
    let unused: Vec<_> = allowed().into_iter().filter(|right| !used.contains(right)).collect();
    assert!(unused.is_empty(), "rights that nothing needed: {unused:?}");
}

/// Who edits the fleet by hand is told where; who insists is put right.
async fn by_hand(rig: &Rig, agent: &AgentProcess) {
    let manifest = "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: base}\nspec: {kind: firewall, document: {round: 3}}\n";
    let said = rig.cli().run_with(&["apply", "-f", "-"], manifest).await.refused(3);
    let way = format!(
        "is managed by kubernetes:{NAMESPACE}: change it there (`kubectl --namespace {NAMESPACE} edit"
    );
    assert!(said.contains(&way) && said.contains("--take-over"), "{said}");
    let shown = rig.cli().run("policy show base").await.ok();
    assert!(shown.contains(&format!("Managed by:           kubernetes:{NAMESPACE}")), "{shown}");
    drop(rig.cli().run_with(&["apply", "-f", "-", "--take-over"], manifest).await.ok());
    agent.reaches("firewall", "/round", &json!(2)).await;
    eventually("it is managed again", async || {
        let policy = rig.cli().json("policy show base").await;
        match policy["manager"] == format!("kubernetes:{NAMESPACE}") && policy["document"]["round"] == 2.0 {
            true => Ok(()),
            false => Err(format!("{policy} {}", rig.logs())),
        }
    })
    .await;
    // The Secret is put right as well, with a new token, for the old one is known to nobody.
    let secret = format!("/api/v1/namespaces/{NAMESPACE}/secrets/web-join-token");
    let first = rig.join_token("web").await;
    assert_eq!(rig.plane.call("DELETE", &secret, None).await.0, 200);
    let second = rig.join_token("web").await;
    assert_ne!(first, second);
    // Other terms are another token.
    rig.apply("EnrollmentToken", "web", json!({ "group": "/web", "uses": 6 })).await;
    let token = rig.reaches("EnrollmentToken", "web", ("Ready", "True")).await;
    assert_eq!(token["status"]["uses"], 6, "{token:#}");
    assert_ne!(rig.join_token("web").await, second);
    // A release of what nobody has pushed.
    let release = json!({ "channel": "rules", "stage": "stable", "revision": 1 });
    rig.apply("ContentRelease", "rules-stable", release).await;
    let lost = rig.reaches("ContentRelease", "rules-stable", ("Synced", "False")).await;
    let why = condition_of(&lost, "Synced")["message"].as_str().unwrap();
    assert!(why.contains("there is no channel \"rules\""), "{why}");
    rig.delete("ContentRelease", "rules-stable").await;
    rig.gone("ContentRelease", "rules-stable").await;
}

/// What ends in Kubernetes ends in the fleet, when nothing needs it any more.
async fn ends(rig: &Rig) {
    for (kind, name) in [("PolicyKind", "firewall"), ("Policy", "base"), ("Group", "web")] {
        rig.delete(kind, name).await;
    }
    let waiting = rig.reaches("Group", "web", ("Synced", "False")).await;
    let why = condition_of(&waiting, "Synced")["message"].as_str().unwrap();
    assert!(why.contains("has 1 agents"), "{why}");
    rig.delete("EnrollmentToken", "web").await;
    rig.gone("EnrollmentToken", "web").await;
    let tokens = rig.cli().json("token list").await;
    assert_eq!(tokens["tokens"].as_array().map(Vec::len).unwrap_or_default(), 0, "{tokens}");
    drop(rig.cli().run("agent delete web-1 --yes").await.ok());
    for (kind, name) in [("Group", "web"), ("Policy", "base"), ("PolicyKind", "firewall")] {
        rig.gone(kind, name).await;
    }
    let groups = rig.cli().json("group list").await;
    assert_eq!(groups["groups"].as_array().unwrap().len(), 1, "{groups}");
    assert!(rig.cli().json("kind list").await["kinds"].as_array().is_none_or(Vec::is_empty));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_or_told_and_the_rest_goes_on() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let mut rig = Rig::start().await;
    rig.begin().await;
    rig.reaches("Group", "web", ("Ready", "True")).await;
    let both = json!([{ "channel": "c", "stage": "s", "revision": 1 }]);
    for (kind, name, spec, why) in [
        ("Group", "x", json!({ "path": "/x", "content": both }), "must have either a stage or a revision"),
        ("Group", "x", json!({ "path": "/" }), "the group at / is named root"),
        ("Group", "x", json!({ "path": "x" }), "spec.path"),
        ("Group", "a.b", json!({ "path": "/x" }), "the name must be 1 to 64 of a-z, 0-9 and '-'"),
        (
            "Policy",
            "base",
            json!({ "kind": "other", "document": {} }),
            "the kind of a policy cannot be changed",
        ),
        ("EnrollmentToken", "t", json!({ "group": "/web", "uses": 0 }), "spec.uses"),
        ("EnrollmentToken", "t", json!({ "group": "/web", "ttl": "soon" }), "spec.ttl"),
    ] {
        let (status, answer) = try_apply(&rig.plane, kind, name, spec.clone()).await;
        assert!(status == 422 && answer.to_string().contains(why), "{kind} {spec}: {status} {answer}");
    }
    // What only the fleet can know. The others of the same change are made.
    rig.apply("Policy", "lost", json!({ "kind": "nowhere", "document": {} })).await;
    rig.apply("Group", "db", json!({ "path": "/db" })).await;
    let lost = rig.reaches("Policy", "lost", ("Degraded", "True")).await;
    let why = condition_of(&lost, "Synced")["message"].as_str().unwrap();
    assert!(why.contains("needs kind \"nowhere\", which does not exist"), "{why}");
    rig.reaches("Group", "db", ("Ready", "True")).await;
    // Another one takes over when the first is gone, and what was never made goes without a trace.
    rig.operator("two").await;
    rig.operators[0].kill().await;
    rig.delete("Policy", "lost").await;
    rig.gone("Policy", "lost").await;
    rig.policy(5).await;
    rig.reaches("Policy", "base", ("Ready", "True")).await;
}
