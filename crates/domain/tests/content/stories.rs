//! What one agent does, step by step.

use domain::agent::ItemState;
use domain::content::agent::{Effect, Input, MAX_STARTS, Note, Pace};
use domain::content::{ChannelName, ContentRevision, ContentStatus, DownloadWish};
use domain::{Span, Timestamp};

use crate::agent::Running;
use crate::disk::{Content, Nature, PIECE};
use crate::world::{Faults, World};

/// Pieces of a content that needs no allowance, and of one that does.
const SMALL: u32 = 4;
const LARGE: u32 = 30;
/// Time enough for a download of either.
const LONG: Span = Span::from_secs(120);

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).expect("a valid name")
}

/// A world of one agent and these contents: channel, number, pieces, nature.
fn world(contents: &[(&str, u32, u32, Nature)]) -> World {
    let mut world = World::new(1, 1, Faults::NONE);
    for (name, number, pieces, nature) in contents {
        world.contents.push(Content { nature: *nature, ..Content::new(name, *number, *pieces) });
    }
    world.pass(Span::from_secs(5));
    world
}

impl World {
    fn give(&mut self, name: &str, number: u32) {
        let channel = channel(name);
        let content = self.contents.iter().find(|it| it.channel == channel && it.number == number).cloned();
        assert!(content.is_some() || number == 0);
        self.assign(&channel, content.as_ref());
    }

    /// Assigns a content and lets the time for it pass. Says what the agent did.
    fn follow(&mut self, name: &str, number: u32) -> String {
        self.give(name, number);
        self.took(LONG)
    }

    /// What the agent did in this time.
    fn took(&mut self, span: Span) -> String {
        self.agents[0].log.clear();
        self.pass(span);
        names(&self.agents[0].log)
    }

    fn status(&self, name: &str) -> &ContentStatus {
        let of = |status: &&ContentStatus| status.channel == channel(name);
        self.agents[0].reported.iter().find(of).expect("the channel is reported")
    }

    /// Number in force, and how the assigned one stands.
    #[track_caller]
    fn stands(&self, name: &str, active: u32, state: ItemState) {
        let status = self.status(name);
        assert_eq!((status.active, status.state), (ContentRevision(active), state), "{status:?}");
    }

    /// Passes time until the agent downloads, so many seconds into it.
    fn until_download(&mut self, secs: u64) {
        for _ in 0..1_000 {
            self.pass(Span(100));
            if let Some(Running::Fetch { .. }) = &self.agents[0].running {
                self.pass(Span::from_secs(secs));
                return;
            }
        }
        panic!("no download begins: {:?}", self.agents[0].machine);
    }
}

/// Short names of effects.
fn names(effects: &[Effect]) -> String {
    let names: Vec<String> = effects.iter().filter_map(name).collect();
    names.join(", ")
}

fn name(effect: &Effect) -> Option<String> {
    let number = |item: Option<&domain::content::ContentItem>| item.map_or(0, |item| item.number.0);
    Some(match effect {
        Effect::Survey { item, remote: false } => format!("look for {}", item.number),
        Effect::Survey { item, remote: true } => format!("ask for {}", item.number),
        Effect::Fetch { item, plan } => format!("fetch {} of {}", plan.pieces.len(), item.number),
        Effect::StopFetch => "stop".to_owned(),
        Effect::Persist { .. } => "persist".to_owned(),
        Effect::Switch { to, .. } => format!("switch to {}", number(to.as_ref())),
        Effect::RunHandler { item, .. } => format!("run {}", number(item.as_ref())),
        Effect::CheckHealth(item) => format!("check {}", item.number),
        Effect::Prune { keep, drafts } => format!("prune to {}+{}", keep.len(), drafts.len()),
        Effect::Wish(wish) => format!("wish {wish:?}"),
        Effect::Note(Note::Delayed { step, .. }) => format!("delayed: {step}"),
        Effect::CheckDrift(_) | Effect::Limit(_) | Effect::Report(_) | Effect::Note(_) => return None,
    })
}

