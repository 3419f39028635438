//! The second call of an upload: takes chunks, verifies each and stores it.
//!
//! Chunks are decompressed and hashed on threads that may block, a few at a time; what holds is collected into
//! batches, because the broker syncs its disk once for each. The caller is read no faster than batches are
//! acknowledged, so that a call holds the same few megabytes however much it brings.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::Digest;
use domain::content::Manifest;
use domain::content::index::MAX_STORED_CHUNK_BYTES;
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt as _, Stream, StreamExt as _};
use runtime::clock;
use tonic::Status;
use wire::api::v1::UploadChunksRequest;

use super::begin::check_quota;
use super::under_way;
use crate::replica::Replica;
use crate::{Refused, crash, refuse};

/// Calls that take in chunks at a time: each holds up to 16 MiB.
pub(crate) const MAX_INTAKES: usize = 4;
/// How long a call waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(30);
/// Chunks that are verified at a time: the threads of a small machine, and 4 MiB of memory.
const VERIFIED_AT_A_TIME: usize = 4;
/// Bytes of a batch: a sync of the disk costs as much as writing some megabytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Chunks of a batch, where they are small: what the broker holds of an open batch is bounded.
const BATCH_CHUNKS: usize = 256;
/// How long a batch waits for more: on a thin line each chunk is stored soon after it came.
const BATCH_WAIT: Duration = Duration::from_millis(100);
/// Batches that wait for their acknowledgement: while one is synced the next one travels.
const BATCHES_AT_A_TIME: usize = 2;
/// Longest pause between two chunks. A caller that is silent for longer begins again when it has more to say.
const SILENCE: Duration = Duration::from_secs(60);

/// What a call stored.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) chunks: u32,
    pub(crate) bytes: u64,
}

/// Takes the chunks of one call. Those that were good before something went wrong are stored all the same.
///
/// # Errors
/// [`Refused`] as a caller of the API gets it.
pub(crate) async fn take(
    replica: &Replica,
    requests: impl Stream<Item = Result<UploadChunksRequest, Status>> + Send + Unpin,
) -> Result<Taken, Refused> {
    let turn = tokio::time::timeout(TURN_PATIENCE, replica.intakes.acquire()).await;
    let _turn = turn.map_err(|_| {
        let message = format!("{MAX_INTAKES} uploads run at this replica already: try again later");
        Refused(refuse::later("BUSY", message, TURN_PATIENCE))
    })?;
    let mut requests = Box::pin(patient(replica, requests));
    let Some(first) = requests.next().await.transpose()? else { return Ok(Taken::default()) };
    let name = Digest(first.manifest.as_slice().try_into().map_err(|_| {
        Refused(refuse::field("manifest", "must name the upload with 32 bytes in the first message"))
    })?);
    replica.catalogue.catch_up().await?;
    replica.catalogue.look(|catalog| under_way(catalog, &name, clock::now()).map(drop))?;
    let manifest = replica.store.manifest(&name).await?;
    let manifest = manifest.ok_or_else(|| Refused(lost(&name)))?;
    let mut writer = Writer::new(replica, name);
    let chunks = stream::iter([Ok(first)]).chain(requests);
    let verified = chunks.map(|request| verified(&manifest, request)).buffered(VERIFIED_AT_A_TIME);
    let received = writer.write(verified).await;
    let stored = writer.finish().await;
    received?;
    stored
}

/// The manifest of an upload that is under way is not there.
pub(super) fn lost(manifest: &Digest) -> Status {
    let message = format!("the manifest {manifest} is not stored: begin the upload again");
    refuse::precondition("NO_UPLOAD", message)
}

/// The requests, until the caller is silent for too long or this replica stops.
fn patient<'a>(
    replica: &'a Replica,
    requests: impl Stream<Item = Result<UploadChunksRequest, Status>> + Send + Unpin + 'a,
) -> impl Stream<Item = Result<UploadChunksRequest, Refused>> + Send + 'a {
    stream::unfold(Some(requests), async |requests| {
        let mut requests = requests?;
        let next = tokio::select! {
            next = tokio::time::timeout(SILENCE, requests.next()) => next,
            () = replica.shutdown.requested() => {
                let message = "this replica stops: begin the upload again".to_owned();
                return Some((Err(Refused(refuse::later("STOPPING", message, Duration::ZERO))), None));
            }
        };
        match next {
            Ok(Some(Ok(request))) => Some((Ok(request), Some(requests))),
            Ok(Some(Err(status))) => Some((Err(Refused(status)), None)),
            Ok(None) => None,
            Err(_) => {
                let message = format!("no chunk came for {} s: begin the upload again", SILENCE.as_secs());
                Some((Err(Refused(Status::deadline_exceeded(message))), None))
            }
        }
    })
}

