//! The last call of an upload: makes it a revision of its channel.

use domain::Digest;
use domain::catalog::{Catalog, Channel, Note, RevisionLabel, StoredRevision, Upload, Uploads};
use domain::change::{Operation, Wanted};
use domain::content::{ChannelName, ContentIndex, ContentRevision, Manifest};
use domain::{Revision, Timestamp};
use runtime::clock;
use runtime::store::Author;
use tonic::Status;
use wire::agent::v1::{Envelope, Signature};

use super::chunks::lost;
use super::{existing, under_way, whole};
use crate::replica::Replica;
use crate::resign::{is_enough, with_own};
use crate::{Refused, change, crash, refuse};

/// What is to become a revision.
pub(crate) struct Finish {
    pub(crate) channel: ChannelName,
    pub(crate) manifest: Digest,
    pub(crate) label: RevisionLabel,
    pub(crate) note: Note,
    /// Signatures by further keys.
    pub(crate) signatures: Vec<Signature>,
}

/// What became of it.
pub(crate) struct Finished {
    pub(crate) revision: StoredRevision,
    /// Whether it is new.
    pub(crate) created: bool,
    pub(crate) store_revision: Revision,
}

/// Finishes an upload.
///
/// # Errors
/// [`Refused`] as a caller of the API gets it.
pub(crate) async fn finish(replica: &Replica, finish: Finish, author: &Author) -> Result<Finished, Refused> {
    replica.catalogue.catch_up().await?;
    let catalog = replica.catalogue.current();
    if let Some(revision) = existing(&catalog, &finish.channel, &finish.manifest)
        && is_whole(replica, &finish.manifest).await?
    {
        let store_revision = catalog.revision();
        return Ok(Finished { revision: revision.clone(), created: false, store_revision });
    }
    check_upload(&catalog, &finish)?;
    let manifest = replica.store.manifest(&finish.manifest).await?;
    let manifest = manifest.ok_or_else(|| Refused(lost(&finish.manifest)))?;
    let lengths = whole::verify(replica, &manifest).await?;
    crash::point("finish-checked");
    sign(replica, &finish).await?;
    crash::point("finish-signed");
    let index = replica.store.index(&finish.manifest, &manifest).await?;
    if index.index.is_none() {
        let fleet = replica.store.fleet.clone();
        let first = ContentIndex::new(fleet, finish.manifest, lengths, Vec::new());
        let first = first.map_err(|error| Refused(Status::internal(error.to_string())))?;
        // If somebody else was quicker, theirs says the same.
        replica.store.put_index(&first, index.sequence).await?;
    }
    crash::point("finish-indexed");
    let finished = commit(replica, &finish, &manifest, author).await?;
    crash::point("finish-committed");
    replica.wake.notify_one();
    Ok(finished)
}

/// Whether all that a revision needs is stored, as far as one can tell without reading its chunks.
async fn is_whole(replica: &Replica, name: &Digest) -> Result<bool, Refused> {
    let Some(manifest) = replica.store.manifest(name).await? else { return Ok(false) };
    Ok(replica.store.index(name, &manifest).await?.index.is_some() && is_signed(replica, name).await?)
}

/// Whether a manifest is stored with as many signatures as the fleet asks for by now.
pub(super) async fn is_signed(replica: &Replica, name: &Digest) -> Result<bool, Refused> {
    let Some(bytes) = replica.store.envelope(name).await? else { return Ok(false) };
    let trust = replica.store.roots.content();
    Ok(wire::envelope::parse_shared(&bytes).is_ok_and(|stored| is_enough(&stored, &trust)))
}

fn check_upload<'a>(catalog: &'a Catalog, finish: &Finish) -> Result<&'a Upload, Status> {
    let upload = under_way(catalog, &finish.manifest, clock::now())?;
    if upload.channel == finish.channel {
        return Ok(upload);
    }
    Err(refuse::field("channel", format!("must be {}, for which the upload was begun", upload.channel)))
}

