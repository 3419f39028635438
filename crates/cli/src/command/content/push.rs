//! `muster content push`.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use domain::Span;
use domain::catalog::{Note, RevisionLabel};
use domain::content::ChannelName;
use ed25519_dalek::{SECRET_KEY_LENGTH, SigningKey};
use indicatif::ProgressBar;
use wire::api::v1::{
    FinishUploadResponse, GetRevisionRequest, PromoteRequest, Revision, RevisionSelector,
    revision_selector::Which,
};

use super::revision::parse_stage;
use crate::args::Format;
use crate::client::{passing, patiently};
use crate::command::parse_duration;
use crate::content::source::Source;
use crate::content::tree::{Tree, note_on_empty_folders};
use crate::content::upload::{Progress, Upload};
use crate::content::{cut, progress};
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// How often the server is asked for a patch: they take from milliseconds to a minute.
const PATCH_POLL_INTERVAL: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  muster content push definitions/ips rules/            # every file below rules/
  muster content push models/text model.bin --label 2026-11-21 --note 'trained on November'
  muster content push definitions/ips rules/ --promote canary
  muster content push definitions/ips rules/ --sign-with second.key   # where one signature is not enough

Only what the server does not have yet is sent. A push that broke off goes on where it was when the \
same command is run again. Symbolic links, pipes and devices are refused; empty folders are left out.";

/// Make files the next revision of a channel
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Push {
    /// The channel, e.g. definitions/ips; made by its first push
    #[arg(value_parser = str::parse::<ChannelName>)]
    channel: ChannelName,
    /// A file, or a folder with everything in it
    path: PathBuf,
    /// A short name for the revision, at most 64 bytes
    #[arg(long, default_value = "", hide_default_value = true, value_parser = parse_label)]
    label: String,
    /// Why it was made, at most 1 KiB
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = parse_note)]
    note: String,
    /// Make this stage name the revision, once there is a patch from what it names now
    #[arg(long, value_name = "STAGE", value_parser = parse_stage)]
    promote: Option<String>,
    /// How long to wait for that patch at most; without it agents fetch more
    #[arg(long, value_name = "DURATION", requires = "promote", default_value = "1m", value_parser = parse_duration)]
    patch_wait: Span,
    /// Also sign with the content key in this file; may be repeated
    #[arg(long, value_name = "KEYFILE")]
    sign_with: Vec<PathBuf>,
}

fn parse_label(text: &str) -> Result<String, String> {
    if text.starts_with(['@', '#']) || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("must not start with \"@\" or \"#\" or be a number: no command could name it".to_owned());
    }
    RevisionLabel::new(text).map(|label| label.as_str().to_owned()).map_err(|error| error.to_string())
}

fn parse_note(text: &str) -> Result<String, String> {
    Note::new(text).map(|note| note.as_str().to_owned()).map_err(|error| error.to_string())
}

impl Push {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let progress = Progress::default();
        tokio::select! {
            outcome = Box::pin(self.work(session, &progress)) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::Stopped(progress.on_stop())),
        }
    }

    async fn work(self, session: &mut Session<'_>, progress: &Progress) -> Result<(), Failure> {
        let keys = self.sign_with.iter().map(|path| read_key(path)).collect::<Result<_, _>>()?;
        let tree = Tree::walk(&self.path)?;
        if let Some(note) = note_on_empty_folders(tree.empty_folders) {
            session.notice(&note)?;
        }
        let (files, bytes) = (tree.files.len(), tree.bytes);
        let bar = progress::bytes(session.terminal.draws_progress(), "reading", bytes);
        let watched = ProgressBar::clone(&bar);
        let cutting = tokio::task::spawn_blocking(move || cut::cut(&tree, &watched).map(|cut| (tree, cut)));
        let cut = cutting.await.expect("invariant: cutting does not panic");
        drop(bar);
        let (tree, cut) = cut?;
        let chunks = cut.chunks.len();
        let upload = Upload {
            client: session.client.clone(),
            channel: self.channel.clone(),
            source: Arc::new(Source::new(tree)),
            cut,
            label: self.label,
            note: self.note,
            keys,
        };
        let mut finished = Box::pin(upload.run(session, progress)).await?;
        let promoted = match &self.promote {
            None => None,
            Some(stage) => {
                let revision = finished.revision.clone().unwrap_or_default();
                wait_for_patch(session, &revision, stage, self.patch_wait.into()).await?;
                Some(promote(session, &mut finished, stage).await?)
            }
        };
        let sent = progress.sent();
        session.show(&finished, |it, style| {
            let pushed = view::content::Pushed { files, bytes, chunks, sent };
            let mut shown = view::content::push(it, &pushed, style);
            if let Some(change) = &promoted {
                let changed = view::content::changed(change, view::content::Verb::Stage, style);
                shown += &format!("\n{changed}");
            }
            shown
        })
    }
}