/// Holds a chunk against the manifest.
async fn verified(
    manifest: &Arc<Manifest>,
    request: Result<UploadChunksRequest, Refused>,
) -> Result<(Digest, Bytes), Refused> {
    let UploadChunksRequest { position, frame, .. } = request?;
    let chunks = manifest.chunks();
    let chunk = usize::try_from(position).ok().and_then(|position| chunks.get(position)).copied();
    let Some(chunk) = chunk else {
        let why = format!("{position} is behind the end: the manifest has {} chunks", chunks.len());
        return Err(Refused(refuse::field("position", why)));
    };
    let wrong = move |why: String| Refused(refuse::field("frame", format!("of chunk {position} {why}")));
    let longest = usize::try_from(MAX_STORED_CHUNK_BYTES).unwrap_or(usize::MAX);
    if frame.len() > longest {
        return Err(wrong(format!("is {} bytes long; at most {longest} are allowed", frame.len())));
    }
    let check = tokio::task::spawn_blocking(move || {
        let raw_bytes = usize::try_from(chunk.bytes).unwrap_or(usize::MAX);
        let raw = codec::frame::decompress(&frame, raw_bytes).map_err(|error| error.to_string())?;
        match Digest::of(&raw) {
            found if found == chunk.digest => Ok(frame),
            found => Err(format!("holds {found}, not {} as the manifest says", chunk.digest)),
        }
    });
    let checked = check.await.map_err(|error| Refused(Status::internal(error.to_string())))?;
    Ok((chunk.digest, checked.map_err(wrong)?))
}

type Write<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Taken, Refused>> + Send + 'a>>;

/// Collects chunks into batches and stores these.
struct Writer<'a> {
    replica: &'a Replica,
    manifest: Digest,
    batch: Vec<(Digest, Bytes)>,
    batch_bytes: usize,
    writes: FuturesUnordered<Write<'a>>,
    taken: Taken,
}

impl<'a> Writer<'a> {
    fn new(replica: &'a Replica, manifest: Digest) -> Self {
        let writes = FuturesUnordered::new();
        Self { replica, manifest, batch: Vec::new(), batch_bytes: 0, writes, taken: Taken::default() }
    }

    /// Stores what comes until it ends or something goes wrong.
    async fn write(
        &mut self,
        chunks: impl Stream<Item = Result<(Digest, Bytes), Refused>> + Send,
    ) -> Result<(), Refused> {
        let mut chunks = std::pin::pin!(chunks);
        loop {
            tokio::select! {
                Some(written) = self.writes.next() => self.note(written?),
                chunk = chunks.next(), if self.has_room() => {
                    let Some(chunk) = chunk else { return Ok(()) };
                    self.push(chunk?);
                }
                () = tokio::time::sleep(BATCH_WAIT), if !self.batch.is_empty() && self.has_room() => self.start(),
            }
        }
    }

    fn has_room(&self) -> bool {
        self.writes.len() < BATCHES_AT_A_TIME
    }

    fn push(&mut self, (digest, stored): (Digest, Bytes)) {
        self.batch_bytes += stored.len();
        self.batch.push((digest, stored));
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_CHUNKS {
            self.start();
        }
    }

    /// Starts to store what has been collected.
    fn start(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let bytes = std::mem::take(&mut self.batch_bytes);
        let (replica, manifest) = (self.replica, self.manifest);
        let write = async move {
            let taken = Taken { chunks: u32::try_from(batch.len()).unwrap_or(u32::MAX), bytes: bytes as u64 };
            // An upload may take longer than it is kept; from then on its chunks may be deleted.
            replica.catalogue.look(|catalog| under_way(catalog, &manifest, clock::now()).map(drop))?;
            check_quota(replica, taken.bytes).await?;
            replica.store.put_chunks(batch).await?;
            crash::point("upload-batch");
            Ok(taken)
        };
        self.writes.push(write.boxed());
    }

    fn note(&mut self, written: Taken) {
        self.taken.chunks += written.chunks;
        self.taken.bytes += written.bytes;
    }

    /// Stores the rest and waits for all of it.
    async fn finish(mut self) -> Result<Taken, Refused> {
        if !self.batch.is_empty() {
            self.start();
        }
        while let Some(written) = self.writes.next().await {
            self.note(written?);
        }
        Ok(self.taken)
    }
}
