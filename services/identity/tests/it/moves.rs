//! Agents move, go, and their assignments are published whatever happens.

use domain::Cursor;
use runtime::nats::From;
use tonic::Code;
use wire::agent::v1::JoinErrorCode;
use wire::api::v1::{DeleteAgentRequest, GetRegistrationRequest, MoveAgentRequest};
use wire::subject::STREAM_DESIRED;

use crate::fleet::{Fleet, Machine, cursor, refused};

fn to(group: &str) -> MoveAgentRequest {
    MoveAgentRequest { agent: "web-1".into(), group: group.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_moves_and_its_assignment_follows() {
    let fleet = Fleet::start().await;
    fleet.groups(&[("servers", "/servers"), ("servers-web", "/servers/web")]).await;
    let mut replica = fleet.replica().await;
    let token = replica.token("web", "/servers", 10).await;
    fleet.join(&Machine::new("web-1"), &token.token).await.unwrap();
    let mut notified = fleet.nats.subscribe("notify.agent.web-1").await.unwrap();

    let moved = replica.api.move_agent(to("/servers/web")).await.unwrap().into_inner();
    assert_eq!((moved.group.as_str(), moved.assignment_revision), ("/servers/web", 2));
    let head = fleet.head("web-1").await.unwrap();
    assert_eq!((fleet.assignment(&head).group.as_str(), cursor(&head)), ("servers-web", Cursor::new(1, 2)));
    let told = futures::StreamExt::next(&mut notified).await.unwrap();
    assert_eq!(told.payload, head.payload);

    // The same group by name, again: nothing is written.
    let same = replica.api.move_agent(to("servers-web")).await.unwrap().into_inner();
    assert_eq!(same, moved);
    assert_eq!(fleet.head("web-1").await.unwrap().sequence, head.sequence);

    let shown = GetRegistrationRequest { agent: "web-1".into() };
    let shown = replica.api.get_registration(shown).await.unwrap().into_inner();
    assert_eq!(shown, moved);
    assert_eq!((shown.hostname.as_str(), shown.token.as_str()), ("web-1.example.org", "web"));
    assert_eq!(shown.labels["site"], "north");

    for (request, code) in [
        (to("/servers/db"), Code::NotFound),
        (to("nowhere"), Code::NotFound),
        (to(""), Code::InvalidArgument),
        (to("/a//b"), Code::InvalidArgument),
        (MoveAgentRequest { agent: "web-2".into(), group: "/".into() }, Code::NotFound),
        (MoveAgentRequest { agent: "web.*".into(), group: "/".into() }, Code::InvalidArgument),
    ] {
        let status = replica.api.move_agent(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    assert_eq!(fleet.head("web-1").await.unwrap().sequence, head.sequence);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_at_once_on_two_replicas_all_count() {
    let fleet = Fleet::start().await;
    fleet.groups(&[("a", "/a"), ("b", "/b")]).await;
    let (mut one, mut two) = (fleet.replica().await, fleet.replica().await);
    let token = one.token("t", "/", 1).await;
    fleet.join(&Machine::new("web-1"), &token.token).await.unwrap();
    let (first, second) = tokio::join!(one.api.move_agent(to("/a")), two.api.move_agent(to("/b")));
    let mut revisions = [first, second].map(|moved| moved.unwrap().into_inner().assignment_revision);
    revisions.sort_unstable();
    assert_eq!(revisions, [2, 3]);
    let head = fleet.head_becomes("web-1", |head| cursor(head) >= Cursor::new(1, 3)).await;
    let shown = one.api.get_registration(GetRegistrationRequest { agent: "web-1".into() }).await.unwrap();
    assert_eq!(format!("/{}", fleet.assignment(&head).group), shown.into_inner().group);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_agent_leaves_a_tombstone_for_ever() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    let token = replica.token("web", "/", 10).await;
    let machine = Machine::new("web-1");
    fleet.join(&machine, &token.token).await.unwrap();
    replica.api.delete_agent(DeleteAgentRequest { agent: "web-1".into() }).await.unwrap();
    assert!(fleet.head("web-1").await.unwrap().payload.is_empty());

    let again = replica.api.delete_agent(DeleteAgentRequest { agent: "web-1".into() }).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    let shown =
        replica.api.get_registration(GetRegistrationRequest { agent: "web-1".into() }).await.unwrap_err();
    assert_eq!((shown.code(), shown.message()), (Code::NotFound, "there is no agent \"web-1\""));
    assert_eq!(replica.api.move_agent(to("/")).await.unwrap_err().code(), Code::NotFound);
    for machine in [&machine, &Machine::new("web-1")] {
        refused(fleet.join(machine, &token.token).await, JoinErrorCode::IdTaken, "was deleted");
    }
    assert_eq!(fleet.used("web").await, 1);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assignments_that_desired_lost_are_published_again() {
    let mut fleet = Fleet::start().await;
    fleet.groups(&[("a", "/a")]).await;
    let mut replica = fleet.replica().await;
    let token = replica.token("web", "/", 10).await;
    for n in 1..=3 {
        fleet.join(&Machine::new(format!("web-{n}")), &token.token).await.unwrap();
    }
    replica.api.move_agent(to("/a")).await.unwrap();
    replica.api.delete_agent(DeleteAgentRequest { agent: "web-3".into() }).await.unwrap();
    let before = fleet.head("web-1").await.unwrap();

    // The running replica notices after the broker's restart that the stream went away meanwhile, and makes it
    // again.
    fleet.server.kill().await.unwrap();
    let store = fleet.server.dir().join("store/jetstream");
    let streams = find_dir(&store, STREAM_DESIRED).expect("the stream has a directory");
    std::fs::remove_dir_all(streams).unwrap();
    fleet.server.start_again().await.unwrap();
    let after = fleet.head_becomes("web-1", |_| true).await;
    assert_eq!((after.payload, cursor(&before)), (before.payload, Cursor::new(1, 2)));
    assert_eq!(cursor(&fleet.head_becomes("web-2", |_| true).await), Cursor::new(1, 1));
    // One that was deleted needs none.
    assert!(fleet.head("web-3").await.is_none());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_starts_publishes_what_a_crash_left_out() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    let token = replica.token("web", "/", 50).await;
    for n in 1..=50 {
        fleet.join(&Machine::new(format!("web-{n}")), &token.token).await.unwrap();
    }
    replica.stop().await;
    let purge =
        fleet.nats.client().request("$JS.API.STREAM.PURGE.DESIRED".to_owned(), "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&purge.payload).contains("\"success\":true"));
    let mut follow = fleet.nats.follow(STREAM_DESIRED, "desired.agent.*", From::LastPerSubject, true);
    let replica = fleet.replica().await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 50 {
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), follow.next()).await;
        if let runtime::nats::Followed::Message(message) = next.expect("all heads are published").unwrap() {
            seen.insert(message.subject);
        }
    }
    replica.stop().await;
}

fn find_dir(below: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(below).ok()?.filter_map(Result::ok).filter(|entry| entry.path().is_dir()).find_map(
        |entry| {
            if entry.file_name() == name { Some(entry.path()) } else { find_dir(&entry.path(), name) }
        },
    )
}
