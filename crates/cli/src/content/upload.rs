//! Sending what a server misses of a content: again and again, until it has all of it or there is no point.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domain::Digest;
use domain::content::{ChannelName, ChunkEntry};
use ed25519_dalek::SigningKey;
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use wire::api::v1::{
    BeginUploadRequest, BeginUploadResponse, ContentFile, ContentSignature, FinishUploadRequest,
    FinishUploadResponse, UploadChunksRequest,
};

use super::cut::{Cut, ReadError};
use super::progress;
use super::source::Source;
use super::tries::Tries;
use crate::client::{Client, passing, patiently};
use crate::failure::{Failure, counted};
use crate::session::Session;
use crate::view::text;

/// Chunks that are read and compressed ahead of the connection: enough for every core of a small machine, and with
/// 512 KiB at most for each no burden.
const AHEAD: usize = 8;
/// Chunks that wait between compression and connection.
const WAITING: usize = 4;
/// Longest time in which the connection takes nothing before it counts as broken.
const STALL: Duration = Duration::from_secs(60);

/// A content to upload.
pub(crate) struct Upload {
    pub(crate) client: Client,
    pub(crate) channel: ChannelName,
    pub(crate) source: Arc<Source>,
    pub(crate) cut: Cut,
    pub(crate) label: String,
    pub(crate) note: String,
    pub(crate) keys: Vec<SigningKey>,
}

/// What was handed to the connection.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    pub(crate) chunks: u64,
    /// As they travel.
    pub(crate) bytes: u64,
}

/// How an upload is going; outlives the future that works on it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    sent: Cell<Sent>,
    /// Until when the server keeps what it has, once it has begun to take.
    kept: Cell<Option<prost_types::Timestamp>>,
    finishing: Cell<bool>,
    /// The revision that it became.
    made: Cell<u32>,
}

impl Progress {
    pub(crate) fn sent(&self) -> Sent {
        self.sent.get()
    }

    /// What becomes of what was sent when this stops here.
    pub(crate) fn on_stop(&self) -> String {
        match self.kept.get() {
            _ if self.made.get() > 0 => {
                format!("stopped; revision {} is there, but no stage was changed", self.made.get())
            }
            None => "stopped; nothing was sent".to_owned(),
            Some(until) => format!(
                "stopped; what was sent is kept until {}, and the same command goes on from there",
                text::time(Some(&until))
            ),
        }
    }
}

/// A chunk that the server misses.
#[derive(Debug, Clone, Copy)]
struct Missing {
    position: u32,
    at: u64,
    chunk: ChunkEntry,
}

/// A chunk that is being read and compressed.
type Frame = JoinHandle<Result<Vec<u8>, ReadError>>;

