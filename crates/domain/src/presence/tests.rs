use super::*;
use crate::id::KindName;
use crate::revision::Revision;
use crate::settings::Mode;
use crate::time::Span;

pub(super) const START: Timestamp = Timestamp(1_700_000_000_000);
const MINUTE: Span = Span::from_secs(60);

pub(super) fn settings(mode: Mode, interval: Span, offline_after: Span) -> Settings {
    Settings {
        mode,
        heartbeat_interval: interval,
        offline_after,
        content_spread: Span(0),
        content_rate_limit: None,
    }
}

pub(super) fn head(group: &str, path: &str, settings: Settings, revision: u64) -> GroupHead {
    GroupHead {
        group: GroupId::new(group).unwrap(),
        path: GroupPath::new(path).unwrap(),
        settings,
        cursor: Cursor::new(1, revision),
    }
}

pub(super) fn enrolment(agent: &str, group: &str, assignment: u64) -> Enrolment {
    Enrolment {
        agent: AgentId::new(agent).unwrap(),
        group: GroupId::new(group).unwrap(),
        assignment: Cursor::new(1, assignment),
        hostname: "host".into(),
        labels: Labels::new(),
    }
}

pub(super) fn beat(sequence: u64, revision: u64) -> Beat {
    Beat {
        session: 7,
        sequence,
        cursor: Cursor::new(1, revision),
        assignment: Cursor::new(1, 1),
        report: None,
    }
}

pub(super) fn report(seen: u64, failure: Option<&str>) -> Report {
    let state = if failure.is_some() { ItemState::Failed } else { ItemState::Healthy };
    let reason = failure.unwrap_or_default().into();
    let item =
        ItemReport { kind: KindName::new("firewall").unwrap(), state, revision: Revision(seen), reason };
    let status = Status { seen: Cursor::new(1, seen), items: vec![item], ..Status::default() };
    Report {
        version: "1.2.3".into(),
        mode: Some(Mode::Pull),
        hostname: "web-1".into(),
        status,
        content: vec![],
    }
}

/// One pull group of one-minute agents at revision 5, with agent `a` in it.
fn small_fleet() -> Presence {
    let mut fleet = Presence::new(START);
    let minute = settings(Mode::Pull, MINUTE, MINUTE.scaled(5, 2));
    fleet.group_changed(START, head("web", "/servers/web", minute, 5));
    fleet.enrolled(START, &enrolment("a", "web", 1));
    fleet
}

fn transitions(fleet: &mut Presence) -> Vec<(State, State, u64)> {
    let moves = fleet.take_effects().filter_map(|effect| match effect {
        Effect::Transition { from, to, at, .. } => Some((from, to, at.since(START).0)),
        Effect::Applied { .. } | Effect::Failed { .. } | Effect::ContentFailed { .. } => None,
    });
    moves.collect()
}

#[test]
fn an_agent_falls_by_exact_deadlines_and_comes_back() {
    let mut fleet = small_fleet();
    assert_eq!(fleet.next_deadline(), None, "nobody waits for an agent that never beat");
    let answer = fleet.heartbeat(START, "a", beat(1, 5));
    let slot = START + answer.next_in;
    fleet.heartbeat(slot, "a", beat(2, 5));
    assert_eq!(transitions(&mut fleet), [(State::NeverSeen, State::Online, 0)]);
    let heard = slot.since(START).0;
    let (late, offline) = (heard + 90_000, heard + 150_000);
    while let Some(due) = fleet.next_deadline() {
        fleet.tick(due - Span(1));
        fleet.tick(due);
    }
    let falls = [(State::Online, State::Late, late), (State::Late, State::Offline, offline)];
    assert_eq!(transitions(&mut fleet), falls);
    let back = START + Span(offline + 1);
    fleet.heartbeat(back, "a", beat(3, 5));
    assert_eq!(transitions(&mut fleet), [(State::Offline, State::Online, offline + 1)]);
}

#[test]
fn deadlines_are_exact_even_if_the_tick_comes_late() {
    let mut fleet = small_fleet();
    let slot = START + fleet.heartbeat(START, "a", beat(1, 5)).next_in;
    fleet.heartbeat(slot, "a", beat(2, 5));
    let heard = slot.since(START).0;
    fleet.heartbeat(slot + MINUTE.scaled(10, 1), "a", beat(3, 5));
    let expected = [
        (State::NeverSeen, State::Online, 0),
        (State::Online, State::Late, heard + 90_000),
        (State::Late, State::Offline, heard + 150_000),
        (State::Offline, State::Online, heard + 600_000),
    ];
    assert_eq!(transitions(&mut fleet), expected);
}

#[track_caller]
fn check_answer(fleet: &mut Presence, beat: Beat, expected: (bool, bool, bool)) {
    let got = fleet.heartbeat(START, "a", beat);
    assert_eq!((got.offer_snapshot, got.offer_assignment, got.want_status), expected);
}

