//! The whole agent with real files and a broker in memory: applies, fails, recovers, is killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use domain::agent::{Note, Refusal};
use domain::trust::{Role, Root};
use domain::{Cursor, Digest, KindName};
use ed25519_dalek::SigningKey;
use wire::agent::v1::ItemState;
use wire::root::Chain;
use wire::sign::{KeySet, public_key};

use crate::crash::{CRASH_ENV, CRASH_POINTS};
use crate::disk::{DiskStorage, Shown};
use crate::handler::{Handler, PolicyChange};
use crate::storage::MemoryStorage;
use crate::test_fleet::{Broker, PATIENCE, Running, envelope, root, signed_root, snapshot, trust};

/// Remembers what it was given, and refuses documents that say "bad".
#[derive(Default)]
struct Recorder {
    applied: Mutex<Vec<(String, Option<String>)>>,
    sick: Mutex<bool>,
}

impl Handler for Recorder {
    fn handles(&self, _kind: &KindName) -> bool {
        true
    }

    async fn apply(&self, change: PolicyChange) -> Result<(), String> {
        let document = change.document.map(|document| String::from_utf8(document.to_vec()).unwrap());
        self.applied.lock().unwrap().push((change.kind.to_string(), document.clone()));
        if document.is_some_and(|document| document.contains("bad")) {
            Err("bad document".into())
        } else {
            Ok(())
        }
    }

    async fn check_health(&self, _kind: &KindName) -> Result<(), String> {
        if *self.sick.lock().unwrap() { Err("sick".into()) } else { Ok(()) }
    }
}

fn start(broker: &Broker, root: &Path, handler: &Arc<Recorder>) -> Running {
    let (storage, loaded) = DiskStorage::open(root, &trust(), Digest([0; 32])).unwrap();
    Running::start(broker, Arc::new(storage), Arc::clone(handler), loaded)
}

fn applied(revision: u64) -> impl Fn(&Note) -> bool {
    move |note| matches!(note, Note::Applied(id) if id.cursor == Cursor::new(1, revision))
}

fn in_force(root: &Path, kind: &str) -> String {
    std::fs::read_to_string(root.join(format!("current/policies/{kind}.json"))).unwrap()
}

#[tokio::test]
async fn applies_reports_and_takes_up_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, handler) = (Broker::new(), Arc::new(Recorder::default()));
    broker.publish(envelope(&snapshot(5, &[("a", "[1]")])));
    let mut agent = start(&broker, dir.path(), &handler);
    agent.noted("the head is fetched at the start", applied(5)).await;
    broker.publish(envelope(&snapshot(6, &[("a", "[1]"), ("b", "[2]")])));
    agent.noted("a new head arrives by push", applied(6)).await;
    agent.stop().await;
    assert_eq!(in_force(dir.path(), "b"), "[2]");
    let expected = [("a".to_owned(), Some("[1]".to_owned())), ("b".to_owned(), Some("[2]".to_owned()))];
    assert_eq!(*handler.applied.lock().unwrap(), expected, "only what changed is handled");
    let last = broker.heard().pop().unwrap();
    assert_eq!((last.epoch, last.revision, last.session), (1, 6, 1));
    assert_eq!(last.status.unwrap().items[1].state, i32::from(ItemState::Healthy));

    broker.publish(envelope(&snapshot(7, &[("a", "[3]")])));
    let mut agent = start(&broker, dir.path(), &handler);
    agent.noted("the head of meanwhile is fetched", applied(7)).await;
    agent.stop().await;
    assert_eq!(handler.applied.lock().unwrap()[2..], [("a".into(), Some("[3]".into())), ("b".into(), None)]);
    let shown = Shown::read(dir.path()).unwrap().unwrap();
    assert_eq!((shown.agent.as_str(), shown.group.as_deref(), shown.mode.as_str()), ("a", Some("g"), "push"));
}

