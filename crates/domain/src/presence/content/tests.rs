use super::super::tests::{START, beat, enrolment, head, report, settings};
use super::super::{Beat, Report, Scope};
use super::*;
use crate::content::{Census, ChannelName, Holders, SourceBytes};
use crate::id::GroupId;
use crate::settings::Mode;
use crate::time::Span;

/// A channel at which an agent has `active` in force and is to have `wanted`: healthy if they are the same,
/// else waiting.
pub(in crate::presence) fn status(channel: &str, active: u32, wanted: u32) -> ContentStatus {
    ContentStatus {
        channel: ChannelName::new(channel).unwrap(),
        active: ContentRevision(active),
        wanted: ContentRevision(wanted),
        revision: Revision(u64::from(wanted) * 10),
        state: if active == wanted { ItemState::Healthy } else { ItemState::Offered },
        percent: 0,
        bytes: SourceBytes::default(),
        reason: "".into(),
    }
}

fn in_state(channel: &str, active: u32, wanted: u32, state: ItemState) -> ContentStatus {
    ContentStatus { state, ..status(channel, active, wanted) }
}

fn failed(reason: &str) -> ContentStatus {
    ContentStatus { reason: reason.into(), ..in_state("ips", 1, 2, ItemState::Failed) }
}

fn ips() -> ChannelName {
    ChannelName::new("ips").unwrap()
}

/// Groups `top`, `leaf` below it and `side`, with agents `t0`…, `l0`…, `s0`… of them.
fn fleet(each: usize) -> Presence {
    let mut fleet = Presence::new(START);
    let minute = settings(Mode::Pull, Span::from_secs(60), Span::from_secs(150));
    for (group, path) in [("top", "/top"), ("leaf", "/top/leaf"), ("side", "/side")] {
        fleet.group_changed(START, head(group, path, minute, 5));
        for n in 0..each {
            fleet.enrolled(START, &enrolment(&format!("{}{n}", &group[..1]), group, 1));
        }
    }
    fleet
}

/// The agent reports this content now. Each call is the next beat of its session.
fn says(fleet: &mut Presence, now: Timestamp, agent: &str, content: Vec<ContentStatus>) {
    let sequence = fleet.table.get(fleet.table.find(agent).unwrap()).sequence + 1;
    let report = Some(Report { content, ..report(5, None) });
    fleet.heartbeat(now, agent, Beat { report, ..beat(sequence, 5) });
}

fn within(group: &str) -> Scope {
    Scope::Within(GroupId::new(group).unwrap())
}

/// Agents in all, current, waiting, downloading, applying, failed.
#[track_caller]
fn check(fleet: &Presence, scope: &Scope, expected: [u64; 6]) {
    let ContentSummary { agents, current, waiting, downloading, applying, failed, .. } =
        fleet.content(&ips(), scope);
    assert_eq!([agents, current, waiting, downloading, applying, failed], expected, "{scope:?}");
}

#[test]
fn agents_count_where_they_stand_and_in_their_group() {
    let mut fleet = fleet(2);
    let other = status("models", 7, 7);
    says(&mut fleet, START, "t0", vec![status("ips", 2, 2)]);
    says(&mut fleet, START, "t1", vec![in_state("ips", 1, 2, ItemState::Received), other.clone()]);
    says(&mut fleet, START, "l0", vec![in_state("ips", 1, 2, ItemState::Applied), other.clone()]);
    says(&mut fleet, START, "l1", vec![status("ips", 0, 2)]);
    says(&mut fleet, START, "s0", vec![failed("no space")]);
    says(&mut fleet, START, "s1", vec![status("ips", 1, 0)]);
    check(&fleet, &Scope::Fleet, [6, 1, 1, 1, 1, 1]);
    check(&fleet, &within("top"), [4, 1, 1, 1, 1, 0]);
    check(&fleet, &Scope::Only(GroupId::new("leaf").unwrap()), [2, 0, 1, 0, 1, 0]);
    check(&fleet, &within("side"), [2, 0, 0, 0, 0, 1]);
    let summary = fleet.content(&ips(), &Scope::Fleet);
    let one = RevisionCounts { active: 4, ..RevisionCounts::default() };
    let two = RevisionCounts { active: 1, wanted: 5, downloading: 1, failed: 1 };
    assert!(summary.revisions.into_iter().eq([(ContentRevision(1), one), (ContentRevision(2), two)]));
    let failure = ContentFailure { agent: "s0", revision: ContentRevision(2), reason: "no space" };
    assert_eq!(summary.failures, [failure]);
    assert!(fleet.content(&ips(), &within("top")).failures.is_empty());

    // Moved, deleted, and no longer reported.
    fleet.enrolled(START, &enrolment("s0", "leaf", 2));
    check(&fleet, &within("top"), [5, 1, 1, 1, 1, 1]);
    check(&fleet, &within("side"), [1, 0, 0, 0, 0, 0]);
    fleet.forgotten(&crate::id::AgentId::new("t0").unwrap());
    says(&mut fleet, START, "l1", vec![]);
    check(&fleet, &Scope::Fleet, [4, 0, 0, 1, 1, 1]);
    let models = fleet.content(&other.channel, &Scope::Fleet);
    assert_eq!((models.agents, models.current), (2, 2));
    let nobodys = ChannelName::new("nobody/knows").unwrap();
    assert_eq!(fleet.content(&nobodys, &Scope::Fleet), ContentSummary::default());
}

