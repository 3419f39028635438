//! Entries about content between their domain form and stored bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::catalog::{
    Channel, Entry, MAX_PREVIOUS, MAX_STAGES, Note, RevisionLabel, Stage, StoredRevision, Sweep, Upload,
    Uploads,
};
use domain::content::{ChannelName, ContentPointer, ContentRevision, MAX_CHANNELS_PER_GROUP, StageName};
use domain::{Digest, Span, Timestamp};

use crate::DecodeError;
use crate::store::v1::content_reference_state::Which;
use crate::store::v1::{
    ChannelState, ContentReferenceState, ContentRevisionState, StageState, SweepState, UploadState,
    UploadsState,
};

pub(super) fn references(content: &BTreeMap<ChannelName, ContentPointer>) -> Vec<ContentReferenceState> {
    let reference = |(channel, pointer): (&ChannelName, &ContentPointer)| ContentReferenceState {
        channel: channel.to_string(),
        which: Some(match pointer {
            ContentPointer::Stage(stage) => Which::Stage(stage.to_string()),
            ContentPointer::Revision(number) => Which::ContentRevision(number.0),
        }),
    };
    content.iter().map(reference).collect()
}

pub(super) fn read_references(
    references: Vec<ContentReferenceState>,
) -> Result<BTreeMap<ChannelName, ContentPointer>, DecodeError> {
    if references.len() > MAX_CHANNELS_PER_GROUP {
        return Err(DecodeError::field(
            "content",
            format!("has more than {MAX_CHANNELS_PER_GROUP} channels"),
        ));
    }
    let mut content = BTreeMap::new();
    for reference in references {
        let channel = ChannelName::new(&reference.channel).map_err(|e| DecodeError::field("channel", e))?;
        let pointer = match reference.which {
            Some(Which::Stage(stage)) => ContentPointer::Stage(read_stage_name(&stage)?),
            Some(Which::ContentRevision(number)) => ContentPointer::Revision(ContentRevision(number)),
            None => return Err(DecodeError::field("which", "is missing")),
        };
        if content.insert(channel, pointer).is_some() {
            return Err(DecodeError::field("content", "names a channel twice"));
        }
    }
    Ok(content)
}

fn read_stage_name(text: &str) -> Result<StageName, DecodeError> {
    StageName::new(text).map_err(|e| DecodeError::field("stage", e))
}

pub(super) fn channel(channel: &Channel) -> ChannelState {
    let stage = |(name, stage): (&StageName, &Stage)| StageState {
        stage: name.to_string(),
        content_revision: stage.revision.map_or(0, |number| number.0),
        previous: stage.previous.iter().map(|number| number.0).collect(),
    };
    ChannelState {
        stages: channel.stages.iter().map(stage).collect(),
        last_revision: channel.last_revision.0,
        keep_revisions: channel.keep_revisions.unwrap_or(0),
        keep_for_ms: channel.keep_for.map_or(0, |span| span.0),
    }
}

pub(super) fn read_channel(name: ChannelName, state: ChannelState) -> Result<Entry, DecodeError> {
    if state.stages.len() > MAX_STAGES {
        return Err(DecodeError::field("stages", format!("has more than {MAX_STAGES} stages")));
    }
    let mut stages = BTreeMap::new();
    for StageState { stage, content_revision, previous } in state.stages {
        if previous.len() > MAX_PREVIOUS {
            return Err(DecodeError::field("previous", format!("has more than {MAX_PREVIOUS} revisions")));
        }
        let names = Stage {
            revision: Some(ContentRevision(content_revision)).filter(|number| number.0 != 0),
            previous: previous.into_iter().map(ContentRevision).collect(),
        };
        if stages.insert(read_stage_name(&stage)?, names).is_some() {
            return Err(DecodeError::field("stages", "names a stage twice"));
        }
    }
    Ok(Entry::Channel(Arc::new(Channel {
        name,
        stages,
        last_revision: ContentRevision(state.last_revision),
        keep_revisions: Some(state.keep_revisions).filter(|keep| *keep != 0),
        keep_for: Some(Span(state.keep_for_ms)).filter(|keep| keep.0 != 0),
    })))
}

pub(super) fn revision(revision: &StoredRevision) -> ContentRevisionState {
    ContentRevisionState {
        manifest: revision.manifest.0.to_vec(),
        manifest_bytes: revision.manifest_bytes,
        content_bytes: revision.content_bytes,
        digest: revision.digest.0.to_vec(),
        files: revision.files,
        created_at_ms: revision.created_at.0,
        label: revision.label.as_str().to_owned(),
        note: revision.note.as_str().to_owned(),
        pinned: revision.pinned,
    }
}

pub(super) fn read_revision(
    channel: ChannelName,
    number: ContentRevision,
    state: ContentRevisionState,
) -> Result<Entry, DecodeError> {
    Ok(Entry::Content(Arc::new(StoredRevision {
        channel,
        number,
        manifest: read_digest("manifest", &state.manifest)?,
        manifest_bytes: state.manifest_bytes,
        content_bytes: state.content_bytes,
        digest: read_digest("digest", &state.digest)?,
        files: state.files,
        created_at: Timestamp(state.created_at_ms),
        label: RevisionLabel::new(&state.label).map_err(|e| DecodeError::field("label", e))?,
        note: Note::new(&state.note).map_err(|e| DecodeError::field("note", e))?,
        pinned: state.pinned,
    })))
}

pub(super) fn uploads(uploads: &Uploads) -> UploadsState {
    let upload = |upload: &Upload| UploadState {
        channel: upload.channel.to_string(),
        manifest: upload.manifest.0.to_vec(),
        manifest_bytes: upload.manifest_bytes,
        expires_at_ms: upload.expires_at.0,
    };
    UploadsState { uploads: uploads.iter().map(upload).collect() }
}

pub(super) fn read_uploads(state: UploadsState) -> Result<Entry, DecodeError> {
    let upload = |state: UploadState| {
        Ok(Upload {
            channel: ChannelName::new(&state.channel).map_err(|e| DecodeError::field("channel", e))?,
            manifest: read_digest("manifest", &state.manifest)?,
            manifest_bytes: state.manifest_bytes,
            expires_at: Timestamp(state.expires_at_ms),
        })
    };
    let uploads = state.uploads.into_iter().map(upload).collect::<Result<_, DecodeError>>()?;
    let uploads = Uploads::new(uploads).map_err(|e| DecodeError::field("uploads", e))?;
    Ok(Entry::Uploads(Arc::new(uploads)))
}

pub(super) fn sweep(sweep: &Sweep) -> SweepState {
    SweepState { id: sweep.id, until_ms: sweep.until.0, done: sweep.done }
}

pub(super) fn read_sweep(state: SweepState) -> Entry {
    Entry::Sweep(Sweep { id: state.id, until: Timestamp(state.until_ms), done: state.done })
}

fn read_digest(field: &'static str, bytes: &[u8]) -> Result<Digest, DecodeError> {
    let bytes = bytes.try_into().map_err(|_| DecodeError::field(field, "is not 32 bytes long"))?;
    Ok(Digest(bytes))
}
