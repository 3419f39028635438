//! What dashboards and rules ask for is what Prometheus finds after a real run: a fleet tells the collector of
//! deploy/observability, NATS is asked by its exporter, and promtool evaluates every query over what both say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use cluster::{Objects, have, root, tool};
use live::{AgentProcess, Fleet, Process, Tree, eventually};
use serde_json::{Value, json};
use wire::access::Account;

use super::collector::{Collector, app, environment, telling_fleet};
use super::release::{loopback, plain_get};

const GROUPS: &str = "\
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: push}
spec:
  path: /push
  settings: {mode: push, heartbeatInterval: 1s, contentSpread: 0s}
  policies: [app]
  content: [{channel: rules, stage: stable}]
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: pull}
spec: {path: /pull, settings: {mode: pull, heartbeatInterval: 1s}, policies: [app]}
";

/// A handler that does not take 13.
const HANDLER: &str =
    "[handlers.app]\ncommand = [\"sh\", \"-c\", \"! grep -q '\\\"n\\\":13' \\\"$MUSTER_FILE\\\"\"]\n";

/// What the exporter beside each NATS server asks it for; the chart gives it the same.
pub(crate) const EXPORTER: [&str; 4] =
    ["-varz", "-jsz=streams", "-healthz_js_server_only", "-use_internal_server_name"];

/// Beginnings of the names that our dashboards and rules may ask for.
const OURS: [&str; 6] = ["muster_", "messaging_", "rpc_", "gnatsd_", "jetstream_", "muster:"];

/// Events that the run brings about, as series that count at least one.
const HAPPENED: [&str; 8] = [
    "muster_policy_convergence_duration_seconds_count{mode=\"push\",result=\"applied\"}",
    "muster_policy_convergence_duration_seconds_count{mode=\"push\",result=\"failed\"}",
    "muster_policy_convergence_intervals_count{mode=\"pull\",result=\"applied\"}",
    "muster_agent_activations_total{verified=\"true\"}",
    "muster_agent_rollbacks_total{item=\"policy\"}",
    "muster_verify_failures_total{reason=\"malformed\"}",
    "muster_content_bytes_total{source=\"origin\"}",
    "muster_content_apply_duration_seconds_count{result=\"applied\"}",
];

/// How promtool sees the run: as half an hour in which nothing changes, asked at its end.
const MINUTES: u32 = 30;

/// A query, and the labels that the legend of its panel names.
#[derive(Debug)]
struct Query {
    from: String,
    text: String,
    legend: String,
}

/// One series as Prometheus reads it.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// With braces, as it was said; empty without labels.
    pub(crate) labels: String,
    pub(crate) value: f64,
}

impl Series {
    fn read(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        let at = series.find('{').unwrap_or(series.len());
        let (name, labels) = series.split_at(at);
        Some(Self { name: name.to_owned(), labels: labels.to_owned(), value: value.parse().ok()? })
    }

    fn has(&self, label: &str) -> bool {
        ["{", ","].iter().any(|before| self.labels.contains(&format!("{before}{label}=\"")))
    }

    /// Whether it is the one of that name with these labels among others.
    fn is(&self, wanted: &str) -> bool {
        let (name, labels) = wanted.split_once('{').expect("labels are named");
        self.name == name && labels.trim_end_matches('}').split(',').all(|label| self.labels.contains(label))
    }
}

