//! What one agent does when things go wrong, step by step.

use domain::agent::ItemState;
use domain::content::agent::{Applying, Input, MAX_STARTS, Pace};
use domain::content::pace::phase;
use domain::{Span, Timestamp};

use crate::agent::Running;
use crate::disk::{Content, Nature, PIECE};
use crate::stories::{LARGE, LONG, SMALL, channel, world};
use crate::world::World;

/// Assigns a content whose turn comes in the second half of the spread.
fn late(world: &mut World, spread: Span) -> Content {
    let agent = &world.agents[0].id;
    let late =
        |content: &Content| phase(agent, &content.channel, &content.manifest, spread) > spread.scaled(1, 2);
    let mut all = (1..).map(|number| Content::new("rules", number, LARGE));
    let content = all.find(late).expect("there are many");
    world.contents.push(content.clone());
    world.pace = Pace { spread, rate_limit: Some(1 << 20) };
    world.assign(&content.channel, Some(&content));
    content
}

#[test]
fn what_fails_is_taken_back_and_not_tried_again() {
    for nature in [Nature::Refused, Nature::Sick] {
        let mut world = world(&[("rules", 1, SMALL, Nature::Good), ("rules", 2, SMALL, nature)]);
        world.follow("rules", 1);
        let took = world.follow("rules", 2);
        let check = if nature == Nature::Sick { "check 2, " } else { "" };
        let expected = format!(
            "prune to 1+1, look for 2, ask for 2, persist, fetch 4 of 2, persist, switch to 2, run 2, {check}persist, \
             switch to 1, run 1, persist, prune to 1+0"
        );
        assert_eq!(took, expected);
        world.stands("rules", 1, ItemState::Failed);
        assert_eq!(world.took(LONG), "");

        world.crash(0);
        let took = world.took(LONG);
        assert_eq!(took, "prune to 1+0", "nor after a restart");
        world.stands("rules", 1, ItemState::Failed);

        let took = world.follow("rules", 2);
        assert!(took.contains("switch to 2"), "assigned anew, it is tried anew: {took}");
    }
}

#[test]
fn a_first_content_that_fails_leaves_nothing() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Sick)]);
    let took = world.follow("rules", 1);
    assert!(took.ends_with("check 1, persist, switch to 0, run 0, persist, prune to 0+0"), "{took}");
    world.stands("rules", 0, ItemState::Failed);
    assert!(world.agents[0].disk.trees.is_empty());
}

#[test]
fn what_is_not_what_its_manifest_says_is_not_fetched_twice() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Broken)]);
    let took = world.follow("rules", 1);
    assert!(took.ends_with("fetch 4 of 1, persist, prune to 0+0"), "{took}");
    world.stands("rules", 0, ItemState::Failed);
    assert_eq!(world.status("rules").reason.as_ref(), "broken");
    assert_eq!(world.took(LONG), "");
}

#[test]
fn what_kills_the_agent_is_given_up() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good), ("rules", 2, SMALL, Nature::Deadly)]);
    world.follow("rules", 1);
    world.follow("rules", 2);
    let took = world.took(Span::from_secs(600));
    let runs = took.matches("run 2").count();
    assert!(runs <= usize::try_from(MAX_STARTS).expect("it fits"), "{took}");
    world.stands("rules", 1, ItemState::Failed);
    let reason = &world.status("rules").reason;
    assert_eq!(reason.as_ref(), "the agent stopped 3 times while it was switching this on");
}

#[test]
fn who_does_not_let_go_is_asked_three_times() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good)]);
    world.follow("rules", 1);
    world.agents[0].keeps_all = true;
    world.give("rules", 0);
    let first = world.took(Span::from_secs(5));
    let reason = &world.status("rules").reason;
    assert!(
        reason.starts_with("is being removed") && reason.ends_with("running the handler: no"),
        "{reason}"
    );
    let rest = world.took(LONG);
    assert_eq!(first.matches("run 0").count() + rest.matches("run 0").count(), 3, "{first}, {rest}");
    assert!(world.agents[0].reported.is_empty(), "{rest}");
    world.follow("rules", 1);
    world.stands("rules", 1, ItemState::Healthy);
}

#[test]
fn a_last_known_good_that_is_gone_is_built_again() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good), ("rules", 2, SMALL, Nature::Sick)]);
    world.follow("rules", 1);
    let manifest = world.contents[0].manifest;
    world.give("rules", 2);
    world.until_download(1);
    world.agents[0].disk.trees.remove(&manifest);
    let took = world.took(LONG);
    let expected = "check 2, persist, switch to 1, delayed: switching, look for 1, ask for 1, persist, \
                    fetch 4 of 1, persist, switch to 1, run 1, persist, prune to 1+0";
    assert!(took.ends_with(expected), "{took}");
    world.stands("rules", 1, ItemState::Failed);
}

