//! Contents in files without a name, to be read at any place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use codec::Source;
use domain::Digest;
use domain::content::{ChunkEntry, Manifest};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::make::NotMade;
use crate::replica::Replica;

/// Chunks that are fetched and unpacked at a time: with chunks of 512 KiB they take at most 4 MiB of memory.
const AT_A_TIME: usize = 4;

/// A content in a file that has no name any more: it is gone with the process, however that ends.
pub(super) struct ContentFile {
    file: File,
    bytes: u64,
}

impl Source for ContentFile {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

/// Where contents come from. The last content that a delta led to is kept: the next delta mostly leads there too.
pub(super) struct Sources {
    dir: Option<PathBuf>,
    kept: Option<(Digest, Arc<ContentFile>)>,
}

impl Sources {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, kept: None }
    }

    /// Frees the disk space of what is kept.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// A new file without a name.
    pub(super) fn file(&self) -> Result<File, NotMade> {
        let dir = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        tempfile::tempfile_in(dir).map_err(NotMade::Files)
    }

    /// The content that a delta leads to.
    pub(super) async fn to(
        &mut self,
        replica: &Replica,
        name: &Digest,
        manifest: &Manifest,
    ) -> Result<Arc<ContentFile>, NotMade> {
        if let Some((kept, file)) = &self.kept
            && kept == name
        {
            return Ok(Arc::clone(file));
        }
        self.forget();
        let file = Arc::new(self.content(replica, manifest).await?);
        self.kept = Some((*name, Arc::clone(&file)));
        Ok(file)
    }

    /// Fetches a content.
    pub(super) async fn content(
        &self,
        replica: &Replica,
        manifest: &Manifest,
    ) -> Result<ContentFile, NotMade> {
        let file = Arc::new(self.file()?);
        let chunks: Vec<(u64, ChunkEntry)> = manifest.placed_chunks().collect();
        let written = chunks.into_iter().map(|(offset, chunk)| {
            let file = Arc::clone(&file);
            async move { write(replica, file, (offset, chunk)).await }
        });
        let mut written = stream::iter(written).buffer_unordered(AT_A_TIME);
        while written.try_next().await?.is_some() {
            if replica.shutdown.is_requested() {
                return Err(NotMade::Stopping);
            }
        }
        drop(written);
        let file = Arc::into_inner(file).expect("invariant: all writers are done");
        Ok(ContentFile { file, bytes: manifest.content_bytes() })
    }
}

/// Fetches a chunk and writes it to its place.
async fn write(
    replica: &Replica,
    file: Arc<File>,
    (offset, chunk): (u64, ChunkEntry),
) -> Result<(), NotMade> {
    let stored = replica.store.chunk(&chunk.digest).await.map_err(NotMade::Failed)?;
    let stored = stored.ok_or(NotMade::Lost(chunk.digest))?;
    let write = tokio::task::spawn_blocking(move || {
        let bytes = usize::try_from(chunk.bytes).unwrap_or(usize::MAX);
        match codec::frame::decompress(&stored, bytes) {
            Ok(raw) if Digest::of(&raw) == chunk.digest => {
                file.write_all_at(&raw, offset).map_err(NotMade::Files)
            }
            Ok(_) | Err(_) => Err(NotMade::Lost(chunk.digest)),
        }
    });
    write.await.map_err(|error| NotMade::Files(io::Error::other(error)))?
}