#[tokio::test]
async fn a_refused_document_brings_back_the_last_known_good_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, handler) = (Broker::new(), Arc::new(Recorder::default()));
    broker.publish(envelope(&snapshot(5, &[("a", "[1]"), ("b", "[1]")])));
    let mut agent = start(&broker, dir.path(), &handler);
    agent.noted("good", applied(5)).await;
    broker.publish(envelope(&snapshot(6, &[("a", "[2]"), ("b", "[\"bad\"]")])));
    agent
        .noted("back", |note| matches!(note, Note::Reverted(Some(id)) if id.cursor == Cursor::new(1, 5)))
        .await;
    *handler.sick.lock().unwrap() = true;
    broker.publish(envelope(&snapshot(7, &[("a", "[3]"), ("b", "[3]")])));
    agent
        .noted("unhealthy", |note| matches!(note, Note::Failed { reason, .. } if reason.as_str() == "sick"))
        .await;
    *handler.sick.lock().unwrap() = false;
    broker.publish(envelope(&snapshot(8, &[("a", "[4]"), ("b", "[4]")])));
    agent.noted("fixed", applied(8)).await;
    agent.stop().await;
    assert_eq!(in_force(dir.path(), "a"), "[4]");
    let reports = broker.heard().into_iter().filter_map(|beat| beat.status).flat_map(|status| status.items);
    let reasons: Vec<String> = reports.map(|item| item.reason).filter(|reason| !reason.is_empty()).collect();
    assert!(
        reasons.contains(&"bad document".to_owned()) && reasons.contains(&"sick".to_owned()),
        "{reasons:?}"
    );
    assert_eq!(broker.heard().pop().unwrap().status.unwrap().rollbacks, 2);
}

#[tokio::test]
async fn what_is_not_signed_by_the_fleet_changes_nothing() {
    let (broker, storage) = (Broker::new(), Arc::new(MemoryStorage::default()));
    broker.publish(envelope(&snapshot(5, &[("a", "[1]")])));
    let mut agent = Running::start(&broker, Arc::clone(&storage), Arc::new(()), Default::default());
    agent.noted("good", applied(5)).await;
    let mut forged = envelope(&snapshot(6, &[("a", "[2]")])).to_vec();
    let end = forged.len() - 1;
    forged[end] ^= 1;
    let wrong_type = wire::envelope::seal("other", Vec::new(), &crate::test_fleet::director());
    for (bytes, expected) in [
        (forged, Refusal::Signature),
        (b"no envelope".to_vec(), Refusal::Malformed),
        (vec![0; wire::envelope::MAX_ENVELOPE_BYTES + 1], Refusal::Oversized),
        (prost::Message::encode_to_vec(&wrong_type), Refusal::WrongType),
        (envelope(&snapshot(4, &[("a", "[0]")])).to_vec(), Refusal::Older),
    ] {
        broker.publish(bytes.into());
        agent
            .noted("refused", |note| matches!(note, Note::Refused { refusal, .. } if *refusal == expected))
            .await;
    }
    agent.stop().await;
    assert_eq!(storage.current().unwrap().cursor, Cursor::new(1, 5));
    assert_eq!(storage.durable().unwrap().good.unwrap().cursor, Cursor::new(1, 5));
}

#[tokio::test]
async fn drifted_files_are_restored_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, handler) = (Broker::new(), Arc::new(Recorder::default()));
    broker.publish(envelope(&snapshot(5, &[("a", "[1]")])));
    let mut agent = start(&broker, dir.path(), &handler);
    agent.noted("good", applied(5)).await;
    std::fs::write(dir.path().join("current/policies/a.json"), b"[666]").unwrap();
    agent.noted("repaired", |note| matches!(note, Note::Repaired(_))).await;
    agent.stop().await;
    assert_eq!(in_force(dir.path(), "a"), "[1]");
    assert_eq!(handler.applied.lock().unwrap().len(), 2, "its handler ran again");
}

/// The agent that the test below kills: runs only as its child.
#[tokio::test]
async fn crashing_child() {
    let Ok(root) = std::env::var("MUSTER_TEST_ROOT") else { return };
    let (broker, handler) = (Broker::new(), Arc::new(Recorder::default()));
    broker.publish(envelope(&snapshot(6, &[("a", "[6]"), ("b", "[6]")])));
    let mut agent = start(&broker, Path::new(&root), &handler);
    agent.noted("applied", applied(6)).await;
    let mut refreshed = snapshot(6, &[("a", "[6]"), ("b", "[6]")]);
    refreshed.expires_at = refreshed.expires_at + domain::Span::from_secs(60);
    refreshed.issued_at = refreshed.issued_at + domain::Span::from_secs(1);
    broker.publish(envelope(&refreshed));
    // By a rename: this process may die at any moment, amid a write too.
    let stranger = Path::new(&root).join("drifted");
    std::fs::write(&stranger, b"[666]").unwrap();
    std::fs::rename(&stranger, Path::new(&root).join("current/policies/a.json")).unwrap();
    agent.noted("repaired", |note| matches!(note, Note::Repaired(_))).await;
    broker.publish(envelope(&snapshot(7, &[("a", "[\"bad\"]"), ("b", "[7]")])));
    agent.noted("reverted", |note| matches!(note, Note::Reverted(_))).await;
    agent.stop().await;
}