#[test]
fn bytes_add_up_and_no_number_breaks_the_sum() {
    let mut fleet = fleet(2);
    let bytes = |patch, held| SourceBytes { patch, chunk: 3, full: 0, held };
    let of = |bytes| vec![ContentStatus { bytes, ..status("ips", 1, 1) }];
    says(&mut fleet, START, "t0", of(bytes(1_000, 5)));
    says(&mut fleet, START, "l0", of(bytes(24, u64::MAX)));
    let sums = |fleet: &Presence, scope| fleet.content(&ips(), &scope).bytes;
    let expected = SourceBytes { patch: 1_024, chunk: 6, full: 0, held: u64::MAX };
    assert_eq!(sums(&fleet, Scope::Fleet), expected);
    assert_eq!(sums(&fleet, within("leaf")), bytes(24, u64::MAX));
    says(&mut fleet, START, "l0", of(bytes(48, 0)));
    assert_eq!(sums(&fleet, Scope::Fleet), SourceBytes { patch: 1_048, held: 5, ..expected });
}

#[test]
fn of_very_many_failures_some_are_told() {
    let mut fleet = fleet(30);
    for n in (0..30).rev() {
        says(&mut fleet, START, &format!("s{n}"), vec![failed("x")]);
    }
    let failures = fleet.content(&ips(), &Scope::Fleet).failures;
    let mut all: Vec<String> = (0..30).map(|n| format!("s{n}")).collect();
    all.sort_unstable();
    all.truncate(MAX_FAILURES);
    assert!(failures.iter().map(|failure| failure.agent).eq(all));
}

#[test]
fn a_failure_is_told_once_for_each_assignment() {
    let mut fleet = fleet(1);
    let mut told = |content: ContentStatus| -> Vec<(u32, String)> {
        says(&mut fleet, START, "t0", vec![content]);
        let failures = fleet.take_effects().filter_map(|effect| match effect {
            Effect::ContentFailed { status, .. } => Some((status.wanted.0, status.reason.to_string())),
            Effect::Transition { .. } | Effect::Applied { .. } | Effect::Failed { .. } => None,
        });
        failures.collect()
    };
    let none: [(u32, String); 0] = [];
    assert_eq!(told(in_state("ips", 1, 2, ItemState::Received)), none);
    assert_eq!(told(failed("no space")), [(2, "no space".to_owned())]);
    assert_eq!(told(failed("still no space")), none);
    assert_eq!(told(ContentStatus { wanted: ContentRevision(3), ..failed("x") }), [(3, "x".to_owned())]);
    assert_eq!(told(status("ips", 3, 3)), none);
}

#[test]
fn content_that_failed_leaves_the_snapshot_in_force() {
    let mut fleet = fleet(1);
    says(&mut fleet, START, "t0", vec![failed("no space")]);
    let counts = fleet.summary(&within("top")).all;
    assert_eq!((counts.current, counts.failed), (1, 0));
}

fn holders(revision: u32, active: u64, fetching: u64) -> Holders {
    Holders { channel: ips(), revision: ContentRevision(revision), active, fetching }
}

