//! From what the domain works with to messages of the API.

use std::collections::{BTreeMap, BTreeSet};

use domain::access::{Reach, Sight};
use domain::catalog::{Catalog, Channel, ContentUser, StoredRevision};
use domain::content::{ChannelName, ContentRevision};
use domain::{GroupId, GroupPath};
use wire::api::v1;
use wire::time::{to_duration, to_timestamp};

/// Most groups that are named; beyond, the number of agents says enough.
const MAX_GROUPS: usize = 100;

/// Which of a channel's revisions to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// The newest and those that stages name.
    Named,
    /// All of them.
    All,
}

/// A revision for those who reach the whole fleet.
pub(super) fn revision(catalog: &Catalog, revision: &StoredRevision) -> v1::Revision {
    revision_to(&Reach::Everywhere.sight(catalog), catalog, revision)
}

/// A revision, with the groups that the caller is told of.
pub(super) fn revision_to(sight: &Sight<'_>, catalog: &Catalog, revision: &StoredRevision) -> v1::Revision {
    let (mut stages, mut groups) = (Vec::new(), Vec::new());
    for user in catalog.content_users(&revision.channel, revision.number) {
        match user {
            ContentUser::Pin => {}
            ContentUser::Stage(stage) => stages.push(stage.to_string()),
            ContentUser::Group(path) if sight.names(&path) => groups.push(path.to_string()),
            ContentUser::Group(_) => {}
        }
    }
    groups.sort();
    groups.truncate(MAX_GROUPS);
    v1::Revision {
        channel: revision.channel.to_string(),
        revision: revision.number.0,
        label: revision.label.as_str().to_owned(),
        note: revision.note.as_str().to_owned(),
        created_at: Some(to_timestamp(revision.created_at)),
        bytes: revision.content_bytes,
        files: revision.files,
        digest: revision.digest.0.to_vec(),
        manifest: revision.manifest.0.to_vec(),
        manifest_bytes: revision.manifest_bytes,
        pinned: revision.pinned,
        stages,
        groups,
    }
}

/// A channel, with the groups that the caller is told of. `agents` are those that follow each.
pub(super) fn channel(
    sight: &Sight<'_>,
    catalog: &Catalog,
    (channel, agents): (&Channel, &BTreeMap<ChannelName, u64>),
    detail: Detail,
) -> v1::Channel {
    let stages = channel.stages.iter().map(|(name, stage)| v1::Stage {
        name: name.to_string(),
        revision: stage.revision.unwrap_or_default().0,
        previous: stage.previous.iter().map(|number| number.0).collect(),
        manager: stage.manager.as_ref().map(ToString::to_string).unwrap_or_default(),
    });
    let named: BTreeSet<ContentRevision> =
        channel.stages.values().filter_map(|stage| stage.revision).collect();
    let newest_first = catalog.content_revisions(&channel.name).rev().enumerate();
    let shown = newest_first
        .filter(|(at, it)| detail == Detail::All || *at == 0 || named.contains(&it.value.number))
        .map(|(_, it)| revision_to(sight, catalog, &it.value));
    let followers = catalog.followers(&channel.name).map(|group| &group.value.path);
    let mut groups: Vec<String> =
        followers.filter(|path| sight.names(path)).map(ToString::to_string).collect();
    groups.sort();
    groups.truncate(MAX_GROUPS);
    v1::Channel {
        name: channel.name.to_string(),
        stages: stages.collect(),
        revisions: shown.collect(),
        keep_revisions: channel.keep_revisions.unwrap_or_default(),
        keep_for: channel.keep_for.map(to_duration),
        groups,
        agents: agents.get(&channel.name).copied().unwrap_or(0),
        store_revision: catalog.channel(&channel.name).map_or(0, |channel| channel.revision.0),
    }
}

/// How many agents within reach follow each channel, because their group or one above it assigns it.
pub(super) fn followers(
    catalog: &Catalog,
    reach: &Reach,
    agents: &BTreeMap<GroupId, u64>,
) -> BTreeMap<ChannelName, u64> {
    let mut followers = BTreeMap::new();
    for (group, agents) in agents {
        let Some(group) = catalog.group(group) else { continue };
        if !reach.holds(catalog, &group.value.path) {
            continue;
        }
        let line = std::iter::successors(Some(group.value.path.clone()), GroupPath::parent);
        let channels: BTreeSet<ChannelName> = line
            .filter_map(|path| catalog.group_at(&path))
            .flat_map(|group| group.value.content.keys().cloned())
            .collect();
        for channel in channels {
            *followers.entry(channel).or_default() += agents;
        }
    }
    followers
}

#[cfg(test)]
mod tests {
    use domain::Revision;
    use domain::catalog::{Entry, Group};
    use domain::content::ContentPointer;

    use super::*;

    #[test]
    fn agents_follow_what_their_group_or_one_above_it_assigns() {
        let group = |id: &str, path: &str, channels: &[&str]| {
            let mut group = Group::new(GroupId::new(id).unwrap(), GroupPath::new(path).unwrap());
            for channel in channels {
                let pointer = ContentPointer::Revision(ContentRevision(1));
                group.content.insert(ChannelName::new(channel).unwrap(), pointer);
            }
            Entry::Group(group.into())
        };
        let mut catalog = Catalog::new();
        let groups = [
            group("root", "/", &["all"]),
            group("a", "/a", &["a", "all"]),
            group("ab", "/a/b", &["b"]),
            group("c", "/c", &[]),
        ];
        catalog.fold(groups, Revision(4));
        let agents = [("a", 1), ("ab", 10), ("c", 100), ("gone", 1000)];
        let agents = agents.map(|(id, count)| (GroupId::new(id).unwrap(), count)).into();
        let check = |reach: Reach, expected: &str| {
            let followers = followers(&catalog, &reach, &agents);
            let followers: Vec<String> =
                followers.iter().map(|(name, count)| format!("{name} {count}")).collect();
            assert_eq!(followers.join(", "), expected);
        };
        check(Reach::Everywhere, "a 11, all 111, b 10");
        check(Reach::Under(GroupId::new("ab").unwrap()), "a 10, all 10, b 10");
        check(Reach::Under(GroupId::new("gone").unwrap()), "");
    }
}
