//! What a further trust root means to an agent.

use crate::agent::io::Note;
use crate::agent::machine::{Machine, Turn};
use crate::revision::Cursor;
use crate::trust::Adopted;

impl Machine {
    pub(super) fn on_root(&mut self, turn: &mut Turn, adopted: Adopted) {
        self.root_expires_at = adopted.expires_at;
        self.status.root_version = adopted.version;
        let before = self.durable.root_version;
        if adopted.version <= before {
            return;
        }
        self.durable.root_version = adopted.version;
        turn.note(Note::RootAdopted(adopted.version));
        if before > 0 && adopted.director_lost > before {
            self.forget_floors(turn, adopted);
        }
        self.persist(turn);
        // What could not be verified before may be good now.
        self.fetch.want(turn.now);
        self.send_status(turn);
    }

    /// Whoever stole the key that was taken away may have raised every floor out of reach, that of the time as well.
    /// Nothing that the key signed is accepted any more, so nothing old comes back by this. What is in force stays
    /// until a snapshot of another key replaces it.
    fn forget_floors(&mut self, turn: &mut Turn, adopted: Adopted) {
        turn.note(Note::FloorsReset);
        self.durable.floors = crate::agent::floors::Floors::default();
        self.durable.time_floor = self.durable.time_floor.min(adopted.issued_at);
        for placement in self.durable.assignment.iter_mut().chain(&mut self.placement) {
            placement.cursor = Cursor::NONE;
        }
        self.next = None;
        if self.work.distrust() {
            self.durable.applying = None;
        }
        self.settled = Cursor::NONE;
        self.status.seen = Cursor::NONE;
        self.fetch.reset();
    }
}