/// What may be found on disk at any moment: one generation as a whole.
fn whole(root: &Path) -> Option<BTreeMap<&'static str, String>> {
    root.join("current")
        .exists()
        .then(|| ["a", "b"].map(|kind| (kind, in_force(root, kind))).into_iter().collect())
}

#[tokio::test]
async fn killed_at_any_point_it_finds_the_old_state_or_the_new_one() {
    let of = |a: &str, b: &str| BTreeMap::from([("a", a.to_owned()), ("b", b.to_owned())]);
    let allowed = [of("[5]", "[5]"), of("[6]", "[6]"), of("[666]", "[6]"), of("[\"bad\"]", "[7]")];
    for point in CRASH_POINTS.iter().flat_map(|point| [format!("{point}:1"), format!("{point}:2")]) {
        let dir = tempfile::tempdir().unwrap();
        let (broker, handler) = (Broker::new(), Arc::new(Recorder::default()));
        broker.publish(envelope(&snapshot(5, &[("a", "[5]"), ("b", "[5]")])));
        let mut agent = start(&broker, dir.path(), &handler);
        agent.noted("good", applied(5)).await;
        agent.stop().await;

        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent_tests::crashing_child"])
            .env("MUSTER_TEST_ROOT", dir.path())
            .env(CRASH_ENV, &point)
            .output()
            .unwrap();
        // Some points are passed once only; then the child ends well and the state is checked all the same.
        assert!(!child.status.success() || point.ends_with(":2"), "{point} was never passed");
        let found = whole(dir.path()).unwrap();
        assert!(allowed.contains(&found), "{point}: {found:?}");

        let mut agent = start(&broker, dir.path(), &handler);
        let head = snapshot(8, &[("a", "[8]"), ("b", "[8]")]);
        broker.publish(envelope(&head));
        agent.noted(&point, applied(8)).await;
        broker.publish(envelope(&snapshot(6, &[("a", "[6]"), ("b", "[6]")])));
        agent.noted(&point, |note| matches!(note, Note::Refused { refusal: Refusal::Older, .. })).await;
        tokio::time::timeout(PATIENCE, agent.stop()).await.unwrap();
        assert_eq!(whole(dir.path()), Some(of("[8]", "[8]")), "{point}");
    }
}

#[tokio::test]
async fn t8_a_root_that_follows_is_adopted_and_one_that_does_not_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, handler) = (Broker::new(), Arc::new(Recorder::default()));
    let first = root(&KeySet::default());
    let director = SigningKey::from_bytes(&[9; 32]).verifying_key();
    let second = Root {
        director: Role::of_one(public_key(&director)),
        ..first.next(first.issued_at, first.expires_at)
    };
    let mut forged = wire::root::unsigned(&second);
    wire::root::sign(&mut forged, &SigningKey::from_bytes(&[8; 32])).unwrap();
    broker.publish_root(wire::encode(&forged));
    broker.publish(envelope(&snapshot(5, &[("a", "[5]")])));
    let mut agent = start(&broker, dir.path(), &handler);
    agent.noted("good", applied(5)).await;
    let refused = |note: &Note| matches!(note, Note::Refused { refusal: Refusal::Root, .. });
    agent.noted("a forged root is refused", refused).await;
    assert!(!dir.path().join("trust-root").exists(), "nothing of it is kept");

    broker.replace_root(wire::encode(&signed_root(&second)));
    agent.noted("the root is adopted", |note| matches!(note, Note::RootAdopted(2))).await;
    let kept = std::fs::read(dir.path().join("trust-root")).unwrap();
    assert_eq!(Chain::read(&kept).unwrap().newest(), &second);
    // The director of before is worth nothing any more.
    broker.publish(envelope(&snapshot(6, &[("a", "[6]")])));
    let unsigned = |note: &Note| matches!(note, Note::Refused { refusal: Refusal::Signature, .. });
    agent.noted("its signature is refused", unsigned).await;
    assert_eq!(in_force(dir.path(), "a"), "[5]", "what is in force stays");
    agent.stop().await;
}