#[test]
fn the_census_names_what_is_held_and_what_is_fetched() {
    let mut fleet = fleet(2);
    assert_eq!(fleet.census(9), Census { replica: 9, holders: vec![] });
    let unchanged = fleet.content_changes();
    says(&mut fleet, START, "t0", vec![in_state("ips", 1, 3, ItemState::Received)]);
    says(&mut fleet, START, "t1", vec![in_state("ips", 1, 3, ItemState::Received)]);
    says(&mut fleet, START, "l0", vec![status("ips", 1, 3)]);
    says(&mut fleet, START, "l1", vec![status("ips", 0, 2)]);
    says(&mut fleet, START, "s0", vec![in_state("ips", 2, 3, ItemState::Failed)]);
    let changed = fleet.content_changes();
    assert!(changed > unchanged);
    // Three have 1; three are to get 3, one of which failed; one has 2, another one is to get it.
    assert_eq!(fleet.census(9).holders, [holders(3, 0, 3), holders(2, 1, 1), holders(1, 3, 0)]);

    // Offline agents hold what they held, and fetch nothing.
    while let Some(due) = fleet.next_deadline() {
        fleet.tick(due);
    }
    assert_eq!(fleet.census(9).holders, [holders(1, 3, 0), holders(2, 1, 0)]);
    let offline = fleet.content_changes();
    assert!(offline > changed);
    let further = ContentStatus { percent: 50, ..in_state("ips", 1, 3, ItemState::Received) };
    let now = fleet.now;
    says(&mut fleet, now, "t0", vec![further.clone()]);
    let back = fleet.content_changes();
    assert!(back > offline);
    says(&mut fleet, now, "t0", vec![ContentStatus { percent: 60, ..further }]);
    assert_eq!(fleet.content_changes(), back, "progress alone changes no count");
}

#[test]
fn the_finish_follows_from_the_pace_and_waits_for_nobody_who_is_gone() {
    let mut fleet = fleet(40);
    let at = |secs| START + Span::from_secs(secs);
    let expected = |fleet: &Presence, scope| {
        fleet.content(&ips(), &scope).expected_finish.map(|finish| finish.since(START).0 / 1000)
    };
    for n in 0..40 {
        says(&mut fleet, START, &format!("t{n}"), vec![status("ips", 1, 2)]);
        says(&mut fleet, START, &format!("s{n}"), vec![status("ips", 1, 2)]);
    }
    assert_eq!(expected(&fleet, Scope::Fleet), None);
    // One a second of the group at the top, nobody of the other one.
    for n in 0..20 {
        says(&mut fleet, at(n + 1), &format!("t{n}"), vec![status("ips", 2, 2)]);
    }
    assert_eq!(expected(&fleet, within("top")), Some(20 + 20));
    assert_eq!(expected(&fleet, within("side")), None);
    assert_eq!(expected(&fleet, Scope::Fleet), Some(20 + 60));
    // The other group is silent and goes offline; the rest of this one goes on.
    for n in 20..39 {
        says(&mut fleet, at(n * 10), &format!("t{n}"), vec![status("ips", 2, 2)]);
    }
    says(&mut fleet, at(380), "t39", vec![status("ips", 1, 2)]);
    fleet.tick(at(390));
    assert_eq!(fleet.content(&ips(), &Scope::Fleet).waiting, 41);
    assert_eq!(expected(&fleet, Scope::Fleet), Some(400), "39 in 390 seconds, and one is left");
    says(&mut fleet, at(391), "t39", vec![status("ips", 2, 2)]);
    assert_eq!(expected(&fleet, Scope::Fleet), None, "nobody is on the way");
}

#[test]
fn who_is_done_between_two_reports_counts_for_the_pace() {
    let mut fleet = fleet(9);
    for n in 0..6 {
        says(&mut fleet, START, &format!("t{n}"), vec![status("ips", 1, 1)]);
    }
    says(&mut fleet, START, "t0", vec![status("ips", 1, 2)]);
    for n in 1..6 {
        says(&mut fleet, START + Span::from_secs(10), &format!("t{n}"), vec![status("ips", 2, 2)]);
    }
    let finish = fleet.content(&ips(), &Scope::Fleet).expected_finish;
    assert_eq!(finish, Some(START + Span::from_secs(12)), "five in ten seconds, and one is left");
}

#[test]
fn a_restart_keeps_content_and_tells_nothing_again() {
    let mut old = fleet(2);
    let bytes = SourceBytes { full: 9, ..SourceBytes::default() };
    says(&mut old, START, "t0", vec![failed("no space"), status("models", 7, 7)]);
    says(&mut old, START, "t1", vec![ContentStatus { bytes, ..status("ips", 2, 2) }]);
    let mut new = fleet(2);
    for (agent, kept) in old.remember(None, 100).0 {
        new.restore(agent, kept);
    }
    assert_eq!(new.take_effects().count(), 0);
    assert_eq!(new.content(&ips(), &Scope::Fleet), old.content(&ips(), &Scope::Fleet));
    assert_eq!(new.census(1), old.census(1));
    assert_eq!(new.agent("t0").unwrap().content, old.agent("t0").unwrap().content);
}
