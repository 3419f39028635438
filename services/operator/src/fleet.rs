//! What there is in the fleet, as the API tells it.

use std::collections::BTreeMap;

use wire::api::v1;
use wire::api::v1::content_reference::Which;

use crate::status::Agents;

/// The fleet at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fleet {
    pub(crate) kinds: BTreeMap<String, v1::Kind>,
    pub(crate) policies: BTreeMap<String, v1::Policy>,
    /// By name.
    pub(crate) groups: BTreeMap<String, v1::Group>,
    /// By channel and stage.
    pub(crate) stages: BTreeMap<(String, String), Stage>,
    pub(crate) tokens: BTreeMap<String, v1::Token>,
    /// How the agents of each group itself stand, by path. Groups without agents are absent.
    pub(crate) counts: BTreeMap<String, v1::AgentCounts>,
    /// How far the content of channels has got.
    pub(crate) content: BTreeMap<String, v1::ContentStatus>,
}

/// What a stage names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) revision: u32,
    pub(crate) manager: String,
    /// Revision of the store that last changed the channel.
    pub(crate) store_revision: u64,
}

/// Agents that do not run the head of their group and are waited for: online ones, and late ones, which are thought to be
/// there until they are offline.
fn behind(counts: &v1::AgentCounts) -> u64 {
    counts.online_pending + counts.online_failed + counts.late_pending + counts.late_failed
}

/// Whether `path` is `top` or below it.
fn is_within(path: &str, top: &str) -> bool {
    top == "/" || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Fleet {
    /// Agents of these groups and those below them, each counted once.
    pub(crate) fn agents<'a>(&self, tops: impl IntoIterator<Item = &'a str>) -> Agents {
        let tops: Vec<&str> = tops.into_iter().collect();
        let within = self.counts.iter().filter(|(path, _)| tops.iter().any(|top| is_within(path, top)));
        within.fold(Agents::default(), |sum, (_, counts)| Agents {
            total: sum.total + counts.total,
            at_revision: sum.at_revision + counts.current,
            failed: sum.failed + counts.failed,
            lacking: sum.lacking + behind(counts),
        })
    }

    /// Agents that should have a policy.
    pub(crate) fn agents_of_policy(&self, name: &str) -> Agents {
        let groups = self.policies.get(name).map(|policy| policy.groups.as_slice()).unwrap_or_default();
        self.agents(groups.iter().map(String::as_str))
    }

    /// Agents that follow a stage. They have what it names when they run the head of their group, which says so, and the
    /// content is in force.
    pub(crate) fn agents_of_stage(&self, channel: &str, stage: &str, revision: u32) -> Agents {
        let follows = |content: &v1::EffectiveContent| {
            let reference = content.reference.as_ref();
            reference
                .is_some_and(|it| it.channel == channel && it.which == Some(Which::Stage(stage.to_owned())))
        };
        let groups = self.groups.values().filter(|group| group.effective_content.iter().any(follows));
        let itself = groups.filter_map(|group| self.counts.get(&group.path));
        let (mut before, mut at_head, mut all) = (0, 0, Agents::default());
        for counts in itself {
            let behind = behind(counts);
            before += behind;
            at_head += (counts.online + counts.late).saturating_sub(behind);
            all.total += counts.total;
        }
        let of_revision = |status: &v1::ContentStatus| {
            status.revisions.iter().find(|it| it.revision == revision).copied().unwrap_or_default()
        };
        let content = self.content.get(channel).map(of_revision).unwrap_or_default();
        all.at_revision = content.active.min(all.total);
        all.failed = content.failed;
        // Who runs the head wants it, though another answer may not know of that yet.
        let lacking = content.wanted.max(at_head).saturating_sub(content.active);
        Agents { lacking: before + lacking, ..all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(total: u64, current: u64, online_pending: u64) -> v1::AgentCounts {
        v1::AgentCounts {
            total,
            current,
            online_pending,
            online: total,
            pending: total - current,
            ..v1::AgentCounts::default()
        }
    }

    /// The same agents, once their heartbeats are overdue.
    fn late(counts: v1::AgentCounts) -> v1::AgentCounts {
        v1::AgentCounts {
            online: 0,
            late: counts.online,
            online_pending: 0,
            late_pending: counts.online_pending,
            online_failed: 0,
            late_failed: counts.online_failed,
            ..counts
        }
    }

    #[test]
    fn agents_are_counted_once() {
        let mut fleet = Fleet::default();
        for (path, all) in [("/a", counts(1, 1, 0)), ("/a/b", counts(2, 1, 1)), ("/ab", counts(4, 4, 0))] {
            fleet.counts.insert(path.into(), all);
        }
        let policy = v1::Policy { groups: vec!["/a".into(), "/a/b".into()], ..v1::Policy::default() };
        fleet.policies.insert("p".into(), policy);
        let seen = |agents: Agents| (agents.total, agents.at_revision, agents.lacking);
        assert_eq!(seen(fleet.agents_of_policy("p")), (3, 2, 1));
        assert_eq!(seen(fleet.agents(["/"])), (7, 6, 1));
        assert_eq!(seen(fleet.agents_of_policy("q")), (0, 0, 0));
    }

    #[test]
    fn who_turns_late_is_still_waited_for() {
        let check = |counts: v1::AgentCounts, expected: u64| {
            let fleet = Fleet { counts: [("/a".to_owned(), counts)].into(), ..Fleet::default() };
            assert_eq!(fleet.agents(["/"]).lacking, expected, "{counts:?}");
        };
        check(late(counts(3, 3, 0)), 0);
        check(late(counts(3, 1, 2)), 2);
        check(late(v1::AgentCounts { online_failed: 1, ..counts(3, 1, 1) }), 2);
        // Offline ones, and those that never came, are not.
        check(v1::AgentCounts { total: 3, offline: 2, never_seen: 1, pending: 3, ..Default::default() }, 0);
    }

    #[test]
    fn content_is_there_when_the_heads_are_and_it_is_in_force() {
        let mut fleet = Fleet::default();
        let which = Some(Which::Stage("stable".into()));
        let reference = Some(v1::ContentReference { channel: "ips".into(), which });
        let group = v1::Group {
            path: "/a".into(),
            effective_content: vec![v1::EffectiveContent { reference, ..v1::EffectiveContent::default() }],
            ..v1::Group::default()
        };
        fleet.groups.insert("a".into(), group);
        let mut check = |pending: u64, wanted: u64, active: u64, expected: (u64, u64, u64)| {
            let revision = v1::ContentRevisionStatus { revision: 3, wanted, active, ..Default::default() };
            let status = v1::ContentStatus { revisions: vec![revision], ..Default::default() };
            fleet.content.insert("ips".into(), status);
            let online = counts(2, 2 - pending, pending);
            for counts in [online, late(online)] {
                fleet.counts.insert("/a".into(), counts);
                let agents = fleet.agents_of_stage("ips", "stable", 3);
                assert_eq!((agents.total, agents.at_revision, agents.lacking), expected, "{counts:?}");
            }
        };
        // Nobody has heard of it yet.
        check(2, 0, 0, (2, 0, 2));
        // Both run the head, and what they said of content is not known yet.
        check(0, 0, 0, (2, 0, 2));
        // One downloads.
        check(0, 2, 1, (2, 1, 1));
        check(0, 2, 2, (2, 2, 0));
    }
}
