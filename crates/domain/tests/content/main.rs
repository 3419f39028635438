//! Content: roads walked with real bytes, stories of one agent, and agents in virtual time with faults: a network,
//! disks and handlers that fail, agents that die at any step, contents that are no good, and assignments that
//! change all the time.
//!
//! The machines are the ones that run in agents and in services; only the world around them is made up. Everything
//! follows from the seed, which every failure names.

mod agent;
mod anything;
mod check;
mod disk;
mod random;
mod roads;
mod stories;
mod trouble;
mod world;

use std::collections::BTreeSet;

use domain::Span;
use domain::content::DownloadWish;
use domain::content::agent::{Effect, Note};
use world::{Faults, World};

/// Seeds that once found a fault. They run first, for ever.
const KEPT: &[u64] = &[36, 42];
/// Seeds of an ordinary run. `MUSTER_SIMULATION_SEEDS=FROM..TO` runs others.
const SEEDS: std::ops::Range<u64> = 1..13;
/// Length of the part with faults.
const STORM: Span = Span::from_secs(3 * 3600);
/// Time to settle afterwards: some of the longest back-offs, and full downloads one after the other.
const CALM: Span = Span::from_secs(2 * 3600);

#[allow(clippy::disallowed_methods, reason = "the test, not the domain, is asked for other seeds")]
fn seeds() -> Vec<u64> {
    let Ok(text) = std::env::var("MUSTER_SIMULATION_SEEDS") else {
        return KEPT.iter().copied().chain(SEEDS).collect();
    };
    let (from, to) = text.split_once("..").expect("MUSTER_SIMULATION_SEEDS is FROM..TO");
    (from.parse().expect("FROM is a number")..to.parse().expect("TO is a number")).collect()
}

/// What happened in a run.
fn run(seed: u64, faults: Faults) -> BTreeSet<&'static str> {
    let story = std::panic::catch_unwind(|| {
        let mut world = World::new(seed, 3, faults);
        world.storm_and_calm(STORM, CALM);
        check::converged(&world);
        world.agents.iter().flat_map(|agent| &agent.log).map(kind).collect()
    });
    story.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
        panic!("seed {seed} failed, keep it in KEPT: {said}");
    })
}

fn kind(effect: &Effect) -> &'static str {
    match effect {
        Effect::StopFetch => "a download is stopped",
        Effect::Wish(DownloadWish::Held) => "an allowance is held",
        Effect::Wish(DownloadWish::Done) => "an allowance is given back",
        Effect::Fetch { plan, .. } if plan.pieces.is_empty() => "a content is there already",
        Effect::Note(note) => match note {
            Note::Fetching { .. } => "a download begins",
            Note::Fetched { .. } => "a download ends",
            Note::Applied(_) => "a content is in force",
            Note::NotTried(..) => "a content is not tried",
            Note::Failed(..) => "a content fails",
            Note::Reverted(_, Some(_)) => "the last known good comes back",
            Note::Reverted(_, None) => "nothing is left",
            Note::Removed(_) => "a channel goes away",
            Note::Damaged(_) => "files are damaged",
            Note::Repaired(_) => "files are whole again",
            Note::Delayed { step, .. } => step,
        },
        Effect::Survey { .. }
        | Effect::Fetch { .. }
        | Effect::Limit(_)
        | Effect::Persist { .. }
        | Effect::Switch { .. }
        | Effect::RunHandler { .. }
        | Effect::CheckHealth(_)
        | Effect::Prune { .. }
        | Effect::CheckDrift(_)
        | Effect::Wish(_)
        | Effect::Report(_) => "the rest",
    }
}

#[test]
fn agents_without_faults_get_what_is_assigned() {
    run(0, Faults::NONE);
}

#[test]
fn agents_with_faults_get_what_is_assigned() {
    let seen: BTreeSet<&str> = seeds().into_iter().flat_map(|seed| run(seed, Faults::MANY)).collect();
    let expected = "a channel goes away, a content fails, a content is in force, a content is not tried, a content is \
                    there already, a download begins, a download ends, a download is stopped, an allowance is given \
                    back, an allowance is held, downloading, files are damaged, files are whole again, looking at what \
                    is missing, looking for room on the disk, nothing is left, running the handler, storing the state, \
                    switching, the last known good comes back, the rest";
    assert_eq!(seen.into_iter().collect::<Vec<_>>().join(", "), expected, "all that can happen happened");
}

/// The checks themselves must be able to fail.
fn calm_world() -> World {
    let mut world = World::new(0, 3, Faults::NONE);
    world.storm_and_calm(STORM, CALM);
    check::converged(&world);
    world
}

#[test]
#[should_panic(expected = "is damaged")]
fn damage_that_stays_is_noticed() {
    let mut world = calm_world();
    let item = world.agents[0].disk.active.values().next().expect("something is in force").clone();
    world.agents[0].disk.damaged.insert(item.manifest);
    check::converged(&world);
}

#[test]
#[should_panic(expected = "is switched on in part")]
fn a_switch_to_a_part_is_noticed() {
    let mut world = calm_world();
    let (now, content) = (world.now, disk::Content::new("rules", 1_000, 1));
    let (channel, to) = (content.channel.clone(), Some(content.item(1_000)));
    world.agents[0].act(now, Effect::Switch { channel, to });
}

#[test]
#[should_panic(expected = "is fetched again although it failed")]
fn a_second_try_is_noticed() {
    let mut world = calm_world();
    let now = world.now;
    let (item, _, _) = world.agents[0].told.values().next().expect("something is assigned").clone();
    let item = domain::content::ContentItem { revision: domain::Revision(1_000_000), ..item };
    let other = domain::content::ChannelName::new("other").expect("a valid name");
    let item = domain::content::ContentItem { channel: other, ..item };
    let plan = world.agents[0].disk.plan(&disk::Content::new("other", 1, 1));
    world.agents[0].act(now, Effect::Note(Note::Failed(item.clone(), domain::agent::Reason::new("no"))));
    world.agents[0].act(now, Effect::Fetch { item, plan });
}
