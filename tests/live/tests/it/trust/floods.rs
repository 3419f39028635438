//! An agent that sends more than it should.

use agent::StateDir;
use live::{Bare, Creds, Fleet};
use prost::Message as _;
use serde_json::json;
use wire::agent::v1::Heartbeat;

use super::member;
use crate::seed;

/// Messages of the flood, many times what the quota lets through at once.
const FLOOD: usize = 20_000;

/// What sends a heartbeat.
fn beat(agent: &str, reply: &str, sequence: u64) -> Vec<u8> {
    let payload = Heartbeat { session: 1, sequence, ..Heartbeat::default() }.encode_to_vec();
    let head = format!("PUB svc.heartbeat.{agent} {reply} {}\r\n", payload.len());
    [head.as_bytes(), &payload, b"\r\n"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn t28_what_one_agent_sends_too_much_is_not_read_and_others_are_answered() {
    let fleet = Fleet::start_with(&["--agent-heartbeat-limit", "20", "--agent-flood-ban", "0s"]).await;
    seed::groups(&fleet.cli("policy")).await;
    let flooder = member(&fleet, "flooder", "/push").await;
    let other = fleet.agent("other", "/push").await;
    other.reaches("app", "/n", &json!(0)).await;
    let _ = fleet.shows("other", "it is there", |shown| shown["state"] == "ONLINE").await;

    let mut bare = Bare::connect(&fleet.nats.url(), Some(&flooder.user)).await.expect("an agent is let in");
    let inbox = flooder.inbox();
    assert!(bare.subscribe(&inbox, "", 1).await.errors.is_empty());
    let beat = |sequence| beat("flooder", &inbox, sequence);
    let flood: Vec<Vec<u8>> = (1..=FLOOD as u64).map(beat).collect();
    let begin = runtime::clock::now();
    let answers = |said: &[live::Said]| said.iter().map(|said| said.messages.len()).sum::<usize>();
    let answered = answers(&bare.carry_out_all(&flood).await);
    let took = runtime::clock::now().since(begin);
    // A hundred at once, and twenty more each second.
    let most = 100 + 20 * usize::try_from(took.0 / 1000 + 1).expect("it did not take years");
    assert!(answered <= most, "{answered} of {FLOOD} were answered in {took:?}, {most} may be");

    // Others are served as before, and the quota of the flooder is there again after a while.
    let _ = fleet.cli("policy").apply(&seed::app_push(7)).await;
    other.reaches("app", "/n", &json!(7)).await;
    let _ = fleet.shows("other", "it is there", |shown| shown["state"] == "ONLINE").await;
    live::eventually("its quota comes back", async || {
        let said = bare.carry_out_all(&[beat(FLOOD as u64 + 1)]).await;
        (answers(&said) > 0).then_some(()).ok_or_else(|| "no answer".to_owned())
    })
    .await;
    let log = fleet.services[0].process.log();
    assert!(log.contains("sends more heartbeats than it may") && log.contains("flooder"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t28_who_floods_is_shut_out_for_a_while_and_for_longer_if_it_goes_on() {
    let fleet = Fleet::start_with(&["--agent-flood-ban", "3s"]).await;
    seed::groups(&fleet.cli("policy")).await;
    // An agent, and something on the same machine that uses its credentials.
    let mut agent = fleet.agent("flooder", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let other = member(&fleet, "other", "/push").await;
    let url = fleet.nats.url();
    let mut bystander = Bare::connect(&url, Some(&other.user)).await.expect("it is let in");
    // A disk that is written to has no copy.
    agent.kill().await;
    let copied = agent.copied();
    agent.start();
    let copy = StateDir::lock(&copied.state).expect("nobody else uses the copy");
    let enrolment = copy.enrolment().expect("it can be read").expect("the agent has joined");
    let claims = enrolment.access.expect("the broker asks who is there").claims();
    let creds = |claims| Creds { key: copy.key().expect("a key"), claims };
    let (user, door) = (creds(claims.user), creds(claims.door));

    for seconds in [3, 6] {
        let mut thief = Bare::connect(&url, Some(&user)).await.expect("it is let in");
        let mut waiting = Bare::connect(&url, Some(&door)).await.expect("it is let in");
        thief.pour(&beat("flooder", "", 1).repeat(FLOOD)).await;
        for session in [&mut thief, &mut waiting] {
            let said = session.until_closed().await;
            assert!(said.iter().any(|line| line.contains("Revoked")), "{said:?}");
        }
        let log = fleet.services[0].process.log();
        assert!(log.contains("identity is told to shut it out"), "{log}");
        let told = log.lines().rfind(|line| line.contains("the broker shuts it out"));
        assert!(told.is_some_and(|line| line.contains(&format!("\"seconds\":{seconds},"))), "{told:?}");
        for creds in [&user, &door] {
            assert!(Bare::connect(&url, Some(creds)).await.is_err(), "it is out");
        }
        assert!(bystander.publish("svc.enrol", "", b"").await.errors.is_empty(), "nobody else is");
        live::eventually("it is let in again", async || Bare::connect(&url, Some(&user)).await.map(drop))
            .await;
    }
    // The agent itself has been shut out as well. It comes back by itself.
    let _ = fleet.cli("policy").apply(&seed::app_push(7)).await;
    agent.reaches("app", "/n", &json!(7)).await;
    agent.process().kill().await;
}
