//! What must hold when the storm is over.

use std::collections::BTreeMap;

use domain::Digest;
use domain::agent::ItemState;
use domain::content::{ChannelName, ContentItem, DownloadWish};

use crate::disk::Nature;
use crate::world::World;

/// Every agent has what is assigned, or its last known good where that is no good, and nothing else.
pub(crate) fn converged(world: &World) {
    for agent in &world.agents {
        let id = &agent.id;
        let machine = agent.machine.as_ref().expect("every agent is back");
        let (disk, durable) = (&agent.disk, machine.durable());
        assert_eq!(disk.durable, *durable, "{id}: what it knows is durable");
        let manifests = |active: &BTreeMap<ChannelName, ContentItem>| -> Vec<Digest> {
            active.values().map(|item| item.manifest).collect()
        };
        assert_eq!(manifests(&disk.active), manifests(machine.active()), "{id}: it knows what is in force");
        assert!(agent.running.is_none(), "{id}: {:?} still runs", agent.running);
        assert_eq!(agent.wish, DownloadWish::Nothing, "{id}");
        for channel in disk.active.keys() {
            assert!(world.assigned.contains_key(channel), "{id}: {channel} is in force and not assigned");
        }
        assert!(durable.channels.keys().all(|channel| world.assigned.contains_key(channel)), "{id}");
        assert!(agent.reported.iter().map(|status| &status.channel).eq(world.assigned.keys()), "{id}");
        for (item, status) in world.assigned.values().zip(&agent.reported) {
            let nature = world.content(&item.manifest).nature;
            let active = machine.active().get(&item.channel);
            let good = durable.good(&item.channel).map(|good| &good.item);
            assert_eq!(active.map(|it| it.manifest), good.map(|it| it.manifest), "{id}: {item:?}");
            assert!(active.is_none_or(|it| disk.is_whole(&it.manifest)), "{id}: {item:?} is damaged");
            assert_eq!((status.wanted, status.revision), (item.number, item.revision), "{id}");
            assert_eq!(status.active, active.map_or_else(Default::default, |it| it.number), "{id}");
            if nature == Nature::Good {
                assert_eq!(active, Some(item), "{id}: {status:?}");
                assert_eq!(good, Some(item), "{id}");
                assert_eq!(
                    (status.state, status.percent, &*status.reason),
                    (ItemState::Healthy, 100, ""),
                    "{id}"
                );
            } else {
                assert_ne!(active.map(|it| it.manifest), Some(item.manifest), "{id}: {nature:?} is in force");
                assert_eq!(status.state, ItemState::Failed, "{id}: {status:?}");
                assert!(!status.reason.is_empty(), "{id}");
            }
        }
        let previous = durable.channels.values().filter_map(|state| state.previous.as_ref());
        let kept: Vec<Digest> = disk.active.values().chain(previous).map(|item| item.manifest).collect();
        assert!(
            disk.trees.iter().all(|tree| kept.contains(tree)),
            "{id}: contents lie about: {:?}",
            disk.trees
        );
        assert!(disk.drafts.keys().all(|draft| disk.trees.contains(draft)), "{id}: drafts lie about");
    }
}
