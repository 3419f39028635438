//! What survives a restart.

use super::status::{Beat, Report};
use super::{Presence, State, slots};
use crate::time::Timestamp;

/// What was known of one agent at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Last sign of life; 0 for none.
    pub heard: Timestamp,
    /// State at that moment.
    pub state: State,
    /// Its last heartbeat, with the last known status if that was known in full.
    pub beat: Beat,
}

impl Presence {
    /// Takes over what was known of an agent before a restart. Only of agents that are enrolled and have
    /// not been heard since; anything else is left alone. No event comes of it, and deadlines count from
    /// the moment this machine began to listen: nobody falls because of the time in between.
    pub fn restore(&mut self, id: &str, remembered: Remembered) {
        let Some(at) = self.table.find(id) else { return };
        if self.table.get(at).heard.0 != 0 || remembered.heard.0 == 0 {
            return;
        }
        self.groups.uncount(self.groups.tally(self.table.get(at)));
        let Remembered { heard, state, beat } = remembered;
        let known = beat.report.is_some();
        let mut content = Vec::new();
        if let Some(mut report) = beat.report {
            content = std::mem::take(&mut report.content);
            self.note_status(at, beat.cursor, report);
        }
        let listening_since = self.listening_since;
        let interval = self.groups.get(self.table.get(at).group).settings.heartbeat_interval;
        let agent = self.table.get_mut(at);
        agent.heard = heard.min(self.now);
        agent.slot = slots::next_slot(agent.heard.max(listening_since), interval, agent.hash());
        agent.session = beat.session;
        agent.sequence = beat.sequence;
        agent.cursor = beat.cursor;
        agent.obeys = beat.assignment;
        agent.lacking = !known;
        agent.state = state;
        agent.told = state;
        let nothing = agent.content;
        let news = self.contents.replace(self.now, self.place(at), (nothing, content));
        self.table.get_mut(at).content = news.list;
        self.groups.count(self.groups.tally(self.table.get(at)));
        self.rearm(at);
    }

    /// What to remember of the next `limit` agents, in order of id, after `after`; and the last of them if
    /// there are more. Agents that were never heard count but are left out.
    #[must_use]
    pub fn remember(&self, after: Option<&str>, limit: usize) -> (Vec<(&str, Remembered)>, Option<&str>) {
        let mut rest = self.table.after(after);
        let mut last = None;
        let heard = |at: &u32| self.table.get(*at).heard.0 != 0;
        let taken = rest.by_ref().take(limit).inspect(|&at| last = Some(at));
        let kept = taken.filter(heard).map(|at| self.remembered(at)).collect();
        let more = rest.next().is_some();
        (kept, last.filter(|_| more).map(|at| self.table.get(at).id()))
    }

    fn remembered(&self, at: u32) -> (&str, Remembered) {
        let agent = self.table.get(at);
        let status = self.statuses.get(agent.status).filter(|_| !agent.lacking);
        let report = status.map(|status| Report {
            version: self.versions.get(agent.version).cloned().unwrap_or_default(),
            mode: agent.mode,
            hostname: agent.hostname().into(),
            status: status.clone(),
            content: self.contents.states(agent.content).cloned().collect(),
        });
        let beat = Beat {
            session: agent.session,
            sequence: agent.sequence,
            cursor: agent.cursor,
            assignment: agent.obeys,
            report,
        };
        (agent.id(), Remembered { heard: agent.heard, state: agent.state, beat })
    }
}
