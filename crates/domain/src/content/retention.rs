//! What goes away: revisions that nothing needs and nobody wants to keep, and pieces that no revision needs.

use std::collections::{BTreeMap, BTreeSet};

use super::ContentRevision;
use crate::catalog::{Channel, StoredRevision};
use crate::digest::Digest;
use crate::time::{Span, Timestamp};

/// What is kept beside what is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// So many revisions, newest first.
    pub revisions: u32,
    /// Those that are younger.
    pub span: Span,
}

impl Keep {
    /// What a channel says, and for the rest what the service says.
    #[must_use]
    pub fn of(channel: &Channel, default: Self) -> Self {
        Self {
            revisions: channel.keep_revisions.unwrap_or(default.revisions),
            span: channel.keep_for.unwrap_or(default.span),
        }
    }
}

/// Revisions of a channel that retention removes, ascending.
///
/// In use, and never removed, are: the newest; those that are pinned; those that a stage names, and for each stage
/// the latest one it named before that is still there, so that there is a way back; and `needed`: those that a
/// group names by number, whose content is being uploaded again, or that an agent is fetching. Of the others the
/// newest [`Keep::revisions`] stay, and those that are not older than [`Keep::span`].
#[must_use]
pub fn retired<'a>(
    channel: &Channel,
    stored: impl IntoIterator<Item = &'a StoredRevision>,
    needed: &BTreeSet<ContentRevision>,
    keep: Keep,
    now: Timestamp,
) -> Vec<ContentRevision> {
    let stored: BTreeMap<ContentRevision, &StoredRevision> =
        stored.into_iter().map(|revision| (revision.number, revision)).collect();
    let named = channel.stages.values().filter_map(|stage| stage.revision);
    let before = channel.stages.values().filter_map(|stage| {
        let back =
            |number: &&ContentRevision| Some(**number) != stage.revision && stored.contains_key(*number);
        stage.previous.iter().find(back).copied()
    });
    let in_use: BTreeSet<ContentRevision> =
        named.chain(before).chain(needed.iter().copied()).chain(stored.keys().last().copied()).collect();
    let idle = stored.values().rev().filter(|it| !it.pinned && !in_use.contains(&it.number));
    let beyond = idle.skip(usize::try_from(keep.revisions).unwrap_or(usize::MAX));
    let old = beyond.filter(|it| now.since(it.created_at) > keep.span);
    let mut numbers: Vec<ContentRevision> = old.map(|it| it.number).collect();
    numbers.reverse();
    numbers
}

/// One message of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    /// A signed manifest, by its digest.
    Manifest(Digest),
    /// The index of a manifest.
    Index(Digest),
    /// A chunk.
    Chunk(Digest),
    /// A part of a delta.
    Part {
        /// The manifest it starts from; `None`: from nothing.
        from: Option<Digest>,
        /// The manifest it leads to.
        to: Digest,
        /// Its number.
        number: u32,
    },
}

/// What becomes of deltas to a content that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deltas {
    /// Agents are led to it: deltas are being made.
    Made,
    /// Agents may be led back to it, or are fetching it: those that are listed stay, and no more are made.
    Kept,
    /// No agent gets there: none is needed.
    Dropped,
}

/// All that a sweep leaves alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Referenced {
    contents: BTreeMap<Digest, Deltas>,
    chunks: BTreeSet<Digest>,
    listed: BTreeSet<(Option<Digest>, Digest)>,
}

impl Referenced {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A content that is needed: of a stored revision, or of an upload that has not expired. All its chunks must
    /// be named; one whose manifest cannot be read leaves no sweep to be made. If several need it, the one
    /// that wants most of its deltas decides.
    pub fn content(&mut self, manifest: Digest, deltas: Deltas, chunks: impl IntoIterator<Item = Digest>) {
        let wanted = self.contents.entry(manifest).or_insert(deltas);
        *wanted = match (*wanted, deltas) {
            (Deltas::Made, _) | (_, Deltas::Made) => Deltas::Made,
            (Deltas::Kept, _) | (_, Deltas::Kept) => Deltas::Kept,
            (Deltas::Dropped, Deltas::Dropped) => Deltas::Dropped,
        };
        self.chunks.extend(chunks);
    }

    /// A delta that stands in the index of `to`. It is needed as long as that is: agents may hold `from` although it
    /// has no revision any more.
    pub fn listed(&mut self, from: Option<Digest>, to: Digest) {
        self.listed.insert((from, to));
    }

