//! Who may use the API: every role against every method, callers that are bound to a part of the tree, and the
//! life of API tokens.

use std::collections::BTreeMap;

use domain::access::{Effect, METHODS, Method, Role};
use live::{Cli, Fleet, Line, eventually};
use serde_json::Value;
use tonic::Code;

/// Two parts of a tree with a policy each, one that both have, and one that is inherited.
const TREE: &str = r#"
{apiVersion: muster.dev/v1alpha1, kind: PolicyKind, metadata: {name: app}, spec: {schema: {type: object}}}
---
{apiVersion: muster.dev/v1alpha1, kind: PolicyKind, metadata: {name: log}, spec: {schema: {type: object}}}
---
{apiVersion: muster.dev/v1alpha1, kind: Policy, metadata: {name: base}, spec: {kind: app, document: {n: 1}}}
---
{apiVersion: muster.dev/v1alpha1, kind: Policy, metadata: {name: web}, spec: {kind: app, document: {n: 2}}}
---
{apiVersion: muster.dev/v1alpha1, kind: Policy, metadata: {name: secret}, spec: {kind: app, document: {key: hidden}}}
---
{apiVersion: muster.dev/v1alpha1, kind: Policy, metadata: {name: both}, spec: {kind: log, document: {n: 3}}}
---
{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: servers}, spec: {path: /servers, policies: [base]}}
---
{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: web}, spec: {path: /servers/web, policies: [web, both]}}
---
{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: db}, spec: {path: /db, policies: [secret, both]}}
"#;

async fn token(admin: &Cli, name: &str, rest: &str) -> String {
    let made = admin.json(&format!("api-token create {name} {rest}")).await;
    made["token"].as_str().expect("an answer has a token").to_owned()
}

