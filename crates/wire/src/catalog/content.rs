//! Entries about content between their domain form and stored bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::catalog::{
    Channel, Entry, MAX_PREVIOUS, MAX_STAGES, MAX_UPLOADS, Note, RevisionLabel, Stage, StoredRevision, Sweep,
    Upload, Uploads,
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
        manager: super::mark(stage.manager.as_ref()),
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
    for StageState { stage, content_revision, previous, manager } in state.stages {
        if previous.len() > MAX_PREVIOUS {
            return Err(DecodeError::field("previous", format!("has more than {MAX_PREVIOUS} revisions")));
        }
        let names = Stage {
            revision: Some(ContentRevision(content_revision)).filter(|number| number.0 != 0),
            previous: previous.into_iter().map(ContentRevision).collect(),
            manager: super::read_mark(&manager)?,
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
    let many = |_| DecodeError::field("uploads", format!("has more than {MAX_UPLOADS} uploads"));
    let uploads = Uploads::new(uploads).map_err(many)?;
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

#[cfg(test)]
pub(super) mod tests {
    use domain::catalog::ObjectKey;

    use super::*;

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    pub(crate) fn followed() -> BTreeMap<ChannelName, ContentPointer> {
        let stable = StageName::new("stable").unwrap();
        BTreeMap::from([
            (name("definitions/ips"), ContentPointer::Stage(stable)),
            (name("rules"), ContentPointer::Revision(ContentRevision(7))),
        ])
    }

    pub(crate) fn samples() -> Vec<Entry> {
        let stage = Stage {
            revision: Some(ContentRevision(12)),
            previous: vec![ContentRevision(11), ContentRevision(12)],
            manager: Some(domain::catalog::Keeper::new("kubernetes:default").unwrap()),
        };
        let stages = [("canary", Stage::default()), ("stable", stage)];
        let channel = Channel {
            stages: stages.map(|(name, stage)| (StageName::new(name).unwrap(), stage)).into(),
            last_revision: ContentRevision(12),
            keep_revisions: Some(90),
            keep_for: Some(Span::from_secs(3600)),
            ..Channel::new(name("definitions/ips"))
        };
        let revision = StoredRevision {
            channel: name("definitions/ips"),
            number: ContentRevision(12),
            manifest: Digest([1; 32]),
            manifest_bytes: 1_000,
            content_bytes: 100_000_000,
            digest: Digest([2; 32]),
            files: 3,
            created_at: Timestamp(5),
            label: RevisionLabel::new("2026-11-21-b").unwrap(),
            note: Note::new("fixes\nthe last one").unwrap(),
            pinned: true,
        };
        let upload = Upload {
            channel: name("rules"),
            manifest: Digest([3; 32]),
            manifest_bytes: 10,
            expires_at: Timestamp(9),
        };
        vec![
            Entry::Channel(Arc::new(channel)),
            Entry::Channel(Arc::new(Channel::new(name("a/b/c/d")))),
            Entry::Content(Arc::new(revision)),
            Entry::Uploads(Arc::new(Uploads::new(vec![upload]).unwrap())),
            Entry::Sweep(Sweep { id: u64::MAX, until: Timestamp(7), done: true }),
            Entry::Deleted { key: ObjectKey::Channel(name("rules")), generation: 12 },
        ]
    }

    #[test]
    fn what_breaks_a_rule_is_refused_by_field() {
        fn check<T>(read: Result<T, DecodeError>, expected: &str) {
            assert_eq!(read.map(drop).unwrap_err().to_string(), expected);
        }
        let reference = |channel: &str, which| ContentReferenceState { channel: channel.into(), which };
        let stable = || Some(Which::Stage("stable".into()));
        check(read_references(vec![reference("a", None)]), "field which is missing");
        let twice = vec![reference("a", stable()), reference("a", Some(Which::ContentRevision(1)))];
        check(read_references(twice), "field content names a channel twice");
        let many = (0..65).map(|n| reference(&format!("c{n}"), stable())).collect();
        check(read_references(many), "field content has more than 64 channels");

        let stage = |name: &str, previous| StageState {
            stage: name.into(),
            content_revision: 1,
            previous,
            ..StageState::default()
        };
        let channel = |stages| read_channel(name("a"), ChannelState { stages, ..ChannelState::default() });
        check(channel(vec![stage("s", vec![]); 2]), "field stages names a stage twice");
        check(channel(vec![stage("s", vec![1; 17])]), "field previous has more than 16 revisions");
        check(channel(vec![stage("s", vec![]); 17]), "field stages has more than 16 stages");

        let state = ContentRevisionState { manifest: vec![0; 31], ..ContentRevisionState::default() };
        check(read_revision(name("a"), ContentRevision(1), state), "field manifest is not 32 bytes long");
        let upload = UploadState { channel: "a".into(), manifest: vec![0; 32], ..UploadState::default() };
        check(
            read_uploads(UploadsState { uploads: vec![upload; 65] }),
            "field uploads has more than 64 uploads",
        );
    }
}
