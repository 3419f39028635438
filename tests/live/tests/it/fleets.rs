//! Several fleets of one control plane: nothing crosses from one to the other.

use std::path::PathBuf;

use futures::StreamExt as _;
use live::{ADMIN_TOKEN, AgentProcess, Cli};
use serde_json::json;
use wire::access::{Account, Permissions};

use crate::laptop::Laptop;

/// The fleet beside the one that is called default.
const BLUE: &str = "blue";

/// The folder of the second fleet.
fn blue_dir(laptop: &Laptop) -> PathBuf {
    laptop.dir.path().join("data/fleets").join(BLUE)
}

/// The CLI for the second fleet.
fn blue(laptop: &Laptop) -> Cli {
    let addresses = std::fs::read(blue_dir(laptop).join("addresses.json")).expect("it says where it is");
    let addresses: serde_json::Value = serde_json::from_slice(&addresses).expect("JSON");
    let api = addresses["api"].as_str().expect("an address").trim_start_matches("https://").to_owned();
    let dir = laptop.dir.path().join("cli");
    std::fs::create_dir_all(&dir).expect("a folder can be made");
    std::fs::copy(blue_dir(laptop).join("admin.token"), dir.join(ADMIN_TOKEN)).expect("it made a token");
    Cli::new(&api, &laptop.ca(), dir)
}

/// A group `/push` with a policy that says whose it is.
fn manifests(color: &str) -> String {
    format!(
        "apiVersion: muster.dev/v1alpha1
kind: PolicyKind
metadata: {{name: paint}}
spec: {{schema: {{type: object}}}}
---
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {{name: paint}}
spec: {{kind: paint, document: {{color: {color}}}}}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {{name: push}}
spec: {{path: /push, settings: {{mode: push}}, policies: [paint]}}
"
    )
}

/// Somebody who may do everything in an account of the first fleet.
async fn spy(laptop: &Laptop, account: Account) -> async_nats::Client {
    let everything = Permissions { publish: vec![">".to_owned()], subscribe: vec![">".to_owned()] };
    let fleet = domain::FleetId::new("default").expect("an id");
    let creds = runtime::broker::mint(&laptop.dir.path().join("data/broker"), &fleet, account, everything);
    let options = async_nats::ConnectOptions::with_credentials(&creds.expect("credentials are made"));
    let options = options.expect("credentials").add_root_certificates(laptop.ca()).tls_first();
    options.connect(&laptop.broker).await.expect("the broker lets it in")
}

async fn agent(laptop: &Laptop, cli: &Cli, id: &str) -> AgentProcess {
    let made = cli.json("token create --group /push").await;
    AgentProcess::new(laptop.dir.path(), id, made["token"].as_str().expect("an answer has a token"))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_share_a_control_plane_and_nothing_else() {
    let laptop = Laptop::start(&[("MUSTER_ALSO_FLEET", "blue=127.0.0.1:0")]).await;
    let (red, blue) = (laptop.cli(&laptop.ca()), blue(&laptop));
    red.apply(&manifests("red")).await;
    blue.apply(&manifests("blue")).await;

    // One name in both: each is its own fleet's.
    let mut agents = [agent(&laptop, &red, "one").await, agent(&laptop, &blue, "one-too").await];
    for (agent, color) in agents.iter_mut().zip(["red", "blue"]) {
        agent.start();
        agent.reaches("paint", "/color", &json!(color)).await;
    }
    for (cli, own) in [(&red, "one"), (&blue, "one-too")] {
        let listed = cli.json("agent list").await;
        let ids: Vec<&str> =
            listed["agents"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
        assert_eq!(ids, [own], "{listed}");
    }

    // Who may do everything in one fleet is nobody in the other.
    let token = std::fs::read_to_string(laptop.dir.path().join("data/admin.token")).unwrap();
    let said = blue.with_token("red", token.trim()).run("agent list").await.refused(3);
    assert!(said.contains("token"), "{said}");
    let (of_red, of_blue) =
        (red.json("audit list").await.to_string(), blue.json("audit list").await.to_string());
    assert!(of_red.contains("local-admin") && of_blue.contains("local-admin"), "{of_red} {of_blue}");

    // Nor does the broker carry anything across, whatever one may do in an account.
    for account in [Account::Fleet, Account::Agents] {
        let spy = spy(&laptop, account).await;
        let mut heard = spy.subscribe(">").await.unwrap();
        spy.flush().await.unwrap();
        blue.apply(&manifests(&format!("{account:?}").to_lowercase())).await;
        agents[1].reaches("paint", "/color", &json!(format!("{account:?}").to_lowercase())).await;
        // What is published now comes after all that was heard until now.
        spy.publish("marker", "".into()).await.unwrap();
        loop {
            let message = heard.next().await.expect("the connection holds");
            if message.subject.as_str() == "marker" {
                break;
            }
            let text = format!("{} {}", message.subject, String::from_utf8_lossy(&message.payload));
            assert!(!text.contains(BLUE) && !text.contains("one-too"), "{text}");
        }
    }

    // All of it is there after a restart.
    let laptop = laptop.restart(&[("MUSTER_ALSO_FLEET", "blue=127.0.0.1:0")]).await;
    let blue = self::blue(&laptop);
    blue.apply(&manifests("navy")).await;
    agents[1].reaches("paint", "/color", &json!("navy")).await;
    agents[0].reaches("paint", "/color", &json!("red")).await;
}
