//! What a real collector hears: one trace from `muster apply` to "applied", metrics of the catalogue and nothing else, no
//! secret anywhere; and what happens when there is none.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::{free_port, have, tool};
use live::{AgentProcess, Faults, Fleet, Lane, Process, Proxy, eventually, until};
use runtime::telemetry::{CATALOGUE, SHUTDOWN_TIMEOUT};
use serde_json::{Value, json};

use super::collector::{Collector, TRACE_ALL, app, attributes, environment, telling_fleet};
use super::commands;

/// Kinds of spans, as OTLP numbers them.
pub(crate) const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
pub(crate) const CLIENT: u64 = 3;
const PRODUCER: u64 = 4;
const CONSUMER: u64 = 5;
/// Id of an agent that no other text has in it.
const AGENT: &str = "canary-agent-17";
/// How long the end of a process may take on a busy machine, beside the telemetry.
const STOP_SLACK: Duration = Duration::from_secs(3);
/// What a collector without memory answers, and one that is asked too much.
const REFUSALS: [&str; 2] = ["gRPC code: Unavailable", "gRPC code: ResourceExhausted"];

const GROUPS: &str = "\
{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: push}, spec: {path: /push, settings: {mode: push}, policies: [app]}}
";

const PULL: &str = "\
{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: pull}, spec: {path: /pull, settings: {mode: pull, heartbeatInterval: 1s}, policies: [app]}}
";

/// A control plane that tells a collector, with all its agents telling of every change.
async fn fleet(endpoint: &str) -> Fleet {
    let fleet = telling_fleet(endpoint).await;
    fleet.cli("policy").apply(&app(GROUPS, 0)).await;
    fleet
}

async fn agent(fleet: &Fleet, endpoint: &str, token: &str) -> AgentProcess {
    let mut agent = AgentProcess::new(fleet.dir(), AGENT, token).with_options(&TRACE_ALL);
    agent.start_with(&environment(endpoint));
    agent.reaches("app", "/n", &json!(0)).await;
    agent
}

fn named<'a>(spans: &'a [Value], trace: &str, name: &str) -> Option<&'a Value> {
    spans.iter().find(|span| span["traceId"] == trace && span["name"] == name)
}

/// Spans of a trace whose parent nobody told.
fn without_parent<'a>(spans: &'a [Value], trace: &str) -> Vec<&'a Value> {
    let of_trace: Vec<_> = spans.iter().filter(|span| span["traceId"] == trace).collect();
    let has_parent = |span: &&&Value| of_trace.iter().any(|above| above["spanId"] == span["parentSpanId"]);
    of_trace.iter().filter(|span| !has_parent(span)).copied().collect()
}

