//! The agent that the chart runs on each node, as a release of its own.

use cluster::{Chart, NODE, Pod, have};
use live::{AgentProcess, Cli, eventually, until};
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::collector::Collector;
use super::pods::{COLLECTOR, manifests, round, soon};
use super::release::{Given, IDENTITY, POLICY, PRESENCE, Release};

/// What an operator of the agents may say to them, beside the join token.
const CONFIG: &str = "label = [\"rack=r1\"]\n";

fn chart() -> Chart {
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "of-agents" }, "data": { "agent.toml": CONFIG },
    });
    Chart::new().file(cluster::chart_dir().join("examples/node-agents.yaml")).with(json!({
        "agent": { "configMap": "of-agents" }, "extraObjects": [config],
        "global": { "otel": { "endpoint": COLLECTOR }, "extraEnv": soon() },
    }))
}

/// The only agent that there is, when it is online and as its group should be.
async fn the_agent(presence: &Cli, pod: &mut Pod) -> Value {
    eventually("the agent is online", async || {
        assert_eq!(pod.ended(), None, "{} ended: {}", pod.name, pod.log());
        let listed = presence.json("agent list").await;
        match listed["agents"].as_array().map(Vec::as_slice) {
            Some([agent]) if agent["state"] == "ONLINE" && agent["progress"] == "CURRENT" => {
                Ok(agent.clone())
            }
            _ => Err(format!("{listed} {}", pod.log())),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_the_name_of_its_node_and_outlives_its_pods() {
    if !have(&PROGRAMS) || !have(&["nats-server", "otelcol"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await;
    let given = Given { addresses: vec![(COLLECTOR.to_owned(), collector.endpoint())], ..Given::default() };
    let mut release = Release::start_with(&Chart::new(), given).await;
    release.first_token().await;
    let (policy, presence) = (release.cli(POLICY), release.cli(PRESENCE));
    policy.apply(&manifests("1s")).await;
    // One that joined a second time, or that said another name, would not come where it belongs.
    let create = format!("token create --group /pull --uses 1 --rule /push:hostname={NODE},rack=r1");
    let token = release.cli(IDENTITY).json(&create).await["token"].as_str().unwrap().to_owned();
    let secret = [("token".to_owned(), token.into_bytes())].into();
    release.also(chart().rendered(), [("muster-join".to_owned(), secret)].into()).await;
    let mut seen = AgentProcess::new(&release.dir, NODE, "");
    seen.state = release.host.of_node("/var/lib/muster-agent");
    let seen = [seen];

    let set = ("DaemonSet", "muster-agent");
    let mut pod = release.host.pod(set, "muster-agent-x7f2q", &[]);
    pod.start(&release.host);
    let agent = the_agent(&presence, &mut pod).await;
    round(&policy, 1, &seen).await;
    let (name, of_node) = (agent["name"].as_str().unwrap(), format!("{NODE}-"));
    assert!(name.starts_with(&of_node), "{agent}");
    assert_eq!((&agent["hostname"], &agent["group"]), (&json!(NODE), &json!("/push")), "{agent}");
    assert_eq!(agent["labels"], json!({ "rack": "r1" }), "{agent}");
    collector.hears_of(&pod.name, "service.name=muster-agent").await;

    // As a rolling update does it: the next Pod has another name and the same folder.
    pod.terminate();
    until("the Pod ends", || pod.ended().map(drop).ok_or_else(|| pod.log())).await;
    assert!(pod.ended().is_some_and(|status| status.success()), "{}", pod.log());
    let mut pod = release.host.pod(set, "muster-agent-9kd4z", &[]);
    pod.start(&release.host);
    assert_eq!(the_agent(&presence, &mut pod).await["name"], name);
    round(&policy, 2, &seen).await;
    collector.hears_of(&pod.name, "service.name=muster-agent").await;

    // As a kubelet does it with a container that failed.
    pod.kill().await;
    pod.start(&release.host);
    round(&policy, 3, &seen).await;
    assert_eq!(the_agent(&presence, &mut pod).await["name"], name);
}
