//! What a collector hears of programs that are started for one thing and end, and of what the operator does.

use live::{Fleet, Process, eventually};
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::collector::{Collector, attributes, environment};
use super::rig::Rig;
use super::telemetry::{CLIENT, INTERNAL};

/// What the commands here are a part of.
const ABOVE: [&str; 2] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"];
/// A group that is not there, and no other text.
const MISSING: &str = "/not-there-canary";

/// Commands are spans below what they are a part of, and tell why they failed; of arguments nothing is told.
pub(crate) async fn are_told(collector: &Collector, fleet: &Fleet) {
    let endpoint = collector.endpoint();
    let above = format!("00-{}-{}-01", ABOVE[0], ABOVE[1]);
    let mut environment = environment(&endpoint).to_vec();
    environment.push(("TRACEPARENT", &above));
    let untold = [&environment[..], &[("OTEL_TRACES_SAMPLER", "always_off")]].concat();
    let _said = fleet.cli("policy").with_environment(&untold).run("whoami").await.ok();
    let cli = fleet.cli("policy").with_environment(&environment);
    let _said = cli.run(&format!("group show {MISSING}")).await.refused(4);
    let (url, creds) = (fleet.nats.url(), fleet.creds().to_string_lossy().into_owned());
    let mut words = vec!["admin-token", "--out", "again.token", "--name", "again"];
    words.extend(["--nats-url", &url, "--nats-creds", &creds]);
    let mut made = Process::start(fleet.dir(), "again", "musterd", &words, &environment);
    assert!(made.wait().await.success(), "{}", made.log());
    let words = ["join", "--join", "x", "--state-dir", "x"];
    let mut refused = Process::start(fleet.dir(), "refused", "muster-agent", &words, &environment);
    assert!(!refused.wait().await.success(), "{}", refused.log());

    is_told(collector, "muster group show", "muster", (4, Some("NOT_FOUND"))).await;
    is_told(collector, "musterd admin-token", "musterd-tool", (0, None)).await;
    is_told(collector, "muster-agent join", "muster-agent", (1, Some("failed"))).await;
    let spans = collector.spans();
    let call = spans.iter().find(|span| span["traceId"] == ABOVE[0] && span["kind"] == CLIENT);
    let told = attributes(call.expect("the call that failed is told"));
    assert_eq!(told["rpc.method"], "muster.api.v1.PolicyService/GetGroup");
    assert_eq!((&told["rpc.status_code"][..], &told["error.type"][..]), ("NOT_FOUND", "NOT_FOUND"));
    eventually("the failure is in the log", async || {
        let logs = collector.all("logs", ["resourceLogs", "scopeLogs", "logRecords"]);
        let failed = |log: &&Value| log["body"]["stringValue"] == "the command failed";
        let Some(log) = logs.iter().find(failed) else { return Err(format!("{} logs", logs.len())) };
        let told = attributes(log);
        assert_eq!((&log["traceId"], &told["command"][..]), (&json!(ABOVE[0]), "muster group show"));
        assert_eq!((&told["kind"][..], &told["exit_code"][..]), ("NOT_FOUND", "4"));
        Ok(())
    })
    .await;
    // Neither by the command nor by the service, to which it said so.
    assert!(!collector.text("traces").contains("WhoAmI"), "what is not sampled is told nobody");
    for signal in ["traces", "logs"] {
        assert!(!collector.text(signal).contains(MISSING), "arguments of commands are not in {signal}");
    }
}

/// Waits for the span of a command that ended so.
async fn is_told(collector: &Collector, name: &str, service: &str, (code, failure): (u8, Option<&str>)) {
    let span = eventually(format!("{name} is told"), async || {
        let found = collector.spans().into_iter().find(|span| span["name"] == name);
        found.ok_or_else(|| collector.text("traces"))
    })
    .await;
    assert_eq!([&span["traceId"], &span["parentSpanId"]], ABOVE);
    assert_eq!((&span["kind"], &collector.teller(&span)["service.name"][..]), (&json!(INTERNAL), service));
    let told = attributes(&span);
    assert_eq!(
        (&told["process.exit.code"], told.get("error.type").map(String::as_str)),
        (&code.to_string(), failure)
    );
    assert_eq!(span["status"]["code"] == 2, failure.is_some(), "{span:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_of_the_operator_is_one_trace() {
    if !cluster::have(&PROGRAMS) || !cluster::have(&["nats-server", "otelcol"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path()).await;
    let mut rig = Rig::start().await;
    rig.tell(&collector.endpoint()).await;
    rig.begin().await;
    eventually("a pass that changed the fleet is told, with its calls below it", async || {
        let spans = collector.spans();
        let apply = spans.iter().find(|span| span["name"] == "muster.api.v1.PolicyService/Apply");
        let pass = apply.and_then(|call| spans.iter().find(|span| span["spanId"] == call["parentSpanId"]));
        let (Some(call), Some(pass)) = (apply, pass) else { return Err(rig.logs()) };
        assert_eq!(
            (&pass["name"], &pass["kind"], &call["kind"]),
            (&json!("pass"), &json!(INTERNAL), &json!(CLIENT))
        );
        assert!(pass["parentSpanId"].as_str().is_none_or(str::is_empty), "{pass:#}");
        assert_eq!(collector.teller(pass)["service.name"], "musterd-operator");
        Ok(())
    })
    .await;
}
