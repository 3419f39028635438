//! The chart on this machine: NATS, services and agents as processes, with what the rendered Pods name.

use cluster::{Chart, have};
use live::{AgentProcess, Cli, eventually, until};
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::collector::Collector;
use super::release::{Given, IDENTITY, POLICY, PRESENCE, Release, SERVICES, between, ended_well};

/// Where the values of the chart say that a collector is.
pub(crate) const COLLECTOR: &str = "http://collector.telemetry:4317";

/// Variables of processes that tell it soon.
pub(crate) fn soon() -> Value {
    let soon = [("OTEL_BSP_SCHEDULE_DELAY", "100"), ("OTEL_METRIC_EXPORT_INTERVAL", "500")];
    soon.map(|(name, value)| json!({ "name": name, "value": value })).to_vec().into()
}

/// A group in push mode and one in pull mode, with the policy that [`round`] changes. Agents in push mode beat this often.
pub(crate) fn manifests(push: &str) -> String {
    format!(
        "\
apiVersion: muster.dev/v1alpha1
kind: PolicyKind
metadata: {{name: firewall}}
spec: {{schema: {{type: object}}}}
---
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {{name: base}}
spec: {{kind: firewall, document: {{round: 0}}}}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {{name: push}}
spec: {{path: /push, settings: {{mode: push, heartbeatInterval: {push}}}, policies: [base]}}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {{name: pull}}
spec: {{path: /pull, settings: {{mode: pull, heartbeatInterval: 1s}}, policies: [base]}}
"
    )
}

/// An agent in each of these groups.
pub(crate) async fn both(release: &Release) -> Vec<AgentProcess> {
    let mut agents = Vec::new();
    for mode in ["push", "pull"] {
        let made = release.cli(IDENTITY).json(&format!("token create --group /{mode} --uses 1")).await;
        let mut agent = AgentProcess::new(&release.dir, mode, made["token"].as_str().unwrap());
        agent.start();
        agents.push(agent);
    }
    agents
}

/// A policy that has reached both agents.
pub(crate) async fn round(cli: &Cli, number: u64, agents: &[AgentProcess]) {
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

/// Each service tells the collector, and of which Pod it is.
pub(crate) async fn all_services_tell(collector: &Collector) {
    for name in SERVICES {
        collector.hears_of(name, "site=lab").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rendered_runs_and_goes_on_when_a_server_is_gone() {
    if !have(&PROGRAMS) || !have(&["nats-server", "otelcol"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await;
    let values = json!({
        "nats": { "config": { "lameDuckDuration": "30s" } }, "backup": { "enabled": true },
        "global": { "otel": { "endpoint": COLLECTOR, "resourceAttributes": { "site": "lab" } }, "extraEnv": soon() },
    });
    let given = Given { addresses: vec![(COLLECTOR.to_owned(), collector.endpoint())], ..Given::default() };
    let mut release = Release::start_with(&Chart::new().with(values), given).await;
    // The notes say how to get the first token, and how to let agents in.
    let notes = release.first_token().await;
    let policy = release.cli(POLICY);
    let token = release.cli(IDENTITY).run(&between(&notes, "--token-file admin.token ", "\n")).await.ok();
    assert!(token.contains("mjt1_"), "{token}");
    policy.apply(&manifests("10s")).await;
    let agents = both(&release).await;
    round(&policy, 1, &agents).await;
    let listed = release.cli(PRESENCE).json("agent list").await.to_string();
    assert!(listed.contains("push") && listed.contains("pull"), "{listed}");

    all_services_tell(&collector).await;

    let (broker, host) = (&mut release.broker, &release.host);
    broker.pods[0].kill().await;
    round(&policy, 2, &agents).await;
    broker.pods[0].start(host);
    broker.ready(0).await;
    // The quorum is now the one that came back and one other.
    broker.pods[1].kill().await;
    round(&policy, 3, &agents).await;
    broker.pods[1].start(host);
    broker.ready(1).await;

    let command = broker.pods[2].before_end();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let sent = broker.pods[2].exec(host, &words).await;
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    round(&policy, 4, &agents).await;
    until("the lame duck ends", || broker.pods[2].ended().map(drop).ok_or_else(|| "it runs".to_owned()))
        .await;
    round(&policy, 5, &agents).await;

    let mut backup = host.pod(("CronJob", "muster-backup"), "backup", &[]);
    backup.start(host);
    ended_well(&mut backup).await;
    let taken = std::fs::read_dir(release.dir.join("backup/var/lib/muster-backups")).unwrap().flatten();
    assert_eq!(taken.count(), 1, "{}", backup.log());
    let command = eventually("a collector hears of the backup", async || {
        let mut spans = collector.spans().into_iter();
        spans.find(|span| span["name"] == "musterd backup").ok_or_else(|| backup.log())
    })
    .await;
    assert_eq!(collector.teller(&command)["k8s.pod.name"], "backup");
}

/// `helm test`, as far as containers are needed for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_pod_of_helm_test_sees_whether_a_release_works() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let mut release = Release::start(&Chart::new()).await;
    let mut pod = release.host.pod(("Pod", "muster-selftest"), "selftest", &[]);
    pod.start(&release.host);
    ended_well(&mut pod).await;
    let said = pod.log();
    assert!(said.contains("both run its change") && said.contains("the control plane passed"), "{said}");
    nothing_is_left(&release).await;

    // Without presence no heartbeat is answered. A test that is stopped takes back what it made all the same.
    let mut pod = release.host.pod(("Pod", "muster-selftest"), "selftest-2", &[]);
    release.services[PRESENCE].0.kill().await;
    pod.start(&release.host);
    until("it is under way", || {
        let log = pod.log();
        if log.contains("published a policy") { Ok(()) } else { Err(log) }
    })
    .await;
    pod.terminate();
    until("it ends", || pod.ended().map(drop).ok_or_else(|| pod.log())).await;
    let said = pod.log();
    assert!(pod.ended().is_some_and(|status| !status.success()), "{said}");
    assert!(said.contains("took everything back"), "{said}");
    nothing_is_left(&release).await;
}

async fn nothing_is_left(release: &Release) {
    release.first_token().await;
    let (policy, identity) = (release.cli(POLICY), release.cli(IDENTITY));
    for (cli, what) in [
        (&policy, "group list"),
        (&policy, "policy list"),
        (&policy, "kind list"),
        (&identity, "token list"),
        (&identity, "api-token list"),
    ] {
        let listed = cli.json(what).await.to_string();
        assert!(!listed.contains("selftest"), "{what}: {listed}");
    }
}