/// All queries of dashboards and rules, and the names of what rules record.
fn queries() -> (Vec<Query>, BTreeSet<String>) {
    let folder = root().join("deploy/observability");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let targets = panel["targets"].as_array().unwrap().iter();
            found.extend(targets.map(|target| Query {
                from: format!("{} {}", path.file_name().unwrap().display(), panel["title"]),
                text: target["expr"].as_str().unwrap().to_owned(),
                legend: target["legendFormat"].as_str().unwrap_or_default().to_owned(),
            }));
        }
    }
    let rules = Objects::read(&fs::read_to_string(folder.join("rules.yaml")).unwrap()).0.remove(0);
    let rules =
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let mut recorded = BTreeSet::new();
    for rule in rules {
        let name = ["record", "alert"].iter().find_map(|key| rule[key].as_str()).unwrap();
        recorded.extend(rule["record"].as_str().map(str::to_owned));
        let legend = rule["annotations"]["summary"].as_str().unwrap_or_default().to_owned();
        found.push(Query { from: name.to_owned(), text: rule["expr"].as_str().unwrap().to_owned(), legend });
    }
    (found, recorded)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).filter(|word| !word.is_empty())
}

/// Labels that an expression groups by, and that a legend names.
fn labels_of(query: &Query) -> BTreeSet<&str> {
    let grouped = query.text.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    let named = query.legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    // Templates of alerts have functions and $value as well.
    let named = named.filter_map(|text| match text.trim().strip_prefix("$labels.") {
        Some(label) => Some(label),
        None => (!text.contains('$')).then_some(text.trim()),
    });
    grouped.chain(named).flat_map(words).collect()
}

/// Names and labels that a query asks for and nobody tells.
fn unknown(query: &Query, told: &[Series], recorded: &BTreeSet<String>) -> Vec<String> {
    let ours = |word: &&str| OURS.iter().any(|start| word.starts_with(start));
    let asked: BTreeSet<&str> = words(&query.text).filter(ours).collect();
    let of: Vec<&Series> = told.iter().filter(|series| asked.contains(&series.name[..])).collect();
    let labels = labels_of(query);
    let is_told = |word: &str| {
        let is_metric = of.iter().any(|series| series.name == word);
        is_metric || recorded.contains(word) || of.iter().any(|series| series.has(word))
    };
    let names = asked.iter().copied().filter(|word| !is_told(word));
    let labels = labels.into_iter().filter(|label| !of.iter().any(|series| series.has(label)));
    names.chain(labels).map(|word| format!("{}: nobody tells {word}", query.from)).collect()
}

