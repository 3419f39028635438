//! The objects of content in the catalogue: channels, their revisions, uploads under way, the last sweep.
//! The bytes of content are elsewhere; what is here names them by digest.

use std::collections::BTreeMap;

use super::Keeper;
use crate::content::{ChannelName, ContentRevision, ContentTarget, StageName};
use crate::digest::Digest;
use crate::path::GroupPath;
use crate::time::{Span, Timestamp};

/// Most channels of a fleet. Each is a row that people read, and a name that groups follow.
pub const MAX_CHANNELS: usize = 1000;
/// Most stored revisions of one channel: one less than the entries of a change, so that a channel goes away
/// with all of them in one.
pub const MAX_STORED_REVISIONS: usize = crate::change::MAX_ENTRIES - 1;
/// Most stages of one channel. People name them one by one.
pub const MAX_STAGES: usize = 16;
/// Most revisions that a stage remembers to have named: five days of three a day to go back to.
pub const MAX_PREVIOUS: usize = 16;
/// Most uploads under way. Their list is one entry of the log, and what each names is kept from garbage
/// collection.
pub const MAX_UPLOADS: usize = 64;
/// Longest label of a revision, in bytes.
pub const MAX_REVISION_LABEL_BYTES: usize = 64;
/// Longest note of a revision, in bytes: that of a change's message.
pub const MAX_NOTE_BYTES: usize = 1024;

/// Why what people say about a revision is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevisionTextError {
    /// A label that is too long or has control characters.
    #[error("must be at most {MAX_REVISION_LABEL_BYTES} bytes without control characters")]
    Label,
    /// A note that is too long or has control characters other than line breaks and tabs.
    #[error("must be at most {MAX_NOTE_BYTES} bytes without control characters but line breaks and tabs")]
    Note,
}

/// A short name of a revision, such as `2026-11-21-b`. May be empty; several revisions may share one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RevisionLabel(Box<str>);

impl RevisionLabel {
    /// Checks the text and wraps it.
    ///
    /// # Errors
    /// [`RevisionTextError::Label`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, RevisionTextError> {
        let text = text.as_ref();
        if text.len() > MAX_REVISION_LABEL_BYTES || text.chars().any(char::is_control) {
            return Err(RevisionTextError::Label);
        }
        Ok(Self(text.into()))
    }

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a revision was made, in the words of who made it. May be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note(Box<str>);

impl Note {
    /// Checks the text and wraps it.
    ///
    /// # Errors
    /// [`RevisionTextError::Note`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, RevisionTextError> {
        let text = text.as_ref();
        let wrong = |c: char| c.is_control() && c != '\n' && c != '\t';
        if text.len() > MAX_NOTE_BYTES || text.chars().any(wrong) {
            return Err(RevisionTextError::Note);
        }
        Ok(Self(text.into()))
    }

    /// The note as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A channel: a name under which revisions of content follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its name.
    pub name: ChannelName,
    /// What its stages name; at most [`MAX_STAGES`].
    pub stages: BTreeMap<StageName, Stage>,
    /// The highest number that a revision of this channel ever had. The planner never lets it go down, not
    /// even when a channel is deleted and made again.
    pub last_revision: ContentRevision,
    /// Unpinned revisions beyond this many, newest first, may go; `None`: the service's default.
    pub keep_revisions: Option<u32>,
    /// Unpinned revisions younger than this stay; `None`: the service's default.
    pub keep_for: Option<Span>,
}

/// What a stage names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stage {
    /// The revision; `None` if it names none.
    pub revision: Option<ContentRevision>,
    /// Revisions that it named before, the latest first; at most [`MAX_PREVIOUS`]. They may be gone.
    pub previous: Vec<ContentRevision>,
    /// Who keeps it in order; `None`: nobody.
    pub manager: Option<Keeper>,
}

impl Channel {
    /// A channel without revisions and stages.
    #[must_use]
    pub fn new(name: ChannelName) -> Self {
        Self {
            name,
            stages: BTreeMap::new(),
            last_revision: ContentRevision(0),
            keep_revisions: None,
            keep_for: None,
        }
    }

    /// The revision that a stage names.
    #[must_use]
    pub fn stage(&self, name: &StageName) -> Option<ContentRevision> {
        self.stages.get(name)?.revision
    }

    /// The channel with a stage that names `number`. What the stage named before becomes the latest of what
    /// one can go back to. A stage that names it already stays as it is.
    #[must_use]
    pub fn promoted(&self, name: &StageName, number: ContentRevision) -> Self {
        let mut channel = self.clone();
        let stage = channel.stages.entry(name.clone()).or_default();
        if stage.revision != Some(number) {
            let before = stage.revision.replace(number);
            stage.previous.splice(0..0, before);
            stage.previous.truncate(MAX_PREVIOUS);
        }
        channel
    }
}

