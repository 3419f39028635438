//! What agents are told.

use domain::{GroupId, Mode, Revision};
use wire::agent::v1::{Mode as WireMode, Standing};
use wire::api::v1::{PresenceState, Progress};

use crate::fleet::{Fleet, offered, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_agent_gets_what_is_newer_and_nothing_else() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    fleet.enrol("web-1", "web", 1).await;
    let mut agent = fleet.agent("web-1").await;
    replica.sees_state("web-1", PresenceState::NeverSeen).await;

    let first = agent.beat(None).await;
    assert_eq!(first.standing(), Standing::Ok);
    assert!(first.want_status && first.assignment.is_none(), "{first:?}");
    assert_eq!(offered(&fleet, &first), Some((GroupId::new("web").unwrap(), Revision(5))));
    assert!((500..=1_500).contains(&first.next_heartbeat_ms), "{first:?}");

    agent.revision = 5;
    let second = agent.beat(Some(status(WireMode::Pull, 5, None))).await;
    assert!(second.snapshot.is_none() && !second.want_status, "{second:?}");
    let third = agent.beat(None).await;
    assert!(third.snapshot.is_none() && !third.want_status, "{third:?}");
    let seen = replica.get("web-1").await.unwrap();
    assert_eq!((seen.progress(), seen.revision, seen.head_revision), (Progress::Current, 5, 5));
    assert_eq!((seen.group.as_str(), seen.agent_version.as_str()), ("/servers/web", "1.2.3"));
    assert_eq!((seen.items[0].state.as_str(), seen.labels["site"].as_str()), ("healthy", "north"));

    // A newer head comes with the next heartbeat; once it failed, not again.
    fleet.head("web", "/servers/web", (Mode::Pull, 1_000), 6).await;
    replica.sees("web-1", |agent| agent.head_revision == 6).await;
    let newer = agent.beat(None).await;
    assert_eq!(offered(&fleet, &newer), Some((GroupId::new("web").unwrap(), Revision(6))));
    agent.report(status(WireMode::Pull, 6, Some("port taken"))).await;
    let failed = replica.sees("web-1", |agent| agent.progress() == Progress::Failed).await;
    assert_eq!(failed.items[0].reason, "port taken");
    assert_eq!(agent.beat(None).await.snapshot, None);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_agent_fetches_for_itself() {
    let fleet = Fleet::start().await;
    fleet.head("push", "/push", (Mode::Push, 1_000), 9).await;
    fleet.enrol("p", "push", 1).await;
    let mut replica = fleet.replica().await;
    let reply = fleet.agent("p").await.beat(Some(status(WireMode::Push, 1, None))).await;
    assert_eq!((reply.snapshot, reply.head_revision, reply.head_epoch), (None, 9, 1));
    assert_eq!(replica.get("p").await.unwrap().mode(), wire::api::v1::Mode::Push);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_moved_gets_its_assignment_and_the_snapshot_of_the_new_group() {
    let fleet = Fleet::start().await;
    fleet.head("db", "/servers/db", (Mode::Pull, 1_000), 3).await;
    fleet.enrol("web-1", "web", 1).await;
    let mut replica = fleet.replica().await;
    let mut agent = fleet.agent("web-1").await;
    agent.revision = 5;
    agent.beat(Some(status(WireMode::Pull, 5, None))).await;

    fleet.enrol("web-1", "db", 2).await;
    let seen = replica.sees("web-1", |agent| agent.group == "/servers/db").await;
    assert_eq!(seen.progress(), Progress::Pending, "its revision is that of another group");
    let told = agent.beat(None).await;
    let assignment = told.assignment.as_ref().expect("the new assignment");
    let assignment = wire::snapshot::open_assignment(assignment, &fleet.key.verifying_key().into()).unwrap();
    assert_eq!((assignment.group.as_str(), assignment.cursor.revision), ("db", Revision(2)));
    assert_eq!(offered(&fleet, &told), Some((GroupId::new("db").unwrap(), Revision(3))));

    (agent.assignment, agent.revision) = (2, 3);
    let obeyed = agent.beat(Some(status(WireMode::Pull, 3, None))).await;
    assert!(obeyed.assignment.is_none() && obeyed.snapshot.is_none(), "{obeyed:?}");
    assert_eq!(replica.get("web-1").await.unwrap().progress(), Progress::Current);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_newcomers_and_the_deleted() {
    let fleet = Fleet::start().await;
    fleet.enrol("gone", "web", 1).await;
    let mut replica = fleet.replica().await;
    let unknown = fleet.agent("stranger").await.beat(None).await;
    assert_eq!((unknown.standing(), unknown.snapshot), (Standing::Unknown, None));
    assert!(replica.get("stranger").await.is_none(), "nothing is kept of a stranger");

    // The heartbeat is there before the record is.
    let mut newcomer = fleet.agent("new").await;
    let beat = tokio::spawn(async move { newcomer.beat(None).await });
    fleet.enrol("new", "web", 1).await;
    assert_eq!(beat.await.unwrap().standing(), Standing::Ok);

    let mut gone = fleet.agent("gone").await;
    assert_eq!(gone.beat(None).await.standing(), Standing::Ok);
    fleet.delete("gone").await;
    while replica.get("gone").await.is_some() {
        tokio::task::yield_now().await;
    }
    let told = gone.beat(None).await;
    assert_eq!(told.standing(), Standing::Deleted);
    assert!(told.next_heartbeat_ms >= 1_800_000, "it has no reason to come back soon: {told:?}");
    replica.stop().await;
}
