//! Content: roads walked with real bytes, stories of one agent, and agents in virtual time with faults: a network,
//! disks and handlers that fail, agents that die at any step, contents that are no good, and assignments that
//! change all the time.
//!
//! The machines are the ones that run in agents and in services; only the world around them is made up. Everything
//! follows from the seed, which every failure names.

mod agent;
mod check;
mod disk;
mod random;
mod roads;
mod stories;
mod world;

use domain::Span;
use world::{Faults, World};

/// Seeds that once found a fault. They run first, for ever.
const KEPT: &[u64] = &[36, 42];
/// Seeds of an ordinary run. `MUSTER_SIMULATION_SEEDS=FROM..TO` runs others.
const SEEDS: std::ops::Range<u64> = 1..31;
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

fn run(seed: u64, faults: Faults) {
    let story = std::panic::catch_unwind(|| {
        let mut world = World::new(seed, 3, faults);
        world.storm_and_calm(STORM, CALM);
        check::converged(&world);
    });
    if let Err(panic) = story {
        let said = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
        panic!("seed {seed} failed, keep it in KEPT: {said}");
    }
}

#[test]
fn agents_without_faults_get_what_is_assigned() {
    run(0, Faults::NONE);
}

#[test]
fn agents_with_faults_get_what_is_assigned() {
    for seed in seeds() {
        run(seed, Faults::MANY);
    }
}
