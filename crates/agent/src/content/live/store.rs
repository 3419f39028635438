//! What a content service would have stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::content::{
    ChannelName, ChunkEntry, ContentIndex, ContentItem, ContentRevision, Delta, FilePath, Manifest,
    ManifestFile,
};
use domain::{Digest, Revision};
use ed25519_dalek::SigningKey;
use prost::Message as _;
use runtime::nats::{CONTENT, Connection, Expect, Headers, Nats};
use runtime::nats_server::{NatsServer, Setup, find};
use wire::envelope::ContentTrust;
use wire::subject::{self, Subject};

use crate::test_fleet::fleet;

pub(super) fn content_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

pub(super) fn content_trust() -> ContentTrust {
    ContentTrust { keys: vec![content_key().verifying_key()], threshold: 1 }
}

/// A server with the stream for content.
pub(super) struct Store {
    pub(super) server: NatsServer,
    pub(super) nats: Nats,
    pub(super) dir: tempfile::TempDir,
}

/// Files by path; whether they are executable.
pub(super) type Tree = BTreeMap<String, (Vec<u8>, bool)>;

/// A content that is stored.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) item: ContentItem,
    pub(super) manifest: Arc<Manifest>,
    pub(super) tree: Tree,
    pub(super) bytes: Arc<Vec<u8>>,
    /// Length of each chunk as stored.
    pub(super) stored: Vec<u32>,
    pub(super) deltas: Vec<Delta>,
}

/// Bytes that look like data: half of it repeats, and none of it compresses to nothing.
pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 64);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(format!("rule-{:x} drop {:016x}\n", state % 4096, state).as_bytes());
    }
    out.truncate(length);
    out
}

/// A tree of files with these lengths.
pub(super) fn tree(seed: u64, files: &[(&str, usize)]) -> Tree {
    let file = |(at, (path, length)): (usize, &(&str, usize))| {
        ((*path).to_owned(), (noise(seed + at as u64, *length), path.starts_with("bin/")))
    };
    files.iter().enumerate().map(file).collect()
}

impl Store {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = Setup::new(find(None).await.unwrap(), dir.path());
        setup.sync_always = false;
        let server = NatsServer::start(setup).await.unwrap();
        let nats = Nats::connect(&Connection::service(vec![server.url()], "store")).await.unwrap();
        nats.ensure_stream(&CONTENT, 1).await.unwrap();
        Self { server, nats, dir }
    }

    pub(super) async fn put(&self, subject: &Subject, bytes: impl Into<bytes::Bytes>) {
        let message = (Headers::new(), bytes.into());
        self.nats.publish_cas(CONTENT.name, subject, message, Expect::Any).await.unwrap();
    }

    pub(super) async fn remove(&self, subject: &Subject) {
        self.nats.purge(CONTENT.name, subject.as_str(), u64::MAX).await.unwrap();
    }

    /// Stores a content as a service does: chunks, manifest, and an index without deltas.
    pub(super) async fn push(&self, channel: &str, number: u32, tree: Tree) -> Stored {
        let bytes: Vec<u8> = tree.values().flat_map(|(bytes, _)| bytes.clone()).collect();
        let chunks = codec::chunk::Chunker::new(&bytes[..], bytes.len() as u64).map(|chunk| chunk.unwrap());
        let (mut entries, mut stored): (Vec<ChunkEntry>, Vec<u32>) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let frame = codec::frame::compress(&chunk.bytes);
            entries.push(chunk.entry());
            stored.push(u32::try_from(frame.len()).unwrap());
            self.put(&subject::content_chunk(&chunk.digest), frame).await;
        }
        let files = tree.iter().map(|(path, (bytes, executable))| ManifestFile {
            path: FilePath::new(path).unwrap(),
            bytes: bytes.len() as u64,
            digest: Digest::of(bytes),
            executable: *executable,
        });
        let name = ChannelName::new(channel).unwrap();
        let whole = Digest::of(&bytes);
        let manifest = Manifest::new(fleet(), name.clone(), files.collect(), entries, whole).unwrap();
        let envelope = wire::content::seal_manifest(&manifest, &[content_key()]);
        let digest = Digest::of(&envelope.payload);
        let item = ContentItem {
            channel: name,
            number: ContentRevision(number),
            revision: Revision(number.into()),
            manifest: digest,
            manifest_bytes: envelope.payload.len() as u64,
            content_bytes: bytes.len() as u64,
        };
        self.put(&subject::content_manifest(&digest), envelope.encode_to_vec()).await;
        let (manifest, bytes, deltas) = (Arc::new(manifest), Arc::new(bytes), Vec::new());
        let stored = Stored { item, manifest, tree, bytes, stored, deltas };
        self.index(&stored).await;
        stored
    }

    /// Stores the index of a content.
    pub(super) async fn index(&self, stored: &Stored) {
        let (digest, mut deltas) = (stored.item.manifest, stored.deltas.clone());
        deltas.sort_by_key(Delta::from);
        let index = ContentIndex::new(fleet(), digest, stored.stored.clone(), deltas).unwrap();
        let envelope = wire::content::seal_index(&index, &content_key());
        self.put(&subject::content_index(&digest), envelope.encode_to_vec()).await;
    }

    /// Makes a delta to a content, from another one or from nothing, and lists it in the index.
    pub(super) async fn delta(&self, from: Option<&Stored>, to: &mut Stored) {
        let old = from.map(|from| from.bytes.as_slice());
        let (mut frames, mut parts, mut made) = (Vec::new(), codec::part::Parts::default(), Vec::new());
        let mut keep = |_: u32, part: Vec<u8>| {
            made.push(part);
            Ok(())
        };
        let source = old.as_ref().map(|old| old as &dyn codec::Source);
        codec::delta::encode(source, &to.bytes.as_slice(), &mut |frame, bytes| {
            frames.push(frame);
            parts.push(bytes, &mut keep)
        })
        .unwrap();
        let parts = parts.finish(&mut keep).unwrap();
        let start = from.map(|from| from.item.manifest);
        for (number, part) in (0u32..).zip(made) {
            self.put(&subject::content_patch(start.as_ref(), &to.item.manifest, number), part).await;
        }
        to.deltas.push(Delta::new(start, frames, parts).unwrap());
        self.index(to).await;
    }
}

impl Stored {
    /// Bytes of the delta from another content, as they travel.
    pub(super) fn delta_bytes(&self, from: Option<&Stored>) -> u64 {
        let from = from.map(|from| from.item.manifest);
        self.deltas.iter().find(|delta| delta.from() == from).unwrap().stored_bytes()
    }

    /// Subject of a part of a delta.
    pub(super) fn part(&self, from: Option<&Stored>, number: u32) -> Subject {
        subject::content_patch(from.map(|from| &from.item.manifest), &self.item.manifest, number)
    }
}
