//! Questions about the fleet.
//!
//! Counts are kept up to date with every change, for each group by state, mode, snapshot reached, snapshot
//! failed and version; so a total costs one look at each combination that exists (a handful a group), never
//! one at each agent. Pages walk agents in order of id and look at no more than [`MAX_EXAMINED`].

use super::groups::{Cells, Group, Reach, Tally, cell};
use super::status::{Labels, Status};
use super::{Presence, State};
use crate::content::ContentStatus;
use crate::id::{AgentId, GroupId};
use crate::path::GroupPath;
use crate::revision::{Cursor, Revision};
use crate::settings::Mode;
use crate::time::{Span, Timestamp};

/// Agents one [`Presence::list`] looks at: two milliseconds at most, so that a rare match in a large fleet
/// does not hold up heartbeats. The page then ends early and says where to go on.
pub const MAX_EXAMINED: usize = 16_384;

/// Where an agent stands against the head of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// It runs the head.
    Current,
    /// It has not reached the head yet, or obeys an older assignment still.
    Pending,
    /// The head failed on it.
    Failed,
}

/// Which groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// All.
    #[default]
    Fleet,
    /// One group without those below it.
    Only(GroupId),
    /// One group and those below it.
    Within(GroupId),
}

/// Which agents; what is empty excludes nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// In these groups.
    pub scope: Scope,
    /// In one of these states.
    pub states: Vec<State>,
    /// In this mode: as reported, or that of the group for those that never did.
    pub mode: Option<Mode>,
    /// At this progress.
    pub progress: Option<Progress>,
    /// Running exactly this revision.
    pub revision: Option<Revision>,
    /// Of this version.
    pub version: Option<Box<str>>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its group.
    pub group: &'a GroupId,
    /// Where the group stands; `None` while it has no snapshot.
    pub path: Option<&'a GroupPath>,
    /// Whether it is there.
    pub state: State,
    /// As reported, or that of the group.
    pub mode: Mode,
    /// Snapshot in force.
    pub cursor: Cursor,
    /// Newest snapshot of its group; [`Cursor::NONE`] for none.
    pub head: Cursor,
    /// Where it stands.
    pub progress: Progress,
    /// Last sign of life.
    pub heard: Option<Timestamp>,
    /// Time between its heartbeats.
    pub interval: Span,
    /// Its version; empty if unknown.
    pub version: &'a str,
    /// Its host name; empty if unknown.
    pub hostname: &'a str,
    /// Labels given at join.
    pub labels: Option<&'a Labels>,
    /// Its last known status.
    pub status: Option<&'a Status>,
    /// Its last known content, in order of channel.
    pub content: Vec<&'a ContentStatus>,
    /// Whether two machines seem to use this identity.
    pub duplicate_suspected: bool,
}

/// Some agents, in order of id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<'a> {
    /// The agents.
    pub agents: Vec<AgentView<'a>>,
    /// Go on after this one; `None` after the last page. A page may be short, even empty, and not the last.
    pub next: Option<AgentId>,
}

/// Numbers of agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// By state, in the order of [`State::ALL`].
    pub states: [u64; 4],
    /// At the head.
    pub current: u64,
    /// Not at the head yet.
    pub pending: u64,
    /// The head failed on them.
    pub failed: u64,
    /// Online and not at the head yet.
    pub online_pending: u64,
    /// Online, and the head failed on them.
    pub online_failed: u64,
    /// Late and not at the head yet.
    pub late_pending: u64,
    /// Late, and the head failed on them.
    pub late_failed: u64,
}

/// One group at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView<'a> {
    /// Its id.
    pub id: &'a GroupId,
    /// Where it stands; `None` while it has no snapshot.
    pub path: Option<&'a GroupPath>,
    /// Its newest snapshot; [`Cursor::NONE`] for none.
    pub head: Cursor,
    /// Mode in force.
    pub mode: Mode,
    /// Its agents.
    pub counts: Counts,
}

/// A set of groups at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary<'a> {
    /// All agents.
    pub all: Counts,
    /// Those in pull mode.
    pub pull: Counts,
    /// Those in push mode.
    pub push: Counts,
    /// Groups that have agents, in order of path.
    pub groups: Vec<GroupView<'a>>,
}

