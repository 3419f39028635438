//! What stands in DESIRED, and what has to be done about it. Pure: the shell executes.

use std::collections::BTreeMap;

use domain::content::{ChannelName, ContentItem, ContentTarget};
use domain::{Cursor, Digest, GroupId, GroupPath, KindName, Revision, Snapshot, Timestamp};

/// The message of a group's subject in DESIRED.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its place in the stream: what a writer must expect.
    pub(crate) sequence: u64,
    /// What it says.
    pub(crate) says: Says,
}

/// What a head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Says {
    /// A snapshot that the director signed.
    Snapshot(Published),
    /// The group is no more, as of this cursor.
    Gone(Cursor),
    /// Nothing that can be relied on: not signed by the director, or not readable.
    Nothing,
}

/// What of a published snapshot matters for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) cursor: Cursor,
    pub(crate) digest: Digest,
    pub(crate) path: GroupPath,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// Kind, digest and revision of each item.
    pub(crate) items: Vec<(KindName, Digest, Revision)>,
    /// Content as published.
    pub(crate) content: Vec<ContentItem>,
}

impl From<&Snapshot> for Published {
    fn from(snapshot: &Snapshot) -> Self {
        let item = |item: &domain::PolicyItem| (item.kind.clone(), item.digest, item.revision);
        Self {
            cursor: snapshot.cursor,
            digest: snapshot.content_digest(),
            path: snapshot.path.clone(),
            issued_at: snapshot.issued_at,
            expires_at: snapshot.expires_at,
            items: snapshot.policies.iter().map(item).collect(),
            content: snapshot.content.clone(),
        }
    }
}

impl Published {
    /// Revision of an item that has not changed since.
    pub(crate) fn item_revision(&self, kind: &KindName, digest: &Digest) -> Option<Revision> {
        let found = self.items.iter().find(|(other, is, _)| other == kind && is == digest);
        found.map(|(_, _, revision)| *revision)
    }

    /// Revision of an item of content that has not changed since.
    pub(crate) fn content_revision(&self, channel: &ChannelName, target: ContentTarget) -> Option<Revision> {
        let mut same = self.content.iter().filter(|item| item.channel == *channel && item.target() == target);
        same.next().map(|item| item.revision)
    }
}

/// What the catalogue wants a group's head to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) digest: Digest,
    pub(crate) path: GroupPath,
    /// Revision of the change that made it so, or of a later one, if this replica started after it.
    pub(crate) since: Revision,
}

/// Under which circumstances a head is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    /// Epoch and revision of the catalogue as this replica has folded it.
    pub(crate) catalog: Cursor,
    /// Whether a head with an outdated path is published again. Only who has just seen the group move may
    /// say so: a replica that is behind would put the old path back.
    pub(crate) check_path: bool,
    /// The time.
    pub(crate) now: Timestamp,
}

/// What is to be done about a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: it is as wanted.
    Keep,
    /// Nothing: whoever wrote it knows more than this replica, which will catch up.
    Behind,
    /// Publish the wanted content under this cursor.
    Publish(Cursor),
    /// Publish what it says again under the cursor it has, with a new time or path.
    Renew(Cursor),
    /// Say that the group is no more.
    Remove(Cursor),
}

/// Decides about one head. Fences replicas against each other: content is replaced only by other content
/// of a higher cursor, epoch first.
pub(crate) fn decide(wanted: Option<&Wanted>, head: Option<&Head>, at: Circumstances) -> Step {
    let says = head.map_or(&Says::Nothing, |head| &head.says);
    let Some(wanted) = wanted else {
        return match says {
            Says::Gone(_) => Step::Keep,
            Says::Nothing if head.is_none() => Step::Keep,
            Says::Nothing => Step::Remove(at.catalog),
            Says::Snapshot(published) if published.cursor <= at.catalog => Step::Remove(at.catalog),
            Says::Snapshot(_) => Step::Behind,
        };
    };
    let next = Cursor { epoch: at.catalog.epoch, revision: wanted.since };
    match says {
        Says::Nothing => Step::Publish(next),
        Says::Gone(cursor) if *cursor < next => Step::Publish(next),
        Says::Gone(_) => Step::Behind,
        Says::Snapshot(published) => {
            let same = published.digest == wanted.digest && published.cursor.epoch == next.epoch;
            let moved = at.check_path && published.path != wanted.path;
            if same && (moved || is_due(published, at.now)) {
                Step::Renew(published.cursor)
            } else if same {
                Step::Keep
            } else if published.cursor < next {
                Step::Publish(next)
            } else {
                Step::Behind
            }
        }
    }
}

