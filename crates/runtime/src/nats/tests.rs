use std::collections::BTreeSet;

use domain::AgentId;
use futures::StreamExt;

use super::*;
use crate::live::{Live, SOON, soon};
use crate::nats_server::{NatsServer, Setup};

fn agent(name: &str) -> Subject {
    wire::subject::desired_agent(&AgentId::new(name).unwrap())
}

async fn put(nats: &Nats, subject: &Subject, payload: &str, expect: Expect) -> Result<u64, PublishError> {
    let message = (Headers::new().number("Muster-Epoch", 1), Bytes::from(payload.to_owned()));
    nats.publish_cas(DESIRED.name, subject, message, expect).await
}

/// The payloads of the next messages, up to and with `last`; other events by their names.
async fn until(follow: &mut Follow, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seen| seen != last) {
        seen.push(match soon(follow.next()).await.unwrap() {
            Followed::Message(message) => String::from_utf8(message.payload.to_vec()).unwrap(),
            event => format!("{event:?}"),
        });
    }
    seen
}

#[tokio::test]
async fn requests_end_in_time_and_leave_nothing_behind() {
    let live = Live::start().await;
    let nats = &live.nats;
    let beat = wire::subject::heartbeat(&AgentId::new("a").unwrap());
    let ask =
        |timeout| nats.request(&beat, Headers::new(), Bytes::from("beat"), Duration::from_millis(timeout));
    assert!(matches!(ask(5000).await, Err(RequestError::NoResponders { .. })));

    let mut beats = nats.subscribe(beat.as_str()).await.unwrap();
    nats.flush(Duration::from_secs(5)).await.unwrap();
    assert!(matches!(ask(100).await, Err(RequestError::TimedOut { .. })));
    assert_eq!(nats.0.router.waiting(), 0);

    let unanswered = soon(beats.next()).await.unwrap();
    let answer = async {
        let message = soon(beats.next()).await.unwrap();
        // A reply that comes too late is nobody's.
        nats.respond(&unanswered.reply.unwrap(), Bytes::from("late")).await.unwrap();
        nats.respond(&message.reply.unwrap(), Bytes::from("reply")).await.unwrap();
    };
    let (reply, ()) = tokio::join!(ask(5000), answer);
    assert_eq!(reply.unwrap().payload, "reply");
    assert_eq!(nats.0.router.waiting(), 0);

    let too_large =
        nats.request(&beat, Headers::new(), vec![0; 2 << 20].into(), Duration::from_secs(1)).await;
    assert!(matches!(too_large, Err(RequestError::TooLarge { limit: 1_048_576, .. })), "{too_large:?}");
    assert!(matches!(nats.respond("a.>", Bytes::new()).await, Err(RequestError::Subject { .. })));
}

#[tokio::test]
async fn an_agents_replies_lie_in_its_own_inbox() {
    let live = Live::start().await;
    let id = AgentId::new("web-1").unwrap();
    let connected = Nats::connect(&Connection::agent(vec![live.server.url()], &id)).await.unwrap();
    let mut beats = live.nats.subscribe(wire::subject::pattern::HEARTBEATS).await.unwrap();
    live.nats.flush(Duration::from_secs(5)).await.unwrap();
    let subject = wire::subject::heartbeat(&id);
    let ask = async {
        connected.request(&subject, Headers::new(), Bytes::new(), SOON).await.expect("it is answered")
    };
    let answer = async {
        let reply = soon(beats.next()).await.unwrap().reply.unwrap();
        assert!(wire::subject::is_inbox_of(&reply, &id), "{reply}");
        live.nats.respond(&reply, Bytes::new()).await.unwrap();
    };
    tokio::join!(ask, answer);
}

#[tokio::test]
async fn a_connection_that_is_down_is_noticed_and_comes_back() {
    let mut live = Live::start().await;
    let mut link = live.nats.link();
    live.server.kill().await.unwrap();
    soon(link.wait_for(|link| !link.connected)).await.unwrap();
    let subject = wire::subject::enrol();
    let refused = live.nats.request(&subject, Headers::new(), Bytes::new(), Duration::from_secs(60)).await;
    assert!(matches!(refused, Err(RequestError::Disconnected)), "{refused:?}");
    live.server.start_again().await.unwrap();
    soon(link.wait_for(|link| link.connections == 2)).await.unwrap();
    assert!(live.nats.is_connected());
}