#[test]
fn answers_offer_what_is_newer_and_ask_for_what_is_missing() {
    let mut fleet = small_fleet();
    check_answer(&mut fleet, beat(1, 0), (true, false, true));
    check_answer(&mut fleet, Beat { report: Some(report(5, None)), ..beat(2, 5) }, (false, false, false));
    check_answer(&mut fleet, beat(3, 5), (false, false, false));
    let mut stale = report(5, None);
    stale.status.stale = true;
    check_answer(&mut fleet, Beat { report: Some(stale), ..beat(4, 5) }, (true, false, false));
    check_answer(&mut fleet, Beat { report: Some(report(5, None)), ..beat(5, 5) }, (false, false, false));
    check_answer(&mut fleet, beat(7, 5), (false, false, true));
    let failed = Beat { report: Some(report(6, Some("no such port"))), ..beat(9, 5) };
    let minute = settings(Mode::Pull, MINUTE, MINUTE.scaled(5, 2));
    fleet.group_changed(START, head("web", "/servers/web", minute, 6));
    check_answer(&mut fleet, beat(8, 5), (true, false, true));
    check_answer(&mut fleet, failed, (false, false, false));
    assert_eq!(fleet.agent("a").unwrap().progress, Progress::Failed);
    fleet.group_changed(START, head("web", "/servers/web", minute, 7));
    check_answer(&mut fleet, beat(10, 5), (true, false, false));
    assert_eq!(fleet.agent("a").unwrap().progress, Progress::Pending);
    fleet.enrolled(START, &enrolment("a", "db", 2));
    check_answer(&mut fleet, beat(11, 7), (true, true, false));
    assert_eq!(fleet.agent("a").unwrap().progress, Progress::Pending, "an agent on the move is at no head");
}

#[test]
fn push_agents_fetch_for_themselves() {
    let mut fleet = small_fleet();
    fleet.group_changed(START, head("web", "/servers/web", settings(Mode::Push, MINUTE, MINUTE), 6));
    let pushed = Report { mode: Some(Mode::Push), ..report(5, None) };
    check_answer(&mut fleet, Beat { report: Some(pushed), ..beat(1, 5) }, (false, false, false));
    let switching = Beat { report: Some(report(5, None)), ..beat(2, 5) };
    check_answer(&mut fleet, switching, (true, false, false));
}

#[test]
fn strangers_and_the_deleted_leave_nothing_behind() {
    let mut fleet = small_fleet();
    assert_eq!(fleet.heartbeat(START, "stranger", beat(1, 5)).standing, Standing::Unknown);
    fleet.heartbeat(START, "a", Beat { report: Some(report(5, None)), ..beat(1, 5) });
    fleet.deleted(AgentId::new("a").unwrap());
    assert_eq!(fleet.heartbeat(START, "a", beat(2, 5)).standing, Standing::Deleted);
    fleet.enrolled(START, &enrolment("a", "web", 9));
    assert_eq!(fleet.standing("a"), Standing::Deleted, "an id is used once");
    assert_eq!((fleet.len(), fleet.next_deadline()), (0, None));
    assert_eq!(fleet.summary(&Scope::Fleet).all, Counts::default());
    assert_eq!((fleet.counters().unknown, fleet.counters().deleted), (1, 1));
    for odd in ["", "a.b", "ü", &"x".repeat(10_000)] {
        assert_eq!(fleet.heartbeat(START, odd, beat(1, 1)).standing, Standing::Unknown);
    }
}

#[test]
fn two_alternating_sessions_are_two_machines() {
    let mut fleet = small_fleet();
    let of = |session, sequence| Beat { session, ..beat(sequence, 5) };
    for (session, sequence) in [(1, 1), (2, 1), (2, 2), (1, 2)] {
        fleet.heartbeat(START, "a", of(session, sequence));
    }
    assert!(!fleet.agent("a").unwrap().duplicate_suspected, "a restart and one straggler");
    for sequence in 3..6 {
        fleet.heartbeat(START, "a", of(2, sequence));
        fleet.heartbeat(START, "a", of(1, sequence));
    }
    assert!(fleet.agent("a").unwrap().duplicate_suspected);
    fleet.heartbeat(START, "a", of(3, 1));
    assert!(!fleet.agent("a").unwrap().duplicate_suspected, "one of them was started again");
}

#[test]
fn who_sends_more_than_it_may_is_not_listened_to_for_the_rest() {
    let mut fleet = small_fleet();
    assert!((0..1_000).all(|_| fleet.admits(START, "a")), "no quota is set");
    fleet.set_quota(Ration::heartbeats(2));
    let admitted = (0..1_000).filter(|_| fleet.admits(START, "a")).count();
    assert_eq!((admitted, fleet.counters().over_quota), (10, 990));
    assert!(fleet.admits(START, "b") && fleet.admits(START, "stranger"), "the others are heard");
    assert!(fleet.admits(START + Span(500), "a") && !fleet.admits(START + Span(500), "a"));
}