#[test]
fn a_content_is_fetched_tried_and_kept() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good)]);
    let took = world.follow("rules", 1);
    let expected = "prune to 0+1, look for 1, ask for 1, persist, fetch 4 of 1, persist, switch to 1, run 1, check 1, \
                    persist, prune to 1+0";
    assert_eq!(took, expected);
    world.stands("rules", 1, ItemState::Healthy);
    assert_eq!(world.status("rules").bytes.chunk, 4 * PIECE);
    assert_eq!(world.took(LONG), "", "it is there, and stays there");
}

#[test]
fn progress_is_told_in_steps_of_ten() {
    let mut world = world(&[("rules", 1, 8, Nature::Good)]);
    world.follow("rules", 1);
    let told = world.agents[0].log.iter().filter_map(|effect| match effect {
        Effect::Report(statuses) => Some((statuses[0].state, statuses[0].percent)),
        _ => None,
    });
    let received: Vec<u8> = told.clone().filter(|it| it.0 == ItemState::Received).map(|it| it.1).collect();
    assert_eq!(received, [0, 10, 20, 30, 50, 60, 70, 80, 90]);
    let rest: Vec<_> = told.filter(|it| it.0 != ItemState::Received).collect();
    let expected = [
        (ItemState::Offered, 0),
        (ItemState::Verified, 100),
        (ItemState::Applied, 100),
        (ItemState::Healthy, 100),
    ];
    assert!(expected.iter().all(|step| rest.contains(step)), "{rest:?}");
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
fn the_way_back_needs_no_network_and_no_turn() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good), ("rules", 2, SMALL, Nature::Good)]);
    world.follow("rules", 1);
    world.follow("rules", 2);
    world.stands("rules", 2, ItemState::Healthy);
    world.pace = Pace { spread: Span::from_secs(3600), rate_limit: None };
    world.agents[0].online = false;
    world.input(0, Input::Online(false));
    let took = world.follow("rules", 1);
    let expected =
        "prune to 2+1, look for 1, fetch 0 of 1, persist, switch to 1, run 1, check 1, persist, prune to 2+0";
    assert_eq!(took, expected);
    world.stands("rules", 1, ItemState::Healthy);
}

#[test]
fn another_assignment_ends_the_download() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good), ("rules", 2, SMALL, Nature::Good)]);
    world.give("rules", 1);
    world.until_download(3);
    let took = world.follow("rules", 2);
    assert!(took.starts_with("stop, wish Done, prune to 0+1, look for 2"), "{took}");
    assert!(!took.contains("switch to 1"), "{took}");
    world.stands("rules", 2, ItemState::Healthy);
    assert!(world.agents[0].disk.drafts.is_empty(), "what was begun is gone");
}

#[test]
fn a_channel_that_nothing_assigns_goes_away() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good), ("rules", 2, LARGE, Nature::Good)]);
    world.follow("rules", 1);
    let took = world.follow("rules", 0);
    assert_eq!(took, "prune to 1+0, persist, switch to 0, run 0, persist, prune to 0+0");
    assert!(world.agents[0].reported.is_empty() && world.agents[0].disk.trees.is_empty());

    world.give("rules", 2);
    world.until_download(3);
    let took = world.follow("rules", 0);
    assert_eq!(took, "stop, wish Done, prune to 0+0, persist, prune to 0+0", "and so does what was begun");
    assert!(world.agents[0].reported.is_empty() && world.agents[0].disk.drafts.is_empty());
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
fn a_full_download_waits_for_its_allowance() {
    let mut world = World::new(1, 3, Faults::NONE);
    world.contents.push(Content::new("rules", 1, LARGE));
    world.pass(Span::from_secs(1));
    world.give("rules", 1);
    let mut most = 0;
    for _ in 0..1_200 {
        world.pass(Span(250));
        let fetches = |agent: &&crate::agent::Agent| matches!(agent.running, Some(Running::Fetch { .. }));
        most = most.max(world.agents.iter().filter(fetches).count());
    }
    assert_eq!(most, 1, "one at a time");
    for agent in &world.agents {
        assert_eq!(agent.reported[0].state, ItemState::Healthy);
        let wishes: Vec<DownloadWish> = agent
            .log
            .iter()
            .filter_map(|effect| match effect {
                Effect::Wish(wish) => Some(*wish),
                _ => None,
            })
            .collect();
        assert_eq!(wishes, [DownloadWish::Wanted, DownloadWish::Held, DownloadWish::Done]);
        let waited = agent.log.iter().any(|effect| match effect {
            Effect::Report(statuses) => {
                statuses[0].reason.starts_with("waits for an allowance to download 3932160 bytes")
            }
            _ => false,
        });
        assert!(waited || agent.id.as_str() == "agent-0" || most == 1);
    }
}

