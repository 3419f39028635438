//! What survives a restart.

use super::status::{Beat, Report};
use super::{Presence, State, slots};
use crate::settings::Mode;
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
        if let Some(report) = beat.report {
            self.note_report(at, beat.cursor, report);
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
        self.groups.count(self.groups.tally(self.table.get(at)));
        self.rearm(at);
    }

    /// What to remember of the agents of one of `parts` equal parts of the fleet. An agent always belongs
    /// to the same part, in every replica. Agents that were never heard are left out.
    pub fn remember(&self, part: u32, parts: u32) -> impl Iterator<Item = (&str, Remembered)> {
        let belongs = move |hash: u64| hash % u64::from(parts.max(1)) == u64::from(part);
        let heard = move |at: u32| {
            let agent = self.table.get(at);
            (agent.heard.0 != 0 && belongs(agent.hash())).then_some(agent)
        };
        self.table.after(None).filter_map(heard).map(|agent| {
            let status = self.statuses.get(agent.status).filter(|_| !agent.lacking);
            let report = status.map(|status| Report {
                version: self.versions.get(agent.version).cloned().unwrap_or_default(),
                mode: agent.mode.unwrap_or(Mode::Pull),
                hostname: agent.hostname().into(),
                status: status.clone(),
            });
            let beat = Beat {
                session: agent.session,
                sequence: agent.sequence,
                cursor: agent.cursor,
                assignment: agent.obeys,
                report,
            };
            (agent.id(), Remembered { heard: agent.heard, state: agent.state, beat })
        })
    }
}
