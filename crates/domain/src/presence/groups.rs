//! Groups: settings and head of each, its members, and its agents counted.

use std::collections::BTreeMap;

use super::State;
use super::intern::Handle;
use super::table::{Agent, Chain, NIL, Table};
use crate::id::GroupId;
use crate::path::GroupPath;
use crate::revision::Cursor;
use crate::settings::{Mode, Settings, SettingsOverlay};

/// What agents are counted by within a group, beside state and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reach {
    pub(super) cursor: Cursor,
    pub(super) failed_at: Cursor,
    pub(super) version: Handle,
    /// Still obeys an older assignment.
    pub(super) moving: bool,
}

/// Where one agent counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) group: u32,
    pub(super) reach: Reach,
    pub(super) state: State,
    pub(super) mode: Mode,
}

impl Tally {
    fn cell(&self) -> usize {
        cell(self.state, self.mode)
    }
}

/// Numbers of agents by state and mode; indexed by [`cell`].
pub(super) type Cells = [u32; 8];

/// Place of a state and a mode in [`Cells`].
pub(super) fn cell(state: State, mode: Mode) -> usize {
    state as usize * 2 + mode as usize
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: GroupId,
    /// `None` while only agents speak of the group.
    pub(super) path: Option<GroupPath>,
    pub(super) settings: Settings,
    pub(super) head: Option<Cursor>,
    first: u32,
    pub(super) size: u32,
    pub(super) counts: BTreeMap<Reach, Cells>,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    slots: Vec<Group>,
    free: Vec<u32>,
    index: BTreeMap<GroupId, u32>,
}

impl Groups {
    pub(super) fn find(&self, id: &GroupId) -> Option<u32> {
        self.index.get(id).copied()
    }

    pub(super) fn get(&self, at: u32) -> &Group {
        &self.slots[at as usize]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Group {
        &mut self.slots[at as usize]
    }

    /// All groups, in order of id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Group)> {
        self.index.values().map(|&at| (at, self.get(at)))
    }

    /// The group of that id; made, with the default settings and without a head, if it is new.
    pub(super) fn ensure(&mut self, id: &GroupId) -> u32 {
        if let Some(at) = self.find(id) {
            return at;
        }
        let settings = SettingsOverlay::default().effective().expect("invariant: the defaults are in bounds");
        let counts = BTreeMap::new();
        let group = Group { id: id.clone(), path: None, settings, head: None, first: NIL, size: 0, counts };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = group;
                at
            }
            None => {
                self.slots.push(group);
                u32::try_from(self.slots.len() - 1).expect("invariant: fewer than 2^32 groups fit in memory")
            }
        };
        self.index.insert(id.clone(), at);
        at
    }

    /// Forgets a group that neither has a place in the tree nor members.
    pub(super) fn forget_if_empty(&mut self, at: u32) {
        let group = self.get(at);
        if group.path.is_none() && group.size == 0 && self.index.remove(&group.id.clone()).is_some() {
            self.free.push(at);
        }
    }

    /// Where the agent counts now.
    pub(super) fn tally(&self, agent: &Agent) -> Tally {
        Tally {
            group: agent.group,
            reach: Reach {
                cursor: agent.cursor,
                failed_at: agent.failed_at,
                version: agent.version,
                moving: agent.moving(),
            },
            state: agent.state,
            mode: agent.mode.unwrap_or(self.get(agent.group).settings.mode),
        }
    }

    /// Counts an agent in.
    pub(super) fn count(&mut self, tally: Tally) {
        self.get_mut(tally.group).counts.entry(tally.reach).or_default()[tally.cell()] += 1;
    }

    /// Counts an agent out.
    pub(super) fn uncount(&mut self, tally: Tally) {
        let counts = &mut self.get_mut(tally.group).counts;
        let cells = counts.get_mut(&tally.reach).expect("invariant: an agent is counted where it stands");
        cells[tally.cell()] -= 1;
        if *cells == Cells::default() {
            counts.remove(&tally.reach);
        }
    }

    /// Adds the agent, which names this group already, to its members.
    pub(super) fn join(&mut self, table: &mut Table, at: u32) {
        let group = self.get_mut(table.get(at).group);
        group.first = table.push(Chain::Members, group.first, at);
        group.size += 1;
        let tally = self.tally(table.get(at));
        self.count(tally);
    }

    /// Takes the agent out of its group's members.
    pub(super) fn leave(&mut self, table: &mut Table, at: u32) {
        let tally = self.tally(table.get(at));
        self.uncount(tally);
        let group = self.get_mut(tally.group);
        group.first = table.unlink(Chain::Members, group.first, at);
        group.size -= 1;
        self.forget_if_empty(tally.group);
    }

    /// Members of a group, the newest first.
    pub(super) fn members<'a>(&'a self, table: &'a Table, group: u32) -> impl Iterator<Item = u32> + 'a {
        let first = Some(self.get(group).first).filter(|&at| at != NIL);
        std::iter::successors(first, |&at| Some(table.next(Chain::Members, at)).filter(|&next| next != NIL))
    }
}