    /// Whether a piece is needed. A delta that is not listed is, if it may be in the making: agents are led to where it
    /// leads, and where it starts is needed too.
    #[must_use]
    pub fn needs(&self, piece: &Piece) -> bool {
        match piece {
            Piece::Manifest(manifest) | Piece::Index(manifest) => self.contents.contains_key(manifest),
            Piece::Chunk(chunk) => self.chunks.contains(chunk),
            Piece::Part { from, to, .. } => {
                let listed = self.listed.contains(&(*from, *to));
                match self.contents.get(to) {
                    Some(Deltas::Made) => {
                        listed || from.as_ref().is_none_or(|from| self.contents.contains_key(from))
                    }
                    Some(Deltas::Kept) => listed,
                    Some(Deltas::Dropped) | None => false,
                }
            }
        }
    }

    /// The pieces of a sweep: all that is stored and not needed, in the order given.
    #[must_use]
    pub fn sweep(&self, stored: impl IntoIterator<Item = Piece>) -> Vec<Piece> {
        stored.into_iter().filter(|piece| !self.needs(piece)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{Note, RevisionLabel};
    use crate::content::{ChannelName, StageName};

    const DAY: Span = Span::from_secs(24 * 3600);

    fn revision(number: u32, created_at: Timestamp, pinned: bool) -> StoredRevision {
        StoredRevision {
            channel: ChannelName::new("rules").unwrap(),
            number: ContentRevision(number),
            manifest: Digest::of(&number.to_be_bytes()),
            manifest_bytes: 1,
            content_bytes: 1,
            digest: Digest::of(&number.to_be_bytes()),
            files: 1,
            created_at,
            label: RevisionLabel::default(),
            note: Note::default(),
            pinned,
        }
    }

    /// One revision a day, numbers 1 to 10, on day 10. Stages: what each named, in turn.
    #[track_caller]
    fn check(stages: &[&[u32]], pinned: &[u32], needed: &[u32], keep: (u32, u64), expected: &[u32]) {
        let mut channel = Channel::new(ChannelName::new("rules").unwrap());
        for (name, turns) in stages.iter().enumerate() {
            let name = StageName::new(format!("stage-{name}")).unwrap();
            for number in *turns {
                channel = channel.promoted(&name, ContentRevision(*number));
            }
        }
        let at = |day: u32| Timestamp(DAY.0 * u64::from(day));
        let stored: Vec<StoredRevision> =
            (1..=10).map(|number| revision(number, at(number), pinned.contains(&number))).collect();
        let needed = needed.iter().copied().map(ContentRevision).collect();
        let keep = Keep { revisions: keep.0, span: DAY.scaled(keep.1, 1) };
        let got = retired(&channel, &stored, &needed, keep, at(10));
        assert_eq!(got, expected.iter().copied().map(ContentRevision).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_in_use_goes_by_count_and_age() {
        let all_but_newest = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        check(&[], &[], &[], (0, 0), &all_but_newest);
        check(&[], &[], &[], (3, 0), &[1, 2, 3, 4, 5, 6]);
        check(&[], &[], &[], (0, 5), &[1, 2, 3, 4]);
        check(&[], &[], &[], (3, 8), &[1]);
        check(&[], &[], &[], (100, 0), &[]);
        check(&[], &[2, 3], &[], (0, 0), &[1, 4, 5, 6, 7, 8, 9]);
        check(&[], &[], &[4, 77], (1, 0), &[1, 2, 3, 5, 6, 7, 8]);
        check(&[&[2, 3, 5], &[10]], &[], &[], (2, 0), &[1, 2, 4, 6, 7]);
    }

    #[test]
    fn a_stage_keeps_the_way_back_that_is_left() {
        check(&[&[20, 2, 30, 7]], &[], &[], (0, 0), &[1, 3, 4, 5, 6, 8, 9]);
        check(&[&[7, 8, 7]], &[], &[], (0, 0), &[1, 2, 3, 4, 5, 6, 9]);
    }

    #[test]
    fn a_channel_says_more_than_the_service() {
        let mut channel = Channel::new(ChannelName::new("rules").unwrap());
        let default = Keep { revisions: 90, span: DAY };
        assert_eq!(Keep::of(&channel, default), default);
        channel.keep_revisions = Some(2);
        channel.keep_for = Some(Span(7));
        assert_eq!(Keep::of(&channel, default), Keep { revisions: 2, span: Span(7) });
    }

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    /// Contents of a few chunks; what each that is needed wants of its deltas; and which deltas are listed.
    type Store = (Vec<(Vec<u8>, Option<Deltas>)>, BTreeSet<(Option<usize>, usize)>);

    fn store() -> impl Strategy<Value = Store> {
        let chunks = prop::collection::vec(0u8..30, 0..6);
        let deltas = prop::sample::select(vec![Deltas::Made, Deltas::Kept, Deltas::Dropped]);
        let contents = prop::collection::vec((chunks, prop::option::of(deltas)), 0..8);
        (contents, prop::collection::btree_set((prop::option::of(0usize..8), 0usize..8), 0..12))
    }

    #[test]
    fn who_wants_most_of_a_contents_deltas_decides() {
        let (to, part) = (digest(1), Piece::Part { from: None, to: digest(1), number: 0 });
        let mut referenced = Referenced::new();
        for (deltas, needed) in
            [(Deltas::Dropped, false), (Deltas::Kept, false), (Deltas::Made, true), (Deltas::Dropped, true)]
        {
            referenced.content(to, deltas, []);
            assert_eq!(referenced.needs(&part), needed, "{deltas:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_needed_goes_and_nothing_else_stays((contents, listed) in store()) {
            let name = |at: usize| Digest::of(&at.to_be_bytes());
            let mut referenced = Referenced::new();
            for (at, (chunks, deltas)) in contents.iter().enumerate() {
                if let Some(deltas) = deltas {
                    referenced.content(name(at), *deltas, chunks.iter().copied().map(digest));
                }
            }
            for (from, to) in &listed {
                referenced.listed(from.map(name), name(*to));
            }
            let mut stored: Vec<Piece> = (0..30).map(|chunk| Piece::Chunk(digest(chunk))).collect();
            for to in 0..contents.len() {
                stored.extend([Piece::Manifest(name(to)), Piece::Index(name(to))]);
                stored.push(Piece::Part { from: None, to: name(to), number: 0 });
                stored.extend((0..contents.len()).map(|from| {
                    Piece::Part { from: Some(name(from)), to: name(to), number: 1 }
                }));
            }
            let gone: BTreeSet<Piece> = referenced.sweep(stored.iter().copied()).into_iter().collect();
            let place = |wanted: &Digest| (0..contents.len()).find(|at| name(*at) == *wanted).unwrap();
            let deltas = |wanted: &Digest| contents[place(wanted)].1;
            for piece in stored {
                let needed = match &piece {
                    Piece::Manifest(it) | Piece::Index(it) => deltas(it).is_some(),
                    Piece::Chunk(it) => contents.iter().any(|(chunks, deltas)| {
                        deltas.is_some() && chunks.iter().any(|chunk| digest(*chunk) == *it)
                    }),
                    Piece::Part { from, to, .. } => {
                        let listed = listed.contains(&(from.as_ref().map(place), place(to)));
                        let starts = from.as_ref().is_none_or(|from| deltas(from).is_some());
                        match deltas(to) {
                            Some(Deltas::Made) => listed || starts,
                            Some(Deltas::Kept) => listed,
                            Some(Deltas::Dropped) | None => false,
                        }
                    }
                };
                prop_assert_eq!(!gone.contains(&piece), needed, "{:?}", piece);
            }
        }

        #[test]
        fn retention_keeps_what_is_used(
            stored in prop::collection::btree_map(1u32..60, (0u64..100, any::<bool>()), 0..40),
            turns in prop::collection::vec(1u32..60, 0..5),
            needed in prop::collection::btree_set(1u32..60, 0..5),
            keep in (0u32..10, 0u64..50),
        ) {
            let mut channel = Channel::new(ChannelName::new("rules").unwrap());
            for number in &turns {
                channel = channel.promoted(&StageName::new("s").unwrap(), ContentRevision(*number));
            }
            let revisions: Vec<StoredRevision> =
                stored.iter().map(|(number, (at, pinned))| revision(*number, Timestamp(*at), *pinned)).collect();
            let used = needed.iter().copied().map(ContentRevision).collect();
            let keep = Keep { revisions: keep.0, span: Span(keep.1) };
            let gone = retired(&channel, &revisions, &used, keep, Timestamp(100));
            prop_assert!(gone.is_sorted());
            let left = revisions.iter().filter(|it| !gone.contains(&it.number)).count();
            prop_assert!(left >= revisions.len().min(usize::try_from(keep.revisions).unwrap() + 1));
            for number in gone {
                let it = revisions.iter().find(|it| it.number == number).unwrap();
                prop_assert!(!it.pinned && !used.contains(&number) && turns.last() != Some(&number.0));
                prop_assert!(Timestamp(100).since(it.created_at) > keep.span);
                prop_assert!(revisions.iter().any(|it| it.number > number), "the newest stays");
            }
        }
    }
}
