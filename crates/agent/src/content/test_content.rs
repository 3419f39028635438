//! Contents for tests, made as a content service makes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::content::{
    ChannelName, ChunkEntry, ContentIndex, ContentItem, ContentRevision, Delta, DeltaFrame, DeltaPart,
    FilePath, Manifest, ManifestFile,
};
use domain::{Digest, Revision};
use ed25519_dalek::SigningKey;
use prost::Message as _;
use wire::sign::KeySet;
use wire::subject::{self, Subject};

use crate::test_fleet::fleet;

pub(super) fn content_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

pub(super) fn content_trust() -> KeySet {
    content_key().verifying_key().into()
}

/// Files by path; whether they are executable.
pub(super) type Files = BTreeMap<String, (Vec<u8>, bool)>;

/// A message of the stream.
pub(super) type Message = (Subject, Vec<u8>);

/// A content as it is stored.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) item: ContentItem,
    pub(super) manifest: Arc<Manifest>,
    pub(super) files: Files,
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
        out.extend_from_slice(format!("rule-{:x} drop {state:016x}\n", state % 4096).as_bytes());
    }
    out.truncate(length);
    out
}

/// Files with these lengths; those below `bin/` are executable.
pub(super) fn files(seed: u64, files: &[(&str, usize)]) -> Files {
    let file = |(at, (path, length)): (usize, &(&str, usize))| {
        ((*path).to_owned(), (noise(seed + at as u64, *length), path.starts_with("bin/")))
    };
    files.iter().enumerate().map(file).collect()
}

/// What files look like on the disk.
pub(super) fn plain(files: &Files) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(path, (bytes, _))| (path.clone(), bytes.clone())).collect()
}

/// A content: its chunks, its manifest, and an index without deltas.
pub(super) fn make(channel: &str, number: u32, files: Files) -> (Stored, Vec<Message>) {
    let bytes: Vec<u8> = files.values().flat_map(|(bytes, _)| bytes.clone()).collect();
    let chunks = codec::chunk::Chunker::new(&bytes[..], bytes.len() as u64).map(|chunk| chunk.unwrap());
    let (mut entries, mut stored): (Vec<ChunkEntry>, Vec<u32>) = (Vec::new(), Vec::new());
    let mut messages = Vec::new();
    for chunk in chunks {
        let frame = codec::frame::compress(&chunk.bytes);
        entries.push(chunk.entry());
        stored.push(u32::try_from(frame.len()).unwrap());
        messages.push((subject::content_chunk(&chunk.digest), frame));
    }
    let entry = |(path, (bytes, executable)): (&String, &(Vec<u8>, bool))| ManifestFile {
        path: FilePath::new(path).unwrap(),
        bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
        executable: *executable,
    };
    let name = ChannelName::new(channel).unwrap();
    let whole = Digest::of(&bytes);
    let manifest = Manifest::new(fleet(), name, files.iter().map(entry).collect(), entries, whole).unwrap();
    let (item, message) = sealed(&manifest, number);
    messages.push(message);
    let (manifest, bytes, deltas) = (Arc::new(manifest), Arc::new(bytes), Vec::new());
    let stored = Stored { item, manifest, files, bytes, stored, deltas };
    messages.push(stored.index());
    (stored, messages)
}

/// A manifest as it is assigned and stored.
pub(super) fn sealed(manifest: &Manifest, number: u32) -> (ContentItem, Message) {
    let envelope = wire::content::seal_manifest(manifest, &[content_key()]);
    let digest = Digest::of(&envelope.payload);
    let item = ContentItem {
        channel: manifest.channel().clone(),
        number: ContentRevision(number),
        revision: Revision(number.into()),
        manifest: digest,
        manifest_bytes: envelope.payload.len() as u64,
        content_bytes: manifest.content_bytes(),
    };
    (item, (subject::content_manifest(&digest), envelope.encode_to_vec()))
}

impl Stored {
    /// The index, with the deltas made so far.
    pub(super) fn index(&self) -> Message {
        let index = self.content_index();
        let envelope = wire::content::seal_index(&index, &content_key());
        (subject::content_index(&self.item.manifest), envelope.encode_to_vec())
    }

    pub(super) fn content_index(&self) -> ContentIndex {
        let mut deltas = self.deltas.clone();
        deltas.sort_by_key(Delta::from);
        ContentIndex::new(fleet(), self.item.manifest, self.stored.clone(), deltas).unwrap()
    }

    /// Makes a delta to this content, from another one or from nothing. `old` is what it is made against.
    pub(super) fn delta(&mut self, from: Option<&Stored>, old: Option<&[u8]>) -> Vec<Message> {
        let (mut frames, mut joined) = (Vec::new(), Vec::new());
        let source = old.as_ref().map(|old| old as &dyn codec::Source);
        codec::delta::encode(source, &self.bytes.as_slice(), &mut |frame, bytes| {
            frames.push(frame);
            joined.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        self.keep_delta(from, frames, joined.chunks(codec::part::PART_BYTES))
    }

    /// A delta from nothing whose frames and parts are short, and need no prefix.
    pub(super) fn short_delta(&mut self, frame_bytes: usize, part_bytes: usize) -> Vec<Message> {
        let (mut frames, mut joined) = (Vec::new(), Vec::new());
        for run in self.bytes.chunks(frame_bytes) {
            let stored = codec::frame::compress(run);
            let [bytes, stored_bytes] =
                [run.len(), stored.len()].map(|length| u32::try_from(length).unwrap());
            frames.push(DeltaFrame { bytes, stored_bytes, old: Vec::new(), new_bytes: 0 });
            joined.extend(stored);
        }
        self.keep_delta(None, frames, joined.chunks(part_bytes))
    }

    /// Lists a delta in the index and gives its messages.
    fn keep_delta(
        &mut self,
        from: Option<&Stored>,
        frames: Vec<DeltaFrame>,
        parts: std::slice::Chunks<'_, u8>,
    ) -> Vec<Message> {
        let part = |bytes: &[u8]| DeltaPart {
            bytes: u32::try_from(bytes.len()).unwrap(),
            digest: Digest::of(bytes),
        };
        let listed = parts.clone().map(part).collect();
        self.deltas.push(Delta::new(from.map(|from| from.item.manifest), frames, listed).unwrap());
        let numbered = (0u32..).zip(parts);
        numbered
            .map(|(number, part)| (self.part(from, number), part.to_vec()))
            .chain([self.index()])
            .collect()
    }

    /// Bytes of the delta from another content, as they travel.
    pub(super) fn delta_bytes(&self, from: Option<&Stored>) -> u64 {
        let from = from.map(|from| from.item.manifest);
        self.deltas.iter().find(|delta| delta.from() == from).unwrap().stored_bytes()
    }

    /// Subject of a part of a delta.
    pub(super) fn part(&self, from: Option<&Stored>, number: u32) -> Subject {
        subject::content_patch(from.map(|from| &from.item.manifest), &self.item.manifest, number)
    }

    /// Subject of a chunk.
    pub(super) fn chunk(&self, number: usize) -> Subject {
        subject::content_chunk(&self.manifest.chunks()[number].digest)
    }
}

/// A file system of a given size, where the test may mount one. Unmounted when dropped.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(super) fn mount(at: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .status()
            .is_ok_and(|status| status.success());
        assert!(mounted || std::env::var_os("CI").is_none(), "CI may mount a tmpfs");
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}