#[tokio::test]
async fn servers_that_cannot_be_used_are_named() {
    let connect = async |url: &str| {
        let mut connection = Connection::service(vec![url.to_owned()], "test");
        connection.patience = Duration::from_millis(300);
        crate::log::chain(&Nats::connect(&connection).await.err().unwrap())
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = connect(&format!("nats://127.0.0.1:{free}")).await;
    assert!(error.contains(&format!("cannot connect to NATS at nats://127.0.0.1:{free}")), "{error}");
    let error = connect("no url at all").await;
    assert!(error.contains("\"no url at all\" is not a NATS URL"), "{error}");

    // A server that greets with an old version.
    let old = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", old.local_addr().unwrap());
    let serve = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = old.accept().await.unwrap();
        let info =
            "INFO {\"server_id\":\"x\",\"version\":\"2.9.10\",\"max_payload\":1048576,\"headers\":true}\r\n";
        stream.write_all(info.as_bytes()).await.unwrap();
        let mut asked = [0; 4096];
        while stream.read(&mut asked).await.unwrap_or(0) > 0 {
            stream.write_all(b"PONG\r\n").await.unwrap();
        }
    };
    let error = tokio::select! { error = connect(&url) => error, () = serve => panic!("it hung up") };
    assert!(error.contains("is version 2.9.10; Muster needs 2.14.7 or newer"), "{error}");
}

#[tokio::test]
async fn streams_are_made_kept_and_updated() {
    let live = Live::start().await;
    let nats = &live.nats;
    assert_eq!(nats.stream_state(DESIRED.name).await.unwrap(), None);
    let made = nats.ensure_stream(&DESIRED, 1).await.unwrap();
    put(nats, &agent("a"), "1", Expect::Any).await.unwrap();
    let kept = nats.ensure_stream(&DESIRED, 1).await.unwrap();
    assert_eq!((kept.created, kept.messages, kept.last_sequence), (made.created.clone(), 1, 1));
    let wider = StreamSpec { per_subject: 5, ..DESIRED };
    assert_eq!(nats.ensure_stream(&wider, 1).await.unwrap().created, made.created);
    for payload in ["2", "3"] {
        put(nats, &agent("a"), payload, Expect::Any).await.unwrap();
    }
    assert_eq!(nats.stream_state(DESIRED.name).await.unwrap().unwrap().messages, 3);
    for spec in [POLICY, IDENTITY, EVENTS] {
        nats.ensure_stream(&spec, 1).await.unwrap();
        nats.ensure_stream(&spec, 1).await.unwrap();
    }
    let error = nats.ensure_stream(&POLICY, 3).await.unwrap_err();
    let error = crate::log::chain(&error);
    assert!(error.starts_with("cannot update stream POLICY: JetStream refused"), "{error}");
}

#[tokio::test]
async fn compare_and_set_lets_one_writer_win() {
    let live = Live::start().await;
    let nats = &live.nats;
    nats.ensure_stream(&DESIRED, 1).await.unwrap();
    let subject = agent("a");
    let mut notified = nats.subscribe(wire::subject::pattern::NOTIFY).await.unwrap();
    assert_eq!(put(nats, &subject, "one", Expect::LastSubject(0)).await.unwrap(), 1);
    let heard = soon(notified.next()).await.unwrap();
    assert_eq!((heard.subject.as_str(), heard.payload), ("notify.agent.a", Bytes::from("one")));
    assert!(matches!(
        put(nats, &subject, "two", Expect::LastSubject(0)).await,
        Err(PublishError::Conflict { expected: Expect::LastSubject(0), .. })
    ));
    let races = (0..16).map(|n| put(nats, &subject, ["x", "y"][n % 2], Expect::LastSubject(1)));
    let won = futures::future::join_all(races).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);
    assert!(matches!(put(nats, &agent("b"), "z", Expect::Last(1)).await, Err(PublishError::Conflict { .. })));
    let large = put(nats, &subject, &"x".repeat(2 << 20), Expect::Any).await;
    assert!(matches!(large, Err(PublishError::TooLarge { .. })), "{large:?}");
    let unkept = wire::subject::store_epoch();
    let nowhere = nats.publish_cas("X", &unkept, (Headers::new(), Bytes::new()), Expect::Any).await;
    assert!(matches!(nowhere, Err(PublishError::Unavailable { .. })));
}

#[tokio::test]
async fn a_write_whose_acknowledgement_is_lost_counts_once() {
    let live = Live::start().await;
    live.nats.ensure_stream(&DESIRED, 1).await.unwrap();
    put(&live.nats, &agent("a"), "before", Expect::LastSubject(0)).await.unwrap();
    live.server.pause().unwrap();
    let nats = live.nats.clone();
    let write = tokio::spawn(async move { put(&nats, &agent("a"), "after", Expect::LastSubject(1)).await });
    // The first try is given up while the server stands still; then the server stores both tries it finds.
    tokio::time::sleep(api::API_TIMEOUT + Duration::from_millis(500)).await;
    live.server.resume().unwrap();
    assert_eq!(soon(write).await.unwrap().unwrap(), 2);
    assert_eq!(live.nats.stream_state(DESIRED.name).await.unwrap().unwrap().last_sequence, 2);
}