#[test]
fn the_younger_of_two_machines_is_told() {
    let mut fleet = small_fleet();
    let mut told = |session, sequence| {
        fleet.heartbeat(START, "a", Beat { session, ..beat(sequence, 5) }).standing == Standing::Duplicate
    };
    assert!(!told(1, 1) && !told(1, 2));
    // The copy starts, and each beats in turn: it is noticed with the second beat of the first machine.
    assert!(!told(2, 1) && !told(1, 3) && !told(2, 2));
    for sequence in 4..8 {
        assert!(!told(1, sequence), "the elder goes on as it was");
        assert!(told(2, sequence), "the younger is told");
    }
    // It joined anew under another id, and the elder is alone: nobody is told any more.
    assert!(!told(1, 8) && !told(1, 9));
}

#[test]
fn older_signs_of_life_change_nothing() {
    let mut fleet = small_fleet();
    fleet.heartbeat(START + Span(10), "a", beat(3, 5));
    fleet.observe(START, "a", beat(2, 4));
    fleet.observe(START, "a", Beat { session: 6, ..beat(9, 3) });
    assert_eq!(fleet.agent("a").unwrap().cursor, Cursor::new(1, 5));
    assert_eq!(fleet.counters().outdated, 2);
}

#[test]
fn after_a_restart_nobody_falls_before_its_own_deadline_passed_again() {
    let mut before = small_fleet();
    before.heartbeat(START, "a", Beat { report: Some(report(5, None)), ..beat(1, 5) });
    let kept: Vec<_> =
        before.remember(None, 10).0.into_iter().map(|(id, kept)| (id.to_owned(), kept)).collect();

    let restart = START + MINUTE.scaled(60, 1);
    let mut fleet = Presence::new(restart);
    let minute = settings(Mode::Pull, MINUTE, MINUTE.scaled(5, 2));
    fleet.group_changed(restart, head("web", "/servers/web", minute, 5));
    fleet.enrolled(restart, &enrolment("a", "web", 1));
    for (id, kept) in kept {
        fleet.restore(&id, kept);
    }
    assert_eq!(fleet.agent("a").unwrap().state, State::Online);
    assert_eq!(fleet.agent("a").unwrap().heard, Some(START));
    fleet.tick(restart + Span(90_000 - 1));
    assert_eq!(fleet.agent("a").unwrap().state, State::Online);
    assert_eq!(fleet.take_effects().count(), 0, "a restart is no event");
    fleet.tick(restart + MINUTE.scaled(4, 1));
    assert_eq!(fleet.agent("a").unwrap().state, State::Offline);
    assert!(
        !fleet.heartbeat(restart + MINUTE.scaled(4, 1), "a", beat(2, 5)).want_status,
        "the status was kept"
    );
}

#[test]
fn nobody_falls_while_nobody_could_be_heard() {
    let mut fleet = small_fleet();
    fleet.heartbeat(START, "a", beat(1, 5));
    let back = START + MINUTE.scaled(5, 1);
    fleet.resume(back);
    fleet.tick(back + Span(90_000 - 1));
    assert_eq!(fleet.agent("a").unwrap().state, State::Online);
}

#[test]
fn a_shorter_interval_counts_from_the_slot_that_was_promised() {
    let mut fleet = small_fleet();
    let slot = START + fleet.heartbeat(START, "a", beat(1, 5)).next_in;
    let second = Span::from_secs(1);
    fleet.group_changed(
        START,
        head("web", "/servers/web", settings(Mode::Pull, second, second.scaled(3, 1)), 6),
    );
    fleet.tick(slot);
    assert_eq!(fleet.agent("a").unwrap().state, State::Online, "it could not know yet");
    fleet.tick(slot + Span(500));
    assert_eq!(fleet.agent("a").unwrap().state, State::Late);
    fleet.tick(slot + Span(2_000));
    assert_eq!(fleet.agent("a").unwrap().state, State::Offline);
}

