//! The machine's rules, one case each.

use crate::agent::test_rig::{Rig, T0, VALID_MS, group, kind, names, push, settings, snapshot};
use crate::agent::{Effect, Input, ItemState, MAX_STARTS, Note, Reason, Refusal, Reply, Source, Standing};
use crate::id::{FleetId, GroupId};
use crate::revision::Cursor;
use crate::settings::Mode;
use crate::snapshot::Snapshot;
use crate::time::{Span, Timestamp};

const FIREWALL: (&str, u64, &str) = ("firewall", 1, "{}");

#[test]
fn first_contact_subscribes_then_fetches_then_applies_in_safe_order() {
    let mut rig = Rig::fresh();
    assert_eq!(names(&rig.feed(Input::Started)), ["connect"]);
    assert_eq!(names(&rig.feed(Input::Connected)), ["subscribe g", "fetch g", "beat full"]);
    let steps = names(&rig.receive(push(5, &[FIREWALL]), Source::Fetch));
    let expected = ["stage 1/5", "persist", "activate 1/5", "run firewall", "health", "persist", "status"];
    assert_eq!(steps, expected);
    assert_eq!(rig.disk.floors.of(&group("g")).unwrap().cursor, Cursor::new(1, 5));
    assert_eq!(rig.machine.status().items[0].state, ItemState::Healthy);
}

#[test]
fn the_floor_is_durable_before_the_switch() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.steps_left = 1; // Stage is answered, the write of the floor is not.
    assert_eq!(
        names(&rig.receive(push(6, &[("firewall", 6, "[]")]), Source::Notify)),
        ["stage 1/6", "persist"]
    );
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 5));
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut Snapshot), expected: Refusal) {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let mut snapshot = push(6, &[("firewall", 6, "[]")]);
    change(&mut snapshot);
    let (disk, current) = (rig.disk.clone(), rig.current.clone());
    let effects = rig.receive(snapshot, Source::Notify);
    assert_eq!(names(&effects), [format!("refused {expected:?}")]);
    assert_eq!((rig.disk.clone(), rig.current.clone()), (disk, current), "state untouched");
    let status = rig.machine.status();
    assert_eq!((status.refusals, status.last_refusal), (1, Some(expected)), "counted");
}

#[test]
fn refusals() {
    check_refused(|s| s.fleet = FleetId::new("other").unwrap(), Refusal::OtherFleet);
    check_refused(|s| s.group = group("other"), Refusal::OtherGroup);
    check_refused(|s| s.expires_at = s.issued_at, Refusal::Malformed);
    check_refused(|s| s.cursor = Cursor::NONE, Refusal::Malformed);
    check_refused(|s| s.cursor = Cursor::new(1, 4), Refusal::Older);
    check_refused(|s| s.cursor = Cursor::new(0, 400), Refusal::Older);
    check_refused(|s| s.cursor = Cursor::new(1, 5), Refusal::Conflict);
    check_refused(|s| s.cursor = Cursor::new(1, 1 << 50), Refusal::TooFarAhead);
    check_refused(|s| s.cursor = Cursor::new(1 << 60, 1), Refusal::TooFarAhead);
    let expired = |s: &mut Snapshot| (s.issued_at, s.expires_at) = (Timestamp(T0 - 9), Timestamp(T0));
    check_refused(expired, Refusal::Expired);
}

#[test]
fn a_clock_that_is_behind_does_not_revive_what_expired() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let mut later = push(6, &[("firewall", 6, "[]")]);
    (later.issued_at, later.expires_at) = (Timestamp(T0 + 10 * VALID_MS), Timestamp(T0 + 20 * VALID_MS));
    rig.receive(later, Source::Notify);
    let old = push(7, &[("firewall", 7, "[1]")]); // Expires before the latest signed time seen.
    assert_eq!(names(&rig.receive(old, Source::Notify)), ["refused Expired"]);
}