#[tokio::test]
async fn messages_are_read_without_a_consumer() {
    let live = Live::start().await;
    let nats = &live.nats;
    nats.ensure_stream(&POLICY, 1).await.unwrap();
    let key = wire::subject::store_epoch();
    assert!(nats.direct_get_last(POLICY.name, &key).await.unwrap().is_none());
    assert!(nats.leader_get_last(POLICY.name, &key).await.unwrap().is_none());
    assert!(nats.direct_get_all(POLICY.name, &key, 100).await.unwrap().is_empty());
    for n in 1..=120 {
        let headers = Headers::new().number("Muster-Epoch", n).text("Note", "a: b").unwrap();
        nats.publish_cas(POLICY.name, &key, (headers, Bytes::from(n.to_string())), Expect::Any)
            .await
            .unwrap();
    }
    let last = nats.direct_get_last(POLICY.name, &key).await.unwrap().unwrap();
    assert_eq!((last.sequence, last.headers.get_number("muster-epoch")), (120, Some(120)));
    assert!(crate::clock::now().since(last.time) < domain::Span::from_secs(60));
    let leader = nats.leader_get_last(POLICY.name, &key).await.unwrap().unwrap();
    assert_eq!((leader.sequence, leader.payload, leader.time), (120, last.payload, last.time));
    assert_eq!(leader.headers.get("note"), Some("a: b"));
    let all = nats.direct_get_all(POLICY.name, &key, 100).await.unwrap();
    let sequences: Vec<u64> = all.iter().map(|message| message.sequence).collect();
    assert_eq!(sequences, (21..=120).collect::<Vec<_>>());
    assert!(nats.message_at(POLICY.name, 5).await.unwrap().is_none());
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let live = Live::start().await;
    let nats = &live.nats;
    nats.ensure_stream(&POLICY, 1).await.unwrap();
    let batch = |count: usize| -> Vec<BatchMessage> {
        let message = |n: usize| BatchMessage {
            subject: wire::subject::store_group(&format!("g{n}").parse().unwrap()),
            headers: Headers::new(),
            payload: Bytes::from(n.to_string()),
        };
        (0..count).map(message).collect()
    };
    assert_eq!(nats.publish_batch(batch(3), 0).await.unwrap(), 3);
    assert_eq!(nats.publish_batch(batch(1), 3).await.unwrap(), 4);
    for count in [1, 2, 50] {
        assert!(matches!(nats.publish_batch(batch(count), 3).await, Err(PublishError::Conflict { .. })));
    }
    assert_eq!(nats.publish_batch(batch(1000), 4).await.unwrap(), 1004);
    let races = (0..8).map(|_| nats.publish_batch(batch(20), 1004));
    let won: Vec<u64> = futures::future::join_all(races).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(won, [1024]);
    let mut large = batch(3);
    large[1].payload = vec![0; 2 << 20].into();
    assert!(matches!(nats.publish_batch(large, 1024).await, Err(PublishError::TooLarge { .. })));
    assert_eq!(nats.stream_state(POLICY.name).await.unwrap().unwrap().last_sequence, 1024);
}

#[tokio::test]
async fn a_batch_of_heads_is_refused_when_one_was_written_by_someone_else() {
    let live = Live::start().await;
    let nats = &live.nats;
    nats.ensure_stream(&DESIRED, 1).await.unwrap();
    let mut notified = nats.subscribe(wire::subject::pattern::NOTIFY).await.unwrap();
    let head = |n: usize, last: u64| {
        // Subjects of one length and of several: servers had trouble with the former.
        let message = BatchMessage {
            subject: agent(&format!("a{n}")),
            headers: Headers::new(),
            payload: Bytes::from(n.to_string()),
        };
        (message, Expect::LastSubject(last))
    };
    assert_eq!(nats.publish_batch_each((0..200).map(|n| head(n, 0)).collect()).await.unwrap(), 200);
    for n in 0..200 {
        let heard = soon(notified.next()).await.unwrap();
        assert_eq!(
            (heard.subject.to_string(), heard.payload),
            (format!("notify.agent.a{n}"), n.to_string().into())
        );
    }
    put(nats, &agent("a50"), "theirs", Expect::LastSubject(51)).await.unwrap();
    let stale = nats.publish_batch_each((0..100).map(|n| head(n, n as u64 + 1)).collect()).await;
    assert!(matches!(stale, Err(PublishError::Conflict { .. })), "{stale:?}");
    let fresh = (0..100).map(|n| head(n, if n == 50 { 201 } else { n as u64 + 1 })).collect();
    assert_eq!(nats.publish_batch_each(fresh).await.unwrap(), 301);
    assert_eq!(nats.stream_state(DESIRED.name).await.unwrap().unwrap().messages, 200);
}

