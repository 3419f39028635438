//! Which group an agent gets that joins, and who is told why.

use live::{AgentProcess, Cli, Fleet};
use serde_json::{Value, json};

use crate::seed;

/// A group that only a rule names, and a token that sorts agents.
const SORTS: &str = r"
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: spare}
spec: {path: /spare}
---
apiVersion: muster.dev/v1alpha1
kind: EnrollmentToken
metadata: {name: sorts}
spec:
  group: /push
  uses: 10
  rules:
  - {match: {labels: {site: north, tier: edge}}, group: /spare}
  - {match: {labels: {site: north}, hostname: '*'}, group: /push/child}
  - {match: {labels: {tier: edge}}, group: pull}
";

/// Applies a manifest with one token, and gives what agents join with.
async fn made(cli: &Cli, manifests: &str) -> String {
    let output = cli.run_with(&["apply", "-f", "-", "-o", "json"], manifests).await.ok();
    let answer: Value = serde_json::from_str(&output).expect("JSON");
    answer["tokens"][0]["token"].as_str().expect("a token was made").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_sorted_by_the_rules_of_their_token_and_it_is_told_by_which() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("identity");
    seed::groups(&cli).await;
    let token = made(&cli, SORTS).await;
    let agent = |id: &str, options: &[&str]| {
        let mut agent = AgentProcess::new(fleet.dir(), id, &token).with_options(options);
        agent.start();
        agent
    };
    let north = ["--label", "site=north"];
    let mut agents = Vec::new();
    for (id, options, group, placed) in [
        ("by-rule", &north[..], "/push/child", "by rule 2 of token sorts"),
        ("by-name", &["--label", "tier=edge"], "/pull", "by rule 3 of token sorts"),
        ("by-token", &["--label", "site=south"], "/push", "as the group of token sorts"),
        (
            "by-wish",
            &["--group", "/push", north[0], north[1]],
            "/push",
            "at its own wish, which token sorts allows",
        ),
    ] {
        let agent = agent(id, options);
        agent.reaches("app", "/n", &json!(0)).await;
        let shown = fleet.shows(id, "it is there", |shown| shown["state"] == "ONLINE").await;
        assert_eq!(shown["group"], group, "{id}");
        let text = cli.run(&format!("agent show {id}")).await.ok();
        assert!(text.contains(placed), "{text}");
        agents.push(agent);
    }

    // What the token does not allow is refused, with the way out, and costs no use.
    let mut outside = agent("outside", &["--group", "/"]);
    assert!(!outside.process().wait().await.success());
    let log = outside.process().log();
    let allowed =
        "it lets into /push and what is below, /spare, /push/child, /pull; ask for one of these with --group";
    assert!(log.contains("the join token does not let into /;") && log.contains(allowed), "{log}");
    let listed = cli.json("token list").await;
    assert_eq!(
        (&listed["tokens"][0]["used"], &listed["tokens"][0]["rules"][2]["group"]),
        (&json!(4), &json!("/pull"))
    );

    // A group that a rule names stays while the token does, wherever it stands.
    let _ = cli.run("group move /spare --to /push/spare").await.ok();
    let said = cli.run("group delete /push/spare --yes").await.refused(3);
    assert!(said.contains("in use by token \"sorts\""), "{said}");
    assert_eq!(cli.json("token list").await["tokens"][0]["rules"][0]["group"], "/push/spare");
    let _ = cli.run("token revoke sorts --yes").await.ok();
    let _ = cli.run("group delete /push/spare --yes").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_a_group_lets_into_the_default_and_makers_keep_within_their_reach() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("identity");
    seed::groups(&cli).await;
    let said = cli.run("token create --rule /push:site=north").await.refused(3);
    assert!(said.contains("details.group") && said.contains("there is no group \"/default\""), "{said}");
    let _ = cli.run("group create /default").await.ok();
    let made = cli.json("token create --rule /push:site=north --uses 2").await;
    assert_eq!(made["details"]["group"], "/default");
    let token = made["token"].as_str().expect("a token");

    // Joins, says so, and ends; a run goes on from there.
    let mut agent = AgentProcess::new(fleet.dir(), "one", token);
    let state = agent.state.to_string_lossy().into_owned();
    let mut join = live::Process::start(
        fleet.dir(),
        "join-one",
        "muster-agent",
        &["join", "--join", token, "--state-dir", &state, "--id", "one"],
        &[],
    );
    assert!(join.wait().await.success(), "{}", join.log());
    assert!(join.log().contains("agent one is in the fleet default"), "{}", join.log());
    agent.start();
    let _ = fleet.shows("one", "it is there", |shown| shown["state"] == "ONLINE").await;
    let text = cli.run("agent show one").await.ok();
    assert!(text.contains("/default") && text.contains("as the default"), "{text}");

    // Who is bound to /push makes no token that leads out of it, by whichever road.
    let bound = cli.json("api-token create bound --role operator --group /push").await;
    let bound = cli.with_token("bound", bound["token"].as_str().expect("a token"));
    let _ = bound.run("token create --group /push --rule /push/child:site=north").await.ok();
    for (line, field) in [
        ("token create --group /push --rule /pull:site=north", "details.rules[0].group"),
        ("token create --rule /push/child:site=north", "details.group"),
    ] {
        let said = bound.run(line).await.refused(3);
        assert!(said.contains(field) && said.contains("there is no group"), "{line}: {said}");
    }
    let manifest = SORTS.rsplit("---").next().expect("the token");
    let output = bound.run_with(&["apply", "-f", "-"], manifest).await;
    assert!(output.code != 0 && output.stderr.contains("spec.rules[0].group"), "{}", output.stderr);
    let listed = bound.json("token list").await;
    assert_eq!(listed["tokens"].as_array().map(Vec::len), Some(1), "{listed}");
}
