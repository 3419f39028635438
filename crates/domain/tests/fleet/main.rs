//! A fleet in virtual time, with faults: lost, repeated, delayed and reordered messages, agents that die
//! at any step, presence replicas that die, groups that change, agents that move.
//!
//! The machines are the ones that run in agents and in services; only the world around them is made up.
//! Everything follows from the seed, which every failure names.

mod agent;
mod check;
mod presence;
mod random;
mod store;
mod world;

use world::{Faults, World};

/// Seeds that once found a fault. They run first, for ever.
const KEPT: &[u64] = &[57, 103];
/// Seeds of an ordinary run. `MUSTER_SIMULATION_SEEDS=FROM..TO` runs others.
const SEEDS: std::ops::Range<u64> = 1..31;

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
        let mut world = World::new(seed, faults);
        world.storm();
        world.calm();
        check::converged(&world);
    });
    if let Err(panic) = story {
        let said = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
        panic!("seed {seed} failed, keep it in KEPT: {said}");
    }
}

#[test]
fn a_fleet_without_faults_converges() {
    run(0, Faults::NONE);
}

#[test]
fn a_fleet_with_faults_converges() {
    for seed in seeds() {
        run(seed, Faults::MANY);
    }
}

/// The checks themselves must be able to fail.
#[test]
#[should_panic(expected = "was switched on twice")]
fn a_second_activation_is_noticed() {
    let mut world = World::new(0, Faults::NONE);
    world.storm();
    let repeated = *world.agents[0].activations.last().expect("something was switched on");
    world.agents[0].note_activation(repeated);
}

#[test]
#[should_panic(expected = "is not at the head")]
fn a_fleet_that_did_not_converge_is_noticed() {
    let mut world = World::new(0, Faults::NONE);
    world.storm();
    world.publish_unheard();
    check::converged(&world);
}