#[test]
fn a_full_disk_is_told_in_numbers_and_tried_again() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good), ("rules", 2, SMALL, Nature::Good)]);
    world.follow("rules", 1);
    world.agents[0].disk.full = true;
    let took = world.follow("rules", 2);
    assert!(took.contains("delayed: looking for room on the disk"), "{took}");
    world.stands("rules", 1, ItemState::Offered);
    let reason = "waits to try again: looking for room on the disk: it takes 524288 bytes and the disk has 0 left: free some";
    assert_eq!(world.status("rules").reason.as_ref(), reason);
    world.agents[0].disk.full = false;
    world.agents[0].disk.quota = Some(6_000_000);
    world.took(Span::from_secs(900));
    let reason = "content may take 6000000 and takes 5242880 already: raise the quota or assign less";
    assert!(world.status("rules").reason.contains(reason) || world.status("rules").active.0 == 2);
    world.agents[0].disk.quota = None;
    world.took(Span::from_secs(900));
    world.stands("rules", 2, ItemState::Healthy);
    assert_eq!(world.status("rules").reason.as_ref(), "");
}

#[test]
fn room_is_made_before_it_is_missed() {
    let mut world = world(&[
        ("rules", 1, SMALL, Nature::Good),
        ("rules", 2, SMALL, Nature::Good),
        ("rules", 3, SMALL, Nature::Good),
    ]);
    world.follow("rules", 1);
    world.follow("rules", 2);
    assert_eq!(world.agents[0].disk.trees.len(), 2);
    world.agents[0].disk.quota = Some(40 * PIECE + u64::from(SMALL) * PIECE);
    let took = world.follow("rules", 3);
    assert!(took.contains("ask for 3, persist, prune to 1+1, ask for 3, persist, fetch 4 of 3"), "{took}");
    world.stands("rules", 3, ItemState::Healthy);
}

#[test]
fn damaged_files_are_built_again() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good)]);
    world.follow("rules", 1);
    let manifest = world.contents[0].manifest;
    world.agents[0].disk.damaged.insert(manifest);
    let took = world.took(LONG);
    let expected =
        "look for 1, ask for 1, persist, fetch 2 of 1, persist, switch to 1, run 1, persist, prune to 1+0";
    assert_eq!(took, expected);
    world.stands("rules", 1, ItemState::Healthy);
    assert_eq!(world.took(LONG), "");
}

#[test]
fn a_restart_goes_on_without_waiting_for_its_turn() {
    let mut world = world(&[]);
    let spread = Span::from_secs(3_600);
    let content = late(&mut world, spread);
    world.pass(Span::from_secs(5));
    assert_eq!(world.status("rules").reason.as_ref(), "waits for its turn within contentSpread");
    world.stands("rules", 0, ItemState::Offered);
    while !matches!(&world.agents[0].running, Some(Running::Fetch { next: 3.., .. })) {
        world.pass(Span::from_secs(1));
    }
    let began: Timestamp = world.now;
    world.crash(0);
    world.took(Span::from_secs(300));
    world.stands("rules", content.number, ItemState::Healthy);
    assert!(world.now.since(began) < spread.scaled(1, 2), "it did not wait for its turn again");
    assert_eq!(world.agents[0].fetched, u64::from(LARGE) * PIECE, "nothing is fetched twice");
}

#[test]
fn without_a_connection_it_waits() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good)]);
    world.agents[0].online = false;
    world.input(0, Input::Online(false));
    let took = world.follow("rules", 1);
    assert_eq!(took, "prune to 0+1, look for 1");
    assert_eq!(world.status("rules").reason.as_ref(), "waits for a connection");
    world.agents[0].online = true;
    world.input(0, Input::Online(true));
    world.took(LONG);
    world.stands("rules", 1, ItemState::Healthy);
}

#[test]
fn nothing_goes_before_it_is_durable_that_it_may() {
    let mut world = world(&[
        ("rules", 1, SMALL, Nature::Good),
        ("rules", 2, SMALL, Nature::Good),
        ("rules", 3, SMALL, Nature::Good),
    ]);
    world.follow("rules", 1);
    world.give("rules", 2);
    while !matches!(&world.agents[0].running, Some(Running::Health(_))) {
        world.pass(Span(10));
    }
    world.agents[0].disk.full = true;
    let took = world.took(LONG);
    assert!(took.contains("delayed: storing the state") && !took.contains("prune"), "{took}");
    // The disk still says that 1 is good, and there is no room for 3: 1 stays.
    let took = world.follow("rules", 3);
    assert!(took.contains("delayed: looking for room on the disk") && !took.contains("prune"), "{took}");
    let first = world.contents[0].manifest;
    assert!(world.agents[0].disk.trees.contains(&first));
    world.agents[0].disk.full = false;
    world.took(Span::from_secs(1_200));
    world.stands("rules", 3, ItemState::Healthy);
    assert!(!world.agents[0].disk.trees.contains(&first));
}