/// A head is renewed when half of its life is over: the rest is for outages of the control plane.
fn is_due(published: &Published, now: Timestamp) -> bool {
    let life = published.expires_at.since(published.issued_at);
    now >= published.issued_at + life.scaled(1, 2)
}

/// All heads, as the stream shows them.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    by_group: BTreeMap<GroupId, Head>,
    /// Place and content of the marker "every head up to this cursor is published".
    marker: Option<(u64, Cursor)>,
    complete: bool,
}

impl Heads {
    /// Takes a head, unless a later one is known.
    pub(crate) fn note(&mut self, group: GroupId, head: Head) {
        let is_new = self.by_group.get(&group).is_none_or(|known| known.sequence < head.sequence);
        if is_new {
            self.by_group.insert(group, head);
        }
    }

    /// Takes a marker, unless a later one is known.
    pub(crate) fn note_marker(&mut self, sequence: u64, cursor: Cursor) {
        if self.marker.is_none_or(|(known, _)| known < sequence) {
            self.marker = Some((sequence, cursor));
        }
    }

    /// The stream was made again or went back: no head is known.
    pub(crate) fn forget(&mut self) {
        self.by_group.clear();
        self.complete = false;
    }

    /// As [`Heads::forget`], for the marker.
    pub(crate) fn forget_marker(&mut self) {
        self.marker = None;
    }

