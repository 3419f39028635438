//! A broker that wants a certificate of everyone who connects.

use std::path::Path;

use live::{AgentProcess, Fleet, Process, until};
use runtime::tls::{LocalCa, TlsFiles};
use serde_json::json;

use crate::seed;

/// A CA and a certificate that it made.
fn ca(dir: &Path, name: &str) -> LocalCa {
    LocalCa::open(dir.join(name), &[]).expect("a CA can be made")
}

fn options(files: &TlsFiles) -> [String; 4] {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    ["--nats-cert".to_owned(), text(&files.cert), "--nats-key".to_owned(), text(&files.key)]
}

async fn says(agent: &mut AgentProcess, words: &str) {
    until(format!("{} says: {words}", agent.id), || {
        let log = agent.process().log();
        log.contains(words).then_some(()).ok_or(log)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t31_where_the_broker_wants_certificates_nobody_is_heard_without_one() {
    let mut fleet = Fleet::with_client_certificates(&[]).await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let token = fleet.token("/push", 3).await;
    let agent = |id: &str, options: &[String]| {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut agent = AgentProcess::new(fleet.dir(), id, &token).with_options(&options);
        agent.start();
        agent
    };
    let foreign = ca(fleet.dir(), "foreign");
    let mut without = agent("without", &[]);
    let mut stranger = agent("stranger", &options(&foreign.files()));
    says(&mut without, "it wants a client certificate: give one with --nats-cert and --nats-key").await;
    says(&mut stranger, "it does not accept our client certificate").await;
    for refused in [&without, &stranger] {
        assert!(!refused.state.join("identity.json").exists(), "it has not joined");
    }
    // A service without one says the same.
    let (url, creds) = (fleet.nats.url(), fleet.creds().to_string_lossy().into_owned());
    let server_ca = fleet.broker_ca().to_string_lossy().into_owned();
    let args = [
        "admin-token",
        "--out",
        "-",
        "--name",
        "x",
        "--nats-url",
        &url,
        "--nats-creds",
        &creds,
        "--nats-ca-file",
        &server_ca,
    ];
    let mut bare = Process::start(fleet.dir(), "bare", "musterd", &args, &[]);
    assert!(!bare.wait().await.success());
    assert!(bare.log().contains("it wants a client certificate"), "{}", bare.log());

    let clients = fleet.clients();
    let mut good = agent("good", &options(&clients.files()));
    good.reaches("app", "/n", &json!(0)).await;

    // New certificates from a new CA, in the files that are there: who comes back shows the new one.
    let next = ca(fleet.dir(), "next");
    fleet.nats.kill().await.expect("the broker can be killed");
    let (old, new) = (clients.files(), next.files());
    for (from, to) in [(next.ca(), clients.ca()), (new.key, old.key), (new.cert, old.cert)] {
        std::fs::copy(from, to).expect("a file can be replaced");
    }
    fleet.nats.start_again().await.expect("the broker starts again");
    live::eventually("a change is taken again", async || {
        let output = policy.run_with(&["apply", "-f", "-"], &seed::app_push(1)).await;
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    good.reaches("app", "/n", &json!(1)).await;
    assert!(good.process().ended().is_none(), "nobody was restarted");
}