impl Counts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.states.iter().sum()
    }

    fn add(&mut self, state: State, progress: Progress, agents: u32) {
        let agents = u64::from(agents);
        self.states[state as usize] += agents;
        let (online, late) = match state {
            State::Online => (agents, 0),
            State::Late => (0, agents),
            State::NeverSeen | State::Offline => (0, 0),
        };
        match progress {
            Progress::Current => self.current += agents,
            Progress::Pending => {
                self.pending += agents;
                self.online_pending += online;
                self.late_pending += late;
            }
            Progress::Failed => {
                self.failed += agents;
                self.online_failed += online;
                self.late_failed += late;
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        for (sum, part) in self.states.iter_mut().zip(other.states) {
            *sum += part;
        }
        self.current += other.current;
        self.pending += other.pending;
        self.failed += other.failed;
        self.online_pending += other.online_pending;
        self.online_failed += other.online_failed;
        self.late_pending += other.late_pending;
        self.late_failed += other.late_failed;
    }
}

/// A scope worked out: `None` for all groups, else a mark for each group in it.
pub(super) type Marks = Option<Vec<bool>>;

pub(super) fn marked(marks: &Marks, group: u32) -> bool {
    marks.as_ref().is_none_or(|marks| marks.get(group as usize) == Some(&true))
}

fn progress(reach: &Reach, head: Option<Cursor>) -> Progress {
    let Some(head) = head.filter(|_| !reach.moving) else { return Progress::Pending };
    if reach.failed_at != Cursor::NONE && reach.failed_at >= head {
        Progress::Failed
    } else if reach.cursor >= head {
        Progress::Current
    } else {
        Progress::Pending
    }
}

impl Presence {
    /// Number of enrolled agents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no agent is enrolled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ids of all enrolled agents, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.table.after(None).map(|at| self.table.get(at).id())
    }

    /// Ids of all groups that have a snapshot, in order.
    pub fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.groups.iter().filter(|(_, group)| group.path.is_some()).map(|(_, group)| &group.id)
    }

    /// Finds a group by path (if `text` starts with `/`) or by id.
    #[must_use]
    pub fn find_group(&self, text: &str) -> Option<(&GroupId, Option<&GroupPath>)> {
        let found = if text.starts_with('/') {
            self.groups
                .iter()
                .find(|(_, group)| group.path.as_ref().is_some_and(|path| path.as_str() == text))?
                .1
        } else {
            self.groups.get(self.groups.find(&GroupId::new(text).ok()?)?)
        };
        Some((&found.id, found.path.as_ref()))
    }

    /// Where a group stands; `None` if it is unknown or has no snapshot.
    #[must_use]
    pub fn path(&self, group: &GroupId) -> Option<&GroupPath> {
        self.groups.get(self.groups.find(group)?).path.as_ref()
    }

    /// Newest snapshot of a group; `None` if it has none.
    #[must_use]
    pub fn head(&self, group: &GroupId) -> Option<Cursor> {
        self.groups.get(self.groups.find(group)?).head
    }

    /// One agent.
    #[must_use]
    pub fn agent(&self, id: &str) -> Option<AgentView<'_>> {
        self.table.find(id).map(|at| self.view(at))
    }

    /// The mode that an agent runs in: as it says, else as its group has it.
    #[must_use]
    pub fn mode(&self, id: &str) -> Option<Mode> {
        let agent = self.table.get(self.table.find(id)?);
        Some(agent.mode.unwrap_or_else(|| self.groups.get(agent.group).settings.mode))
    }

    /// Whether an agent matches.
    #[must_use]
    pub fn selects(&self, filter: &Filter, agent: &str) -> bool {
        let Some(at) = self.table.find(agent) else { return false };
        let tally = self.groups.tally(self.table.get(at));
        self.covers(&filter.scope, self.groups.get(tally.group)) && self.matches(filter, &tally)
    }

    /// Whether a group lies in a scope.
    #[must_use]
    pub fn covers_group(&self, scope: &Scope, group: &GroupId) -> bool {
        self.groups.find(group).is_some_and(|at| self.covers(scope, self.groups.get(at)))
    }

    fn covers(&self, scope: &Scope, group: &Group) -> bool {
        match scope {
            Scope::Fleet => true,
            Scope::Only(id) => group.id == *id,
            Scope::Within(id) => {
                let top = self.groups.find(id).and_then(|top| self.groups.get(top).path.as_ref());
                let below = top.zip(group.path.as_ref()).is_some_and(|(top, path)| path.is_within(top));
                group.id == *id || below
            }
        }
    }

    /// At most `limit` agents that match, from the first one after `after`.
    #[must_use]
    pub fn list(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page<'_> {
        let marks = self.marks(&filter.scope);
        let mut agents = Vec::new();
        let mut last = None;
        for (examined, at) in self.candidates(&marks, after).enumerate() {
            if examined == MAX_EXAMINED || agents.len() == limit {
                let next =
                    last.map(|at| AgentId::new(self.table.get(at).id()).expect("invariant: ids are checked"));
                return Page { agents, next };
            }
            last = Some(at);
            let tally = self.groups.tally(self.table.get(at));
            if marked(&marks, tally.group) && self.matches(filter, &tally) {
                agents.push(self.view(at));
            }
        }
        Page { agents, next: None }
    }

    /// Agents after `after` in order of id: the members of the marked groups if they are few, else all.
    fn candidates<'a>(&'a self, marks: &Marks, after: Option<&'a str>) -> Box<dyn Iterator<Item = u32> + 'a> {
        let groups = || self.groups.iter().filter(|(at, _)| marked(marks, *at));
        let size: usize = groups().map(|(_, group)| group.size as usize).sum();
        if marks.is_none() || size > MAX_EXAMINED {
            return Box::new(self.table.after(after));
        }
        let mut members: Vec<u32> = groups()
            .flat_map(|(at, _)| self.groups.members(&self.table, at))
            .filter(|&at| after.is_none_or(|after| self.table.get(at).id() > after))
            .collect();
        members.sort_unstable_by_key(|&at| self.table.get(at).id());
        Box::new(members.into_iter())
    }

    /// How many agents match.
    #[must_use]
    pub fn count(&self, filter: &Filter) -> u64 {
        let marks = self.marks(&filter.scope);
        let mut total = 0;
        for (group, entry) in self.groups.iter().filter(|(at, _)| marked(&marks, *at)) {
            for (&reach, cells) in &entry.counts {
                each_cell(cells, |state, mode, agents| {
                    if self.matches(filter, &Tally { group, reach, state, mode }) {
                        total += u64::from(agents);
                    }
                });
            }
        }
        total
    }

    /// The groups of a scope at a glance.
    #[must_use]
    pub fn summary(&self, scope: &Scope) -> Summary<'_> {
        let marks = self.marks(scope);
        let (mut pull, mut push) = (Counts::default(), Counts::default());
        let mut groups = Vec::new();
        for (_, group) in self.groups.iter().filter(|(at, group)| group.size > 0 && marked(&marks, *at)) {
            let mut by_mode = [Counts::default(); 2];
            for (reach, cells) in &group.counts {
                let progress = progress(reach, group.head);
                each_cell(cells, |state, mode, agents| by_mode[mode as usize].add(state, progress, agents));
            }
            let mut counts = by_mode[Mode::Pull as usize];
            counts.merge(&by_mode[Mode::Push as usize]);
            pull.merge(&by_mode[Mode::Pull as usize]);
            push.merge(&by_mode[Mode::Push as usize]);
            groups.push(group_view(group, counts));
        }
        groups.sort_unstable_by_key(|group| (group.path, group.id));
        let mut all = pull;
        all.merge(&push);
        Summary { all, pull, push, groups }
    }

    pub(super) fn marks(&self, scope: &Scope) -> Marks {
        if *scope == Scope::Fleet {
            return None;
        }
        let mut marks = Vec::new();
        for (at, _) in self.groups.iter().filter(|(_, group)| self.covers(scope, group)) {
            marks.resize(marks.len().max(at as usize + 1), false);
            marks[at as usize] = true;
        }
        Some(marks)
    }

    fn matches(&self, filter: &Filter, tally: &Tally) -> bool {
        let Filter { scope: _, states, mode, progress: wanted, revision, version } = filter;
        let head = self.groups.get(tally.group).head;
        (states.is_empty() || states.contains(&tally.state))
            && mode.is_none_or(|mode| mode == tally.mode)
            && wanted.is_none_or(|wanted| wanted == progress(&tally.reach, head))
            && revision.is_none_or(|revision| revision == tally.reach.cursor.revision)
            && version.as_ref().is_none_or(|version| self.versions.get(tally.reach.version) == Some(version))
    }

    fn view(&self, at: u32) -> AgentView<'_> {
        let agent = self.table.get(at);
        let group = self.groups.get(agent.group);
        let tally = self.groups.tally(agent);
        AgentView {
            id: agent.id(),
            group: &group.id,
            path: group.path.as_ref(),
            state: agent.state,
            mode: tally.mode,
            cursor: agent.cursor,
            head: group.head.unwrap_or_default(),
            progress: progress(&tally.reach, group.head),
            heard: (agent.heard.0 != 0).then_some(agent.heard),
            interval: group.settings.heartbeat_interval,
            version: self.versions.get(agent.version).map_or("", |version| version),
            hostname: agent.hostname(),
            labels: self.labels.get(agent.labels),
            status: self.statuses.get(agent.status),
            content: self.contents.states(agent.content).collect(),
            duplicate_suspected: agent.is_duplicated(),
        }
    }
}

fn group_view(group: &Group, counts: Counts) -> GroupView<'_> {
    GroupView {
        id: &group.id,
        path: group.path.as_ref(),
        head: group.head.unwrap_or_default(),
        mode: group.settings.mode,
        counts,
    }
}

/// Calls `take` for each state and mode that has agents.
fn each_cell(cells: &Cells, mut take: impl FnMut(State, Mode, u32)) {
    for state in State::ALL {
        for mode in [Mode::Pull, Mode::Push] {
            let agents = cells[cell(state, mode)];
            if agents > 0 {
                take(state, mode, agents);
            }
        }
    }
}
