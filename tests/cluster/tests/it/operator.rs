//! The operator between a real Kubernetes API server and a real fleet with agents.

use cluster::{NAMESPACE, granted, have, settle};
use live::{AgentProcess, Faults, Proxy, eventually};
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::rig::{Rig, agent, condition_of, event, join_token, try_apply};

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
    let account = &rig.installed.account;
    settle(&granted(&rig.installed.objects, account), &rig.plane.asked_by(account), &[], &[]);
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
    let first = join_token(&rig.plane, "web", || rig.logs()).await;
    assert_eq!(rig.plane.call("DELETE", &secret, None).await.0, 200);
    let second = join_token(&rig.plane, "web", || rig.logs()).await;
    assert_ne!(first, second);
    // Other terms are another token.
    rig.apply("EnrollmentToken", "web", json!({ "group": "/web", "uses": 6 })).await;
    let token = rig.reaches("EnrollmentToken", "web", ("Ready", "True")).await;
    assert_eq!(token["status"]["uses"], 6, "{token:#}");
    assert_ne!(join_token(&rig.plane, "web", || rig.logs()).await, second);
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
    let db = rig.reaches("Group", "db", ("Ready", "True")).await;
    // Whoever looks at the object is told by events, as `kubectl describe` shows them.
    for (object, kind, reason, condition) in
        [(&lost, "Warning", "Refused", "Synced"), (&db, "Normal", "AgentsCurrent", "Ready")]
    {
        let event = event(&rig, object, (kind, reason)).await;
        let message = &condition_of(object, condition)["message"];
        assert_eq!(&event["note"], message, "{event:#}");
        let about = &event["regarding"];
        let seen = (&about["apiVersion"], &about["kind"], &about["name"], &about["namespace"]);
        let named = (&object["kind"], &object["metadata"]["name"]);
        assert_eq!(seen, (&json!("muster.dev/v1alpha1"), named.0, named.1, &json!(NAMESPACE)), "{event:#}");
        assert_eq!(event["reportingController"], "muster-operator", "{event:#}");
    }
    // Another one takes over when the first is gone, and what was never made goes without a trace.
    rig.operator("two").await;
    rig.operators[0].kill().await;
    rig.delete("Policy", "lost").await;
    rig.gone("Policy", "lost").await;
    rig.policy(5).await;
    rig.reaches("Policy", "base", ("Ready", "True")).await;
    // Somebody has taken the Lease: whoever had it ends before it does anything else.
    let lease =
        format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{}", rig.installed.account);
    let holder = json!({ "spec": { "holderIdentity": "three" } });
    assert_eq!(rig.plane.call("PATCH", &lease, Some(&holder)).await.0, 200);
    let two = rig.operators.last_mut().unwrap();
    assert!(!two.wait().await.success());
    assert!(two.log().contains("was taken by three"), "{}", two.log());
}