#[test]
fn a_last_known_good_that_is_not_in_force_comes_back() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good), ("rules", 2, SMALL, Nature::Sick)]);
    world.follow("rules", 1);
    world.follow("rules", 2);
    world.agents[0].disk.active.remove(&channel("rules"));
    world.crash(0);
    world.took(LONG);
    world.stands("rules", 1, ItemState::Failed);
    assert_eq!(world.agents[0].fetched, 2 * u64::from(SMALL) * PIECE, "it was on the disk");
}

#[test]
fn what_was_to_be_taken_away_stays_when_it_is_wanted_again() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good)]);
    world.follow("rules", 1);
    let bytes = world.status("rules").bytes;
    world.crash(0);
    let state =
        world.agents[0].disk.durable.channels.get_mut(&channel("rules")).expect("something is in force");
    state.applying = Some(Applying { item: None, bytes, starts: 1 });
    let took = world.took(LONG);
    assert!(!took.contains("switch"), "{took}");
    world.stands("rules", 1, ItemState::Healthy);
}

#[test]
fn an_assignment_that_changes_at_the_last_moment_is_not_switched_on() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good), ("rules", 2, SMALL, Nature::Good)]);
    world.give("rules", 1);
    world.until_download(0);
    // The disk takes long to note that 1 is on trial.
    world.agents[0].writes_until = world.now + Span::from_secs(30);
    world.pass(Span::from_secs(10));
    let took = world.follow("rules", 2);
    assert!(!took.contains("switch to 1") && took.contains("switch to 2"), "{took}");
    world.stands("rules", 2, ItemState::Healthy);
}

#[test]
fn an_allowance_that_is_not_renewed_stops_the_download() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good)]);
    world.give("rules", 1);
    world.until_download(2);
    world.mute = true;
    world.input(0, Input::Allowance { granted_for: Some(Span::from_secs(3)) });
    let took = world.took(Span::from_secs(20));
    assert_eq!(took, "wish Held, wish Wanted, stop");
    world.stands("rules", 0, ItemState::Received);
    let reason = &world.status("rules").reason;
    assert!(reason.starts_with("waits for an allowance to download"), "{reason}");
    world.mute = false;
    world.took(Span::from_secs(900));
    world.stands("rules", 1, ItemState::Healthy);
    assert_eq!(world.agents[0].fetched, u64::from(LARGE) * PIECE, "nothing is fetched twice");
}

#[test]
fn a_clock_that_goes_back_holds_up_nothing() {
    let mut world = world(&[]);
    let content = late(&mut world, Span::from_secs(60));
    world.pass(Span::from_secs(4));
    world.clock_behind = Span::from_secs(3_600);
    world.input(0, Input::Tick);
    world.pass(LONG);
    world.stands("rules", content.number, ItemState::Healthy);
}

#[test]
fn a_broker_that_is_back_is_asked_soon() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good)]);
    world.agents[0].online = false;
    world.give("rules", 1);
    // So often that the next attempt would be minutes away.
    while world.took(Span::from_secs(60)).contains("delayed") {}
    world.input(0, Input::Online(false));
    world.took(Span::from_secs(1));
    world.agents[0].online = true;
    world.input(0, Input::Online(true));
    world.took(Span::from_secs(15));
    world.stands("rules", 1, ItemState::Healthy);
}

#[test]
fn cuts_that_leave_something_are_followed_up_soon() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good)]);
    world.give("rules", 1);
    let began = world.now;
    for _ in 0..8 {
        world.until_download(1);
        world.agents[0].online = false;
        world.pass(Span::from_secs(2));
        world.agents[0].online = true;
    }
    world.pass(Span::from_secs(20));
    world.stands("rules", 1, ItemState::Healthy);
    assert!(world.now.since(began) < Span::from_secs(120));
    assert_eq!(world.agents[0].fetched, u64::from(LARGE) * PIECE, "nothing is fetched twice");
}

#[test]
fn a_handler_is_told_of_what_is_gone_however_long_the_disk_refused() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good)]);
    world.follow("rules", 1);
    world.agents[0].disk.full = true;
    let took = world.follow("rules", 0);
    assert!(
        took.matches("delayed: switching").count() > usize::try_from(MAX_STARTS).expect("it fits"),
        "{took}"
    );
    world.agents[0].disk.full = false;
    assert!(world.took(Span::from_secs(900)).contains("switch to 0, run 0"));
}
