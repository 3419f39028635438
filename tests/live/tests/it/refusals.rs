//! Bad input is refused with its cause, and nothing is written; nothing that arrives on a subject harms.

use live::Fleet;
use serde_json::json;
use wire::access::Account;
use wire::subject;

use crate::seed;

/// A manifest, the exit code, and what the message must name.
const REFUSED: &[(&str, i32, &[&str])] = &[
    ("a: [", 3, &["unclosed", "document 2"]),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: a}\nspec: {kind: app, document: {n: 1}, lock: []}",
        3,
        &["lock", "locks"],
    ),
    (
        "apiVersion: muster.dev/v2\nkind: Policy\nmetadata: {name: a}\nspec: {kind: app, document: {n: 1}}",
        3,
        &["muster.dev/v1alpha1"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: a.b}\nspec: {kind: app, document: {n: 1}}",
        3,
        &["'.'"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: '*'}\nspec: {kind: app, document: {n: 1}}",
        3,
        &["'*'"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: \"a\\r\\nPUB x\"}\nspec: {kind: app, document: {n: 1}}",
        3,
        &["'\\r'"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: ünïcode}\nspec: {kind: app, document: {n: 1}}",
        3,
        &["'ü'"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: a}\nspec: {kind: absent, document: {n: 1}}",
        3,
        &["absent"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: app-pull}\nspec: {kind: app, document: {n: text}}",
        3,
        &["/n", "/pull"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: app-child}\nspec: {kind: app, document: {fixed: mine}}",
        3,
        &["/fixed", "/push"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {name: app-child}\nspec: {kind: app, document: {fixed: null}}",
        3,
        &["/fixed", "/push"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Group\nmetadata: {name: g}\nspec: {path: /missing/g}",
        3,
        &["/missing"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Group\nmetadata: {name: g}\nspec: {path: /push/../g}",
        3,
        &["'.'"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: Group\nmetadata: {name: g}\nspec: {path: /g, settings: {heartbeatInterval: 1ms}}",
        3,
        &["heartbeatInterval"],
    ),
    (
        "apiVersion: muster.dev/v1alpha1\nkind: PolicyKind\nmetadata: {name: k}\nspec: {schema: {type: nonsense}}",
        3,
        &["schema"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn bad_manifests_are_refused_with_the_field_named_and_nothing_is_written() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let before = policy.json("policy list").await;
    let long = format!(
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {{name: {}}}\nspec: {{kind: app, document: {{n: 1}}}}",
        "a".repeat(10_000)
    );
    let mut cases: Vec<(&str, i32, &[&str])> = REFUSED.to_vec();
    cases.push((&long, 3, &["64"]));
    for (manifest, code, names) in cases {
        // A good document beside the bad one: neither may be written.
        let both = format!("{}---\n{manifest}", seed::policy("innocent", "{n: 1}"));
        let said = policy.run_with(&["apply", "-f", "-"], &both).await.refused(code);
        for name in names {
            assert!(said.contains(name), "{manifest}\nsaid: {said}\nwithout: {name}");
        }
    }
    assert_eq!(policy.json("policy list").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_policies_in_use_cannot_be_deleted() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let agent = fleet.agent("pull-1", "/pull").await;
    agent.reaches("app", "/n", &json!(0)).await;
    for (line, names) in [
        ("group delete /push --yes", "child"),
        ("group delete / --yes", "root"),
        ("group delete /pull --yes", "agent"),
        ("policy delete app-pull --yes", "\"pull\""),
        ("kind delete app --yes", "app-p"),
        ("group move /push --to /push/child/below", "/push"),
    ] {
        let said = policy.run(line).await.refused(3);
        assert!(said.contains(names), "{line}\nsaid: {said}\nwithout: {names}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_and_writes_nothing() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let told =
        policy.run_with(&["apply", "-f", "-", "--dry-run", "-o", "json"], &seed::app_push(5)).await.ok();
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["result"]["groupsTouched"], "2", "{told}");
    assert_eq!(told["result"]["agentsTouched"], "1", "{told}");
    assert_eq!(told["result"]["groups"][0]["changes"][0]["pointer"], "/n", "{told}");
    assert_eq!(policy.json("policy show app-push").await["generation"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_that_nobody_signed_for_this_agent_change_nothing() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let nats = fleet.admin(Account::Fleet).await;
    let mut other = nats.subscribe("notify.group.child").await.expect("a subscription");
    let _ = policy.apply(&seed::app_push(1)).await;
    let foreign = futures::StreamExt::next(&mut other).await.expect("the child's snapshot").payload;
    agent.reaches("app", "/n", &json!(1)).await;

    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let forged = wire::envelope::seal(wire::envelope::SNAPSHOT, b"forged".to_vec(), &key);
    let group = domain::GroupId::new("push").expect("a valid id");
    for payload in [
        prost::Message::encode_to_vec(&forged).into(),
        foreign,
        bytes_of(b"\xff\xff\xff not protobuf"),
        bytes_of(&[0; 900_000]),
    ] {
        let to = subject::notify_group(&group);
        nats.publish(to.to_string(), payload).await.expect("an administrator may publish anything");
    }
    nats.flush().await.expect("flushed");
    let shown = fleet.shows("push-1", "four refusals", |s| s["refusals"] == "4").await;
    assert_eq!((&shown["progress"], &shown["state"]), (&json!("CURRENT"), &json!("ONLINE")));
    assert_eq!(agent.applied("app"), Some(json!({"n": 1, "fixed": "here"})));
}

fn bytes_of(bytes: &[u8]) -> prost::bytes::Bytes {
    prost::bytes::Bytes::copy_from_slice(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_on_the_heartbeat_subject_harm_presence() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let agent = fleet.agent("pull-1", "/pull").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let nats = fleet.admin(Account::Agents).await;
    let mut spied = fleet.admin(Account::Fleet).await.subscribe("store.>").await.expect("a subscription");
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..2_000 {
        let strategy = proptest::collection::vec(proptest::num::u8::ANY, 0..600);
        let tree = proptest::strategy::Strategy::new_tree(&strategy, &mut runner).expect("bytes");
        let bytes = proptest::strategy::ValueTree::current(&tree);
        let to = ["svc.heartbeat.pull-1", "svc.heartbeat.nobody", "svc.heartbeat.A"][bytes.len() % 3];
        let reply =
            ["store.group.push", "_INBOX_agent.other.1", "_INBOX_agent.pull-1.1"][bytes.len() / 3 % 3];
        nats.publish_with_reply(to, reply, bytes.into()).await.expect("published");
    }
    nats.publish("svc.heartbeat.pull-1", vec![0; 900_000].into()).await.expect("published");
    nats.flush().await.expect("flushed");
    let pid = fleet.services[fleet.replicas("presence")[0]].process.pid();
    fleet
        .shows("pull-1", "online and at the head", |s| s["state"] == "ONLINE" && s["progress"] == "CURRENT")
        .await;
    let _ = fleet.cli("policy").apply(&seed::policy("app-pull", "{n: 2}")).await;
    agent.reaches("app", "/n", &json!(2)).await;
    assert_eq!(fleet.services[fleet.replicas("presence")[0]].process.pid(), pid);
    // What policy itself wrote arrives on store.>; nothing of presence's may.
    let written = futures::StreamExt::next(&mut spied).await.expect("the change just made");
    assert_eq!(
        written.subject.as_str(),
        "store.policy.app-pull",
        "services answer only to the agent's inbox"
    );
}
