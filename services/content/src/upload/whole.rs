//! Whether chunks that are all there are the content that was announced.
//!
//! Each chunk was checked when it came. What only the whole can tell are the digests of the files and of the
//! content: a manifest that lies about them would be signed, and refused by every agent after its download.

use bytes::Bytes;
use domain::Digest;
use domain::content::Manifest;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::READS_AT_A_TIME;
use crate::replica::Replica;
use crate::{Refused, refuse};

/// Reads all chunks in order and compares what they are with what the manifest says. Returns their lengths as
/// stored.
///
/// # Errors
/// `FAILED_PRECONDITION` if a chunk is not there, `INVALID_ARGUMENT` naming the digest that is wrong.
pub(super) async fn verify(replica: &Replica, manifest: &Manifest) -> Result<Vec<u32>, Refused> {
    let chunks: Vec<(Digest, u32)> =
        manifest.chunks().iter().map(|chunk| (chunk.digest, chunk.bytes)).collect();
    let read = chunks.into_iter().map(|(digest, bytes)| async move {
        let stored = replica.store.chunk(&digest).await?;
        let Some(stored) = stored else { return Ok::<_, Refused>(None) };
        let length = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        Ok(Some((length, opened(stored, digest, bytes).await?)))
    });
    let mut read = stream::iter(read).buffered(READS_AT_A_TIME);
    let (mut lengths, mut sums) = (Vec::with_capacity(manifest.chunks().len()), Sums::new(manifest));
    let (mut position, mut missing, mut first) = (0, 0, u32::MAX);
    while let Some(chunk) = read.try_next().await? {
        match chunk {
            Some((length, raw)) if missing == 0 => {
                sums.add(&raw)?;
                lengths.push(length);
            }
            Some(_) => {}
            None => (missing, first) = (missing + 1, first.min(position)),
        }
        position += 1;
    }
    if missing > 0 {
        let message = format!(
            "{missing} of {} chunks are not there, the first at position {first}: begin the upload again and send \
             what it says is missing",
            manifest.chunks().len()
        );
        return Err(Refused(refuse::precondition("MISSING_CHUNKS", message)));
    }
    sums.finish()?;
    Ok(lengths)
}

/// The bytes of a chunk, checked once more: what lies in the stream is not taken on trust.
async fn opened(stored: Bytes, digest: Digest, bytes: u32) -> Result<Vec<u8>, Refused> {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let opened = tokio::task::spawn_blocking(move || {
        codec::frame::decompress(&stored, length).ok().filter(|raw| Digest::of(raw) == digest)
    });
    let raw = opened.await.map_err(|error| Refused(Status::internal(error.to_string())))?;
    raw.ok_or_else(|| Refused(Status::data_loss(format!("the chunk {digest} is damaged in the store"))))
}

/// Digests of the files and of the whole, as far as it was read.
struct Sums<'a> {
    manifest: &'a Manifest,
    whole: Sha256,
    file: Sha256,
    /// The file that is read, and how many of its bytes are left.
    at: usize,
    left: u64,
}

impl<'a> Sums<'a> {
    fn new(manifest: &'a Manifest) -> Self {
        let left = manifest.files().first().map_or(0, |file| file.bytes);
        Self { manifest, whole: Sha256::new(), file: Sha256::new(), at: 0, left }
    }

    fn add(&mut self, mut bytes: &[u8]) -> Result<(), Refused> {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            self.close_files()?;
            let some = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            if some == 0 {
                break;
            }
            self.file.update(&bytes[..some]);
            self.left -= u64::try_from(some).unwrap_or(self.left);
            bytes = &bytes[some..];
        }
        Ok(())
    }

    /// Compares the files that are read to their end.
    fn close_files(&mut self) -> Result<(), Refused> {
        while self.left == 0
            && let Some(file) = self.manifest.files().get(self.at)
        {
            let digest = Digest(std::mem::replace(&mut self.file, Sha256::new()).finalize().into());
            if digest != file.digest {
                let field = format!("files[{}].digest", self.at);
                return Err(Refused(refuse::field(
                    &field,
                    format!("must be {digest}, which its chunks come to"),
                )));
            }
            self.at += 1;
            self.left = self.manifest.files().get(self.at).map_or(0, |file| file.bytes);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Refused> {
        self.close_files()?;
        let digest = Digest(self.whole.finalize().into());
        if digest == self.manifest.digest() {
            return Ok(());
        }
        Err(Refused(refuse::field("digest", format!("must be {digest}, which the chunks come to"))))
    }
}
