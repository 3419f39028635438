//! Uploads: from a list of files and chunks to a revision of a channel.
//!
//! An upload is three calls, each of which may come again and may go to another replica. What guards it is its
//! entry in the catalogue's list of uploads: from there on no garbage collection deletes what its manifest names.
//! A collection that was announced before the entry may still delete, so the first call waits until that is over
//! before it looks which chunks are there.

mod begin;
mod chunks;
mod finish;
mod known;
mod whole;

use domain::Digest;
use domain::catalog::{Catalog, StoredRevision, Upload};
use domain::content::ChannelName;
use domain::time::{Span, Timestamp};
use tonic::Status;

pub(crate) use begin::{Begun, begin};
pub(crate) use chunks::{MAX_INTAKES, take};
pub(crate) use finish::{Finish, finish};

use crate::refuse;

/// How long an upload is kept that nobody finishes; each call of its begin starts this anew. A thin line and a
/// night fit.
pub(crate) const KEPT_FOR: Span = Span::from_secs(24 * 3600);
/// How much longer than it says an upload stands in the list: replicas' clocks differ, and what one still finishes
/// no other may delete.
pub(crate) const EXPIRY_GRACE: Span = Span::from_secs(300);
/// Single messages that one call reads at a time: with chunks of 512 KiB they and what is in them take at most 32 MiB
/// of memory.
pub(crate) const READS_AT_A_TIME: usize = 32;

/// The revision of a channel that has this content.
pub(crate) fn existing<'a>(
    catalog: &'a Catalog,
    channel: &ChannelName,
    manifest: &Digest,
) -> Option<&'a StoredRevision> {
    let mut revisions = catalog.content_revisions(channel).rev();
    revisions.find(|it| it.value.manifest == *manifest).map(|it| &*it.value)
}

/// The entry of an upload that is under way.
///
/// # Errors
/// `FAILED_PRECONDITION` if there is none, or its time is over.
pub(crate) fn under_way<'a>(
    catalog: &'a Catalog,
    manifest: &Digest,
    now: Timestamp,
) -> Result<&'a Upload, Status> {
    let found = catalog.uploads().find(|upload| upload.manifest == *manifest && now < upload.expires_at);
    found.ok_or_else(|| {
        let message = format!(
            "no upload of {manifest} is under way: begin it again, chunks that are there are not sent twice"
        );
        refuse::precondition("NO_UPLOAD", message)
    })
}
