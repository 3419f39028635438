//! What an agent holds and how far each item got.

use std::sync::Arc;

use crate::agent::floors::Refusal;
use crate::content::{ContentItem, ContentStatus};
use crate::digest::Digest;
use crate::id::{GroupId, KindName};
use crate::revision::{Cursor, Revision};
use crate::settings::{Mode, Settings};
use crate::snapshot::Snapshot;
use crate::time::Timestamp;

/// Longest reason that is kept and reported, in bytes: enough for the tail of an error output.
pub const MAX_REASON_BYTES: usize = 1024;

/// Why something failed, for people. At most [`MAX_REASON_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason(Box<str>);

impl Reason {
    /// Keeps the text, or its last [`MAX_REASON_BYTES`] bytes: errors say the most at their end.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        let text = text.as_ref().trim();
        let mut from = text.len().saturating_sub(MAX_REASON_BYTES);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        Self(text[from..].into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One policy of a generation, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The kind.
    pub kind: KindName,
    /// Revision of the change that last altered the item.
    pub revision: Revision,
    /// Digest of its document.
    pub digest: Digest,
}

/// A snapshot as an agent applies it: one directory, switched on as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The group it is for.
    pub group: GroupId,
    /// Its cursor.
    pub cursor: Cursor,
    /// Its content: settings and documents.
    pub digest: Digest,
    /// When its envelope was signed; a later one with the same content replaces it.
    pub issued_at: Timestamp,
    /// When its envelope stops to prove freshness.
    pub expires_at: Timestamp,
    /// Communication settings.
    pub settings: Settings,
    /// Its policies, ordered by kind. Shared: an unchanged generation is copied for the price of a count.
    pub items: Arc<[Item]>,
    /// Content assigned, ordered by channel. It is not part of what is switched on here: the machine in
    /// [`crate::content::agent`] works it off once this generation is the last known good.
    pub content: Arc<[ContentItem]>,
}

impl Generation {
    /// The generation that a snapshot describes.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let item = |item: &crate::snapshot::PolicyItem| Item {
            kind: item.kind.clone(),
            revision: item.revision,
            digest: item.digest,
        };
        let mut items: Vec<Item> = snapshot.policies.iter().map(item).collect();
        items.sort_by(|a, b| a.kind.cmp(&b.kind));
        Self {
            group: snapshot.group.clone(),
            cursor: snapshot.cursor,
            digest: snapshot.content_digest(),
            issued_at: snapshot.issued_at,
            expires_at: snapshot.expires_at,
            settings: snapshot.settings,
            items: items.into(),
            content: snapshot.content.as_slice().into(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> GenerationId {
        GenerationId { group: self.group.clone(), cursor: self.cursor }
    }

    /// The item of a kind.
    #[must_use]
    pub fn item(&self, kind: &KindName) -> Option<&Item> {
        self.items.iter().find(|item| item.kind == *kind)
    }
}

/// Names a generation: two groups may share a cursor, so the group is part of the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GenerationId {
    /// The group.
    pub group: GroupId,
    /// The cursor.
    pub cursor: Cursor,
}

impl std::fmt::Display for GenerationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.cursor.epoch, self.cursor.revision, self.group)
    }
}

/// A kind whose document is another one, or gone, after a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The kind.
    pub kind: KindName,
    /// Whether the new generation has no document of this kind.
    pub removed: bool,
}

/// The kinds whose documents differ, ordered by kind.
#[must_use]
pub fn changes(from: Option<&Generation>, to: Option<&Generation>) -> Vec<Change> {
    let none: &[Item] = &[];
    let old = from.map_or(none, |generation| &*generation.items);
    let new = to.map_or(none, |generation| &*generation.items);
    let same = |item: &Item| old.iter().any(|known| known.kind == item.kind && known.digest == item.digest);
    let changed = new.iter().filter(|item| !same(item));
    let gone = old.iter().filter(|item| !new.iter().any(|kept| kept.kind == item.kind));
    let mut all: Vec<Change> = changed
        .map(|item| Change { kind: item.kind.clone(), removed: false })
        .chain(gone.map(|item| Change { kind: item.kind.clone(), removed: true }))
        .collect();
    all.sort_by(|a, b| a.kind.cmp(&b.kind));
    all
}