#[test]
fn an_allowance_that_ends_stops_the_download() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good)]);
    world.give("rules", 1);
    world.until_download(2);
    // Presence is not heard any more.
    world.agents[0].online = false;
    world.agents[0].disk.full = false;
    world.input(0, Input::Allowance { granted_for: Some(Span::from_secs(1)) });
    let took = world.took(Span::from_secs(10));
    assert!(took.contains("wish"), "{took}");
    world.stands("rules", 0, ItemState::Received);
    world.agents[0].online = true;
    let before = world.agents[0].fetched;
    world.took(Span::from_secs(900));
    world.stands("rules", 1, ItemState::Healthy);
    assert_eq!(world.agents[0].fetched, u64::from(LARGE) * PIECE, "{before} bytes were not fetched again");
}

#[test]
fn a_patch_goes_before_a_full_download() {
    let mut world = world(&[("lists", 1, SMALL, Nature::Good), ("models", 1, LARGE, Nature::Good)]);
    let mut next = Content::new("lists", 2, LARGE);
    next.patch_from = Some(world.contents[0].manifest);
    world.contents.push(next);
    world.follow("lists", 1);
    world.give("models", 1);
    world.until_download(3);
    let took = world.follow("lists", 2);
    let order = ["stop", "look for 2", "ask for 2", "fetch 2 of 2", "check 2", "ask for 1", "check 1"];
    let places: Vec<_> = order.iter().map(|step| took.find(step)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{took}");
    world.stands("lists", 2, ItemState::Healthy);
    world.stands("models", 1, ItemState::Healthy);
    let all = u64::from(SMALL + LARGE) * PIECE + world.status("lists").bytes.patch;
    assert_eq!(world.agents[0].fetched, all, "nothing is fetched twice");
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
fn the_same_content_assigned_anew_is_there_already() {
    let mut world = world(&[("rules", 1, SMALL, Nature::Good)]);
    world.follow("rules", 1);
    let before = world.status("rules").revision;
    assert_eq!(world.follow("rules", 1), "persist, prune to 1+0");
    assert!(world.status("rules").revision > before);
    world.stands("rules", 1, ItemState::Healthy);
    world.crash(0);
    world.took(LONG);
    world.stands("rules", 1, ItemState::Healthy);
}

#[test]
fn a_restart_goes_on_without_waiting_for_its_turn() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good)]);
    world.pace = Pace { spread: Span::from_secs(3_600), rate_limit: Some(1 << 20) };
    world.give("rules", 1);
    world.pass(Span::from_secs(5));
    assert_eq!(world.status("rules").reason.as_ref(), "waits for its turn within contentSpread");
    world.stands("rules", 0, ItemState::Offered);
    for _ in 0..3_600 {
        world.pass(Span::from_secs(1));
        if let Some(Running::Fetch { next: 3.., .. }) = &world.agents[0].running {
            break;
        }
    }
    let began: Timestamp = world.now;
    world.crash(0);
    world.took(Span::from_secs(300));
    world.stands("rules", 1, ItemState::Healthy);
    assert!(world.now.since(began) < Span::from_secs(600));
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
fn nothing_happens_after_a_stop() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good)]);
    world.give("rules", 1);
    world.until_download(3);
    world.input(0, Input::Stop);
    assert_eq!(world.took(LONG), "stop");
}
