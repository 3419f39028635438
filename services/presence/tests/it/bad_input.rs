//! Bytes and subjects that no agent should send.

use bytes::Bytes;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use wire::agent::v1::Standing;
use wire::heartbeat::MAX_HEARTBEAT_BYTES;

use crate::fleet::Fleet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_answered_with_the_reason() {
    let fleet = Fleet::start().await;
    fleet.enrol("a", "web", 1).await;
    let replica = fleet.replica().await;
    let mut agent = fleet.agent("a").await;
    for (payload, reason) in [
        (Bytes::from_static(&[0xff; 9]), "is not a valid protobuf message"),
        (Bytes::from(vec![0; MAX_HEARTBEAT_BYTES + 1]), "is 131073 bytes long"),
        (Bytes::from_static(&[0x3a, 4, 0x1a, 2, 0x0a, 0]), "field kind must not be empty"),
    ] {
        agent.send(payload, "_INBOX_agent.a.bad".into()).await;
        let reply = agent.any_reply().await.expect("an answer");
        assert!(reply.error.contains(reason), "{reply:?}");
    }
    assert_eq!(agent.beat(None).await.standing(), Standing::Ok);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_go_to_the_agents_own_inbox_only() {
    let fleet = Fleet::start().await;
    fleet.enrol("a", "web", 1).await;
    fleet.enrol("b", "web", 1).await;
    let mut replica = fleet.replica().await;
    let mut victim = fleet.agent("b").await;
    let mut agent = fleet.agent("a").await;
    let state = fleet.nats.stream_state(wire::subject::STREAM_IDENTITY).await.unwrap();
    for reply in
        ["_INBOX_agent.b.stolen", "identity.agent.a", "$JS.API.STREAM.DELETE.IDENTITY", "_INBOX_agent.a"]
    {
        agent.send(wire::encode(&agent.heartbeat(None)), reply.into()).await;
        agent.send(Bytes::from_static(b"\xff\xff"), reply.into()).await;
    }
    // What was sent before is handled before this is answered.
    agent.beat(None).await;
    assert!(victim.any_reply().await.is_none(), "nothing arrives in another agent's inbox");
    assert_eq!(fleet.nats.stream_state(wire::subject::STREAM_IDENTITY).await.unwrap(), state);
    assert!(replica.get("b").await.unwrap().last_heartbeat.is_none());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_and_no_subject_stop_the_service() {
    let fleet = Fleet::start().await;
    fleet.enrol("a", "web", 1).await;
    let replica = fleet.replica().await;
    let mut agent = fleet.agent("a").await;
    let client = fleet.nats.client();
    let mut runner = TestRunner::deterministic();
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
    for round in 0..2_000 {
        let payload = bytes.new_tree(&mut runner).unwrap().current();
        let subject =
            ["svc.heartbeat.a", "svc.heartbeat.UPPER", "svc.heartbeat.ü", "presence.beats"][round % 4];
        client.publish_with_reply(subject, "_INBOX_agent.a.x", payload.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!(agent.beat(None).await.standing(), Standing::Ok);
    replica.stop().await;
}
