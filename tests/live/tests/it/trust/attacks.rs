//! What an agent can try with its own, real credentials.

use live::{Bare, Fleet};
use wire::access::{Account, Permissions};

use super::{Member, member};
use crate::seed;

/// Subjects at which an agent would read what is not its own.
const LISTEN: &[&str] = &[
    ">",
    "*",
    "*.>",
    "_INBOX.>",
    "_INBOX_agent.>",
    "_INBOX_agent.*.>",
    "_INBOX_agent.other.>",
    "_INBOX_agent.other.test",
    "_INBOX_join.>",
    "_INBOX_svc.>",
    "_INBOX_svc.presence.>",
    "_R_.>",
    "notify.>",
    "notify.group.*",
    "notify.group.pull",
    "notify.agent.*",
    "notify.agent.other",
    "svc.>",
    "svc.heartbeat.*",
    "svc.heartbeat.thief",
    "svc.enrol",
    "desired.>",
    "store.>",
    "identity.>",
    "content.>",
    "events.>",
    "presence.beats",
    "$JS.>",
    "$JS.EVENT.>",
    "$JS.ACK.>",
    "$SYS.>",
    "$SYS.ACCOUNT.>",
    "$KV.>",
    "$O.>",
];

/// Subjects with which an agent would read, change or learn what it may not, in every form that the API has.
const ASK: &[&str] = &[
    "$JS.API.INFO",
    "$JS.API.ACCOUNT.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.DESIRED",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.DESIRED",
    "$JS.API.STREAM.DELETE.POLICY",
    "$JS.API.STREAM.PURGE.POLICY",
    "$JS.API.STREAM.SNAPSHOT.POLICY",
    "$JS.API.STREAM.RESTORE.POLICY",
    "$JS.API.STREAM.LEADER.STEPDOWN.POLICY",
    "$JS.API.STREAM.MSG.GET.DESIRED",
    "$JS.API.STREAM.MSG.GET.IDENTITY",
    "$JS.API.STREAM.MSG.DELETE.DESIRED",
    "$JS.API.DIRECT.GET.DESIRED",
    "$JS.API.DIRECT.GET.CONTENT",
    "$JS.API.DIRECT.GET.DESIRED.>",
    "$JS.API.DIRECT.GET.DESIRED.desired.group.pull",
    "$JS.API.DIRECT.GET.DESIRED.desired.group.*",
    "$JS.API.DIRECT.GET.DESIRED.desired.agent.other",
    "$JS.API.DIRECT.GET.DESIRED.desired.compiled",
    "$JS.API.DIRECT.GET.DESIRED.desired.root",
    "$JS.API.DIRECT.GET.DESIRED.desired.root.1.x",
    "$JS.API.DIRECT.GET.IDENTITY.identity.agent.thief",
    "$JS.API.DIRECT.GET.IDENTITY.identity.root.1",
    "$JS.API.DIRECT.GET.POLICY.store.epoch",
    "$JS.API.DIRECT.GET.EVENTS.events.presence.thief",
    "$JS.API.CONSUMER.CREATE.DESIRED",
    "$JS.API.CONSUMER.CREATE.DESIRED.mine",
    "$JS.API.CONSUMER.CREATE.DESIRED.mine.desired.group.push",
    "$JS.API.CONSUMER.CREATE.CONTENT.mine.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.DESIRED.mine",
    "$JS.API.CONSUMER.MSG.NEXT.DESIRED.mine",
    "$JS.API.CONSUMER.NAMES.DESIRED",
    "$JS.API.CONSUMER.LIST.DESIRED",
    "$JS.API.CONSUMER.INFO.DESIRED.mine",
    "$JS.API.CONSUMER.DELETE.DESIRED.mine",
    "$JS.API.CONSUMER.PAUSE.DESIRED.mine",
    "$JS.ACK.DESIRED.mine.1.1.1.1.0",
    "$JS.FC.DESIRED.mine.x",
    "$KV.config.key",
    "$JS.API.STREAM.INFO.KV_config",
    "$O.files.C.x",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.CLAIMS.DELETE",
    "$SYS.REQ.ACCOUNT.PING.CONNZ",
    "$SYS.REQ.USER.AUTH",
    "svc.heartbeat.other",
    "svc.heartbeat.*",
    "_INBOX_agent.other.test",
    "_INBOX_agent.thief.test",
    "_INBOX_join.x.test",
    "_INBOX_svc.policy.test",
    "_R_.x",
    "notify.group.push",
    "notify.agent.thief",
    "desired.group.push",
    "desired.root.2",
    "notify.root.2",
    "store.group.push",
    "identity.agent.thief",
    "identity.root.2",
    "content.chunk.x",
    "presence.beats",
    "events.presence.thief",
];