#[tokio::test]
async fn following_starts_with_the_last_of_each_subject_and_goes_on() {
    let live = Live::start().await;
    let nats = &live.nats;
    nats.ensure_stream(&DESIRED, 1).await.unwrap();
    let mut empty = nats.follow(DESIRED.name, "desired.agent.*", From::LastPerSubject, false);
    assert_eq!(until(&mut empty, "CaughtUp").await, ["CaughtUp"]);
    for (name, payload) in [("a", "a1"), ("b", "b1"), ("a", "a2")] {
        put(nats, &agent(name), payload, Expect::Any).await.unwrap();
    }
    put(nats, &wire::subject::desired_compiled(), "other", Expect::Any).await.unwrap();
    let mut follow = nats.follow(DESIRED.name, "desired.agent.*", From::LastPerSubject, false);
    assert_eq!(until(&mut follow, "CaughtUp").await, ["b1", "a2", "CaughtUp"]);
    put(nats, &agent("b"), "b2", Expect::Any).await.unwrap();
    assert_eq!(until(&mut follow, "b2").await, ["b2"]);
    assert_eq!(until(&mut empty, "b2").await.last().unwrap(), "b2");
    let mut later = nats.follow(DESIRED.name, "desired.>", From::Sequence(4), true);
    let Followed::Message(message) = soon(later.next()).await.unwrap() else {
        panic!("a message comes first")
    };
    assert_eq!((message.subject.as_str(), message.payload.len()), ("desired.compiled", 0));
    assert_eq!(message.headers.get_number("Muster-Epoch"), Some(1));
}

#[tokio::test]
async fn following_survives_kills_of_the_server_without_gap_or_repeat() {
    let mut live = Live::start().await;
    let nats = live.nats.clone();
    nats.ensure_stream(&EVENTS, 1).await.unwrap();
    let mut follow = nats.follow(EVENTS.name, "events.>", From::Sequence(1), false);
    assert_eq!(until(&mut follow, "CaughtUp").await, ["CaughtUp"]);
    let mut expected = Vec::new();
    for round in 0..3 {
        for n in 0..40 {
            let subject = wire::subject::events_checkpoint(n % 20);
            let payload = format!("{round}-{n}");
            let message = (Headers::new(), Bytes::from(payload.clone()));
            nats.publish_cas(EVENTS.name, &subject, message, Expect::Any).await.unwrap();
            expected.push(payload);
        }
        live.server.kill().await.unwrap();
        live.server.start_again().await.unwrap();
        soon(nats.link().wait_for(|link| link.connections >= round + 2)).await.unwrap();
    }
    assert_eq!(until(&mut follow, "2-39").await, expected);
}

#[tokio::test]
async fn a_stream_that_is_made_again_resets_its_followers() {
    let live = Live::start().await;
    let nats = &live.nats;
    nats.ensure_stream(&DESIRED, 1).await.unwrap();
    put(nats, &agent("a"), "old", Expect::Any).await.unwrap();
    let mut follow = nats.follow(DESIRED.name, "desired.>", From::LastPerSubject, false);
    assert_eq!(until(&mut follow, "CaughtUp").await, ["old", "CaughtUp"]);
    let deleted: serde_json::Value = nats.api("STREAM.DELETE.DESIRED", &serde_json::json!({})).await.unwrap();
    assert_eq!(deleted["success"], true);
    assert_eq!(until(&mut follow, "Missing").await, ["Missing"]);
    nats.ensure_stream(&DESIRED, 1).await.unwrap();
    put(nats, &agent("a"), "new", Expect::Any).await.unwrap();
    let seen: BTreeSet<String> = until(&mut follow, "new").await.into_iter().collect();
    assert!(seen.contains("Reset"), "{seen:?}");
}