#[test]
fn three_roads_apply_once_and_a_later_signature_only_refreshes() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let new = push(6, &[("firewall", 6, "[]")]);
    assert!(names(&rig.receive(new.clone(), Source::Notify)).contains(&"activate 1/6".to_owned()));
    for source in [Source::Notify, Source::Fetch, Source::Heartbeat] {
        assert_eq!(names(&rig.receive(new.clone(), source)), [""; 0], "a repeat is silent");
    }
    let mut resigned = new;
    (resigned.issued_at, resigned.expires_at) = (Timestamp(T0 + 1000), Timestamp(T0 + 2 * VALID_MS));
    assert_eq!(names(&rig.receive(resigned, Source::Notify)), ["refresh", "persist"]);
    assert_eq!(rig.disk.good.unwrap().expires_at, Timestamp(T0 + 2 * VALID_MS));
}

#[test]
fn only_changed_and_removed_kinds_run_their_handlers() {
    let mut rig = Rig::online(push(5, &[("a", 1, "1"), ("b", 1, "1"), ("c", 1, "1")]));
    let steps = names(&rig.receive(push(6, &[("a", 1, "1"), ("b", 6, "2"), ("d", 6, "1")]), Source::Notify));
    assert!(steps.contains(&"run b,-c,d".to_owned()), "{steps:?}");
}

#[test]
fn a_failed_item_reverts_all_and_is_not_tried_until_it_changes() {
    let mut rig = Rig::online(push(5, &[("a", 1, "1"), ("b", 1, "1")]));
    rig.sick.insert("b", "exit code 1: no such table");
    let bad = push(6, &[("a", 6, "2"), ("b", 6, "2")]);
    let steps = names(&rig.receive(bad.clone(), Source::Notify));
    let expected =
        ["stage 1/6", "persist", "activate 1/6", "run a,b", "persist", "revert 1/5", "run a,b", "status"];
    assert_eq!(steps, expected);
    rig.restart(usize::MAX);
    rig.sick.clear();
    rig.feed(Input::Connected);
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 5));
    assert_eq!(
        names(&rig.receive(bad, Source::Notify)),
        ["persist", "status"],
        "not tried again, not even after a restart"
    );
    let item = rig.machine.status().items[1].clone();
    assert_eq!(
        (item.state, item.reason),
        (ItemState::Failed, Some(Reason::new("exit code 1: no such table")))
    );
    let other_half = push(7, &[("a", 7, "3"), ("b", 6, "2")]);
    assert_eq!(
        names(&rig.receive(other_half, Source::Notify)),
        ["persist", "status"],
        "still holds the failed item"
    );
    let fixed = push(8, &[("a", 7, "3"), ("b", 8, "3")]);
    assert!(names(&rig.receive(fixed, Source::Notify)).contains(&"activate 1/8".to_owned()));
    assert_eq!(rig.machine.status().rollbacks, 1);
}

#[test]
fn a_first_snapshot_that_fails_leaves_nothing_in_force() {
    let mut rig = Rig::fresh();
    rig.sick.insert("firewall", "no");
    rig.feed(Input::Started);
    rig.feed(Input::Connected);
    rig.receive(push(5, &[FIREWALL]), Source::Fetch);
    assert_eq!((rig.current.clone(), rig.machine.active_cursor()), (None, Cursor::NONE));
    assert_eq!(rig.machine.status().items[0].state, ItemState::Failed);
}

#[test]
fn a_generation_that_kills_the_agent_is_given_up() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.steps_left = 3; // Dies in the handler.
    rig.receive(push(6, &[("firewall", 6, "[]")]), Source::Notify);
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 6));
    for starts in 2..=MAX_STARTS {
        rig.restart(1); // Writes that it tries once more, and dies.
        assert_eq!(rig.disk.applying.unwrap().starts, starts);
    }
    rig.restart(usize::MAX);
    assert_eq!(rig.current.as_ref().unwrap().cursor, Cursor::new(1, 5));
    let reason = rig.machine.status().items[0].reason.clone().unwrap();
    assert_eq!(reason.as_str(), "the agent stopped 3 times while it was applying this");
}

