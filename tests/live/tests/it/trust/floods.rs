//! An agent that sends more than it should.

use live::{Bare, Fleet};
use prost::Message as _;
use serde_json::json;
use wire::agent::v1::Heartbeat;

use super::member;
use crate::seed;

/// Messages of the flood, many times what the quota lets through at once.
const FLOOD: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn t28_what_one_agent_sends_too_much_is_not_read_and_others_are_answered() {
    let fleet = Fleet::start_with(&["--agent-heartbeat-limit", "20"]).await;
    seed::groups(&fleet.cli("policy")).await;
    let flooder = member(&fleet, "flooder", "/push").await;
    let other = fleet.agent("other", "/push").await;
    other.reaches("app", "/n", &json!(0)).await;
    let _ = fleet.shows("other", "it is there", |shown| shown["state"] == "ONLINE").await;

    let mut bare = Bare::connect(&fleet.nats.url(), Some(&flooder.user)).await.expect("an agent is let in");
    let inbox = flooder.inbox();
    assert!(bare.subscribe(&inbox, "", 1).await.errors.is_empty());
    let beat = |sequence| {
        let payload = Heartbeat { session: 1, sequence, ..Heartbeat::default() }.encode_to_vec();
        let head = format!("PUB svc.heartbeat.flooder {inbox} {}\r\n", payload.len());
        [head.as_bytes(), &payload, b"\r\n"].concat()
    };
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
