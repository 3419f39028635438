//! Who is let in, and that never one too many is.

use domain::registry::AgentKey;
use domain::token::{Claim, Uses};
use domain::{AgentId, Cursor, Digest};
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream;
use wire::agent::v1::join_reply::Outcome;
use wire::agent::v1::{JoinBundle, JoinErrorCode};
use wire::join::JoinToken;
use wire::subject::{identity_agent, identity_token};

use crate::fleet::{Fleet, Machine, cursor, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_joins_at_once_as_many_succeed_as_the_token_has_uses() {
    let fleet = Fleet::start().await;
    let (mut one, two) = (fleet.replica().await, fleet.replica().await);
    for uses in [1, 40] {
        let token = one.token(&format!("t{uses}"), "/", uses).await;
        let machines: Vec<_> = (0..100).map(|n| Machine::new(format!("u{uses}-m{n}"))).collect();
        let outcomes = join_all(machines.iter().map(|machine| fleet.join(machine, &token.token))).await;
        let (admitted, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(admitted.len(), uses as usize);
        for other in others {
            refused(other, JoinErrorCode::TokenSpent, "no uses left; make a new one");
        }
        assert_eq!(fleet.used(&format!("t{uses}")).await, uses);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_asks_again_gets_the_same_answer_and_consumes_nothing() {
    let fleet = Fleet::start().await;
    let (mut one, two) = (fleet.replica().await, fleet.replica().await);
    let token = one.token("once", "/", 1).await;
    let machine = Machine::new("web-1");
    // The same machine, 20 times at once, served by both replicas.
    let outcomes = join_all((0..20).map(|_| fleet.join(&machine, &token.token))).await;
    // Each replica says of the broker what it signed itself, and agents take the newest.
    let said = |bundle: JoinBundle| (bundle.broker.is_some(), JoinBundle { broker: None, ..bundle });
    let mut outcomes = outcomes.into_iter().map(|outcome| said(outcome.unwrap()));
    let first = outcomes.next().unwrap();
    assert!(first.0 && outcomes.all(|outcome| outcome == first));
    let (_, first) = first;
    assert_eq!(fleet.used("once").await, 1);
    assert_eq!(first.agent, "web-1");
    let join = JoinToken::decode(&token.token).unwrap();
    assert_eq!(wire::root::Chain::read(&first.trust_root).unwrap().fingerprint(), join.trust_root);
    assert_eq!(first.servers, [fleet.server.url()]);

    let head = fleet.head("web-1").await.unwrap();
    assert_eq!(head.payload, wire::encode(&first.assignment.unwrap()));
    let assignment = fleet.assignment(&head);
    assert_eq!(
        (assignment.group.as_str(), assignment.cursor, cursor(&head)),
        ("root", Cursor::new(1, 1), Cursor::new(1, 1))
    );

    let thief = Machine::new("web-1");
    refused(fleet.join(&thief, &token.token).await, JoinErrorCode::IdTaken, "another key");
    one.stop().await;
    // What one replica decided, another knows.
    refused(
        fleet.join(&Machine::new("web-2"), &token.token).await,
        JoinErrorCode::TokenSpent,
        "no uses left",
    );
    assert!(fleet.join(&machine, &token.token).await.is_ok());
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_was_cut_off_after_consuming_its_use_goes_on() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    let token = replica.token("once", "/", 1).await;
    let secret_digest = Digest::of(&JoinToken::decode(&token.token).unwrap().secret);
    let (machine, other) = (Machine::new("web-1"), Machine::new("web-2"));
    // What a replica leaves behind that dies between counting the use and making the record.
    let last = Claim {
        agent: AgentId::new(&machine.id).unwrap(),
        key: AgentKey::new(machine.key.public_key()).unwrap(),
    };
    let uses = wire::registry::encode_uses(&Uses { secret_digest, used: 1, last });
    fleet.publish(&identity_token(&"once".parse().unwrap()), uses).await;

    refused(fleet.join(&other, &token.token).await, JoinErrorCode::TokenSpent, "no uses left");
    assert!(fleet.join(&machine, &token.token).await.is_ok());
    refused(fleet.join(&other, &token.token).await, JoinErrorCode::TokenSpent, "no uses left");
    assert_eq!(fleet.used("once").await, 1);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_joins_succeed_once_while_one_of_two_replicas_stops() {
    let fleet = Fleet::start().await;
    let (mut one, two) = (fleet.replica().await, fleet.replica().await);
    let token = one.token("web", "/", 300).await;
    let machines: Vec<_> = (0..300).map(|n| Machine::new(format!("m{n}"))).collect();
    let joins = machines.iter().map(|machine| fleet.join(machine, &token.token));
    let mut joins = stream::iter(joins).buffer_unordered(20);
    let mut first = Some(one);
    let (mut joined, mut stopping) = (0, None);
    while let Some(outcome) = joins.next().await {
        outcome.unwrap();
        joined += 1;
        if joined == 100 {
            stopping = first.take().map(|one| tokio::spawn(one.stop()));
        }
    }
    assert_eq!((joined, fleet.used("web").await), (300, 300));
    stopping.expect("it was stopped in between").await.unwrap();
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_answered_and_nothing_is_written_elsewhere() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    let token = replica.token("web", "/", 10).await;
    let machine = Machine::new("web-1");
    let good = machine.request(&token.token);
    let malformed = [
        vec![],
        vec![0xff; 100],
        vec![0; 100_000],
        good[..good.len() - 1].to_vec(),
        good.iter().copied().rev().collect(),
        Machine::new("a.b").request(&token.token),
        Machine::new("*").request(&token.token),
        Machine::new("x".repeat(10_000)).request(&token.token),
    ];
    for payload in malformed {
        let Outcome::Error(error) = fleet.request(payload).await else {
            panic!("a bundle for a bad request")
        };
        assert_eq!(error.code(), JoinErrorCode::Malformed, "{}", error.message);
    }
    let mut elsewhere = JoinToken::decode(&token.token).unwrap();
    elsewhere.fleet = "other".parse().unwrap();
    refused(fleet.join(&machine, &elsewhere.encode()).await, JoinErrorCode::TokenUnknown, "fleet \"main\"");
    let mut guessed = JoinToken::decode(&token.token).unwrap();
    guessed.secret[31] ^= 1;
    refused(fleet.join(&machine, &guessed.encode()).await, JoinErrorCode::TokenUnknown, "is not known");

    // A reply subject that is no inbox for joins: the record of another agent.
    let record = identity_agent(&AgentId::new("victim").unwrap());
    for target in [record.as_str(), "_INBOX_agent.web-9.1", "store.group.root"] {
        let client = fleet.nats.client();
        client.publish_with_reply("svc.enrol", target.to_owned(), good.clone().into()).await.unwrap();
    }
    // Requests are taken in order, so those before have been seen when this one is answered.
    assert!(fleet.join(&machine, &token.token).await.is_ok());
    let stored = fleet.nats.leader_get_last("IDENTITY", &record).await.unwrap();
    assert!(stored.is_none());
    assert_eq!(fleet.used("web").await, 1);
    replica.stop().await;
}