/// An item that failed. Not tried again while kind, revision and digest stay the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The kind; `None` if the generation failed as a whole.
    pub kind: Option<KindName>,
    /// Revision of the item, or of the generation.
    pub revision: Revision,
    /// Digest of the item, or of the generation.
    pub digest: Digest,
    /// Why.
    pub reason: Reason,
}

/// How far an item got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemState {
    /// The agent knows that there is something newer.
    Offered,
    /// The bytes are there and authentic.
    Received,
    /// They are on disk and match their digest.
    Verified,
    /// Switched on, and its handler agreed.
    Applied,
    /// The health check agreed.
    Healthy,
    /// Not in force. Not tried again until it changes.
    Failed,
}

impl std::fmt::Display for ItemState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Offered => "offered",
            Self::Received => "received",
            Self::Verified => "verified",
            Self::Applied => "applied",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
        })
    }
}

/// State of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemStatus {
    /// The kind.
    pub kind: KindName,
    /// How far it got.
    pub state: ItemState,
    /// The revision this speaks of.
    pub revision: Revision,
    /// Why it failed, or what it waits for.
    pub reason: Option<Reason>,
}

/// What an agent reports beside its cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The mode it runs in.
    pub mode: Mode,
    /// One for each item of the newest snapshot it saw, ordered by kind.
    pub items: Vec<ItemStatus>,
    /// Newest snapshot it saw, in force or not.
    pub seen: Cursor,
    /// Whether the snapshot in force has expired; it stays in force.
    pub stale: bool,
    /// Whether it gave up the newest settings because it could not be reached with them.
    pub settings_reverted: bool,
    /// Times it returned to its last known good since it joined.
    pub rollbacks: u64,
    /// Envelopes refused since it started.
    pub refusals: u64,
    /// Why the last one was refused.
    pub last_refusal: Option<Refusal>,
    /// Times drift of applied files was repaired since it started.
    pub repairs: u64,
    /// Version of the trust root it obeys; 0 until it is told.
    pub root_version: u64,
    /// One for each content channel that is assigned or in force, ordered by channel; at most
    /// [`MAX_REPORTED_CHANNELS`](crate::content::MAX_REPORTED_CHANNELS).
    pub content: Vec<ContentStatus>,
}

impl Status {
    pub(super) fn new() -> Self {
        Self {
            mode: Mode::default(),
            items: Vec::new(),
            seen: Cursor::NONE,
            stale: false,
            settings_reverted: false,
            rollbacks: 0,
            refusals: 0,
            last_refusal: None,
            repairs: 0,
            root_version: 0,
            content: Vec::new(),
        }
    }

    /// All items of a generation in one state.
    pub(super) fn set_items(&mut self, generation: Option<&Generation>, state: ItemState) {
        let items = generation.map_or_else(Vec::new, |generation| generation.items.to_vec());
        self.items = items
            .into_iter()
            .map(|item| ItemStatus { kind: item.kind, state, revision: item.revision, reason: None })
            .collect();
    }

    /// One item's state; adds it where it is missing.
    pub(super) fn set_item(&mut self, status: ItemStatus) {
        match self.items.binary_search_by(|item| item.kind.cmp(&status.kind)) {
            Ok(at) => self.items[at] = status,
            Err(at) => self.items.insert(at, status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_keeps_its_end_at_a_character_boundary() {
        assert_eq!(Reason::new(" short \n").as_str(), "short");
        let long = format!("{}end", "é".repeat(1000));
        let reason = Reason::new(&long);
        assert!(reason.as_str().len() <= MAX_REASON_BYTES);
        assert!(reason.as_str().ends_with("éend"));
    }
}
