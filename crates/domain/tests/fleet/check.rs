//! What must hold when the storm is over.

use domain::agent::Generation;
use domain::presence::{Progress, State};

use crate::world::{LONGEST_INTERVAL, World};

/// Every agent runs the head of its group, or its last known good where the head is one that fails; every
/// replica of presence knows it.
pub(crate) fn converged(world: &World) {
    for (at, agent) in world.agents.iter().enumerate() {
        let group = world.groups[world.home[at]].id.clone();
        let head = &world.heads[world.home[at]];
        let bad = World::is_bad(&head.snapshot);
        let machine = agent.machine.as_ref().expect("every agent is back");
        let active = agent.disk.active.as_ref();
        assert_eq!(machine.placement().map(|p| &p.group), Some(&group), "{} is in its group", agent.id);
        if bad {
            let fine = active.is_none_or(|active| !world.is_bad_generation(active));
            assert!(fine, "{} runs a generation that fails", agent.id);
        } else {
            let reached = active.map(Generation::id);
            assert_eq!(
                reached.as_ref().map(|id| (&id.group, id.cursor)),
                Some((&group, head.snapshot.cursor)),
                "{} is not at the head",
                agent.id
            );
        }
        for (number, replica) in world.replicas.iter().enumerate() {
            let presence = replica.machine.as_ref().expect("every replica is back");
            let view = presence.agent(agent.id.as_str()).expect("every agent is enrolled");
            assert_eq!(view.state, State::Online, "{} as replica {number} sees it", agent.id);
            assert_eq!(view.cursor, machine.active_cursor(), "{} as replica {number} sees it", agent.id);
            let expected = if bad { Progress::Failed } else { Progress::Current };
            assert_eq!(view.progress, expected, "{} as replica {number} sees it: {view:?}", agent.id);
        }
    }
}

/// At any time: whoever was heard within its time is not called offline, and whoever was silent for much
/// longer is.
pub(crate) fn presence_is_true(world: &World) {
    for (number, replica) in world.replicas.iter().enumerate() {
        let Some(presence) = &replica.machine else { continue };
        for (at, agent) in world.agents.iter().enumerate() {
            let Some(view) = presence.agent(agent.id.as_str()) else { continue };
            let Some(heard) = view.heard else { continue };
            let silent = world.now.since(heard);
            let settings = world.settings_known_to(number, view.group);
            let Some((settings, changed)) = settings else { continue };
            if silent < settings.offline_after && changed.max(world.moved_at[at]) < heard {
                assert_ne!(view.state, State::Offline, "{} is called offline after {silent:?}", agent.id);
            }
            let told = changed.max(world.moved_at[at]).max(world.replica_since[number]);
            // A slot promised under earlier settings may lie up to one and a half of the longest intervals
            // ahead; one more second for the tick.
            let sure = settings.offline_after.0 + 2 * LONGEST_INTERVAL.0 + 1_000;
            // Counted from the last thing the replica was told: it acts on it with its next tick.
            if world.now.since(heard.max(told)).0 > sure && view.state != State::NeverSeen {
                assert_eq!(view.state, State::Offline, "{} is silent for {silent:?}", agent.id);
            }
        }
    }
}