#[test]
fn a_full_disk_keeps_the_old_state_and_is_tried_again() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.full = true;
    let steps = names(&rig.receive(push(6, &[("firewall", 6, "[]")]), Source::Notify));
    assert_eq!(steps, ["stage 1/6", "status"]);
    let item = rig.machine.status().items[0].clone();
    assert_eq!(item.state, ItemState::Received);
    assert!(item.reason.unwrap().as_str().contains("No space left"), "the reason is reported");
    rig.full = false;
    let steps = names(&rig.pass(Span::from_secs(10)));
    assert!(steps.contains(&"activate 1/6".to_owned()), "{steps:?}");
}

#[test]
fn drift_is_repaired_and_counted() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let steps = names(&rig.feed(Input::DriftFound(vec![kind("firewall"), kind("unknown")])));
    assert_eq!(steps, ["repair", "run firewall", "health", "status"]);
    assert_eq!(rig.machine.status().repairs, 1);
    rig.feed(Input::GenerationLost);
    let steps = names(&rig.receive(push(5, &[FIREWALL]), Source::Fetch));
    assert!(steps.contains(&"activate 1/5".to_owned()), "fetched again at the same cursor: {steps:?}");
}

#[test]
fn pull_connects_only_for_its_heartbeat() {
    let mut rig = Rig::fresh();
    rig.feed(Input::Started);
    rig.feed(Input::Connected);
    let steps = names(&rig.receive(snapshot(5, settings(Mode::Pull, 300), &[FIREWALL]), Source::Fetch));
    assert!(steps.ends_with(&["unsubscribe g".to_owned()]), "{steps:?}");
    assert_eq!(names(&rig.reply(1, Cursor::new(1, 5))), ["disconnect"]);
    assert_eq!(names(&rig.pass(Span::from_secs(299))), [""; 0]);
    assert_eq!(names(&rig.pass(Span::from_secs(2))), ["connect"]);
    assert_eq!(names(&rig.feed(Input::Connected)), ["beat full"]);
    let new = snapshot(6, settings(Mode::Pull, 300), &[("firewall", 6, "[]")]);
    let steps = names(&rig.receive(new, Source::Heartbeat));
    assert!(steps.ends_with(&["status".to_owned()]), "{steps:?}");
    assert_eq!(names(&rig.reply(rig.last_beat(), Cursor::new(1, 6))), ["disconnect"]);
}

#[test]
fn the_mode_switches_live_in_both_directions() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let to_pull = names(&rig.receive(snapshot(6, settings(Mode::Pull, 30), &[FIREWALL]), Source::Notify));
    assert!(to_pull.ends_with(&["unsubscribe g".to_owned()]), "{to_pull:?}");
    assert!(!to_pull.contains(&"run firewall".to_owned()), "no document changed");
    let to_push = names(&rig.receive(push(7, &[FIREWALL]), Source::Heartbeat));
    assert!(to_push.contains(&"subscribe g".to_owned()), "{to_push:?}");
    assert_eq!(rig.machine.status().mode, Mode::Push);
}

#[test]
fn an_assignment_moves_the_agent_and_never_back() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let steps = names(&rig.assign("h", 2));
    assert_eq!(steps, ["persist", "unsubscribe g", "subscribe h"], "the fetch follows within its gap");
    assert!(names(&rig.pass(Span::from_secs(1))).contains(&"fetch h".to_owned()));
    assert_eq!(names(&rig.assign("g", 1)), ["refused Older"]);
    assert_eq!(names(&rig.assign("g", 2)), ["refused Conflict"]);
    assert_eq!(names(&rig.assign("h", 2)), [""; 0]);
    let mut other = push(3, &[("firewall", 3, "[]")]);
    other.group = group("h");
    let steps = names(&rig.receive(other, Source::Fetch));
    assert!(steps.contains(&"activate 1/3".to_owned()), "each group has a floor of its own: {steps:?}");
    assert_eq!(names(&rig.receive(push(6, &[FIREWALL]), Source::Notify)), ["refused OtherGroup"]);
}

