//! Puts the messages of the log together into whole changes.

use domain::Revision;
use wire::trace::TraceParent;

use super::LogEvent;
use super::entry::{ChangeInfo, Entry, Read, StoredEntry};

/// A change of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Who, when, why. `None` for a message that is no entry and that was passed over.
    pub info: Option<ChangeInfo>,
    /// Its revision: the place of its last entry.
    pub revision: Revision,
    /// The new states, in the order in which they were written.
    pub entries: Vec<Entry>,
    /// The span that stored it; `None` if it was not traced.
    pub place: Option<TraceParent>,
}

/// A change of which the last entry has not been seen.
struct Open {
    info: ChangeInfo,
    place: Option<TraceParent>,
    /// Place of its last entry.
    end: u64,
    entries: Vec<Entry>,
}

/// Collects messages until a change is whole. The messages of a change have consecutive places, so each tells
/// where its change ends: a message of another change behind that place proves that the change is whole
/// (what is missing was superseded), and one before or at that place proves that it is torn.
#[derive(Default)]
pub(super) struct Assembler {
    open: Option<Open>,
    revision: u64,
    caught_up: bool,
    loaded: bool,
}

impl Assembler {
    /// Whether the end of a change is awaited.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next message; returns what it makes known.
    pub(super) fn push(&mut self, read: Read) -> Vec<LogEvent> {
        let mut events = Vec::new();
        match read {
            Read::Entry(entry) => self.push_entry(*entry, &mut events),
            Read::Foreign { sequence } => {
                self.close(sequence, &mut events);
                self.emit(
                    Change { info: None, revision: Revision(sequence), entries: Vec::new(), place: None },
                    &mut events,
                );
            }
        }
        self.note_loaded(&mut events);
        events
    }

    /// All that was there at the start has been pushed.
    pub(super) fn caught_up(&mut self) -> Vec<LogEvent> {
        self.caught_up = true;
        let mut events = Vec::new();
        self.note_loaded(&mut events);
        events
    }

    fn push_entry(&mut self, entry: StoredEntry, events: &mut Vec<LogEvent>) {
        let same = self.open.as_ref().is_some_and(|open| open.info.id == entry.change.id);
        if !same {
            self.close(entry.sequence, events);
        }
        let (sequence, end) = (entry.sequence, entry.revision().0);
        let StoredEntry { change: info, place, .. } = entry;
        let open = self.open.get_or_insert_with(|| Open { info, place, end, entries: Vec::new() });
        open.entries.push(Entry { key: entry.key, body: entry.body });
        if sequence >= end {
            self.close(end + 1, events);
        }
    }

    /// Ends the open change, if any, because the message at `sequence` is not part of it.
    fn close(&mut self, sequence: u64, events: &mut Vec<LogEvent>) {
        let Some(open) = self.open.take() else { return };
        if sequence > open.end {
            let Open { info, place, end, entries } = open;
            self.emit(Change { info: Some(info), revision: Revision(end), entries, place }, events);
        } else {
            tracing::warn!(change = %open.info.id, "passing over a torn change");
        }
    }

    fn emit(&mut self, change: Change, events: &mut Vec<LogEvent>) {
        self.revision = change.revision.0;
        events.push(LogEvent::Change(change));
    }

    fn note_loaded(&mut self, events: &mut Vec<LogEvent>) {
        if self.caught_up && !self.loaded && self.open.is_none() {
            self.loaded = true;
            events.push(LogEvent::Loaded(Revision(self.revision)));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use domain::Timestamp;
    use wire::subject::StoreKey;

    use super::*;

    /// `a 4 1/3`: change a, at sequence 4, entry 1 of 3. `! 5`: a foreign message. `|`: caught up.
    fn run(script: &[&str]) -> Vec<String> {
        let mut assembler = Assembler::default();
        let mut shown = Vec::new();
        for step in script {
            let events = match step.split(' ').collect::<Vec<_>>()[..] {
                ["|"] => assembler.caught_up(),
                ["!", sequence] => assembler.push(Read::Foreign { sequence: sequence.parse().unwrap() }),
                [id, sequence, place] => assembler.push(Read::Entry(Box::new(entry(id, sequence, place)))),
                _ => panic!("{step}"),
            };
            shown.extend(events.into_iter().map(|event| match event {
                LogEvent::Change(change) => {
                    let id = change.info.map_or("-".to_owned(), |info| info.id.to_string());
                    format!("{id}@{} x{}", change.revision, change.entries.len())
                }
                LogEvent::Loaded(revision) => format!("loaded@{revision}"),
                LogEvent::Reset | LogEvent::Missing => panic!("not from an assembler"),
            }));
        }
        shown
    }

    fn entry(id: &str, sequence: &str, place: &str) -> StoredEntry {
        let (index, count) = place.split_once('/').unwrap();
        StoredEntry {
            key: StoreKey::Epoch,
            body: Bytes::new(),
            sequence: sequence.parse().unwrap(),
            change: ChangeInfo {
                id: id.parse().unwrap(),
                actor: String::new(),
                message: String::new(),
                time: Timestamp(0),
                trace_id: None,
            },
            index: index.parse().unwrap(),
            count: count.parse().unwrap(),
            repairs: None,
            place: None,
        }
    }

    #[test]
    fn whole_changes_come_one_by_one() {
        let script = ["a 1 0/1", "b 2 0/2", "b 3 1/2", "|", "c 4 0/1"];
        assert_eq!(run(&script), ["a@1 x1", "b@3 x2", "loaded@3", "c@4 x1"]);
        assert_eq!(run(&["|"]), ["loaded@0"]);
    }

    #[test]
    fn superseded_entries_do_not_hold_a_change_up() {
        // Of a (1..=3) only the middle is left, of b (4..=6) all but the first.
        assert_eq!(run(&["a 2 1/3", "b 5 1/3", "b 6 2/3", "|"]), ["a@3 x1", "b@6 x2", "loaded@6"]);
    }

    #[test]
    fn a_torn_change_is_never_handed_on() {
        let script = ["a 1 0/1", "b 2 0/3", "b 3 1/3", "|", "r 4 0/2", "r 5 1/2"];
        assert_eq!(run(&script), ["a@1 x1", "r@5 x2", "loaded@5"]);
        // Not even if the change behind it lies partly in its place.
        assert_eq!(run(&["b 2 0/9", "|", "r 3 0/1"]), ["r@3 x1", "loaded@3"]);
    }

    #[test]
    fn a_change_in_the_making_is_waited_for() {
        assert_eq!(run(&["a 1 0/2", "|", "a 2 1/2"]), ["a@2 x2", "loaded@2"]);
    }

    #[test]
    fn foreign_messages_move_the_revision() {
        assert_eq!(run(&["a 1 0/1", "! 2", "|"]), ["a@1 x1", "-@2 x0", "loaded@2"]);
    }
}
