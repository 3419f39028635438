//! How far content has got, told to operators and to content.

use domain::content::{Census, Holders};
use domain::{Mode, content};
use futures::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;
use wire::agent::v1::{ContentStatus, ItemState, Mode as WireMode, StatusReport};
use wire::api::v1 as api;
use wire::api::v1::watch_event::Event;
use wire::api::v1::{GetContentStatusRequest, WatchRequest};

use crate::fleet::{Agent, Fleet, PATIENCE, Replica, status};

fn of(channel: &str, active: u32, wanted: u32, state: ItemState) -> ContentStatus {
    ContentStatus {
        channel: channel.into(),
        active,
        wanted,
        revision: 77,
        state: state.into(),
        ..ContentStatus::default()
    }
}

fn report(content: Vec<ContentStatus>) -> Option<StatusReport> {
    Some(StatusReport { content, ..status(WireMode::Pull, 5, None) })
}

/// An agent of a group that has said what it holds.
async fn agent(
    fleet: &Fleet,
    replica: &mut Replica,
    (name, group): (&str, &str),
    content: Vec<ContentStatus>,
) -> Agent {
    fleet.enrol(name, group, 1).await;
    replica.sees_state(name, api::PresenceState::NeverSeen).await;
    let mut agent = fleet.agent(name).await;
    agent.revision = 5;
    agent.beat(report(content)).await;
    agent
}

async fn content_status(replica: &mut Replica, channel: &str, group: &str) -> api::ContentStatus {
    let request = GetContentStatusRequest { channel: channel.into(), group: group.into() };
    replica.api.get_content_status(request).await.unwrap().into_inner()
}

/// Agents in all, current, waiting, downloading, applying, failed.
fn counts(status: &api::ContentStatus) -> [u64; 6] {
    [status.agents, status.current, status.waiting, status.downloading, status.applying, status.failed]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_how_far_a_channel_has_got() {
    let fleet = Fleet::start().await;
    fleet.head("slow", "/slow", (Mode::Pull, 3_600_000), 5).await;
    let mut replica = fleet.replica().await;
    let mut events = replica.api.watch(WatchRequest::default()).await.unwrap().into_inner();
    let ips = |active, wanted, state| of("definitions/ips", active, wanted, state);
    let loading = ContentStatus {
        percent: 40,
        patch_bytes: 9_000,
        held_bytes: 70_000,
        ..ips(1, 2, ItemState::Received)
    };
    let failed = ContentStatus { reason: "no space left".into(), ..ips(1, 2, ItemState::Failed) };
    let models = of("models", 3, 3, ItemState::Healthy);
    let done = ContentStatus { patch_bytes: 1_000, ..ips(2, 2, ItemState::Healthy) };
    agent(&fleet, &mut replica, ("a", "web"), vec![done, models.clone()]).await;
    let mut b = agent(&fleet, &mut replica, ("b", "web"), vec![loading, models]).await;
    agent(&fleet, &mut replica, ("c", "slow"), vec![ips(1, 2, ItemState::Offered)]).await;
    agent(&fleet, &mut replica, ("d", "slow"), vec![failed]).await;

    let whole = content_status(&mut replica, "definitions/ips", "").await;
    assert_eq!((whole.channel.as_str(), counts(&whole)), ("definitions/ips", [4, 1, 1, 1, 0, 1]));
    let revision = |revision, active, wanted, downloading, failed| api::ContentRevisionStatus {
        revision,
        active,
        wanted,
        downloading,
        failed,
    };
    assert_eq!(whole.revisions, [revision(2, 1, 4, 1, 1), revision(1, 3, 0, 0, 0)]);
    assert_eq!(whole.bytes, Some(api::ContentBytes { patch: 10_000, chunk: 0, full: 0, held: 70_000 }));
    let failure = api::ContentFailure { agent: "d".into(), revision: 2, reason: "no space left".into() };
    assert_eq!((whole.failures, whole.expected_finish), (vec![failure], None));
    assert!(whole.time.is_some());
    assert_eq!(counts(&content_status(&mut replica, "definitions/ips", "/slow").await), [2, 0, 1, 0, 0, 1]);
    assert_eq!(
        counts(&content_status(&mut replica, "definitions/ips", "/servers/web").await),
        [2, 1, 0, 1, 0, 0]
    );
    assert_eq!(counts(&content_status(&mut replica, "models", "").await), [2, 2, 0, 0, 0, 0]);
    assert_eq!(counts(&content_status(&mut replica, "nobody/knows", "").await), [0; 6]);

    let seen = replica.get("b").await.unwrap();
    let ips_of_b = &seen.content[0];
    assert_eq!((seen.content.len(), ips_of_b.state.as_str(), ips_of_b.percent), (2, "received", 40));
    assert_eq!((ips_of_b.active, ips_of_b.wanted, ips_of_b.bytes.unwrap().held), (1, 2, 70_000));
    assert_eq!(seen.progress(), api::Progress::Current, "content does not hold up policies");
    b.beat(report(vec![ips(2, 2, ItemState::Healthy)])).await;
    assert_eq!(counts(&content_status(&mut replica, "models", "").await), [1, 1, 0, 0, 0, 0]);

    let item = loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").unwrap().unwrap();
        if let Some(Event::Failed(failed)) = event.event {
            break failed.item.unwrap();
        }
    };
    assert_eq!((item.kind.as_str(), item.reason.as_str()), ("content definitions/ips", "no space left"));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_questions_about_content_are_refused_with_the_field() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    let mut ask = async |channel: &str, group: &str| {
        let request = GetContentStatusRequest { channel: channel.into(), group: group.into() };
        replica.api.get_content_status(request).await.unwrap_err()
    };
    let malformed = ask("a//b", "").await;
    assert_eq!(malformed.get_details_bad_request().unwrap().field_violations[0].field, "channel");
    assert_eq!(ask("a", "/nowhere").await.code(), Code::NotFound);
    replica.stop().await;
}