#[tokio::test]
async fn an_older_store_that_has_grown_again_resets_its_followers() {
    let mut live = Live::start().await;
    let nats = live.nats.clone();
    nats.ensure_stream(&DESIRED, 1).await.unwrap();
    let port = live.server.port();
    let elsewhere = Setup::new(crate::nats_server::find(None).await.unwrap(), live.server.dir());
    put(&nats, &agent("a"), "a1", Expect::Any).await.unwrap();
    let mut follow = nats.follow(DESIRED.name, "desired.>", From::LastPerSubject, false);
    assert_eq!(until(&mut follow, "CaughtUp").await, ["a1", "CaughtUp"]);
    live.server.stop().await.unwrap();
    let backup = tempfile::tempdir().unwrap();
    let (store, kept) = (live.server.dir().join("store"), backup.path().join("store"));
    copy(&store, &kept);

    live.server.start_again().await.unwrap();
    assert_eq!(live.server.port(), port);
    soon(nats.link().wait_for(|link| link.connections >= 2)).await.unwrap();
    put(&nats, &agent("b"), "b1", Expect::Any).await.unwrap();
    assert_eq!(until(&mut follow, "b1").await, ["b1"]);
    live.server.stop().await.unwrap();

    // The older store grows past the follower's place, out of its sight: on another port.
    std::fs::remove_dir_all(&store).unwrap();
    copy(&kept, &store);
    let mut elsewhere = NatsServer::start(elsewhere).await.unwrap();
    let other = Nats::connect(&Connection::service(vec![elsewhere.url()], "other")).await.unwrap();
    for name in ["c", "d", "e"] {
        put(&other, &agent(name), &format!("{name}1"), Expect::Any).await.unwrap();
    }
    elsewhere.stop().await.unwrap();
    live.server.start_again().await.unwrap();
    assert_eq!(until(&mut follow, "e1").await, ["Reset", "a1", "c1", "d1", "e1"]);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[tokio::test]
async fn a_full_store_says_so_and_keeps_what_it_has() {
    let live = Live::start().await;
    let small = StreamSpec { max_bytes: Some(64 * 1024), ..DESIRED };
    live.nats.ensure_stream(&small, 1).await.unwrap();
    let payload = "x".repeat(10_000);
    let mut stored = 0;
    let refused = loop {
        match put(&live.nats, &agent(&format!("a{stored}")), &payload, Expect::LastSubject(0)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PublishError::Full { .. }), "{refused:?}");
    assert_eq!(live.nats.stream_state(DESIRED.name).await.unwrap().unwrap().messages, stored);
    assert!(stored >= 5);
}

#[tokio::test]
async fn subjects_are_listed_and_purged_up_to_a_place() {
    let live = Live::start().await;
    let nats = &live.nats;
    nats.ensure_stream(&CONTENT, 1).await.unwrap();
    let chunk = |name: &str| wire::subject::content_chunk(&domain::Digest::of(name.as_bytes()));
    let none = nats.subjects(CONTENT.name, "content.>", 0).await.unwrap();
    assert_eq!((none.subjects.len(), none.next), (0, None));
    for name in ["a", "b", "c"] {
        nats.publish_cas(CONTENT.name, &chunk(name), (Headers::new(), "x".into()), Expect::Any)
            .await
            .unwrap();
    }
    let all = nats.subjects(CONTENT.name, "content.chunk.*", 0).await.unwrap();
    let mut expected: Vec<String> = ["a", "b", "c"].map(|name| chunk(name).to_string()).into();
    expected.sort();
    assert_eq!((all.subjects, all.next), (expected.clone(), None));
    let rest = nats.subjects(CONTENT.name, "content.chunk.*", 2).await.unwrap();
    assert_eq!((rest.subjects.as_slice(), rest.next), (&expected[2..], None));
    assert_eq!(nats.count_subjects(CONTENT.name, "content.>").await.unwrap(), 3);
    assert_eq!(nats.count_subjects(CONTENT.name, chunk("a").as_str()).await.unwrap(), 1);
    assert_eq!(nats.count_subjects(CONTENT.name, chunk("d").as_str()).await.unwrap(), 0);

    let state = nats.stream_state(CONTENT.name).await.unwrap().unwrap();
    assert!(state.bytes > 0);
    // Stored again after the look: it stays.
    nats.publish_cas(CONTENT.name, &chunk("b"), (Headers::new(), "y".into()), Expect::Any).await.unwrap();
    let below = state.last_sequence + 1;
    assert_eq!(nats.purge(CONTENT.name, chunk("a").as_str(), below).await.unwrap(), 1);
    assert_eq!(nats.purge(CONTENT.name, chunk("b").as_str(), below).await.unwrap(), 0);
    assert_eq!(nats.purge(CONTENT.name, "content.chunk.*", below).await.unwrap(), 1);
    assert_eq!(nats.subjects(CONTENT.name, "content.>", 0).await.unwrap().subjects, [chunk("b").to_string()]);
}