#[test]
fn an_assignment_that_cannot_be_stored_is_not_obeyed_yet() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.full = true;
    assert_eq!(names(&rig.assign("h", 2)), ["persist"]);
    assert_eq!(rig.machine.placement().unwrap().group, group("g"));
    rig.full = false;
    assert_eq!(names(&rig.assign("h", 2))[..2], ["persist", "unsubscribe g"]);
}

#[test]
fn settings_that_lock_the_agent_out_are_given_up_until_the_next_revision() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.receive(snapshot(6, settings(Mode::Pull, 7200), &[FIREWALL]), Source::Notify);
    assert_eq!(rig.machine.settings().mode, Mode::Pull);
    rig.pass(Span::from_secs(301)); // No heartbeat is answered.
    assert_eq!(rig.machine.settings(), settings(Mode::Push, 60));
    assert!(rig.machine.status().settings_reverted);
    rig.restart(usize::MAX);
    assert_eq!(rig.machine.settings(), settings(Mode::Push, 60), "also after a restart");
    rig.feed(Input::Connected);
    rig.receive(snapshot(7, settings(Mode::Pull, 30), &[FIREWALL]), Source::Fetch);
    rig.pass(Span::from_secs(10));
    assert!(rig.reply(rig.last_beat(), Cursor::new(1, 7)).contains(&Effect::Note(Note::SettingsConfirmed)));
    assert_eq!(rig.machine.settings().mode, Mode::Pull);
}

#[test]
fn expiry_is_flagged_and_the_last_known_good_goes_on() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let effects = rig.pass(Span(VALID_MS));
    assert!(effects.contains(&Effect::Note(Note::Stale)));
    assert!(rig.machine.status().stale && rig.current.is_some());
    let mut resigned = push(5, &[FIREWALL]);
    (resigned.issued_at, resigned.expires_at) = (rig.now, rig.now + Span(VALID_MS));
    assert!(rig.receive(resigned, Source::Fetch).contains(&Effect::Note(Note::Fresh)));
}

#[test]
fn a_newer_head_leads_to_one_fetch_unless_it_arrives_by_itself() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.pass(Span::from_secs(60));
    let beat = rig.last_beat();
    assert_eq!(names(&rig.reply(beat, Cursor::new(1, 6))), [""; 0], "waits for it to arrive by itself");
    assert_eq!(names(&rig.feed(Input::Resync)), ["fetch g"]);
    assert_eq!(names(&rig.pass(Span::from_secs(3))), [""; 0], "coalesced");
    let stale = names(&rig.receive(push(5, &[FIREWALL]), Source::Fetch));
    assert_eq!(stale, [""; 0]);
    assert!(
        names(&rig.pass(Span::from_secs(3))).contains(&"fetch g".to_owned()),
        "a stale answer is asked again"
    );
    rig.receive(push(6, &[("firewall", 6, "[]")]), Source::Fetch);
    assert_eq!(rig.machine.active_cursor(), Cursor::new(1, 6));
}

#[test]
fn the_servers_slot_is_held_within_bounds() {
    for (asked, expected) in [(0, 60_000), (1, 1_000), (45_000, 45_000), (10_000_000, 240_000)] {
        let mut rig = Rig::online(push(5, &[FIREWALL]));
        rig.pass(Span::from_secs(60));
        let (beat, server_time, standing) = (rig.last_beat(), rig.now, Standing::Ok);
        let (next, head) = (Span(asked), Cursor::new(1, 5));
        rig.feed(Input::HeartbeatReplied(Reply {
            beat,
            server_time,
            next,
            head,
            want_status: false,
            standing,
        }));
        assert_eq!(rig.until_beat(), Span(expected), "asked {asked}");
    }
}

