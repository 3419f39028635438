//! What trust roots do to an agent, by the threats that they answer.

use crate::agent::schedule::MIN_FETCH_GAP;
use crate::agent::test_rig::{Rig, T0, VALID_MS, group, names, push};
use crate::agent::{Effect, Input, Note, Refusal, Source};
use crate::revision::Cursor;
use crate::snapshot::Snapshot;
use crate::time::Timestamp;
use crate::trust::Adopted;

const FIREWALL: (&str, u64, &str) = ("firewall", 1, "{}");
/// Ten years in milliseconds.
const TEN_YEARS: u64 = 10 * 365 * 86_400_000;

fn adopted(version: u64, director_lost: u64) -> Input {
    let (issued_at, expires_at) = (Timestamp(T0), Timestamp(T0 + 10 * VALID_MS));
    Input::RootAdopted(Adopted { version, issued_at, expires_at, director_lost })
}

/// An agent that obeys root 1 and runs revision 5.
fn rig() -> Rig {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.feed(adopted(1, 0));
    rig.log.clear();
    rig
}

#[test]
fn a_further_root_is_durable_reported_and_leaves_floors_alone() {
    let mut rig = rig();
    assert_eq!(names(&rig.feed(adopted(2, 0))), ["persist", "status"]);
    assert!(
        names(&rig.pass(MIN_FETCH_GAP)).contains(&"fetch g".to_owned()),
        "what was refused may be good now"
    );
    assert_eq!((rig.disk.root_version, rig.machine.status().root_version), (2, 2));
    assert_eq!(rig.disk.floors.of(&group("g")).unwrap().cursor, Cursor::new(1, 5));
    assert!(names(&rig.feed(adopted(2, 0))).is_empty(), "said again, it changes nothing");
    rig.restart(usize::MAX);
    assert!(!names(&rig.feed(adopted(2, 0))).contains(&"persist".to_owned()), "nor after a restart");
}

#[test]
fn t5_what_a_stolen_key_put_out_of_reach_is_within_reach_after_the_rotation() {
    let mut rig = rig();
    // As far as one step goes, in revision and in time.
    let mut stolen = push(1 << 40, &[("firewall", 6, "[]")]);
    (stolen.issued_at, stolen.expires_at) = (Timestamp(T0 + TEN_YEARS), Timestamp(T0 + 2 * TEN_YEARS));
    rig.receive(stolen, Source::Notify);
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 1 << 40));
    rig.assign("g", 1 << 39);
    let honest = || push(7, &[("firewall", 7, "{\"honest\":1}")]);
    // By the thief's time the root has expired as well.
    assert_eq!(names(&rig.receive(honest(), Source::Notify)), ["refused RootExpired"]);
    // A root that takes no director's key away helps nothing.
    rig.feed(adopted(2, 0));
    assert_eq!(names(&rig.receive(honest(), Source::Notify)), ["refused RootExpired"]);

    rig.feed(adopted(3, 3));
    assert_eq!(rig.disk.floors.of(&group("g")), None);
    assert_eq!(rig.disk.time_floor, Timestamp(T0), "signed times of the stolen key count no more");
    assert_eq!(rig.disk.assignment.as_ref().unwrap().cursor, Cursor::NONE);
    assert_eq!(rig.machine.active_cursor(), Cursor::NONE, "it is not told as a cursor that has been reached");
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 1 << 40), "what is in force stays");
    rig.receive(honest(), Source::Fetch);
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 7));
    assert_eq!(names(&rig.receive(push(6, &[FIREWALL]), Source::Notify)), ["refused Older"]);
}

#[test]
fn t5_a_reset_that_a_crash_cut_short_is_made_up_for_at_the_start() {
    let mut rig = rig();
    rig.receive(push(1 << 40, &[("firewall", 6, "[]")]), Source::Notify);
    // The root is on disk, and the agent is killed before it acts on it.
    rig.restart(usize::MAX);
    rig.feed(adopted(2, 2));
    assert_eq!((rig.disk.root_version, rig.disk.floors.of(&group("g"))), (2, None));
}

#[test]
fn t8_a_snapshot_on_its_way_is_dropped_with_the_key_that_signed_it() {
    for steps in [0, 1] {
        let mut rig = rig();
        rig.steps_left = steps;
        rig.receive(push(9, &[("firewall", 9, "[9]")]), Source::Notify);
        rig.feed(adopted(2, 2));
        // Stage is answered late, or the write of the floor.
        rig.steps_left = usize::MAX;
        let ticket =
            |effect: &Effect| if let Effect::Persist { ticket } = effect { Some(*ticket) } else { None };
        let tickets = rig.log.iter().filter_map(ticket);
        let tickets: Vec<u64> = tickets.collect();
        rig.feed(Input::Staged(Ok(())));
        for ticket in tickets {
            rig.feed(Input::Persisted { ticket, result: Ok(()) });
        }
        assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 5), "{steps} steps");
        assert_eq!(rig.machine.durable().applying, None);
        rig.receive(push(3, &[("firewall", 3, "[3]")]), Source::Notify);
        assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 3), "{steps} steps");
    }
}

#[test]
fn t3_under_a_root_that_has_expired_nothing_new_is_taken_and_what_is_in_force_stays() {
    let mut rig = rig();
    let expires_at = Timestamp(T0 + VALID_MS / 2);
    rig.feed(Input::RootAdopted(Adopted {
        version: 2,
        issued_at: Timestamp(T0),
        expires_at,
        director_lost: 0,
    }));
    assert_eq!(rig.machine.next_deadline().map(|due| due <= expires_at), Some(true));
    rig.now = expires_at;
    let notes = rig.feed(Input::Tick);
    assert!(notes.contains(&Effect::Note(Note::Stale)), "{notes:?}");
    assert!(rig.machine.status().stale);
    let mut newer = push(6, &[("firewall", 6, "[]")]);
    newer.expires_at = Timestamp(T0 + 9 * VALID_MS);
    let refused = rig.receive(newer.clone(), Source::Notify);
    assert_eq!(names(&refused), ["refused RootExpired"]);
    assert_eq!(rig.machine.status().last_refusal, Some(Refusal::RootExpired));
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 5));
    rig.feed(adopted(3, 0));
    assert!(!rig.machine.status().stale);
    rig.receive(newer, Source::Notify);
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 6));
}

#[test]
fn t32_a_clock_ten_years_off_never_revives_what_expired_and_never_stops_what_runs() {
    let expired = || push(6, &[("firewall", 6, "[]")]);
    let mut fresh = push(7, &[("firewall", 7, "[7]")]);
    (fresh.issued_at, fresh.expires_at) = (Timestamp(T0 + 2 * VALID_MS), Timestamp(T0 + 3 * VALID_MS));
    // Behind: the newest signed time stands in for the clock.
    let mut rig = rig();
    rig.receive(fresh, Source::Notify);
    rig.now = Timestamp(T0 - TEN_YEARS);
    let replay = rig.receive(Snapshot { cursor: Cursor::new(1, 8), ..expired() }, Source::Notify);
    assert_eq!(names(&replay), ["refused Expired"]);
    assert!(!rig.machine.status().stale);
    // Ahead: stale, loudly, and what runs goes on; right again when the clock is.
    rig.now = Timestamp(T0 + TEN_YEARS);
    rig.feed(Input::Tick);
    assert!(rig.machine.status().stale);
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 7));
    rig.now = Timestamp(T0 + 2 * VALID_MS + 1);
    rig.feed(Input::Tick);
    assert!(!rig.machine.status().stale);
}
