//! Rules about content, checked on the catalogue as it would be.

use std::collections::BTreeSet;

use super::structure::Structure;
use super::{MAX_USERS_NAMED, Violation};
use crate::catalog::{
    Channel, ContentUser, Entry, Group, MAX_PREVIOUS, MAX_STAGES, MAX_STORED_REVISIONS, ObjectKey,
    StoredRevision,
};
use crate::content::{ChannelName, ContentPointer, ContentRevision};

impl Structure<'_> {
    /// A group follows channels that exist, and names revisions that are there. A stage that names nothing yet
    /// may be followed: it gives no content until it does.
    pub(super) fn content_of(&self, group: &Group, violations: &mut Vec<Violation>) {
        for (channel, pointer) in &group.content {
            let needs = match pointer {
                _ if self.candidate.channel(channel).is_none() => ObjectKey::Channel(channel.clone()),
                ContentPointer::Revision(number)
                    if self.candidate.content_revision(channel, *number).is_none() =>
                {
                    ObjectKey::Content(channel.clone(), *number)
                }
                ContentPointer::Stage(_) | ContentPointer::Revision(_) => continue,
            };
            self.dangling(ObjectKey::Group(group.id.clone()), needs, violations);
        }
    }

    /// Stages name revisions that are there.
    pub(super) fn channel(&self, channel: &Channel, violations: &mut Vec<Violation>) {
        for number in channel.stages.values().filter_map(|stage| stage.revision) {
            if self.candidate.content_revision(&channel.name, number).is_none() {
                let needs = ObjectKey::Content(channel.name.clone(), number);
                self.dangling(ObjectKey::Channel(channel.name.clone()), needs, violations);
            }
        }
    }

    /// A revision has a channel and a number of its own, and its content never changes.
    pub(super) fn revision(&self, revision: &StoredRevision, violations: &mut Vec<Violation>) {
        let (channel, number) = (&revision.channel, revision.number);
        let Some(owner) = self.candidate.channel(channel) else {
            let user = ObjectKey::Content(channel.clone(), number);
            self.dangling(user, ObjectKey::Channel(channel.clone()), violations);
            return;
        };
        let used = self.current.catalog.last_content_number(channel);
        match self.current.catalog.content_revision(channel, number) {
            Some(before) if !before.value.is_same_content(revision) => {
                violations.push(Violation::ContentFixed { channel: channel.clone(), number });
            }
            Some(_) => {}
            None if number <= used || number > owner.value.last_revision => {
                let next = ContentRevision(used.0.saturating_add(1));
                violations.push(Violation::ContentNumber { channel: channel.clone(), number, next });
            }
            None => {}
        }
    }

    /// Groups that follow a channel, and revisions that would stay without it.
    pub(super) fn channel_users(&self, channel: &ChannelName) -> Vec<ObjectKey> {
        let groups = self.candidate.followers(channel);
        let groups = groups.map(|group| ObjectKey::Group(group.value.id.clone()));
        let revisions = self.candidate.content_revisions(channel);
        let revisions = revisions.map(|it| ObjectKey::Content(channel.clone(), it.value.number));
        groups.chain(revisions).collect()
    }

    /// A revision may go if nothing names it. A channel that goes takes its pins and stages with it.
    pub(super) fn retired(
        &self,
        channel: &ChannelName,
        number: ContentRevision,
        violations: &mut Vec<Violation>,
    ) {
        if self.candidate.channel(channel).is_none() {
            return;
        }
        let before = self.current.catalog.content_revision(channel, number);
        let mut users = Vec::new();
        users.extend(before.is_some_and(|revision| revision.value.pinned).then_some(ContentUser::Pin));
        users.extend(self.candidate.content_users(channel, number));
        let total = users.len();
        if total > 0 {
            users.truncate(MAX_USERS_NAMED);
            violations.push(Violation::ContentInUse { channel: channel.clone(), number, users, total });
        }
    }

    /// The bounds of the channels that are written.
    pub(super) fn content_numbers(&self, violations: &mut Vec<Violation>) {
        let mut grown: BTreeSet<&ChannelName> = BTreeSet::new();
        for entry in self.entries {
            match entry {
                Entry::Channel(channel) => {
                    let longest = channel.stages.values().map(|stage| stage.previous.len()).max();
                    for (what, found, most) in [
                        ("stages in a channel", channel.stages.len(), MAX_STAGES),
                        ("former revisions of a stage", longest.unwrap_or(0), MAX_PREVIOUS),
                    ] {
                        if found > most {
                            violations.push(Violation::TooManyObjects { what, found, most });
                        }
                    }
                }
                Entry::Content(revision) => {
                    grown.insert(&revision.channel);
                }
                Entry::Group(_)
                | Entry::Kind(_)
                | Entry::Policy(_)
                | Entry::Token(_)
                | Entry::ApiToken(_)
                | Entry::Epoch(_)
                | Entry::Uploads(_)
                | Entry::Sweep(_)
                | Entry::Deleted { .. } => {}
            }
        }
        for channel in grown {
            let (what, most) = ("revisions in a channel", MAX_STORED_REVISIONS);
            let found = self.candidate.content_revisions(channel).count();
            if found > most {
                violations.push(Violation::TooManyObjects { what, found, most });
            }
        }
    }
}