/// One revision of a channel, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRevision {
    /// Its channel.
    pub channel: ChannelName,
    /// Its number in the channel, from 1.
    pub number: ContentRevision,
    /// SHA-256 of the manifest as signed.
    pub manifest: Digest,
    /// Length of the manifest as signed.
    pub manifest_bytes: u64,
    /// Length of the content.
    pub content_bytes: u64,
    /// SHA-256 of the content.
    pub digest: Digest,
    /// How many files it has.
    pub files: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// A short name.
    pub label: RevisionLabel,
    /// Why it was made.
    pub note: Note,
    /// Whether retention leaves it alone.
    pub pinned: bool,
}

impl StoredRevision {
    /// What names its content in a snapshot.
    #[must_use]
    pub fn target(&self) -> ContentTarget {
        let Self { number, manifest, manifest_bytes, content_bytes, .. } = *self;
        ContentTarget { number, manifest, manifest_bytes, content_bytes }
    }

    /// Whether both are the same content made at the same time: what never changes once a revision is there.
    #[must_use]
    pub fn is_same_content(&self, other: &Self) -> bool {
        let fixed = |it: &Self| {
            (it.manifest, it.manifest_bytes, it.content_bytes, it.digest, it.files, it.created_at)
        };
        (&self.channel, self.number, fixed(self)) == (&other.channel, other.number, fixed(other))
    }
}

/// One upload under way. Its manifest is stored; garbage collection leaves alone what the manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The channel.
    pub channel: ChannelName,
    /// SHA-256 of the manifest.
    pub manifest: Digest,
    /// Length of the manifest.
    pub manifest_bytes: u64,
    /// Until when it is kept.
    pub expires_at: Timestamp,
}

/// More than [`MAX_UPLOADS`] uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {0} uploads under way; at most {MAX_UPLOADS} are allowed: wait for one to end")]
pub struct TooManyUploads(pub usize);

/// All uploads under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uploads(Vec<Upload>);

impl Uploads {
    /// Checks the number.
    ///
    /// # Errors
    /// [`TooManyUploads`].
    pub fn new(uploads: Vec<Upload>) -> Result<Self, TooManyUploads> {
        if uploads.len() > MAX_UPLOADS { Err(TooManyUploads(uploads.len())) } else { Ok(Self(uploads)) }
    }

    /// The uploads in the order they were given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Upload> {
        self.0.iter()
    }
}

/// The last garbage collection of content: announced before it deletes, so that no upload starts meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Random number that tells it from others.
    pub id: u64,
    /// It must be over by then; who runs it stops deleting in time.
    pub until: Timestamp,
    /// Whether it is over.
    pub done: bool,
}

/// Who keeps a revision from going away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentUser {
    /// It is pinned.
    Pin,
    /// This stage of its channel names it.
    Stage(StageName),
    /// The group at this place names it by number.
    Group(GroupPath),
}

impl std::fmt::Display for ContentUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pin => f.write_str("a pin"),
            Self::Stage(name) => write!(f, "stage {:?}", name.as_str()),
            Self::Group(path) => write!(f, "group {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_remembers_what_it_named() {
        let stage = StageName::new("stable").unwrap();
        let mut channel = Channel::new(ChannelName::new("rules").unwrap());
        assert_eq!(channel.stage(&stage), None);
        for number in [1, 2, 2, 3, 1] {
            channel = channel.promoted(&stage, ContentRevision(number));
            assert_eq!(channel.stage(&stage), Some(ContentRevision(number)));
        }
        assert_eq!(channel.stages[&stage].previous, [3, 2, 1].map(ContentRevision));
        for number in 10..40 {
            channel = channel.promoted(&stage, ContentRevision(number));
        }
        assert_eq!(channel.stages[&stage].previous.len(), MAX_PREVIOUS);
        assert_eq!(channel.stages[&stage].previous[0], ContentRevision(38));
    }

    #[test]
    fn texts_and_numbers_are_bounded() {
        assert!(RevisionLabel::new("").is_ok());
        assert!(RevisionLabel::new("ü".repeat(32)).is_ok());
        for wrong in ["x".repeat(65), "a\nb".to_owned()] {
            assert_eq!(RevisionLabel::new(wrong), Err(RevisionTextError::Label));
        }
        assert!(Note::new("two\nlines\tand a tab").is_ok());
        for wrong in ["x".repeat(1025), "a\u{1b}[31m".to_owned()] {
            assert_eq!(Note::new(wrong), Err(RevisionTextError::Note));
        }
        let upload = Upload {
            channel: ChannelName::new("rules").unwrap(),
            manifest: Digest([1; 32]),
            manifest_bytes: 1,
            expires_at: Timestamp(1),
        };
        assert_eq!(Uploads::new(vec![upload.clone(); 64]).unwrap().iter().len(), 64);
        assert_eq!(Uploads::new(vec![upload; 65]), Err(TooManyUploads(65)));
    }
}
