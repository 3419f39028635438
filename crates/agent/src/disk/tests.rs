//! The state directory, with real files.

use std::os::unix::fs::symlink;

use domain::agent::{Floor, Loaded};

use super::*;
use crate::test_fleet::{kind, offer, snapshot, trust};

const HANDLERS: Digest = Digest([1; 32]);

fn open(root: &Path) -> (DiskStorage, Loaded) {
    DiskStorage::open(root, &trust(), HANDLERS).unwrap()
}

fn id(revision: u64) -> GenerationId {
    GenerationId { group: GroupId::new("g").unwrap(), cursor: Cursor::new(1, revision) }
}

/// Applies a snapshot as the machine would, and makes it the last known good.
fn apply(storage: &DiskStorage, durable: &mut Durable, snapshot: Snapshot) {
    let offer = offer(snapshot);
    storage.stage(&offer).unwrap();
    let generation = Generation::of(&offer.snapshot);
    durable.floors.raise(&generation.group, Floor { cursor: generation.cursor, digest: generation.digest });
    storage.persist(durable, &Proofs::default()).unwrap();
    storage.activate(&generation.id()).unwrap();
    durable.good = Some(generation);
    storage.persist(durable, &Proofs { snapshot: Some(offer), assignment: None }).unwrap();
}

#[test]
fn what_was_applied_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, loaded) = open(dir.path());
    assert_eq!(loaded, Loaded::default());
    let mut durable = loaded.durable;
    apply(&storage, &mut durable, snapshot(5, &[("a", "{}"), ("b", "[1]")]));
    let file = dir.path().join("current/policies/b.json");
    assert_eq!(fs::read(&file).unwrap(), b"[1]");
    assert_eq!(storage.document(&kind("b")).unwrap(), (Some(Bytes::from_static(b"[1]")), Some(file)));
    apply(&storage, &mut durable, snapshot(6, &[("a", "{}")]));
    storage.prune(&[id(6)]).unwrap();
    let names: Vec<_> =
        fs::read_dir(dir.path().join(GENERATIONS)).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["1-6-g"]);
    let (_, loaded) = open(dir.path());
    assert_eq!(loaded.active, durable.good);
    assert_eq!(loaded.durable.floors, durable.floors);
    assert_eq!(loaded.durable.good, durable.good);
}

#[track_caller]
fn check_drift(harm: impl FnOnce(&Path), expected: Drift) {
    let dir = tempfile::tempdir().unwrap();
    let (storage, loaded) = open(dir.path());
    let mut durable = loaded.durable;
    apply(&storage, &mut durable, snapshot(5, &[("a", "{}"), ("b", "[1]")]));
    assert_eq!(storage.check_drift(), Drift::None);
    harm(dir.path());
    assert_eq!(storage.check_drift(), expected);
    if let Drift::Kinds(kinds) = &expected {
        storage.repair(kinds).unwrap();
        assert_eq!(storage.check_drift(), Drift::None, "repaired");
        assert_eq!(fs::read(dir.path().join("current/policies/a.json")).unwrap(), b"{}");
    } else {
        storage.stage(&offer(snapshot(5, &[("a", "{}"), ("b", "[1]")]))).unwrap();
        storage.activate(&id(5)).unwrap();
        assert_eq!(storage.check_drift(), Drift::None, "staged again over what is in force");
    }
}

#[test]
fn drift_is_found_and_repaired() {
    let a = || Drift::Kinds(vec![kind("a")]);
    let all = || Drift::Kinds(vec![kind("a"), kind("b")]);
    let file = "current/policies/a.json";
    check_drift(|root| fs::write(root.join(file), b"[]").unwrap(), a());
    check_drift(|root| fs::remove_file(root.join(file)).unwrap(), a());
    check_drift(|root| fs::write(root.join(file), vec![b' '; MAX_DOCUMENT_BYTES + 1]).unwrap(), a());
    check_drift(
        |root| {
            fs::remove_file(root.join(file)).unwrap();
            symlink("b.json", root.join(file)).unwrap();
        },
        a(),
    );
    check_drift(
        |root| {
            fs::remove_file(root.join(file)).unwrap();
            fs::create_dir(root.join(file)).unwrap();
        },
        a(),
    );
    check_drift(|root| fs::write(root.join("current/policies/stranger.json"), b"{}").unwrap(), all());
    check_drift(|root| fs::remove_file(root.join(CURRENT)).unwrap(), all());
    check_drift(|root| fs::remove_dir_all(root.join("current/policies")).unwrap(), all());
    check_drift(|root| fs::write(root.join("current/envelope"), b"forged").unwrap(), Drift::Lost);
    check_drift(|root| fs::remove_dir_all(root.join("generations/1-5-g")).unwrap(), Drift::Lost);
}

