//! A collector behind a certificate of a CA of its own, which lies in a Secret.

use std::fs;

use cluster::{Chart, Objects, Secrets, have};
use live::{Proxy, until};
use runtime::tls::LocalCa;
use serde_json::json;

use super::bootstrap::PROGRAMS;
use super::collector::Collector;
use super::pods::{all_services_tell, manifests, soon};
use super::release::{Given, POLICY, Release, SERVICES};

/// Where the values of the chart say that it is.
const ENDPOINT: &str = "https://collector.telemetry:4317";

/// The Secret that vouches for it.
fn secret(ca: &LocalCa) -> Secrets {
    let ca = [("ca.crt".to_owned(), fs::read(ca.ca()).unwrap())];
    [("otel-ca".to_owned(), ca.into())].into()
}

/// Waits until it has heard of so many calls of Apply, in all.
async fn applied(collector: &Collector, wanted: usize) {
    let calls = || {
        let spans = collector.spans();
        spans.iter().filter(|span| span["name"] == "muster.api.v1.PolicyService/Apply").count()
    };
    until(format!("it hears of {wanted} changes"), || match calls() {
        heard if heard == wanted => Ok(()),
        heard => Err(heard.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_if_its_ca_lies_in_the_secret_and_else_the_log_says_why_not() {
    if !have(&PROGRAMS) || !have(&["nats-server", "otelcol"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [ca, other] = ["ca", "other"].map(|name| LocalCa::open(dir.path().join(name), &[]).unwrap());
    let collector = Collector::with_tls(dir.path(), Some(ca.files())).await;
    let way = Proxy::start(&collector.endpoint()).await;
    let addresses = vec![(ENDPOINT.to_owned(), format!("https://{}", way.address()))];
    let otel =
        json!({ "endpoint": ENDPOINT, "caSecret": "otel-ca", "resourceAttributes": { "site": "lab" } });
    let chart = Chart::new().with(json!({ "global": { "otel": otel, "extraEnv": soon() } }));
    let mut release = Release::start_with(&chart, Given { secrets: secret(&ca), addresses }).await;
    release.first_token().await;
    release.cli(POLICY).apply(&manifests("10s")).await;
    all_services_tell(&collector).await;
    applied(&collector, 1).await;

    let tellers = collector.tellers();
    release.stop_services().await;
    release.also(Objects::default(), secret(&other)).await;
    let told =
        SERVICES.map(|name| fs::read_to_string(release.dir.join(format!("{name}.log"))).unwrap().len());
    release.start_services().await;
    release.cli(POLICY).apply(&manifests("11s")).await;
    let lines = || {
        let says = |(name, told): (&str, usize)| {
            let log = fs::read_to_string(release.dir.join(format!("{name}.log"))).unwrap();
            let lines = log[told..].lines().filter(|line| line.contains("telemetry is not taken"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        SERVICES.into_iter().zip(told).map(says).collect::<Vec<_>>()
    };
    until("all say that they are not heard", || {
        let lines = lines();
        if lines.iter().all(|lines| !lines.is_empty()) { Ok(()) } else { Err(format!("{lines:?}")) }
    })
    .await;
    // They go on trying, and have said enough.
    let (tries, _) = way.connections("");
    until("they try again", || match way.connections("") {
        (more, _) if more > tries + 20 => Ok(()),
        (more, _) => Err(format!("{tries} {more}")),
    })
    .await;
    for lines in lines() {
        assert!(
            matches!(&lines[..], [line] if line.contains("invalid peer certificate: UnknownIssuer")),
            "{lines:?}"
        );
    }
    assert_eq!(collector.tellers(), tellers, "nobody else was heard");
    applied(&collector, 1).await;
}