/// What a method answers to an empty request.
async fn code(line: &Line, method: &Method) -> Code {
    let mut client = tonic::client::Grpc::new(line.clone());
    client.ready().await.expect("the server listens");
    let path = format!("/{}", method.name).parse().expect("a method has a path");
    let codec: tonic_prost::ProstCodec<(), ()> = tonic_prost::ProstCodec::default();
    // Whether a method streams makes no difference to how its answer begins.
    match client.server_streaming(tonic::Request::new(()), path, codec).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// T22: a method lets in exactly the roles that its row names.
#[tokio::test(flavor = "multi_thread")]
async fn every_role_may_use_what_the_table_says_and_nothing_else() {
    let fleet = Fleet::start().await;
    let admin = fleet.cli("identity");
    let _ = admin.apply(TREE).await;
    let service = &fleet.services[0];
    let nobody = live::line(service, None).await.expect("it listens");
    for method in &METHODS {
        assert_eq!(code(&nobody, method).await, Code::Unauthenticated, "{}", method.name);
    }
    let mut lines: BTreeMap<(Role, bool), Line> = BTreeMap::new();
    for role in Role::ALL {
        for (bound, option) in [(false, ""), (true, "--group /servers/web")] {
            let name = if bound { format!("{role}-bound") } else { role.to_string() };
            let token = token(&admin, &name, &format!("--role {role} {option}")).await;
            let line = live::line(service, Some(&token)).await.expect("it listens");
            lines.insert((role, bound), line);
        }
    }
    let mut wrong = Vec::new();
    for method in &METHODS {
        for ((role, bound), line) in &lines {
            let fleet_wide = method.breadth == domain::access::Breadth::Fleet;
            let may = role.has(method.right) && !(*bound && fleet_wide);
            let answered = code(line, method).await;
            if (answered != Code::PermissionDenied) != may || answered == Code::Unauthenticated {
                wrong.push(format!("{} by {role} (bound: {bound}): {answered:?}", method.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What changes something is never for who only looks.
    assert!(METHODS.iter().all(|it| it.effect == Effect::Reads || !Role::Viewer.has(it.right)));
}

fn names(list: &Value, of: &str, field: &str) -> Vec<String> {
    let all = list[of].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|it| it[field].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_caller_neither_sees_nor_touches_what_lies_outside() {
    let fleet = Fleet::start().await;
    let admin = fleet.cli("policy");
    let _ = admin.apply(TREE).await;
    let _inside = fleet.agent("web-1", "/servers/web").await;
    let _outside = fleet.agent("db-1", "/db").await;
    fleet.shows("web-1", "online", |s| s["state"] == "ONLINE").await;
    fleet.shows("db-1", "online", |s| s["state"] == "ONLINE").await;
    let ops = admin.with_token("ops", &token(&admin, "ops", "--role operator --group /servers/web").await);
    // It sees its part, and what is inherited.
    assert_eq!(names(&ops.json("group list").await, "groups", "path"), ["/servers/web"]);
    assert_eq!(names(&ops.json("policy list").await, "policies", "name"), ["base", "both", "web"]);
    assert_eq!(names(&ops.json("agent list").await, "agents", "name"), ["web-1"]);
    assert_eq!(ops.json("status").await["all"]["total"], "1");
    let shared = ops.json("policy show both").await;
    assert_eq!(shared["groups"], serde_json::json!(["/servers/web"]), "the other user is not told");
    for line in [
        "group show /db",
        "group show db",
        "policy show secret",
        "policy history secret",
        "policy explain --group /db",
        "policy explain --group /servers",
        "agent show db-1",
        "agent list --group /db",
        "status --group db",
        "agent move db-1 --to /servers/web",
        "agent move web-1 --to /db",
        "agent delete db-1 --yes",
        "token create --group /db",
        "settings set --group /db --mode push",
    ] {
        let said = ops.run(line).await.refused(4);
        assert!(said.contains("there is no"), "{line}: {said}");
    }
    // It touches nothing else either.
    let head = r#"{apiVersion: muster.dev/v1alpha1, kind: "#;
    for (object, why) in [
        ("Policy, metadata: {name: base}, spec: {kind: app, document: {n: 9}}}", "alone"),
        ("Policy, metadata: {name: secret}, spec: {kind: app, document: {key: hidden}}}", "alone"),
        ("Policy, metadata: {name: both}, spec: {kind: log, document: {n: 9}}}", "alone"),
        ("PolicyKind, metadata: {name: app}, spec: {schema: {title: mine}}}", "alone"),
        ("Group, metadata: {name: web}, spec: {path: /servers/web, policies: [secret]}}", "secret"),
        ("Group, metadata: {name: new}, spec: {path: /new}}", "outside"),
        ("Group, metadata: {name: db}, spec: {path: /servers/web/db}}", "outside"),
    ] {
        for args in [&["apply", "-f", "-"][..], &["apply", "-f", "-", "--dry-run"]] {
            let said = ops.run_with(args, &format!("{head}{object}")).await.refused(3);
            assert!(said.contains(why) && said.contains("muster whoami"), "{object}: {said}");
            assert!(!said.contains("/db"), "{object}: {said}");
        }
    }
    // What is its own it changes, and histories say who did.
    let own = "Policy, metadata: {name: web}, spec: {kind: app, document: {n: 5}}}";
    let _ = ops.apply(&format!("{head}{own}")).await;
    let history = admin.json("policy history web").await;
    assert_eq!(history["generations"][0]["change"]["actor"], "token:ops");
    let _ = ops.run("settings set --group /servers/web --mode push").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn api_tokens_are_made_bound_revoked_and_expire() {
    let fleet = Fleet::with_replicas(1).await;
    let (admin, policy) = (fleet.cli("identity"), fleet.cli("policy"));
    let _ = policy.apply(TREE).await;
    let chief = admin.with_token("chief", &token(&admin, "chief", "--role admin --group /servers").await);
    // Nobody gives what they do not have.
    let said = chief.run("api-token create more --role viewer").await.refused(3);
    assert!(said.contains("bind the token"), "{said}");
    let _ = chief.run("api-token create other --role viewer --group /db").await.refused(4);
    let secret = token(&chief, "web", "--role viewer --group /servers/web").await;
    let listed = chief.json("api-token list").await;
    assert_eq!(names(&listed, "tokens", "name"), ["chief", "web"]);
    assert_eq!(listed["tokens"][1]["createdBy"], "token:chief");
    let _ = chief.run("api-token revoke test --yes").await.refused(4);
    // A token of one replica is good at every other, at once.
    let viewer = policy.with_token("web", &secret);
    assert_eq!(names(&viewer.json("group list").await, "groups", "path"), ["/servers/web"]);
    let shown = admin.with_token("web", &secret).json("whoami").await;
    assert_eq!((shown["name"].as_str(), shown["role"].as_str()), (Some("token:web"), Some("VIEWER")));
    // The group of a bound token stays.
    let said = policy.run("group delete /servers/web --yes").await.refused(3);
    assert!(said.contains("API token \"web\""), "{said}");
    let _ = chief.run("api-token revoke web --yes").await.ok();
    eventually("the revoked token lets nobody in", async || match viewer.run("group list").await {
        output if output.code == 3 && output.stderr.contains("revoked") => Ok(()),
        output => Err(format!("{output:?}")),
    })
    .await;
    // A short life ends.
    let brief = policy.with_token("brief", &token(&admin, "brief", "--role viewer --ttl 1s").await);
    eventually("the token expires", async || match brief.run("group list").await {
        output if output.code == 3 && output.stderr.contains("expired") => Ok(()),
        output => Err(format!("{output:?}")),
    })
    .await;
    // No secret is in any log.
    for service in &fleet.services {
        let log = service.process.log();
        assert!(!log.contains("mat1_") && !log.contains(&secret), "{log}");
    }
}