fn holders(channel: &str, revision: u32, active: u64, fetching: u64) -> Holders {
    let channel = content::ChannelName::new(channel).unwrap();
    Holders { channel, revision: content::ContentRevision(revision), active, fetching }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_told_who_holds_what_and_a_restart_knows_it() {
    let fleet = Fleet::start().await;
    fleet.head("slow", "/slow", (Mode::Pull, 3_600_000), 5).await;
    let mut told = fleet.nats.subscribe(wire::subject::pattern::CENSUS).await.unwrap();
    fleet.nats.flush(PATIENCE).await.unwrap();
    let mut heard = async |wanted: &[Holders]| -> Census {
        let wait = async {
            loop {
                let message = told.next().await.expect("the connection lives");
                let census = wire::content::read_census(&message.payload).unwrap();
                if census.holders == wanted {
                    return census;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("a census that says so")
    };
    let mut replica = fleet.replica().await;
    let first = heard(&[]).await;
    for name in ["a", "b"] {
        agent(&fleet, &mut replica, (name, "slow"), vec![of("ips", 1, 2, ItemState::Received)]).await;
    }
    agent(&fleet, &mut replica, ("c", "slow"), vec![of("ips", 2, 2, ItemState::Healthy)]).await;
    let all = [holders("ips", 2, 1, 2), holders("ips", 1, 2, 0)];
    assert_eq!(heard(&all).await.replica, first.replica);
    let before = content_status(&mut replica, "ips", "").await;
    replica.stop().await;

    let mut replica = fleet.replica().await;
    assert_ne!(heard(&all).await.replica, first.replica, "another process");
    let after = content_status(&mut replica, "ips", "").await;
    assert_eq!(after, api::ContentStatus { time: after.time, ..before });
    replica.stop().await;
}