/// Waits until agents that hold what the stage names now find a patch, or there will be none.
async fn wait_for_patch(
    session: &Session<'_>,
    revision: &Revision,
    stage: &str,
    limit: Duration,
) -> Result<(), Failure> {
    let client = &session.client;
    let deadline = Instant::now() + limit;
    let channel = super::revision::channel(client, &revision.channel).await?;
    let before = channel.stages.iter().find(|it| it.name == stage).map_or(0, |stage| stage.revision);
    if before == 0 || before == revision.revision {
        return Ok(());
    }
    let what = format!("waiting for the patch from revision {before}");
    let _turning = progress::waiting(session.terminal.draws_progress(), what);
    loop {
        let which = Some(Which::Revision(revision.revision));
        let selector = RevisionSelector { channel: revision.channel.clone(), which };
        let request = GetRevisionRequest { selector: Some(selector) };
        let over = match client.content().get_revision(request).await.map(tonic::Response::into_inner) {
            Ok(detail) => {
                let there = detail.patches.iter().any(|patch| patch.from == before);
                there || detail.patches_pending == 0
            }
            // Another replica may not know the revision yet.
            Err(status) => status.code() != tonic::Code::NotFound && passing(&status).is_none(),
        };
        if over || Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(PATCH_POLL_INTERVAL).await;
    }
}

/// Makes the stage name what was pushed; a program that reads the answer finds the stage in the revision.
async fn promote(
    session: &Session<'_>,
    finished: &mut FinishUploadResponse,
    stage: &str,
) -> Result<wire::api::v1::ContentChange, Failure> {
    let revision = finished.revision.clone().unwrap_or_default();
    let selector =
        RevisionSelector { channel: revision.channel, which: Some(Which::Revision(revision.revision)) };
    let request =
        PromoteRequest { selector: Some(selector), stage: stage.to_owned(), ..PromoteRequest::default() };
    let mut content = session.client.content_unhurried();
    let change =
        patiently(content.promote(request)).await.map_err(|status| session.client.refusal(status))?;
    if session.format != Format::Table {
        finished.revision = change.revision.clone().or(finished.revision.take());
        finished.store_revision = change.store_revision;
    }
    Ok(change)
}

/// Reads a content key: the 32 bytes of an Ed25519 seed that nobody else may read.
fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let fail = |source: io::Error| Failure::Read { name: path.display().to_string(), source };
    let mode = std::fs::metadata(path).map_err(fail)?.mode() & 0o777;
    let unfit = |why: String| Failure::Input(format!("{} {why}", path.display()));
    if mode & 0o077 != 0 {
        return Err(unfit(format!(
            "has mode {mode:04o}: others may read this key; run chmod 600, or replace it"
        )));
    }
    let limit = u64::try_from(SECRET_KEY_LENGTH).unwrap_or(u64::MAX);
    let bytes = crate::manifests::read_bounded(path, limit)?;
    let seed: [u8; SECRET_KEY_LENGTH] = bytes
        .try_into()
        .map_err(|_| unfit(format!("does not hold {SECRET_KEY_LENGTH} bytes: it is no content key")))?;
    Ok(SigningKey::from_bytes(&seed))
}