    /// Everything that is in the stream has been seen.
    pub(crate) fn set_complete(&mut self) {
        self.complete = true;
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn get(&self, group: &GroupId) -> Option<&Head> {
        self.by_group.get(group)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.by_group.keys()
    }

    pub(crate) fn marker(&self) -> Option<(u64, Cursor)> {
        self.marker
    }

    /// Revision of a group's published snapshot; 0 if there is none.
    pub(crate) fn revision(&self, group: &GroupId) -> Revision {
        match self.by_group.get(group).map(|head| &head.says) {
            Some(Says::Snapshot(published)) => published.cursor.revision,
            Some(Says::Gone(_) | Says::Nothing) | None => Revision(0),
        }
    }

    /// The highest cursor that the director signed.
    pub(crate) fn highest(&self) -> Cursor {
        let cursors = self.by_group.values().filter_map(|head| match &head.says {
            Says::Snapshot(published) => Some(published.cursor),
            Says::Gone(_) | Says::Nothing => None,
        });
        cursors.max().unwrap_or(Cursor::NONE)
    }

    /// Groups whose head is to be renewed.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<GroupId> {
        let due = |head: &Head| match &head.says {
            Says::Snapshot(published) => is_due(published, now),
            Says::Gone(_) | Says::Nothing => false,
        };
        self.by_group.iter().filter(|(_, head)| due(head)).map(|(group, _)| group.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    /// `digest@epoch/revision path`: a head issued at day 0 for 8 days.
    fn head(text: &str) -> Option<Head> {
        let says = match text {
            "-" => return None,
            "?" => Says::Nothing,
            _ => match text.strip_prefix("gone@") {
                Some(cursor) => Says::Gone(self::cursor(cursor)),
                None => {
                    let (digest, rest) = text.split_once('@').unwrap();
                    let (cursor, path) = rest.split_once(' ').unwrap();
                    Says::Snapshot(Published {
                        cursor: self::cursor(cursor),
                        digest: Digest::of(digest.as_bytes()),
                        path: GroupPath::new(path).unwrap(),
                        issued_at: Timestamp(0),
                        expires_at: Timestamp(8 * DAY),
                        items: Vec::new(),
                        content: Vec::new(),
                    })
                }
            },
        };
        Some(Head { sequence: 1, says })
    }

    fn cursor(text: &str) -> Cursor {
        let (epoch, revision) = text.split_once('/').unwrap();
        Cursor::new(epoch.parse().unwrap(), revision.parse().unwrap())
    }

    /// `digest@since path`, or `-`.
    fn wanted(text: &str) -> Option<Wanted> {
        let (digest, rest) = text.split_once('@')?;
        let (since, path) = rest.split_once(' ').unwrap();
        Some(Wanted {
            digest: Digest::of(digest.as_bytes()),
            path: GroupPath::new(path).unwrap(),
            since: Revision(since.parse().unwrap()),
        })
    }

    #[track_caller]
    fn check(wanted: &str, head: &str, catalog: &str, expected: Step) {
        check_at(wanted, head, (catalog, false, 1), expected);
    }

    #[track_caller]
    fn check_at(wanted: &str, head: &str, (catalog, check_path, day): (&str, bool, u64), expected: Step) {
        let at = Circumstances { catalog: cursor(catalog), check_path, now: Timestamp(day * DAY) };
        let got = decide(self::wanted(wanted).as_ref(), self::head(head).as_ref(), at);
        assert_eq!(got, expected, "{wanted} over {head} at {catalog}");
    }

    #[test]
    fn a_head_is_replaced_only_by_other_content_of_a_higher_cursor() {
        let publish = |text: &str| Step::Publish(cursor(text));
        check("a@5 /g", "-", "1/7", publish("1/5"));
        check("a@5 /g", "?", "1/7", publish("1/5"));
        check("a@5 /g", "a@1/5 /g", "1/7", Step::Keep);
        // The same content under another revision: another replica knew better, or started later.
        check("a@5 /g", "a@1/3 /g", "1/7", Step::Keep);
        check("a@5 /g", "a@1/6 /g", "1/7", Step::Keep);
        check("b@6 /g", "a@1/5 /g", "1/7", publish("1/6"));
        // Other content of the same or a higher revision: this replica is behind.
        check("b@5 /g", "a@1/5 /g", "1/7", Step::Behind);
        check("b@6 /g", "a@1/9 /g", "1/7", Step::Behind);
    }

    #[test]
    fn the_epoch_comes_first() {
        check("a@5 /g", "a@1/90 /g", "2/7", Step::Publish(cursor("2/5")));
        check("b@5 /g", "a@1/90 /g", "2/7", Step::Publish(cursor("2/5")));
        check("b@50 /g", "a@2/3 /g", "1/60", Step::Behind);
        check("a@50 /g", "a@2/3 /g", "1/60", Step::Behind);
    }

    #[test]
    fn groups_come_and_go() {
        check("-", "-", "1/7", Step::Keep);
        check("-", "a@1/5 /g", "1/7", Step::Remove(cursor("1/7")));
        check("-", "a@1/9 /g", "1/7", Step::Behind);
        check("-", "gone@1/6", "1/7", Step::Keep);
        check("-", "?", "1/7", Step::Remove(cursor("1/7")));
        check("a@8 /g", "gone@1/6", "1/9", Step::Publish(cursor("1/8")));
        check("a@5 /g", "gone@1/6", "1/5", Step::Behind);
    }

    #[test]
    fn heads_are_renewed_at_half_their_life_and_when_their_group_moved() {
        let renew = Step::Renew(cursor("1/5"));
        check_at("a@5 /g", "a@1/5 /g", ("1/7", true, 3), Step::Keep);
        check_at("a@5 /g", "a@1/5 /g", ("1/7", false, 4), renew);
        check_at("a@5 /new", "a@1/5 /old", ("1/7", false, 1), Step::Keep);
        check_at("a@5 /new", "a@1/5 /old", ("1/7", true, 1), renew);
        // What is behind does not renew what is ahead.
        check_at("b@5 /g", "a@1/6 /g", ("1/5", false, 7), Step::Behind);
    }

    #[test]
    fn the_latest_message_of_a_subject_wins() {
        let mut heads = Heads::default();
        let group = GroupId::new("g").unwrap();
        let at = |sequence, text: &str| Head { sequence, ..head(text).unwrap() };
        heads.note(group.clone(), at(5, "a@1/5 /g"));
        heads.note(group.clone(), at(4, "b@1/9 /g"));
        assert_eq!((heads.revision(&group), heads.highest()), (Revision(5), Cursor::new(1, 5)));
        assert_eq!(heads.due(Timestamp(3 * DAY)), []);
        assert_eq!(heads.due(Timestamp(4 * DAY)), std::slice::from_ref(&group));
        heads.note(group.clone(), at(6, "gone@1/8"));
        assert_eq!((heads.revision(&group), heads.highest()), (Revision(0), Cursor::NONE));
        heads.note_marker(7, Cursor::new(1, 8));
        heads.note_marker(3, Cursor::new(1, 9));
        assert_eq!(heads.marker(), Some((7, Cursor::new(1, 8))));
    }
}