#[test]
fn pages_and_counts_agree_with_the_filter() {
    let mut fleet = small_fleet();
    let minute = settings(Mode::Push, MINUTE, MINUTE);
    fleet.group_changed(START, head("servers", "/servers", minute, 5));
    fleet.group_changed(START, head("servers-x", "/servers-x", minute, 5));
    for n in 0..40 {
        fleet.enrolled(START, &enrolment(&format!("s{n:02}"), "servers", 1));
        fleet.enrolled(START, &enrolment(&format!("x{n:02}"), "servers-x", 1));
    }
    for n in 0..10 {
        let text = Some(report(5, None));
        fleet.heartbeat(START, &format!("s{n:02}"), Beat { report: text, ..beat(1, 4 + n % 2) });
    }
    let servers = |below| {
        let id = GroupId::new("servers").unwrap();
        if below { Scope::Within(id) } else { Scope::Only(id) }
    };
    let check = |filter: Filter, expected: u64| {
        let mut seen = Vec::new();
        let mut after: Option<AgentId> = None;
        loop {
            let page = fleet.list(&filter, after.as_ref().map(AgentId::as_str), 7);
            seen.extend(page.agents.iter().map(|agent| agent.id.to_owned()));
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        assert!(seen.is_sorted(), "{seen:?}");
        assert!(seen.iter().all(|id| fleet.selects(&filter, id)));
        assert_eq!((seen.len() as u64, fleet.count(&filter)), (expected, expected), "{filter:?}");
    };
    check(Filter::default(), 81);
    check(Filter { scope: servers(false), ..Filter::default() }, 40);
    check(Filter { scope: servers(true), ..Filter::default() }, 41);
    check(Filter { states: vec![State::Online, State::Late], ..Filter::default() }, 10);
    check(Filter { mode: Some(Mode::Pull), ..Filter::default() }, 11);
    check(Filter { progress: Some(Progress::Current), ..Filter::default() }, 5);
    check(Filter { revision: Some(Revision(4)), ..Filter::default() }, 5);
    check(Filter { version: Some("1.2.3".into()), ..Filter::default() }, 10);
    check(Filter { version: Some("9".into()), ..Filter::default() }, 0);
    let summary = fleet.summary(&servers(true));
    assert_eq!((summary.all.total(), summary.pull.total(), summary.push.total()), (41, 11, 30));
    assert_eq!(summary.groups.iter().map(|g| g.id.as_str()).collect::<Vec<_>>(), ["servers", "web"]);
    assert_eq!((summary.all.current, summary.all.online_pending), (5, 5));
}

/// Who does not have the head is counted until it is offline, by state: a heartbeat that is overdue makes nobody current.
#[test]
fn who_turns_late_without_the_head_is_counted_until_it_is_offline() {
    let mut fleet = small_fleet();
    let hour = settings(Mode::Pull, MINUTE, MINUTE.scaled(60, 1));
    fleet.group_changed(START, head("web", "/servers/web", hour, 5));
    for id in ["b", "c"] {
        fleet.enrolled(START, &enrolment(id, "web", 1));
    }
    let failed = Some(report(5, Some("no such port")));
    let beats = [("a", beat(1, 4)), ("b", Beat { report: failed, ..beat(1, 4) }), ("c", beat(1, 5))];
    for (id, beat) in beats {
        fleet.heartbeat(START, id, beat);
    }
    let check = |fleet: &Presence, online: [u64; 3], late: [u64; 3]| {
        let all = fleet.summary(&Scope::Fleet).all;
        let counts = [State::Online, State::Late].map(|state| all.states[state as usize]);
        assert_eq!([counts[0], all.online_pending, all.online_failed], online, "{all:?}");
        assert_eq!([counts[1], all.late_pending, all.late_failed], late, "{all:?}");
        assert_eq!((all.current, all.pending, all.failed), (1, 1, 1), "whatever their state");
    };
    check(&fleet, [3, 1, 1], [0, 0, 0]);
    fleet.tick(START + MINUTE.scaled(10, 1));
    check(&fleet, [0, 0, 0], [3, 1, 1]);
    fleet.tick(START + MINUTE.scaled(90, 1));
    check(&fleet, [0, 0, 0], [0, 0, 0]);
}

#[test]
fn what_is_remembered_comes_in_parts() {
    let mut fleet = small_fleet();
    for id in ["b", "c", "d", "e"] {
        fleet.enrolled(START, &enrolment(id, "web", 1));
        fleet.heartbeat(START, id, beat(1, 5));
    }
    let mut parts = Vec::new();
    let mut after = None;
    loop {
        let (part, next) = fleet.remember(after, 2);
        parts.push(part.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(parts, [vec!["b"], vec!["c", "d"], vec!["e"]], "a was never heard, but counts");
}

#[test]
fn progress_is_told_once() {
    let mut fleet = small_fleet();
    fleet.heartbeat(START, "a", beat(1, 0));
    fleet.take_effects().count();
    fleet.observe(START, "a", Beat { report: Some(report(5, Some("bad"))), ..beat(2, 4) });
    fleet.heartbeat(START, "a", beat(3, 4));
    let told: Vec<_> = fleet.take_effects().collect();
    assert!(
        matches!(&told[..], [Effect::Applied { cursor, .. }, Effect::Failed { items, .. }]
            if *cursor == Cursor::new(1, 4) && items[0].reason.as_ref() == "bad"),
        "{told:?}"
    );
}
