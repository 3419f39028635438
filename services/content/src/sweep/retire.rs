//! Which revisions go because of their age and number, and their going.

use std::collections::BTreeSet;

use domain::catalog::{Catalog, Channel, Entry, ObjectKey, StoredRevision};
use domain::change::Wanted;
use domain::content::retention::{Keep, retired};
use domain::content::{ContentPointer, ContentRevision};
use domain::{Span, Timestamp};
use runtime::clock;
use runtime::store::Author;

use crate::replica::Replica;
use crate::{Refused, change};

/// Revisions that go in one change: half of what one holds.
const PER_CHANGE: usize = 500;
/// Most changes of one collection: of what is left the next one takes care.
const MAX_CHANGES: usize = 100;

/// Removes revisions that retention does not keep, or only says which.
pub(super) async fn retire(
    replica: &Replica,
    author: &Author,
    dry_run: bool,
) -> Result<Vec<StoredRevision>, Refused> {
    let mut all = Vec::new();
    replica.catalogue.catch_up().await?;
    if expired(replica, &replica.catalogue.current(), clock::now(), 1).is_empty() {
        return Ok(all);
    }
    replica.census.known().await?;
    if dry_run {
        return Ok(expired(replica, &replica.catalogue.current(), clock::now(), usize::MAX));
    }
    for _ in 0..MAX_CHANGES {
        let mut gone = Vec::new();
        let change = change::make(replica, author, false, |catalog| {
            gone = expired(replica, catalog, clock::now(), PER_CHANGE);
            let keys = gone.iter().map(|it| ObjectKey::Content(it.channel.clone(), it.number));
            Ok(keys.map(|key| Wanted::Deleted(key).into()).collect())
        });
        change.await?;
        if gone.is_empty() {
            break;
        }
        for revision in &gone {
            tracing::info!(channel = %revision.channel, revision = %revision.number, "a revision went by retention");
        }
        all.append(&mut gone);
    }
    Ok(all)
}

/// The entry that removes a revision.
pub(super) fn deletion(revision: &StoredRevision) -> Entry {
    Entry::Deleted { key: ObjectKey::Content(revision.channel.clone(), revision.number), generation: 0 }
}

/// Revisions that retention does not keep, in order of channel and number.
fn expired(replica: &Replica, catalog: &Catalog, now: Timestamp, most: usize) -> Vec<StoredRevision> {
    let default =
        Keep { revisions: replica.config.keep_revisions, span: Span::from(replica.config.keep_for) };
    let of_channel = |channel: &Channel| {
        let needed = needed(replica, catalog, channel);
        let stored = catalog.content_revisions(&channel.name).map(|revision| &*revision.value);
        let numbers = retired(channel, stored, &needed, Keep::of(channel, default), now);
        let found = numbers.into_iter().filter_map(|number| catalog.content_revision(&channel.name, number));
        found.map(|revision| (*revision.value).clone()).collect::<Vec<_>>()
    };
    catalog.channels().flat_map(|channel| of_channel(&channel.value)).take(most).collect()
}

/// Revisions that a group names by number, whose content is being uploaded again, or that agents are fetching.
fn needed(replica: &Replica, catalog: &Catalog, channel: &Channel) -> BTreeSet<ContentRevision> {
    let mut needed = replica.census.fetching(&channel.name);
    for group in catalog.followers(&channel.name) {
        match group.value.content.get(&channel.name) {
            Some(ContentPointer::Revision(number)) => {
                needed.insert(*number);
            }
            Some(ContentPointer::Stage(_)) | None => {}
        }
    }
    let uploads: BTreeSet<_> = catalog.uploads().map(|upload| upload.manifest).collect();
    let uploaded = catalog.content_revisions(&channel.name);
    needed.extend(
        uploaded.filter(|it| uploads.contains(&it.value.manifest)).map(|revision| revision.value.number),
    );
    needed
}
