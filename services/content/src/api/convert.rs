//! From messages of the API to what the domain works with.

use domain::Digest;
use domain::FleetId;
use domain::access::Sight;
use domain::catalog::{Catalog, Note, RevisionLabel, StoredRevision};
use domain::content::{
    ChannelName, ChunkEntry, ContentRevision, FilePath, Manifest, ManifestFile, StageName,
};
use runtime::access::caller;
use runtime::store::Author;
use runtime::telemetry::spans;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};
use wire::api::v1;
use wire::api::v1::revision_selector::Which;

use crate::refuse;

/// Longest reason that a caller may give for a change, in bytes: it is kept with the change.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Reads the name of a channel.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub(super) fn channel(field: &str, text: &str) -> Result<ChannelName, Status> {
    ChannelName::new(text).map_err(|error| refuse::field(field, error))
}

/// Reads the name of a stage.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub(super) fn stage(text: &str) -> Result<StageName, Status> {
    StageName::new(text).map_err(|error| refuse::field("stage", error))
}

/// Reads a digest.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub(super) fn digest(field: &str, bytes: &[u8]) -> Result<Digest, Status> {
    bytes.try_into().map(Digest).map_err(|_| refuse::field(field, "must be 32 bytes long"))
}

/// Reads a label and a note.
///
/// # Errors
/// `INVALID_ARGUMENT` if one is too long.
pub(super) fn texts(label: &str, note: &str) -> Result<(RevisionLabel, Note), Status> {
    let label = RevisionLabel::new(label).map_err(|error| refuse::field("label", error))?;
    let note = Note::new(note).map_err(|error| refuse::field("note", error))?;
    Ok((label, note))
}

/// Reads what is to be uploaded.
///
/// # Errors
/// `INVALID_ARGUMENT` names the field and the rule that is broken.
pub(super) fn manifest(fleet: &FleetId, request: &v1::BeginUploadRequest) -> Result<Manifest, Status> {
    let channel = channel("channel", &request.channel)?;
    let files = request.files.iter().enumerate().map(|(at, file)| {
        let field = |part: &str| format!("files[{at}].{part}");
        Ok(ManifestFile {
            path: FilePath::new(&file.path).map_err(|error| refuse::field(&field("path"), error))?,
            bytes: file.bytes,
            digest: digest(&field("digest"), &file.digest)?,
            executable: file.executable,
        })
    });
    let files = files.collect::<Result<_, Status>>()?;
    let digests = request.chunk_digests.chunks_exact(32);
    if !digests.remainder().is_empty() || digests.len() != request.chunk_bytes.len() {
        return Err(refuse::field("chunk_digests", "must be 32 bytes for each of chunk_bytes"));
    }
    let chunks = digests
        .zip(&request.chunk_bytes)
        .map(|(bytes, length)| Ok(ChunkEntry { digest: digest("chunk_digests", bytes)?, bytes: *length }));
    let chunks = chunks.collect::<Result<_, Status>>()?;
    let whole = digest("digest", &request.digest)?;
    Manifest::new(fleet.clone(), channel, files, chunks, whole)
        .map_err(|error| refuse::field("content", error))
}

/// Who makes a change and why.
///
/// # Errors
/// `INVALID_ARGUMENT` if the reason is too long.
pub(super) fn author(
    (metadata, extensions): (&MetadataMap, &Extensions),
    message: String,
) -> Result<Author, Status> {
    if message.len() > MAX_MESSAGE_BYTES {
        let why = format!("is {} bytes long; at most {MAX_MESSAGE_BYTES} are allowed", message.len());
        return Err(refuse::field("message", why));
    }
    let actor = caller(extensions)?.name;
    let trace_id = spans::trace_id(metadata);
    Ok(Author { actor, message, trace_id })
}

/// Whether the caller sees the channel of a selector.
///
/// # Errors
/// `NOT_FOUND` if not, as if there were none.
pub(super) fn visible(sight: &Sight<'_>, selector: Option<&v1::RevisionSelector>) -> Result<(), Status> {
    let named = selector.and_then(|selector| ChannelName::new(&selector.channel).ok());
    match named.filter(|name| !sight.channel(name)) {
        Some(name) => Err(refuse::no_channel(&name)),
        None => Ok(()),
    }
}

/// Finds the revision that is meant.
///
/// # Errors
/// `INVALID_ARGUMENT` if the selector is wrong, `NOT_FOUND` if there is no such revision.
pub(super) fn select<'a>(
    catalog: &'a Catalog,
    field: &str,
    selector: Option<&v1::RevisionSelector>,
) -> Result<&'a StoredRevision, Status> {
    let Some(selector) = selector else { return Err(refuse::field(field, "must be given")) };
    let name = channel(&format!("{field}.channel"), &selector.channel)?;
    let found = catalog.channel(&name).ok_or_else(|| refuse::no_channel(&name))?;
    let mut newest_first = catalog.content_revisions(&name).rev().map(|revision| &*revision.value);
    match &selector.which {
        None => newest_first.next().ok_or_else(|| {
            let message = format!("channel {name} has no revisions: push one with `muster content push`");
            refuse::missing("ContentRevision", name.as_str(), message)
        }),
        Some(Which::Revision(number)) => numbered(catalog, &name, ContentRevision(*number)),
        Some(Which::Stage(text)) => {
            let stage = StageName::new(text).map_err(|e| refuse::field(&format!("{field}.stage"), e))?;
            match found.value.stage(&stage) {
                Some(number) => numbered(catalog, &name, number),
                None => Err(no_stage(&name, &stage)),
            }
        }
        Some(Which::Label(label)) => newest_first.find(|it| it.label.as_str() == label).ok_or_else(|| {
            let message = format!("channel {name} has no revision with the label {label:?}");
            refuse::missing("ContentRevision", name.as_str(), message)
        }),
    }
}

/// Finds a revision by number.
///
/// # Errors
/// `NOT_FOUND` if there is no such revision.
pub(super) fn numbered<'a>(
    catalog: &'a Catalog,
    name: &ChannelName,
    number: ContentRevision,
) -> Result<&'a StoredRevision, Status> {
    if catalog.channel(name).is_none() {
        return Err(refuse::no_channel(name));
    }
    let found = catalog.content_revision(name, number).map(|revision| &*revision.value);
    found.ok_or_else(|| {
        let was = number.0 > 0 && number <= catalog.last_content_number(name);
        let why = if was { "was retired" } else { "was never made" };
        let message = format!("revision {number} of channel {name} {why}");
        refuse::missing("ContentRevision", &format!("{name}:{number}"), message)
    })
}

/// There is no such stage, or it names nothing.
pub(super) fn no_stage(channel: &ChannelName, stage: &StageName) -> Status {
    let (name, stage) = (format!("{channel}:{stage}"), stage.as_str());
    let message = format!(
        "stage {stage:?} of channel {channel} names no revision: promote one with `muster content promote {channel} \
         --stage {stage}`"
    );
    refuse::missing("ContentStage", &name, message)
}