/// What promtool finds no answer to, in its words. Comparisons of alerts tell 0 and 1 for it.
async fn unanswered(dir: &Path, queries: &[Query], told: &[Series]) -> Result<(), String> {
    let twins: BTreeMap<String, f64> =
        told.iter().map(|series| (format!("{}{}", series.name, series.labels), series.value)).collect();
    let series: Vec<Value> = twins
        .iter()
        .map(|(series, value)| json!({ "series": series, "values": format!("{value}+0x{MINUTES}") }))
        .collect();
    let asked = |query: &Query| {
        let text = query.text.replace(" > ", " > bool ").replace(" < ", " < bool ");
        json!({ "expr": format!("absent({text})"), "eval_time": format!("{MINUTES}m"), "exp_samples": [] })
    };
    let test = json!({
        "rule_files": [root().join("deploy/observability/rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": queries.iter().map(asked).collect::<Vec<_>>(),
        }],
    });
    let path = dir.join("run.json");
    fs::write(&path, test.to_string()).unwrap();
    let run = tokio::process::Command::new(tool("promtool")).args(["test", "rules"]).arg(&path).output();
    let output = run.await.expect("promtool runs");
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// What Prometheus would scrape.
pub(crate) async fn scraped(addresses: &[SocketAddr]) -> Result<Vec<Series>, String> {
    let mut told = Vec::new();
    for address in addresses {
        let text = plain_get(*address, "/metrics").await.map_err(|error| format!("{address}: {error}"))?;
        told.extend(text.lines().filter_map(Series::read));
    }
    told.retain(|series| OURS.iter().any(|start| series.name.starts_with(start)));
    Ok(told)
}

/// Agents of both modes, content, a change that everybody takes, one that fails, and bytes that nobody signed.
async fn life(fleet: &Fleet, endpoint: &str) -> [AgentProcess; 2] {
    let (policy, content) = (fleet.cli("policy"), fleet.cli("content"));
    let tree = Tree::made(1, 50_000);
    tree.write(&fleet.dir().join("tree"));
    let _ = content.run("content push rules tree").await.ok();
    let _ = content.run("content promote rules 1 --stage stable").await.ok();
    policy.apply(&app(GROUPS, 0)).await;
    let mut agents = Vec::new();
    for group in ["push", "pull"] {
        let token = fleet.token(&format!("/{group}"), 1).await;
        let agent = AgentProcess::new(fleet.dir(), group, &token).with_config(HANDLER);
        let mut agent = agent.with_options(&["--start-spread", "0s"]);
        agent.start_with(&environment(endpoint));
        fleet.shows(group, "current", |shown| shown["progress"] == "CURRENT").await;
        agents.push(agent);
    }
    policy.apply(&app(GROUPS, 1)).await;
    for agent in &agents {
        agent.reaches("app", "/n", &json!(1)).await;
        fleet.shows(&agent.id, "current", |shown| shown["progress"] == "CURRENT").await;
    }
    agents[0].holds("rules", &tree).await;
    policy.apply(&app(GROUPS, 13)).await;
    fleet.shows("push", "a failure", |shown| shown["progress"] == "FAILED").await;
    let nats = fleet.admin(Account::Fleet).await;
    nats.publish("notify.group.push", "nobody signed this".into()).await.expect("an administrator may");
    nats.flush().await.expect("flushed");
    fleet.shows("push", "a refusal", |shown| shown["refusals"] == "1").await;
    agents.try_into().ok().expect("there are two")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_dashboards_and_rules_is_answered_after_a_real_run() {
    if !have(&["otelcol", "promtool", "prometheus-nats-exporter"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (collector, metrics) = Collector::of_the_example(dir.path()).await;
    let fleet = telling_fleet(&collector.endpoint()).await;
    let of_nats = loopback();
    let mut exporter = tokio::process::Command::new(tool("prometheus-nats-exporter"));
    exporter.args(["-addr", &of_nats.ip().to_string(), "-port", &of_nats.port().to_string()]);
    exporter.args(EXPORTER).arg(fleet.monitor());
    let exporter = Process::of(dir.path(), "exporter", exporter);
    let _agents = life(&fleet, &collector.endpoint()).await;

    let (queries, recorded) = queries();
    assert!(queries.len() > 60, "queries are found: {}", queries.len());
    let told = eventually("all that is asked for has been told", async || {
        let told = scraped(&[metrics, of_nats])
            .await
            .map_err(|error| format!("{error}: {}{}", collector.log(), exporter.log()))?;
        let counts = |wanted: &&str| told.iter().any(|series| series.is(wanted) && series.value >= 1.0);
        let mut missing: Vec<String> = HAPPENED
            .iter()
            .filter(|wanted| !counts(wanted))
            .map(|wanted| format!("not yet: {wanted}"))
            .collect();
        missing.extend(queries.iter().flat_map(|query| unknown(query, &told, &recorded)));
        if missing.is_empty() { Ok(told) } else { Err(missing.join("\n")) }
    })
    .await;
    if let Err(said) = unanswered(dir.path(), &queries, &told).await {
        panic!("{said}");
    }

    // The check would notice.
    let check = |text: &str, finds: &str| {
        let query = Query { from: String::new(), text: text.to_owned(), legend: String::new() };
        assert_eq!(unknown(&query, &told, &recorded), [format!(": nobody tells {finds}")], "{text}");
    };
    check("sum(rate(muster_heartbeat_total[5m]))", "muster_heartbeat_total");
    check("sum by (agent) (muster_agents)", "agent");
    let wrong =
        Query { from: String::new(), text: "muster_agents{mode=\"both\"}".to_owned(), legend: String::new() };
    assert!(unanswered(dir.path(), &[wrong], &told).await.is_err(), "no series has this value");
}
