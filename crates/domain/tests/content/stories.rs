//! What one agent does, step by step.

use domain::Span;
use domain::agent::ItemState;
use domain::content::agent::{Effect, Input, Note, Pace};
use domain::content::{ChannelName, ContentRevision, ContentStatus, DownloadWish};

use crate::agent::Running;
use crate::disk::{Content, Nature, PIECE};
use crate::world::{Faults, World};

/// Pieces of a content that needs no allowance, and of one that does.
pub(crate) const SMALL: u32 = 4;
pub(crate) const LARGE: u32 = 30;
/// Time enough for a download of either.
pub(crate) const LONG: Span = Span::from_secs(120);

pub(crate) fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).expect("a valid name")
}

/// A world of one agent and these contents: channel, number, pieces, nature.
pub(crate) fn world(contents: &[(&str, u32, u32, Nature)]) -> World {
    let mut world = World::new(1, 1, Faults::NONE);
    for (name, number, pieces, nature) in contents {
        world.contents.push(Content { nature: *nature, ..Content::new(name, *number, *pieces) });
    }
    world.pass(Span::from_secs(5));
    world
}

impl World {
    pub(crate) fn give(&mut self, name: &str, number: u32) {
        let channel = channel(name);
        let content = self.contents.iter().find(|it| it.channel == channel && it.number == number).cloned();
        assert!(content.is_some() || number == 0);
        self.assign(&channel, content.as_ref());
    }

    /// Assigns a content and lets the time for it pass. Says what the agent did.
    pub(crate) fn follow(&mut self, name: &str, number: u32) -> String {
        self.give(name, number);
        self.took(LONG)
    }

    /// What the agent did in this time.
    pub(crate) fn took(&mut self, span: Span) -> String {
        self.agents[0].log.clear();
        self.pass(span);
        names(&self.agents[0].log)
    }

    pub(crate) fn status(&self, name: &str) -> &ContentStatus {
        let of = |status: &&ContentStatus| status.channel == channel(name);
        self.agents[0].reported.iter().find(of).expect("the channel is reported")
    }

    /// Number in force, and how the assigned one stands.
    #[track_caller]
    pub(crate) fn stands(&self, name: &str, active: u32, state: ItemState) {
        let status = self.status(name);
        assert_eq!((status.active, status.state), (ContentRevision(active), state), "{status:?}");
    }

    /// Passes time until the agent downloads, so many seconds into it.
    pub(crate) fn until_download(&mut self, secs: u64) {
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
fn nothing_happens_after_a_stop() {
    let mut world = world(&[("rules", 1, LARGE, Nature::Good)]);
    world.give("rules", 1);
    world.until_download(3);
    world.input(0, Input::Stop);
    assert_eq!(world.took(LONG), "stop");
}
