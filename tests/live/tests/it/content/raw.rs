//! Below the CLI: the API as any client calls it, and the stream as whoever administers the broker sees it.

use std::path::Path;

use async_nats::jetstream::{self, stream::Stream};
use codec::chunk::{Chunk, Chunker};
use domain::Digest;
use futures::{StreamExt as _, TryStreamExt as _};
use live::{Fleet, Service, Tree};
use prost::bytes::Bytes;
use wire::api::v1::content_service_client::ContentServiceClient;
use wire::api::v1::{BeginUploadRequest, ContentFile, FinishUploadRequest, UploadChunksRequest};

/// A client of content.
pub(crate) type Client = ContentServiceClient<live::Line>;

/// A client of one replica of content, for the fleet that is kept in `dir`.
pub(crate) async fn api(service: &Service, dir: &Path) -> Result<Client, tonic::transport::Error> {
    live::admin_line(service, dir).await.map(ContentServiceClient::new)
}

/// A client of one of the replicas of content that run.
pub(crate) async fn replica(fleet: &Fleet, number: usize) -> Client {
    api(&fleet.services[fleet.replicas("content")[number]], fleet.dir()).await.expect("content listens")
}

/// A client of the first replica of content.
pub(crate) async fn content(fleet: &Fleet) -> Client {
    replica(fleet, 0).await
}

/// A tree as a client uploads it.
pub(crate) struct Upload {
    pub(crate) begin: BeginUploadRequest,
    pub(crate) chunks: Vec<Chunk>,
}

impl Upload {
    pub(crate) fn of(channel: &str, tree: &Tree) -> Self {
        let bytes: Vec<u8> = tree.0.values().flat_map(|file| file.bytes.iter().copied()).collect();
        let chunks: Vec<Chunk> = Chunker::new(bytes.as_slice(), bytes.len() as u64)
            .map(|chunk| chunk.expect("it lies in memory"))
            .collect();
        let files = tree.0.iter().map(|(path, file)| ContentFile {
            path: path.clone(),
            bytes: file.bytes.len() as u64,
            digest: Digest::of(&file.bytes).0.to_vec(),
            executable: file.executable,
        });
        let begin = BeginUploadRequest {
            channel: channel.to_owned(),
            files: files.collect(),
            chunk_digests: chunks.iter().flat_map(|chunk| chunk.digest.0).collect(),
            chunk_bytes: chunks
                .iter()
                .map(|chunk| u32::try_from(chunk.bytes.len()).expect("a chunk"))
                .collect(),
            digest: Digest::of(&bytes).0.to_vec(),
        };
        Self { begin, chunks }
    }

    /// The chunk at a position, ready to be sent.
    pub(crate) fn chunk(&self, manifest: &[u8], position: u32) -> UploadChunksRequest {
        let chunk = &self.chunks[usize::try_from(position).expect("a position")];
        UploadChunksRequest {
            manifest: manifest.to_vec(),
            position,
            frame: codec::frame::compress(&chunk.bytes).into(),
        }
    }

    /// All chunks at these positions.
    pub(crate) fn chunks(&self, manifest: &[u8], positions: &[u32]) -> Vec<UploadChunksRequest> {
        positions.iter().map(|&position| self.chunk(manifest, position)).collect()
    }

    /// What ends the upload.
    pub(crate) fn finish(&self, manifest: &[u8]) -> FinishUploadRequest {
        FinishUploadRequest {
            channel: self.begin.channel.clone(),
            manifest: manifest.to_vec(),
            ..FinishUploadRequest::default()
        }
    }
}

/// The stream CONTENT.
pub(crate) struct Store {
    jetstream: jetstream::Context,
    stream: Stream,
}

impl Store {
    pub(crate) async fn of(fleet: &Fleet) -> Self {
        let nats = fleet.admin(wire::access::Account::Fleet).await;
        let jetstream = jetstream::new(nats);
        let stream = jetstream.get_stream(wire::subject::STREAM_CONTENT).await.expect("content made it");
        Self { jetstream, stream }
    }

    /// Subjects that begin with `content.<kind>.`, in order.
    pub(crate) async fn subjects(&self, kind: &str) -> Vec<String> {
        let info = self.stream.info_with_subjects(format!("content.{kind}.>")).await.expect("an answer");
        let mut subjects: Vec<String> =
            info.map_ok(|(subject, _)| subject).try_collect().await.expect("subjects");
        subjects.sort();
        subjects
    }

    /// What is stored under a subject.
    pub(crate) async fn get(&self, subject: &str) -> Option<Bytes> {
        let message = self.stream.get_last_raw_message_by_subject(subject).await.ok()?;
        Some(message.payload)
    }

    /// Overwrites what is stored under a subject.
    pub(crate) async fn put(&self, subject: &str, bytes: Bytes) {
        let published = self.jetstream.publish(subject.to_owned(), bytes).await.expect("it can be published");
        let _ = published.await.expect("an administrator may publish anything");
    }

    /// Deletes what is stored under a subject.
    pub(crate) async fn delete(&self, subject: &str) {
        let _ = self.stream.purge().filter(subject).await.expect("an administrator may delete anything");
    }

    /// Bytes in the stream.
    pub(crate) async fn bytes(&self) -> u64 {
        self.stream.get_info().await.expect("an answer").state.bytes
    }
}

/// Chunks that a manifest of a revision names, as subjects in order of the content.
pub(crate) fn chunk_subjects(upload: &Upload) -> Vec<String> {
    upload.chunks.iter().map(|chunk| format!("content.chunk.{}", chunk.digest)).collect()
}

/// Sends chunks in one call that ends in order.
pub(crate) async fn send(
    client: &mut Client,
    chunks: Vec<UploadChunksRequest>,
) -> Result<u32, tonic::Status> {
    let stream = futures::stream::iter(chunks).boxed();
    Ok(client.upload_chunks(stream).await?.into_inner().chunks)
}