/// Objects as people have them in a file. The group has agents that are late soon and offline long after.
fn manifests(round: u64, share: Option<&str>) -> String {
    let annotations = share.map_or(json!({}), |share| json!({ "muster.dev/ready-share": share }));
    let object = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": kind,
            "metadata": { "name": name, "annotations": annotations }, "spec": spec,
        })
    };
    let settings = json!({ "mode": "pull", "heartbeatInterval": "1s", "offlineAfter": "1h" });
    let items = [
        object("PolicyKind", "firewall", json!({ "schema": { "type": "object" } })),
        object("Policy", "base", json!({ "kind": "firewall", "document": { "round": round } })),
        object("Group", "web", json!({ "path": "/web", "policies": ["base"], "settings": settings })),
    ];
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_waits_until_agents_have_it() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let rig = Rig::start().await;
    let apply = async |text: String| rig.plane.kubectl(&["apply", "--filename", "-"], &text).await.unwrap();
    let wait = async |time: &str| {
        let time = format!("--timeout={time}");
        rig.plane.kubectl(&["wait", "--for=condition=Ready", "policy/base", "group/web", &time], "").await
    };
    apply(manifests(1, None)).await;
    let mut agent = agent(&rig).await;
    agent.reaches("firewall", "/round", &json!(1)).await;
    let said = wait("60s").await.unwrap();
    assert!(said.contains("policy.muster.dev/base condition met"), "{said}");

    // Nobody has heard of it for a while, and it is not offline: it may come to have the new one any moment.
    agent.kill().await;
    apply(manifests(2, None)).await;
    eventually("the agent is late and behind", async || {
        let all = rig.cli().json("status").await["all"].clone();
        let behind = all["total"] == "1" && all["late"] == "1" && all["latePending"] == "1";
        if behind { Ok(()) } else { Err(format!("{all} {}", rig.logs())) }
    })
    .await;
    // Longer than an operator goes without a look at the fleet.
    let said = wait("6s").await.unwrap_err().0;
    assert!(said.contains("timed out waiting for the condition on policies/base"), "{said}");
    assert!(said.contains("timed out waiting for the condition on groups/web"), "{said}");
    let waiting = rig.reaches("Policy", "base", ("Ready", "False")).await;
    assert_eq!(condition_of(&waiting, "Ready")["reason"], "AgentsPending", "{waiting:#}");
    agent.start();
    agent.reaches("firewall", "/round", &json!(2)).await;
    wait("60s").await.unwrap();

    // What cannot be read is no reason to take another share, and nothing of the object is done meanwhile.
    apply(manifests(3, Some("95%"))).await;
    let wrong = rig.reaches("Policy", "base", ("Degraded", "True")).await;
    for (condition, status) in [("Ready", "False"), ("Synced", "False"), ("Degraded", "True")] {
        let condition = condition_of(&wrong, condition);
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!(status), &json!("Invalid")),
            "{wrong:#}"
        );
        let why = condition["message"].as_str().unwrap();
        assert!(why.starts_with("annotation muster.dev/ready-share is \"95%\" and must be"), "{why}");
    }
    rig.reaches("PolicyKind", "firewall", ("Ready", "True")).await;
    apply(manifests(3, Some("95"))).await;
    wait("60s").await.unwrap();
    agent.reaches("firewall", "/round", &json!(3)).await;
}

/// The way to Kubernetes breaks off again and again, and then lets nothing pass while nobody is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_outlives_a_way_that_breaks_and_ends_on_one_that_is_dead() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let mut rig = Rig::start().await;
    rig.operators[0].kill().await;
    let proxy = Proxy::start(&rig.plane.address().to_string()).await;
    rig.operator_by("two", proxy.address()).await;
    rig.begin().await;
    rig.apply("Group", "db", json!({ "path": "/db" })).await;
    rig.reaches("Group", "db", ("Ready", "True")).await;
    for round in 2..5 {
        proxy.cut("");
        rig.policy(round).await;
        proxy.cut("");
        rig.reaches("Policy", "base", ("Ready", "True")).await;
        assert_eq!(rig.cli().json("policy show base").await["document"]["round"], round as f64);
    }
    proxy.cut("");
    rig.delete("Group", "db").await;
    proxy.cut("");
    rig.gone("Group", "db").await;

    // Whoever has the Lease cannot renew it, and is not told. It ends before the other begins.
    rig.operator("three").await;
    proxy.set("", Faults::half_open());
    eventually("the other one works", async || {
        let log = rig.operators[2].log();
        if log.contains("this operator works now") { Ok(()) } else { Err(rig.logs()) }
    })
    .await;
    let ended = rig.operators[1].ended();
    assert!(ended.is_some_and(|status| !status.success()), "{ended:?} {}", rig.logs());
    assert!(rig.operators[1].log().contains("could not be renewed in time"), "{}", rig.logs());
    rig.policy(9).await;
    rig.reaches("Policy", "base", ("Ready", "True")).await;
}