/// The span of that name, of that kind, below another one.
fn below<'a>(spans: &'a [Value], trace: &str, (name, kind): (&str, u64), parent: &Value) -> &'a Value {
    let span = named(spans, trace, name).unwrap_or_else(|| panic!("there is no span {name}"));
    assert_eq!((&span["kind"], &span["parentSpanId"]), (&json!(kind), &parent["spanId"]), "{span:#}");
    span
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_apply_to_applied_and_no_secret_is_told() {
    if !have(&["otelcol"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await;
    let fleet = fleet(&collector.endpoint()).await;
    let token = fleet.token("/push", 1).await;
    let mut agent = agent(&fleet, &collector.endpoint(), &token).await;

    let change = app(GROUPS, 1);
    let cli = fleet.cli("policy").with_environment(&environment(&collector.endpoint()));
    let output = cli.run_with(&["apply", "-f", "-", "-o", "json"], &change).await.ok();
    let made: Value = serde_json::from_str(&output).unwrap();
    let revision = made["result"]["revision"].as_str().unwrap().to_owned();
    agent.reaches("app", "/n", &json!(1)).await;
    let shown = eventually("the change is traced to its agent", async || {
        let shown = fleet.cli("policy").json(&format!("trace {revision} --url http://t/{{trace_id}}")).await;
        if shown["delivery"]["applied"]["count"] == "1" { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await;
    let trace = shown["change"]["traceId"].as_str().expect("it has a trace").to_owned();
    assert_eq!(shown["url"], format!("http://t/{trace}"));
    for moment in ["compiled", "firstPublished", "lastPublished"] {
        assert!(shown["delivery"][moment].is_string(), "{moment}: {shown:#}");
    }
    let spans = eventually("all spans have arrived", async || {
        let spans = collector.spans();
        let linked = spans.iter().filter(|span| span["links"][0]["traceId"] == trace.as_str()).count();
        let published = ["publish desired.group.{group}", "muster apply"];
        let published = published.iter().all(|name| named(&spans, &trace, name).is_some())
            && without_parent(&spans, &trace).len() == 1;
        let names: Vec<_> = spans.iter().map(|span| span["name"].clone()).collect();
        if linked >= 2 && published { Ok(spans) } else { Err(format!("{linked} linked of {names:?}")) }
    })
    .await;
    let root = the_trace_is_whole(&spans, &trace);
    assert_eq!(collector.teller(root)["service.name"], "muster");
    agent.process().stop().await;

    commands::are_told(&collector, &fleet).await;

    metrics_are_those_of_the_catalogue(&collector).await;
    logs_name_their_trace(&collector, &fleet, &trace).await;
    no_secret_is_told(&collector, &fleet, &agent, &token);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_a_heartbeat_is_linked_to_what_it_was_published_with() {
    if !have(&["otelcol"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await;
    let fleet = telling_fleet(&collector.endpoint()).await;
    let cli = fleet.cli("policy");
    cli.apply(&app(PULL, 0)).await;
    let token = fleet.token("/pull", 1).await;
    let mut agent = agent(&fleet, &collector.endpoint(), &token).await;
    let output = cli.run_with(&["apply", "-f", "-", "-o", "json"], &app(PULL, 1)).await.ok();
    let made: Value = serde_json::from_str(&output).unwrap();
    agent.reaches("app", "/n", &json!(1)).await;
    eventually("the agent tells of the change", async || {
        let spans = collector.spans();
        let of_change = |name: &'static str| {
            let of_change = |span: &&Value| {
                attributes(span).get("muster.revision").map(String::as_str)
                    == made["result"]["revision"].as_str()
            };
            spans.iter().filter(move |span| span["name"] == name).find(of_change)
        };
        let compiled = of_change("compile").ok_or("it is not compiled yet")?;
        let published = spans.iter().find(|span| span["parentSpanId"] == compiled["spanId"]);
        let published = published.ok_or("it is not published yet")?;
        let process = of_change("process notify.group.{group}").ok_or("the agent has not told yet")?;
        let link = &process["links"][0];
        assert_eq!([&link["traceId"], &link["spanId"]], [&published["traceId"], &published["spanId"]]);
        Ok(())
    })
    .await;
    agent.process().stop().await;
}

/// The call that an apply is to the service, below the command's own, below the command, which is the root.
fn called<'a>(spans: &'a [Value], trace: &str) -> [&'a Value; 2] {
    let root = named(spans, trace, "muster apply").expect("the command is a span");
    assert_eq!(root["kind"], INTERNAL);
    assert_eq!(without_parent(spans, trace), [root], "only the command has no parent that was told");
    let told = attributes(root);
    assert_eq!((&told["process.executable.name"][..], &told["process.exit.code"][..]), ("muster", "0"));
    assert!(told.len() == 3 && told.contains_key("process.pid"), "of arguments nothing is told: {told:?}");
    let method = "muster.api.v1.PolicyService/Apply";
    let of_kind = |kind| {
        spans.iter().find(|span| span["traceId"] == trace && span["name"] == method && span["kind"] == kind)
    };
    let call = of_kind(CLIENT).expect("the command's call is a span");
    assert_eq!(call["parentSpanId"], root["spanId"]);
    let told = attributes(call);
    for (name, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.method", method),
        ("rpc.status_code", "OK"),
        ("server.address", "127.0.0.1"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{told:?}");
    }
    assert!(told.contains_key("server.port") && !told.contains_key("error.type"), "{told:?}");
    let apply = of_kind(SERVER).expect("the call is a span of the service");
    assert_eq!(apply["parentSpanId"], call["spanId"], "the caller is its parent");
    [root, apply]
}

/// Its root is answered.
fn the_trace_is_whole<'a>(spans: &'a [Value], trace: &str) -> &'a Value {
    let [root, apply] = called(spans, trace);
    let told = attributes(apply);
    assert_eq!(told["rpc.method"], "muster.api.v1.PolicyService/Apply");
    assert!(!told.contains_key("error.type"), "{told:?}");
    assert_eq!((&told["rpc.system.name"][..], &told["rpc.status_code"][..]), ("grpc", "OK"));
    below(spans, trace, ("plan", INTERNAL), apply);
    let stored = below(spans, trace, ("publish store.{object}", PRODUCER), apply);
    let revision =
        stored["attributes"].as_array().and_then(|told| told.iter().find(|a| a["key"] == "muster.revision"));
    assert!(revision.is_some_and(|told| told["value"]["intValue"].is_string()), "a number: {stored:#}");
    let compiled = below(spans, trace, ("compile", INTERNAL), stored);
    assert_eq!(attributes(compiled)["muster.revision"], attributes(stored)["muster.revision"]);
    let published = below(spans, trace, ("publish desired.group.{group}", PRODUCER), compiled);
    let told = attributes(published);
    for (name, value) in [
        ("messaging.system", "nats"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.template", "desired.group.{group}"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{told:?}");
    }
    for template in ["notify.group.{group}", "svc.heartbeat.{agent}"] {
        let linked = |span: &&Value| {
            span["name"] == format!("process {template}") && span["links"][0]["traceId"] == trace
        };
        let process = spans.iter().find(linked).unwrap_or_else(|| panic!("no span is linked: {template}"));
        assert_eq!(process["kind"], CONSUMER);
        assert_ne!(process["traceId"], trace, "what an agent says is a trace of its own");
        assert!(process["parentSpanId"].as_str().is_none_or(str::is_empty), "{process:#}");
        let told = attributes(process);
        for (name, value) in [
            ("muster.agent", AGENT),
            ("muster.revision", &attributes(stored)["muster.revision"]),
            ("messaging.system", "nats"),
            ("messaging.operation.name", "process"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.template", template),
        ] {
            assert_eq!(told.get(name).map(String::as_str), Some(value), "{told:?}");
        }
        assert!(told.contains_key("muster.group"), "{told:?}");
        assert_eq!(
            process["links"][0]["spanId"], published["spanId"],
            "{template} is linked to what it was published with"
        );
        if template == "notify.group.{group}" {
            let own = process["traceId"].as_str().unwrap();
            for step in ["verify", "stage", "apply", "health"] {
                below(spans, own, (step, INTERNAL), process);
            }
        }
    }
    for span in spans {
        let name = span["name"].as_str().unwrap_or_default();
        assert!(!name.contains(AGENT), "names of spans have no ids: {name}");
    }
    root
}

async fn metrics_are_those_of_the_catalogue(collector: &Collector) {
    let metrics = eventually("metrics of services and agents have arrived", async || {
        let metrics = collector.all("metrics", ["resourceMetrics", "scopeMetrics", "metrics"]);
        let has = |name: &str| metrics.iter().any(|metric| metric["name"] == name);
        let wanted = [
            "muster.agents",
            "muster.heartbeats",
            "muster.heartbeat.lag",
            "muster.policy.convergence.duration",
            "muster.agent.activations",
            "muster.enrolments",
            "muster.key.expiry",
            "rpc.server.call.duration",
            "messaging.client.operation.duration",
            "messaging.process.duration",
        ];
        let missing: Vec<_> = wanted.into_iter().filter(|name| !has(name)).collect();
        if missing.is_empty() { Ok(metrics) } else { Err(format!("{missing:?} are missing")) }
    })
    .await;
    for metric in &metrics {
        let row = CATALOGUE.iter().find(|row| metric["name"] == row.name);
        let row = row.unwrap_or_else(|| panic!("{} is not in the catalogue", metric["name"]));
        assert_eq!(metric["unit"], row.unit);
        for kind in ["sum", "gauge", "histogram"] {
            for point in metric[kind]["dataPoints"].as_array().into_iter().flatten() {
                for (label, value) in attributes(point) {
                    let declared = row.labels.iter().find(|declared| declared.name == label);
                    let declared = declared.unwrap_or_else(|| panic!("{} has the label {label}", row.name));
                    assert!(declared.values.contains(&&value[..]), "{}: {label} is {value}", row.name);
                }
            }
        }
    }
    assert!(!collector.text("metrics").contains(AGENT), "the id of an agent is never a label");
    let activations = metrics.iter().filter(|metric| metric["name"] == "muster.agent.activations");
    let points = activations.flat_map(|metric| metric["sum"]["dataPoints"].as_array().into_iter().flatten());
    let unverified: Vec<_> = points.filter(|point| attributes(point)["verified"] == "false").collect();
    assert!(!unverified.is_empty() && unverified.iter().all(|point| point["asInt"] == "0"), "{unverified:?}");
}

async fn logs_name_their_trace(collector: &Collector, fleet: &Fleet, trace: &str) {
    eventually("a log of the change names its trace", async || {
        let logs = collector.all("logs", ["resourceLogs", "scopeLogs", "logRecords"]);
        let found = logs
            .iter()
            .any(|log| log["traceId"] == trace && log["body"]["stringValue"] == "committed a change");
        if found { Ok(()) } else { Err(format!("{} logs", logs.len())) }
    })
    .await;
    let log = fleet.services[0].process.log();
    let line = log.lines().find(|line| line.contains("committed a change") && line.contains(trace));
    let line: Value = serde_json::from_str(line.expect("the line on standard error has it too")).unwrap();
    assert_eq!(line["trace_id"], trace);
}

fn no_secret_is_told(collector: &Collector, fleet: &Fleet, agent: &AgentProcess, token: &str) {
    let read = |path: PathBuf| fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut secrets = vec![("join token".to_owned(), token.to_owned())];
    let admin = fs::read_to_string(fleet.dir().join("admin.token")).expect("there is an administrator");
    secrets.push(("API token".to_owned(), admin.trim().to_owned()));
    for key in ["director.key", "content.key", "root.key"] {
        let bytes = read(fleet.dir().join(key));
        let hex: String = bytes[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        secrets.extend([(format!("{key} in hex"), hex), (key.to_owned(), STANDARD.encode(&bytes[..12]))]);
    }
    let seed = String::from_utf8(read(agent.state.join("agent.key"))).expect("it is text");
    secrets.push(("key of the agent".to_owned(), seed.trim().to_owned()));
    for signal in ["traces", "metrics", "logs"] {
        let text = collector.text(signal);
        assert!(!text.is_empty(), "{signal} were heard");
        for (name, secret) in &secrets {
            assert!(secret.len() >= 12 && !text.contains(&secret[..]), "{name} is in {signal}");
        }
    }
}

/// A fleet and an agent, whatever is at the endpoint: a change arrives, and after a look both end in time.
async fn endures(endpoint: &str, seen: impl AsyncFnOnce(&Fleet)) {
    let mut fleet = fleet(endpoint).await;
    let token = fleet.token("/push", 1).await;
    let mut agent = agent(&fleet, endpoint, &token).await;
    fleet.cli("policy").apply(&app(GROUPS, 1)).await;
    agent.reaches("app", "/n", &json!(1)).await;
    seen(&fleet).await;
    tokio::join!(ends(agent.process()), ends(&mut fleet.services[0].process));
}

/// Stops a process. From when it has nothing to do any more, it has as long as telemetry may take.
async fn ends(process: &mut Process) {
    process.terminate();
    let told = process.log().len();
    until("it says that it stops", || {
        if process.ended().is_some() || process.log()[told..].contains("stopped") {
            Ok(())
        } else {
            Err(process.log())
        }
    })
    .await;
    let asked = Instant::now();
    assert!(process.wait().await.success(), "{}", process.log());
    let took = asked.elapsed();
    assert!(took < SHUTDOWN_TIMEOUT + STOP_SLACK, "{took:?}: {}", process.log());
}

/// A collector that is not there, and one that takes connections and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_changes_arrive_and_processes_end_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let away = format!("http://127.0.0.1:{}", free_port());
    tokio::join!(endures(&away, async |_| {}), endures(&silent, async |_| {}));
}

/// A collector that refuses because it has no memory left, one that is asked too much, and one at the end of a line on which nothing arrives in time.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_collector_that_refuses_or_is_slow_changes_arrive_and_processes_end_in_time() {
    if !have(&["otelcol"]) {
        return;
    }
    let [full, far] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (full, far) = tokio::join!(Collector::full(full.path()), Collector::start(far.path()));
    let line = Proxy::start(&far.endpoint()).await;
    let slow = Lane { bytes_per_second: Some(1_000), ..Lane::default() };
    line.set("", Faults { up: slow, down: slow });
    let (full_endpoint, busy_endpoint) = (full.endpoint(), busy().await);
    let [no_memory, too_much] = REFUSALS;
    let refused = endures(&full_endpoint, async |fleet| is_refused(fleet, no_memory).await);
    let limited = endures(&busy_endpoint, async |fleet| is_refused(fleet, too_much).await);
    let slow_endpoint = format!("http://{}", line.address());
    let slowed = endures(&slow_endpoint, async |_| assert!(line.bytes_up("") > 0, "it is on its way"));
    tokio::join!(refused, limited, slowed);
}

/// A server that answers all that is asked as gRPC says 429; its address.
async fn busy() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer =
        async || [("content-type", "application/grpc"), ("grpc-status", "8"), ("grpc-message", "later")];
    tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
    endpoint
}

/// Waits until a fleet says that the collector refuses its telemetry, and how.
async fn is_refused(fleet: &Fleet, how: &str) {
    let told = "telemetry is not taken by the collector";
    until("it is refused, and says so", || {
        let log = fleet.services[0].process.log();
        let says = log.lines().any(|line| line.contains(told) && line.contains(how));
        if says { Ok(()) } else { Err(log) }
    })
    .await;
}

/// The rules for Prometheus, by its own tool: each alert fires and does not.
#[tokio::test]
async fn alerts_fire_when_they_should_and_not_else() {
    if !have(&["promtool"]) {
        return;
    }
    let dir = cluster::root().join("deploy/observability");
    for (what, file) in
        [("check", "rules.yaml"), ("test", "rules_test.yaml"), ("test", "rules_burn_test.yaml")]
    {
        let args = [what, "rules", file];
        let run = tokio::process::Command::new(tool("promtool")).args(args).current_dir(&dir).output();
        let output = run.await.expect("promtool runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}

/// The example in deploy/observability, by the collector itself.
#[tokio::test]
async fn the_example_of_a_collector_is_one() {
    if !have(&["otelcol"]) {
        return;
    }
    let config = cluster::root().join("deploy/observability/collector.yaml");
    let run =
        tokio::process::Command::new(tool("otelcol")).arg("validate").arg("--config").arg(config).output();
    let output = run.await.expect("the collector runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
