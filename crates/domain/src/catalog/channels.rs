//! The part of the catalogue that is about content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Catalog, Channel, ContentUser, Group, ObjectKey, StoredRevision, Sweep, Upload, Uploads, Versioned,
};
use crate::content::{ChannelName, ContentPointer, ContentRevision};
use crate::id::GroupId;
use crate::revision::Revision;

type Revisions = BTreeMap<ContentRevision, Versioned<StoredRevision>>;

/// Channels with their revisions, and who follows them. Maps that are large are shared between clones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Channels {
    channels: BTreeMap<ChannelName, Versioned<Channel>>,
    revisions: BTreeMap<ChannelName, Arc<Revisions>>,
    /// Highest number that a deleted channel had, so that a new one of that name counts on. Bounded by the
    /// names that the log keeps.
    retired: BTreeMap<ChannelName, ContentRevision>,
    /// Groups that assign a channel themselves.
    followers: BTreeMap<ChannelName, Arc<BTreeSet<GroupId>>>,
    uploads: Versioned<Uploads>,
    sweep: Option<Versioned<Sweep>>,
}

impl Channels {
    pub(super) fn put_channel(&mut self, value: Arc<Channel>, revision: Revision) {
        self.retired.remove(&value.name);
        self.channels.insert(value.name.clone(), Versioned { value, revision });
    }

    pub(super) fn put_revision(&mut self, value: Arc<StoredRevision>, revision: Revision) {
        let revisions = self.revisions.entry(value.channel.clone()).or_default();
        Arc::make_mut(revisions).insert(value.number, Versioned { value, revision });
    }

    pub(super) fn put_uploads(&mut self, value: Arc<Uploads>, revision: Revision) {
        self.uploads = Versioned { value, revision };
    }

    pub(super) fn put_sweep(&mut self, sweep: Sweep, revision: Revision) {
        self.sweep = Some(Versioned { value: Arc::new(sweep), revision });
    }

    pub(super) fn delete_channel(&mut self, name: ChannelName, last: ContentRevision) {
        self.channels.remove(&name);
        self.retired.insert(name, last);
    }

    pub(super) fn delete_revision(&mut self, channel: &ChannelName, number: ContentRevision) {
        let Some(revisions) = self.revisions.get_mut(channel) else { return };
        Arc::make_mut(revisions).remove(&number);
        if revisions.is_empty() {
            self.revisions.remove(channel);
        }
    }

    pub(super) fn delete_uploads(&mut self, revision: Revision) {
        self.uploads = Versioned { value: Arc::default(), revision };
    }

    pub(super) fn delete_sweep(&mut self) {
        self.sweep = None;
    }

    /// Replaces what a group assigns.
    pub(super) fn follow(&mut self, before: Option<&Group>, after: Option<&Group>) {
        if let Some(group) = before {
            for name in group.content.keys() {
                let Some(groups) = self.followers.get_mut(name) else { continue };
                Arc::make_mut(groups).remove(&group.id);
                if groups.is_empty() {
                    self.followers.remove(name);
                }
            }
        }
        if let Some(group) = after {
            for name in group.content.keys() {
                let groups = self.followers.entry(name.clone()).or_default();
                Arc::make_mut(groups).insert(group.id.clone());
            }
        }
    }

    pub(super) fn revision_of(&self, key: &ObjectKey) -> Option<Revision> {
        match key {
            ObjectKey::Channel(name) => self.channels.get(name).map(|object| object.revision),
            ObjectKey::Content(name, number) => {
                self.revisions.get(name)?.get(number).map(|object| object.revision)
            }
            ObjectKey::Uploads => Some(self.uploads.revision).filter(|revision| *revision != Revision(0)),
            ObjectKey::Sweep => self.sweep.as_ref().map(|object| object.revision),
            ObjectKey::Epoch
            | ObjectKey::Kind(_)
            | ObjectKey::Policy(_)
            | ObjectKey::Group(_)
            | ObjectKey::Token(_)
            | ObjectKey::ApiToken(_) => None,
        }
    }
}

impl Catalog {
    /// A channel by name.
    #[must_use]
    pub fn channel(&self, name: &ChannelName) -> Option<&Versioned<Channel>> {
        self.content.channels.get(name)
    }

    /// All channels in order of name.
    pub fn channels(&self) -> impl Iterator<Item = &Versioned<Channel>> {
        self.content.channels.values()
    }

    /// A revision of a channel by number.
    #[must_use]
    pub fn content_revision(
        &self,
        channel: &ChannelName,
        number: ContentRevision,
    ) -> Option<&Versioned<StoredRevision>> {
        self.content.revisions.get(channel)?.get(&number)
    }

    /// The revisions of a channel that are there, the oldest first.
    pub fn content_revisions(
        &self,
        channel: &ChannelName,
    ) -> impl DoubleEndedIterator<Item = &Versioned<StoredRevision>> {
        self.content.revisions.get(channel).into_iter().flat_map(|revisions| revisions.values())
    }

    /// The highest number that a revision of this channel ever had, also before it was deleted; 0 if it never
    /// had one. The next revision gets the number after it.
    #[must_use]
    pub fn last_content_number(&self, channel: &ChannelName) -> ContentRevision {
        let there = self.channel(channel).map(|channel| channel.value.last_revision);
        there.or_else(|| self.content.retired.get(channel).copied()).unwrap_or_default()
    }

    /// The uploads under way.
    pub fn uploads(&self) -> impl ExactSizeIterator<Item = &Upload> {
        self.content.uploads.value.iter()
    }

    /// The last garbage collection of content, running or over; `None` before the first.
    #[must_use]
    pub fn sweep(&self) -> Option<&Sweep> {
        self.content.sweep.as_ref().map(|sweep| &*sweep.value)
    }

    /// The groups that assign a channel themselves, in order of id.
    pub fn followers(&self, channel: &ChannelName) -> impl Iterator<Item = &Versioned<Group>> {
        let ids = self.content.followers.get(channel).into_iter().flat_map(|ids| ids.iter());
        ids.filter_map(|id| self.group(id))
    }

    /// What keeps a revision from going away: its pin, then stages that name it, then groups that name it by
    /// number, in order of id.
    #[must_use]
    pub fn content_users(&self, channel: &ChannelName, number: ContentRevision) -> Vec<ContentUser> {
        let pinned = self.content_revision(channel, number).is_some_and(|revision| revision.value.pinned);
        let stages = self.channel(channel).into_iter().flat_map(|channel| &channel.value.stages);
        let stages = stages.filter(|(_, stage)| stage.revision == Some(number));
        let pointer = ContentPointer::Revision(number);
        let groups =
            self.followers(channel).filter(|group| group.value.content.get(channel) == Some(&pointer));
        let mut users: Vec<ContentUser> = pinned.then_some(ContentUser::Pin).into_iter().collect();
        users.extend(stages.map(|(name, _)| ContentUser::Stage(name.clone())));
        users.extend(groups.map(|group| ContentUser::Group(group.value.path.clone())));
        users
    }

    /// The revision that a pointer comes to now; `None` if its stage names none, or if it is not there.
    #[must_use]
    pub fn content_at(
        &self,
        channel: &ChannelName,
        pointer: &ContentPointer,
    ) -> Option<&Versioned<StoredRevision>> {
        let number = match pointer {
            ContentPointer::Stage(stage) => self.channel(channel)?.value.stage(stage)?,
            ContentPointer::Revision(number) => *number,
        };
        self.content_revision(channel, number)
    }
}