/// Stores the manifest with all signatures, if they are enough.
async fn sign(replica: &Replica, finish: &Finish) -> Result<(), Refused> {
    let bytes = replica.store.envelope(&finish.manifest).await?;
    let bytes = bytes.ok_or_else(|| Refused(lost(&finish.manifest)))?;
    let stored = wire::envelope::parse_shared(&bytes);
    let stored = stored.map_err(|error| Refused(Status::data_loss(runtime::log::chain(&error))))?;
    let trust = replica.store.roots.content();
    let mut given = stored.signatures.clone();
    given.extend(finish.signatures.iter().cloned());
    let signed = with_own(replica, Envelope { signatures: given, ..stored }, &trust)?;
    if !is_enough(&signed, &trust) {
        let message = format!(
            "the fleet asks for signatures of {} different content keys and {} hold: sign the manifest with further keys and \
             give their signatures",
            trust.threshold,
            signed.signatures.len()
        );
        return Err(Refused(refuse::precondition("SIGNATURES", message)));
    }
    Ok(replica.store.put_manifest(&finish.manifest, &signed).await?)
}

/// Makes the revision and ends the upload, in one change.
async fn commit(
    replica: &Replica,
    finish: &Finish,
    manifest: &Manifest,
    author: &Author,
) -> Result<Finished, Refused> {
    let now = clock::now();
    let mut made = None;
    let change = change::make(replica, author, false, |catalog| {
        let there = existing(catalog, &finish.channel, &finish.manifest).cloned();
        let uploads = Wanted::Uploads(without(catalog, finish)).into();
        match there {
            // Somebody else finished it meanwhile, or its pieces were lost and are back.
            Some(revision) => {
                made = Some((revision, false));
                Ok(vec![uploads])
            }
            None => {
                let upload = check_upload(catalog, finish)?;
                let revision = revision(catalog, finish, manifest, (upload.manifest_bytes, now));
                let channel = raised(catalog, &finish.channel, revision.number);
                made = Some((revision.clone(), true));
                Ok(vec![uploads, Operation::from(Wanted::Channel(channel)), Wanted::Content(revision).into()])
            }
        }
    });
    let store_revision = change.await?.revision;
    let (revision, created) = made.expect("invariant: the change was decided");
    if created {
        tracing::info!(
            channel = %revision.channel, revision = %revision.number, manifest = %revision.manifest,
            bytes = revision.content_bytes, "a new revision"
        );
    }
    Ok(Finished { revision, created, store_revision })
}

fn without(catalog: &Catalog, finish: &Finish) -> Uploads {
    let others = catalog
        .uploads()
        .filter(|upload| upload.channel != finish.channel || upload.manifest != finish.manifest);
    Uploads::new(others.cloned().collect()).expect("invariant: there are no more than before")
}

fn revision(
    catalog: &Catalog,
    finish: &Finish,
    manifest: &Manifest,
    (manifest_bytes, created_at): (u64, Timestamp),
) -> StoredRevision {
    StoredRevision {
        channel: finish.channel.clone(),
        number: ContentRevision(catalog.last_content_number(&finish.channel).0.saturating_add(1)),
        manifest: finish.manifest,
        manifest_bytes,
        content_bytes: manifest.content_bytes(),
        digest: manifest.digest(),
        files: u32::try_from(manifest.files().len()).unwrap_or(u32::MAX),
        created_at,
        label: finish.label.clone(),
        note: finish.note.clone(),
        pinned: false,
    }
}

/// The channel, made if it is new, with this as its last revision.
fn raised(catalog: &Catalog, name: &ChannelName, last_revision: ContentRevision) -> Channel {
    let channel = catalog.channel(name).map(|channel| (*channel.value).clone());
    Channel { last_revision, ..channel.unwrap_or_else(|| Channel::new(name.clone())) }
}