/// Streams whose state tells whether anything was harmed. Presence writes its own while all is well.
const STREAMS: [&str; 4] = ["POLICY", "IDENTITY", "DESIRED", "CONTENT"];

/// The state of the streams, as an administrator sees it.
async fn state(fleet: &Fleet) -> Vec<(String, u64, u64, u64)> {
    let jetstream = async_nats::jetstream::new(fleet.admin(Account::Fleet).await);
    let mut states = Vec::new();
    for name in STREAMS {
        let mut stream = jetstream.get_stream(name).await.expect("the stream is there");
        let info = stream.info().await.expect("an answer");
        let state = &info.state;
        states.push((info.created.to_string(), state.first_sequence, state.last_sequence, state.messages));
    }
    states
}

async fn thief(fleet: &Fleet) -> (Member, Bare) {
    seed::groups(&fleet.cli("policy")).await;
    let _ = member(fleet, "other", "/pull").await;
    let thief = member(fleet, "thief", "/push").await;
    let bare = Bare::connect(&fleet.nats.url(), Some(&thief.user)).await.expect("an agent is let in");
    (thief, bare)
}

#[tokio::test(flavor = "multi_thread")]
async fn t13_an_agent_listens_to_nobody_else_alone_or_in_a_queue_group() {
    let fleet = Fleet::start().await;
    let (_, mut bare) = thief(&fleet).await;
    for queue in ["", "presence", "identity", "mine"] {
        for (number, subject) in LISTEN.iter().enumerate() {
            let said = bare.subscribe(subject, queue, number as u64 + 1).await;
            assert!(said.is_refusal(), "{subject} {queue}: {said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t13_t15_an_agent_asks_the_broker_for_nothing_but_its_own() {
    let fleet = Fleet::start().await;
    let (thief, mut bare) = thief(&fleet).await;
    let before = state(&fleet).await;
    let consumer = r#"{"stream_name":"DESIRED","config":{"deliver_subject":"_INBOX_agent.thief.test","ack_policy":"none"}}"#;
    for subject in ASK {
        for payload in ["", "{}", r#"{"last_by_subj":"desired.group.pull"}"#, consumer] {
            let said = bare.publish(subject, &thief.inbox(), payload.as_bytes()).await;
            assert!(!said.errors.is_empty() && said.messages.is_empty(), "{subject}: {said:?}");
        }
    }
    assert_eq!(state(&fleet).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_no_reply_subject_makes_broker_or_services_write_for_an_agent() {
    let fleet = Fleet::start().await;
    let (thief, mut bare) = thief(&fleet).await;
    let inbox = thief.inbox();
    assert!(bare.subscribe(&inbox, "", 1).await.errors.is_empty());
    let own = "$JS.API.DIRECT.GET.DESIRED.desired.group.push".to_owned();
    let absent = format!("$JS.API.DIRECT.GET.CONTENT.content.chunk.{}", "0".repeat(64));
    assert!(!bare.ask(&own, &inbox, b"").await.is_empty(), "its own head is there to be read");
    let mut spies = Vec::new();
    for (account, subjects) in [
        (Account::Fleet, &["store.>", "identity.>", "notify.>", "desired.>", "svc.>", "_INBOX_agent.>"][..]),
        (Account::Agents, &["_INBOX_agent.other.>"]),
    ] {
        let admin = fleet.admin(account).await;
        for subject in subjects {
            spies.push(admin.subscribe(*subject).await.expect("a subscription"));
        }
        admin.flush().await.expect("flushed");
    }
    let before = state(&fleet).await;
    for from in [own.as_str(), &absent, "svc.heartbeat.thief", "svc.enrol"] {
        for to in [
            "desired.group.pull",
            "store.group.push",
            "store.epoch",
            "identity.agent.other",
            "notify.group.pull",
            "_INBOX_svc.policy.x",
            "_INBOX_join.x.y",
            "svc.heartbeat.other",
            "$JS.API.STREAM.PURGE.POLICY",
            "$JS.API.STREAM.DELETE.POLICY",
            "$JS.API.STREAM.DELETE.IDENTITY",
            "$JS.API.CONSUMER.CREATE.DESIRED",
            "$SYS.REQ.CLAIMS.UPDATE",
        ] {
            let said = bare.publish(from, to, b"").await;
            assert!(said.errors.is_empty(), "the broker does not look at it: {said:?}");
        }
    }
    // Services answer to inboxes of the agent that asks; the broker's answers stay in the agents' account, where
    // presence drops what no agent has sent.
    let _ = bare.publish("svc.heartbeat.thief", "_INBOX_agent.other.x", b"").await;
    let _ = bare.publish("svc.enrol", "_INBOX_agent.other.x", b"").await;
    // What comes now comes after the answers to all of that.
    for subject in [own.as_str(), &absent, "svc.heartbeat.thief"] {
        assert!(!bare.ask(subject, &inbox, b"").await.is_empty(), "{subject}");
    }
    assert_eq!(state(&fleet).await, before);
    for mut spy in spies {
        let heard = tokio::time::timeout(std::time::Duration::ZERO, futures::StreamExt::next(&mut spy)).await;
        assert!(heard.is_err(), "{heard:?}");
    }
    let output = fleet.cli("presence").json("agent show other").await;
    assert_ne!(output["state"], "ONLINE", "nobody heard of it but through an answer of the broker: {output}");
}

/// Shows that the test before this one would fail without the border between the accounts.
#[tokio::test(flavor = "multi_thread")]
async fn t14_in_one_account_the_same_request_deletes_a_stream() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let permissions = Permissions {
        publish: vec!["$JS.API.DIRECT.GET.CONTENT.content.chunk.*".to_owned()],
        subscribe: vec!["_INBOX_agent.thief.>".to_owned()],
    };
    let creds = fleet.mint(Account::Fleet, permissions);
    let mut bare = Bare::connect(&fleet.nats.url(), Some(&creds)).await.expect("it is let in");
    let absent = format!("$JS.API.DIRECT.GET.CONTENT.content.chunk.{}", "0".repeat(64));
    let said = bare.publish(&absent, "$JS.API.STREAM.DELETE.POLICY", b"").await;
    assert!(said.errors.is_empty(), "{said:?}");
    let jetstream = async_nats::jetstream::new(fleet.admin(Account::Fleet).await);
    live::eventually("the store of record is gone", async || match jetstream.get_stream("POLICY").await {
        Err(_) => Ok(()),
        Ok(_) => Err("it is there".to_owned()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t16_t17_no_header_of_an_agent_has_an_effect_on_a_stream() {
    let fleet = Fleet::start().await;
    let (thief, mut bare) = thief(&fleet).await;
    assert!(bare.subscribe(&thief.inbox(), "", 1).await.errors.is_empty());
    let before = state(&fleet).await;
    for headers in [
        [("Nats-Msg-Id", "1"), ("Nats-Expected-Stream", "DESIRED")],
        [("Nats-Rollup", "all"), ("Nats-Rollup", "sub")],
        [("Nats-TTL", "1s"), ("Nats-Marker-Reason", "MaxAge")],
        [("Nats-Schedule", "@every 1s"), ("Nats-Schedule-Target", "store.group.push")],
        [("Nats-Batch-Id", "x"), ("Nats-Batch-Sequence", "1")],
        [("KV-Operation", "PURGE"), ("Nats-Incr", "+1")],
    ] {
        for subject in ["desired.group.push", "desired.agent.thief", "store.group.push", "content.chunk.x"] {
            let said = bare.publish_with(subject, &headers, b"x").await;
            assert!(said.is_refusal(), "{subject} {headers:?}: {said:?}");
        }
        for subject in ["svc.heartbeat.thief", "svc.enrol", "$JS.API.DIRECT.GET.DESIRED.desired.group.push"] {
            let said = bare.publish_with(subject, &headers, b"").await;
            assert!(said.errors.is_empty(), "{subject} {headers:?}: {said:?}");
        }
    }
    let own = "$JS.API.DIRECT.GET.DESIRED.desired.group.push";
    assert!(!bare.ask(own, &thief.inbox(), b"").await.is_empty());
    assert_eq!(state(&fleet).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_opens_the_door_and_nothing_behind_it() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let token = wire::join::JoinToken::decode(&fleet.token("/push", 1).await).expect("a token");
    let door = token.door.expect("the broker asks who is there");
    let key = nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::User, door.seed).expect("a seed");
    let creds = live::Creds { key, claims: door.claims };
    let mut bare = Bare::connect(&fleet.nats.url(), Some(&creds)).await.expect("the door is open");
    for (number, subject) in LISTEN.iter().enumerate() {
        assert!(bare.subscribe(subject, "", number as u64 + 1).await.is_refusal(), "{subject}");
    }
    for subject in ASK.iter().chain(&["svc.heartbeat.thief", "$JS.API.DIRECT.GET.DESIRED.desired.group.push"])
    {
        assert!(!bare.publish(subject, "", b"").await.errors.is_empty(), "{subject}");
    }
    let own = format!("_INBOX_join.{}.1", creds.key.public_key());
    assert!(bare.subscribe(&own, "", 99).await.errors.is_empty());
    assert!(!bare.ask("svc.enrol", &own, b"not a request").await.is_empty(), "it is told that this is none");
    let nobody = Bare::connect(&fleet.nats.url(), None).await;
    assert!(nobody.err().is_some_and(|said| said.contains("Authorization")), "nobody gets in without");
}