impl Upload {
    /// Uploads what is missing and makes it a revision; a connection that breaks off is taken up again.
    pub(crate) async fn run(
        &self,
        session: &mut Session<'_>,
        progress: &Progress,
    ) -> Result<FinishUploadResponse, Failure> {
        let mut tries = Tries::default();
        let mut left = u64::MAX;
        loop {
            let bar = progress::bytes(session.terminal.draws_progress(), "sending", 0);
            let outcome = self.attempt(progress, &bar, &mut left).await;
            drop(bar);
            if let Ok(FinishUploadResponse { revision: Some(revision), .. }) = &outcome {
                progress.made.set(revision.revision);
            }
            let why = match &outcome {
                Err(Failure::Status { status, .. }) => passing(status).or_else(|| begin_again(status)),
                Ok(_) | Err(_) => None,
            };
            let Some(why) = why else { return outcome };
            let Some(pause) = tries.after(left) else {
                if progress.kept.get().is_some() {
                    session.notice("What was sent is kept; the same command goes on from there.")?;
                }
                return Err(self.client.refusal(Status::unavailable(why)));
            };
            if tries.is_first() {
                let chunks = counted(self.cut.chunks.len(), "chunk", "chunks");
                let sent = progress.sent().chunks;
                session.notice(&format!("note: {why}; {sent} of {chunks} sent; trying again"))?;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(
        &self,
        progress: &Progress,
        bar: &ProgressBar,
        left: &mut u64,
    ) -> Result<FinishUploadResponse, Failure> {
        let begun = self.begin().await?;
        if let Some(revision) = begun.existing {
            // If the answer to an earlier try was lost, this is what it made.
            let created = progress.finishing.get();
            return Ok(FinishUploadResponse { revision: Some(revision), created, store_revision: 0 });
        }
        let signatures = self.check_and_sign(&begun)?;
        let missing = self.missing(&begun.missing)?;
        *left = missing.iter().map(|missing| u64::from(missing.chunk.bytes)).sum();
        progress.kept.set(begun.expires_at);
        if !missing.is_empty() {
            bar.set_length(*left);
            self.send(&begun.manifest, missing, progress, bar).await?;
        }
        progress.finishing.set(true);
        let request = FinishUploadRequest {
            channel: self.channel.to_string(),
            manifest: begun.manifest,
            label: self.label.clone(),
            note: self.note.clone(),
            signatures,
        };
        let mut content = self.client.content_unhurried();
        patiently(content.finish_upload(request)).await.map_err(|status| self.client.refusal(status))
    }

    async fn begin(&self) -> Result<BeginUploadResponse, Failure> {
        let files = self.source.tree().files.iter().zip(&self.cut.files);
        let files = files.map(|(file, digest)| ContentFile {
            path: file.path.to_string(),
            bytes: file.bytes,
            digest: digest.0.to_vec(),
            executable: file.executable,
        });
        let request = BeginUploadRequest {
            channel: self.channel.to_string(),
            files: files.collect(),
            chunk_digests: self.cut.chunks.iter().flat_map(|chunk| chunk.digest.0).collect(),
            chunk_bytes: self.cut.chunks.iter().map(|chunk| chunk.bytes).collect(),
            digest: self.cut.digest.0.to_vec(),
        };
        let mut content = self.client.content_unhurried();
        patiently(content.begin_upload(request)).await.map_err(|status| self.client.refusal(status))
    }

    /// The server says what it will sign: it must be what was read here.
    fn check_and_sign(&self, begun: &BeginUploadResponse) -> Result<Vec<ContentSignature>, Failure> {
        let differs = || Failure::Answer("its manifest is not of the content that was sent".to_owned());
        let payload = &begun.manifest_payload;
        let manifest = wire::content::read_manifest(payload).map_err(|_| differs())?;
        let files = self.source.tree().files.iter().zip(&self.cut.files);
        let same_files = manifest.files().len() == self.cut.files.len()
            && manifest.files().iter().zip(files).all(|(theirs, (file, digest))| {
                let ours = (&file.path, file.bytes, file.executable, digest);
                ours == (&theirs.path, theirs.bytes, theirs.executable, &theirs.digest)
            });
        let same = same_files
            && *manifest.channel() == self.channel
            && manifest.chunks() == self.cut.chunks
            && manifest.digest() == self.cut.digest
            && begun.manifest == Digest::of(payload).0;
        if !same {
            return Err(differs());
        }
        let sign = |key: &SigningKey| {
            let sealed = wire::envelope::seal(wire::envelope::MANIFEST, payload.clone(), key);
            sealed
                .signatures
                .into_iter()
                .map(|it| ContentSignature { key_id: it.key_id.to_vec(), signature: it.signature.to_vec() })
        };
        Ok(self.keys.iter().flat_map(sign).collect())
    }

    fn missing(&self, positions: &[u32]) -> Result<Vec<Missing>, Failure> {
        let starts = self.cut.chunks.iter().scan(0_u64, |end, chunk| {
            let start = *end;
            *end += u64::from(chunk.bytes);
            Some(start)
        });
        let placed: Vec<(u64, ChunkEntry)> = starts.zip(self.cut.chunks.iter().copied()).collect();
        let find = |position: &u32| {
            let (at, chunk) = usize::try_from(*position).ok().and_then(|index| placed.get(index))?;
            Some(Missing { position: *position, at: *at, chunk: *chunk })
        };
        let found: Option<Vec<Missing>> = positions.iter().map(find).collect();
        found.ok_or_else(|| Failure::Answer("it asks for chunks that the content does not have".to_owned()))
    }

    /// Sends chunks until they are all taken, the call ends, or a file proves to have changed.
    async fn send(
        &self,
        manifest: &[u8],
        missing: Vec<Missing>,
        progress: &Progress,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut content = self.client.content_unhurried();
        let call = content.upload_chunks(ReceiverStream::new(receiver));
        let feed = self.feed(manifest, missing, sender, |bytes, stored| {
            let sent = progress.sent.get();
            progress.sent.set(Sent { chunks: sent.chunks + 1, bytes: sent.bytes + stored });
            bar.inc(bytes);
        });
        tokio::pin!(call, feed);
        let answer = tokio::select! {
            answer = &mut call => answer,
            fed = &mut feed => {
                fed?;
                match tokio::time::timeout(STALL, call).await {
                    Ok(answer) => answer,
                    Err(_) => Err(stalled()),
                }
            }
        };
        answer.map(|_| ()).map_err(|status| self.client.refusal(status))
    }

    /// Reads and compresses a few chunks ahead, and hands them over in order.
    async fn feed(
        &self,
        manifest: &[u8],
        missing: Vec<Missing>,
        sender: mpsc::Sender<UploadChunksRequest>,
        mut sent: impl FnMut(u64, u64),
    ) -> Result<(), Failure> {
        let mut ahead: VecDeque<(Missing, Frame)> = VecDeque::new();
        let mut missing = missing.into_iter();
        let mut names_upload = manifest.to_vec();
        loop {
            while ahead.len() < AHEAD
                && let Some(next) = missing.next()
            {
                let source = Arc::clone(&self.source);
                let frame = move || source.chunk(next.at, next.chunk).map(|raw| codec::frame::compress(&raw));
                ahead.push_back((next, tokio::task::spawn_blocking(frame)));
            }
            let Some((next, frame)) = ahead.pop_front() else { return Ok(()) };
            let frame = frame.await.expect("invariant: compressing does not panic")?;
            let stored = u64::try_from(frame.len()).unwrap_or(u64::MAX);
            let manifest = std::mem::take(&mut names_upload);
            let request = UploadChunksRequest { manifest, position: next.position, frame: frame.into() };
            match tokio::time::timeout(STALL, sender.send(request)).await {
                Ok(Ok(())) => sent(u64::from(next.chunk.bytes), stored),
                // The call has ended and says why.
                Ok(Err(_)) => return Ok(()),
                Err(_) => return Err(self.client.refusal(stalled())),
            }
        }
    }
}

/// Why an upload has to begin once more, if that is what the server asks for: its time is over, or chunks of it are
/// gone.
fn begin_again(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let reason = &details.error_info()?.reason;
    ["NO_UPLOAD", "MISSING_CHUNKS"].contains(&reason.as_str()).then(|| status.message().to_owned())
}

fn stalled() -> Status {
    Status::new(Code::DeadlineExceeded, format!("the server took nothing for {} s", STALL.as_secs()))
}
