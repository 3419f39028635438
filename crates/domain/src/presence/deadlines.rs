//! When to look at which agent again.
//!
//! A calendar of exact milliseconds; agents due in the same one form a list through their records. A
//! heartbeat moves a deadline later and leaves the calendar alone: the entry fires early, finds the real
//! deadline and goes back in. So the calendar costs one insertion an interval, not one a heartbeat.

use std::collections::BTreeMap;

use super::table::{Chain, NIL, Table};
use crate::time::Timestamp;

/// Heads of the lists of agents due, by moment.
#[derive(Debug, Default)]
pub(super) struct Calendar {
    moments: BTreeMap<Timestamp, u32>,
}

impl Calendar {
    /// Makes sure that the agent comes up at `due` or before.
    pub(super) fn schedule(&mut self, table: &mut Table, at: u32, due: Timestamp) {
        let due = due.max(Timestamp(1));
        let current = table.get(at).due;
        if current.0 != 0 && current <= due {
            return;
        }
        self.cancel(table, at);
        let head = self.moments.entry(due).or_insert(NIL);
        *head = table.push(Chain::Due, *head, at);
        table.get_mut(at).due = due;
    }

    /// Takes the agent out, if it is in.
    pub(super) fn cancel(&mut self, table: &mut Table, at: u32) {
        let due = table.get(at).due;
        if due.0 == 0 {
            return;
        }
        let head = self.moments.get_mut(&due).expect("invariant: a due agent is in the calendar");
        *head = table.unlink(Chain::Due, *head, at);
        if *head == NIL {
            self.moments.remove(&due);
        }
        table.get_mut(at).due = Timestamp(0);
    }

    /// The earliest moment.
    pub(super) fn first(&self) -> Option<Timestamp> {
        self.moments.first_key_value().map(|(&due, _)| due)
    }

    /// Takes out one of the agents of the earliest moment, unless that lies after `now`.
    pub(super) fn pop(&mut self, table: &mut Table, now: Timestamp) -> Option<(u32, Timestamp)> {
        let (&due, &at) = self.moments.first_key_value().filter(|(due, _)| **due <= now)?;
        self.cancel(table, at);
        Some((at, due))
    }
}