#[test]
fn silence_makes_the_connection_anew_and_refusals_do_not() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let steps = names(&rig.pass(Span::from_secs(120)));
    assert_eq!(steps.iter().filter(|step| *step == "reconnect").count(), 1, "{steps:?}");
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    for _ in 0..20 {
        rig.until_beat();
        rig.feed(Input::HeartbeatFailed { beat: rig.last_beat() });
    }
    assert!(!names(&rig.log).contains(&"reconnect".to_owned()));
}

#[test]
fn a_status_is_sent_until_it_is_acknowledged_and_when_it_is_wanted() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    let next = |rig: &mut Rig| {
        rig.until_beat();
        names(&rig.log).into_iter().rfind(|name| name.starts_with("beat")).unwrap()
    };
    assert_eq!(next(&mut rig), "beat full", "the reply before spoke of an older status");
    assert_eq!(next(&mut rig), "beat full", "not acknowledged: sent again");
    rig.reply(rig.last_beat(), Cursor::new(1, 5));
    assert_eq!(next(&mut rig), "beat short");
    let (beat, server_time, standing) = (rig.last_beat(), rig.now, Standing::Ok);
    let (slot, head) = (Span::from_secs(60), Cursor::new(1, 5));
    rig.feed(Input::HeartbeatReplied(Reply {
        beat,
        server_time,
        next: slot,
        head,
        want_status: true,
        standing,
    }));
    assert_eq!(next(&mut rig), "beat full");
}

#[test]
fn a_clock_that_goes_back_does_not_stop_the_heartbeats() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.now = Timestamp(T0 - 86_400_000);
    rig.feed(Input::Tick);
    assert!(names(&rig.pass(Span::from_secs(61))).contains(&"beat full".to_owned()));
}

#[test]
fn lame_duck_moves_away_within_its_spread_and_stop_is_final() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.feed(Input::LameDuck);
    assert!(names(&rig.pass(Span::from_secs(30))).contains(&"reconnect".to_owned()));
    assert_eq!(names(&rig.feed(Input::Stop)), ["disconnect"]);
    assert_eq!(names(&rig.feed(Input::Connected)), [""; 0]);
    assert_eq!(rig.machine.next_deadline(), None);
}

#[test]
fn nobody_moves_away_from_an_answer_that_is_on_its_way() {
    let mut rig = Rig::online(push(5, &[FIREWALL]));
    rig.until_beat();
    rig.machine.reconnect_at = Some(rig.now);
    assert_eq!(names(&rig.feed(Input::Tick)), [""; 0]);
    assert!(rig.machine.next_deadline() > Some(rig.now), "it does not spin");
    assert!(names(&rig.reply(2, Cursor::NONE)).contains(&"reconnect".to_owned()));
    // One that does not come is not waited for.
    rig.until_beat();
    rig.machine.reconnect_at = Some(rig.now);
    assert!(names(&rig.pass(Span::from_secs(30))).contains(&"reconnect".to_owned()));
}

#[test]
fn connecting_backs_off_and_an_unknown_group_is_no_reason_to_spin() {
    let mut rig = Rig::fresh();
    rig.feed(Input::Started);
    let mut attempts = 0;
    for _ in 0..600 {
        rig.feed(Input::Disconnected { retrying: false });
        let steps = names(&rig.pass(Span::from_secs(1)));
        attempts += steps.iter().filter(|step| *step == "connect").count();
    }
    assert!((5..60).contains(&attempts), "{attempts} attempts in ten minutes");
    assert_eq!(GroupId::new("g").ok().as_ref(), rig.machine.placement().map(|placement| &placement.group));
}
