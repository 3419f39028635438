//! The CA of the broker changes, and agents that joined before learn of it by themselves.

use std::path::Path;

use live::{AgentProcess, Fleet, until};
use runtime::tls::LocalCa;
use serde_json::json;

use crate::seed;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("it can be read")
}

/// The certificates in a file.
fn certificates(path: &Path) -> Vec<Vec<u8>> {
    let read = runtime::tls::certificates(path).unwrap_or_default();
    read.iter().map(|certificate| certificate.to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_changes_reaches_agents_that_joined_before_and_stays_over_restarts() {
    let mut fleet = Fleet::with_client_certificates(&["--agent-claims-ttl", "5s"]).await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let client = fleet.clients().files();
    let (cert, key) = (client.cert.to_string_lossy(), client.key.to_string_lossy());
    let options = ["--nats-cert", &cert, "--nats-key", &key];
    let token = fleet.token("/push", 1).await;
    let mut agent = AgentProcess::new(fleet.dir(), "web-1", &token).with_options(&options);
    agent.start();
    agent.reaches("app", "/n", &json!(0)).await;
    let kept = agent.state.join("broker-ca.pem");
    assert_eq!(certificates(&kept).len(), 1);

    // First both CAs are named, and everyone learns of the new one with the next claims.
    let next = LocalCa::open(fleet.dir().join("next"), &[]).expect("a CA can be made");
    let ca = fleet.broker_ca();
    let old = read(&ca);
    std::fs::write(&ca, format!("{old}{}", read(&next.ca()))).expect("it can be written");
    fleet.services[0].process.kill().await;
    fleet.restart(0).await;
    until("the agent knows both CAs", || match certificates(&kept).len() {
        2 => Ok(()),
        found => Err(format!("{found} certificates")),
    })
    .await;
    until("it says so", || {
        let log = agent.process().log();
        log.contains("learnt anew where the NATS servers are").then_some(()).ok_or(log)
    })
    .await;

    // Then the broker shows a certificate of the new one.
    let (from, to) = (next.files(), fleet.server_files());
    fleet.nats.kill().await.expect("the broker can be killed");
    for (from, to) in [(from.key, to.key), (from.cert, to.cert)] {
        std::fs::copy(from, to).expect("a file can be replaced");
    }
    fleet.nats.start_again().await.expect("the broker starts again");
    let policy = fleet.cli("policy");
    live::eventually("a change is taken again", async || {
        let output = policy.run_with(&["apply", "-f", "-"], &seed::app_push(1)).await;
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    agent.reaches("app", "/n", &json!(1)).await;

    // At last the old one is gone, and an agent that starts has what it learnt.
    std::fs::write(&ca, read(&next.ca())).expect("it can be written");
    fleet.services[0].process.kill().await;
    fleet.restart(0).await;
    until("the agent knows the new CA only", || match certificates(&kept) {
        found if found == certificates(&next.ca()) => Ok(()),
        found => Err(format!("{} certificates", found.len())),
    })
    .await;
    agent.kill().await;
    let _ = fleet.cli("policy").apply(&seed::app_push(2)).await;
    agent.start();
    agent.reaches("app", "/n", &json!(2)).await;
}
