//! TLS from end to end, as `musterd all` has it on a laptop: nothing prepared, nothing in the clear.

use std::path::Path;

use live::{Process, eventually, until};
use runtime::tls::LocalCa;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::laptop::Laptop;
use crate::seed;

/// A CA that nobody here has reason to trust.
fn foreign_ca(dir: &Path) -> LocalCa {
    LocalCa::open(dir.join("foreign"), &[]).expect("a CA can be made")
}

/// All that a server says to bytes in the clear until it hangs up.
async fn in_the_clear(url: &str, first: &[u8]) -> Vec<u8> {
    let address = url.rsplit('/').next().expect("a URL");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    stream.write_all(first).await.expect("it can be sent");
    let mut said = Vec::new();
    // It may hang up before it has read all.
    drop(stream.read_to_end(&mut said).await);
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn t31_nothing_on_a_laptop_is_said_in_the_clear() {
    let laptop = Laptop::start(&[]).await;
    assert!(laptop.api.starts_with("https://") && laptop.broker.starts_with("tls://"));
    let cli = laptop.cli(&laptop.ca());
    seed::groups(&cli).await;
    let mut agent = laptop.agent("push-1").await;
    agent.start();
    agent.reaches("app", "/n", &json!(0)).await;

    assert!(in_the_clear(&laptop.broker, b"CONNECT {}\r\nPING\r\n").await.is_empty(), "not a greeting");
    let said = in_the_clear(&laptop.api, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{said:?}");

    // What it learnt of the CA outlives the token.
    agent.kill().await;
    let _ = cli.apply(&seed::app_push(1)).await;
    agent.start();
    agent.reaches("app", "/n", &json!(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t31_who_is_not_vouched_for_is_refused_with_the_way_out() {
    let laptop = Laptop::start(&[]).await;
    let foreign = foreign_ca(laptop.dir.path());
    seed::groups(&laptop.cli(&laptop.ca())).await;
    let said = laptop.cli(&foreign.ca()).run("status").await.refused(5);
    assert!(said.contains("UnknownIssuer") && said.contains("--ca-file"), "{said}");
    let said = laptop.cli(&laptop.dir.path().join("absent.pem")).run("status").await.refused(1);
    assert!(said.contains("cannot read") && said.contains("absent.pem"), "{said}");

    let mut agent = laptop.agent("push-1").await;
    let ca = foreign.ca().to_string_lossy().into_owned();
    agent.start_with(&[("MUSTER_NATS_CA_FILE", &ca)]);
    until("the agent says whom it does not trust", || {
        let log = agent.process().log();
        if log.contains("not from a CA that is trusted here") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(!agent.state.join("identity.json").exists(), "it has not joined");
    agent.kill().await;
    agent.start();
    agent.reaches("app", "/n", &json!(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_lost_is_made_again_and_everyone_comes_back() {
    let mut laptop = Laptop::start(&[]).await;
    seed::groups(&laptop.cli(&laptop.ca())).await;
    let mut agent = laptop.agent("push-1").await;
    agent.start();
    agent.reaches("app", "/n", &json!(0)).await;
    let cert = laptop.dir.path().join("data/tls/server.pem");
    let before = std::fs::read(&cert).expect("it is there");
    assert!(laptop.musterd.stop().await.success());
    std::fs::write(&cert, "damaged").expect("it can be written");
    let port = laptop.broker.rsplit(':').next().expect("a port").to_owned();
    let args = ["all", "--data-dir", "data", "--listen", laptop.api.trim_start_matches("https://")];
    laptop.musterd =
        Process::start(laptop.dir.path(), "musterd", "musterd", &args, &[("MUSTER_NATS_PORT", &port)]);
    let cli = laptop.cli(&laptop.ca());
    eventually("the CLI is answered again", async || {
        let output = cli.run("status").await;
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    let after = std::fs::read(&cert).expect("it is there again");
    assert!(after != before && after.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let _ = cli.apply(&seed::app_push(1)).await;
    agent.reaches("app", "/n", &json!(1)).await;
}