#[test]
fn a_damaged_state_is_kept_aside_and_rebuilt_without_lowering_floors() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, loaded) = open(dir.path());
    let mut durable = loaded.durable;
    apply(&storage, &mut durable, snapshot(5, &[("a", "{}")]));
    // Accepted and given up since: only its proof and the state know of it.
    let failed = offer(snapshot(9, &[("a", "[]")]));
    let generation = Generation::of(&failed.snapshot);
    durable.floors.raise(&generation.group, Floor { cursor: generation.cursor, digest: generation.digest });
    storage.persist(&durable, &Proofs { snapshot: Some(failed), assignment: None }).unwrap();
    let path = dir.path().join(STATE);
    let good = fs::read(&path).unwrap();
    let damages = (0..good.len()).map(|at| {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        flipped
    });
    let cuts = [0, 1, good.len() / 2, good.len() - 1].map(|length| good[..length].to_vec());
    for damaged in damages.chain(cuts) {
        fs::write(&path, &damaged).unwrap();
        let (_, loaded) = open(dir.path());
        assert_eq!(loaded.durable.floors, durable.floors);
        assert_eq!((loaded.active, loaded.durable.good), (durable.good.clone(), durable.good.clone()));
        assert_eq!(fs::read(dir.path().join("state.json.corrupt")).unwrap(), damaged);
        assert!(!path.exists());
    }
}

#[test]
fn after_damage_amid_a_trial_the_older_generation_is_the_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, loaded) = open(dir.path());
    let mut durable = loaded.durable;
    apply(&storage, &mut durable, snapshot(5, &[("a", "{}")]));
    storage.stage(&offer(snapshot(6, &[("a", "[]")]))).unwrap();
    storage.activate(&id(6)).unwrap();
    fs::write(dir.path().join(STATE), b"").unwrap();
    let (_, loaded) = open(dir.path());
    assert_eq!(loaded.active.unwrap().id(), id(6));
    assert_eq!(loaded.durable.good.unwrap().id(), id(5));
    assert_eq!(loaded.durable.floors.of(&id(6).group).unwrap().cursor, Cursor::new(1, 6));
}

#[test]
fn a_disk_that_refuses_leaves_the_old_state_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, loaded) = open(dir.path());
    let mut durable = loaded.durable;
    apply(&storage, &mut durable, snapshot(5, &[("a", "{}")]));
    let in_the_way = dir.path().join("generations/.1-6-g.draft");
    fs::write(&in_the_way, b"").unwrap();
    let error = storage.stage(&offer(snapshot(6, &[("a", "[]")]))).unwrap_err();
    assert!(error.as_str().starts_with("cannot write"), "{error}");
    assert!(storage.activate(&id(6)).is_err(), "what is not staged cannot be switched to");
    assert_eq!(storage.check_drift(), Drift::None);
    assert_eq!(fs::read(dir.path().join("current/policies/a.json")).unwrap(), b"{}");
    fs::remove_file(&in_the_way).unwrap();
    apply(&storage, &mut durable, snapshot(6, &[("a", "[]")]));
    assert_eq!(fs::read(dir.path().join("current/policies/a.json")).unwrap(), b"[]");
}

#[test]
fn a_refreshed_envelope_is_the_one_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, loaded) = open(dir.path());
    let mut durable = loaded.durable;
    let mut first = snapshot(5, &[("a", "{}")]);
    apply(&storage, &mut durable, first.clone());
    first.expires_at = first.expires_at + domain::Span::from_secs(60);
    storage.refresh(&offer(first.clone())).unwrap();
    assert_eq!(storage.check_drift(), Drift::None);
    assert_eq!(open(dir.path()).1.active.unwrap().expires_at, first.expires_at);
}

#[test]
fn failures_are_forgotten_when_the_handlers_change() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, loaded) = open(dir.path());
    let mut durable = loaded.durable;
    durable.remember(domain::agent::Failed {
        kind: Some(kind("a")),
        revision: domain::Revision(1),
        digest: Digest([2; 32]),
        reason: Reason::new("no"),
    });
    storage.persist(&durable, &Proofs::default()).unwrap();
    assert_eq!(open(dir.path()).1.durable.failed.len(), 1);
    let (_, loaded) = DiskStorage::open(dir.path(), &trust(), Digest([9; 32])).unwrap();
    assert_eq!(loaded.durable.failed.len(), 0);
}

#[test]
fn names_of_generations_are_read_strictly() {
    assert_eq!(load::parse_name("1-6-g"), Some(id(6)));
    assert_eq!(load::parse_name("1-6-a-b").unwrap().group.as_str(), "a-b");
    for name in ["", "1-6", "x-6-g", "1-6-", "1-6-../x", ".1-6-g.draft", "1--g"] {
        assert_eq!(load::parse_name(name), None, "{name}");
    }
}
