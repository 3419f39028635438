//! Content between its domain form and signed bytes: manifests, indexes, the census of who holds what.

use bytes::Bytes;
use domain::content::census::MAX_HOLDERS;
use domain::content::index::{MAX_DELTAS, MAX_INDEX_BYTES, MAX_OLD_RUNS};
use domain::content::manifest::{MAX_CHUNKS, MAX_FILES, MAX_MANIFEST_BYTES};
use domain::content::{
    Census, ChannelName, ChunkEntry, ContentIndex, ContentItem, ContentRevision, Delta, DeltaFrame,
    DeltaPart, FilePath, Holders, Manifest, ManifestFile, OldRun,
};
use domain::{Digest, FleetId};
use ed25519_dalek::{SigningKey, VerifyingKey};
use prost::Message as _;

use crate::agent::v1::{self, Envelope};
use crate::envelope::{self, EnvelopeError};
use crate::sign::KeySet;
use crate::{DecodeError, decode};

/// Largest census: [`MAX_HOLDERS`] channels of average length; a longer one is cut by who writes it.
pub const MAX_CENSUS_BYTES: usize = 960 * 1024;

/// Why a manifest or an index is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// It is not the one that was asked for; nothing of it was parsed.
    #[error("the manifest is {found}, not {wanted}")]
    OtherManifest {
        /// Digest of what came.
        found: Digest,
        /// Digest that was asked for.
        wanted: Digest,
    },
    /// It is longer or shorter than the assignment says; nothing of it was parsed.
    #[error("the manifest is {found} bytes long, not {wanted}")]
    OtherLength {
        /// Length of what came.
        found: u64,
        /// Length that was assigned.
        wanted: u64,
    },
    /// It is not signed as it must be, or cannot be read.
    #[error("it is not signed content")]
    Envelope(#[from] EnvelopeError),
    /// It belongs to another fleet, channel, content or manifest.
    #[error("it is for another {0}")]
    Elsewhere(&'static str),
}

/// Bytes of a manifest as they are signed. The same manifest always gives the same bytes.
#[must_use]
pub fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let files = manifest.files().iter().map(|file| v1::ManifestFile {
        path: file.path.to_string(),
        bytes: file.bytes,
        digest: file.digest.0.to_vec(),
        executable: file.executable,
    });
    let chunks = manifest.chunks();
    v1::Manifest {
        fleet: manifest.fleet().to_string(),
        channel: manifest.channel().to_string(),
        files: files.collect(),
        chunk_digests: chunks.iter().flat_map(|chunk| chunk.digest.0).collect(),
        chunk_bytes: chunks.iter().map(|chunk| chunk.bytes).collect(),
        digest: manifest.digest().0.to_vec(),
    }
    .encode_to_vec()
}

/// Reads a manifest whose signatures have been checked, or one that is about to be signed.
///
/// # Errors
/// [`DecodeError`] names the field.
pub fn read_manifest(payload: &[u8]) -> Result<Manifest, DecodeError> {
    let message: v1::Manifest = decode(payload, MAX_MANIFEST_BYTES)?;
    // Checked before anything is converted: the message is small, its domain form may not be.
    if message.files.len() > MAX_FILES {
        return Err(DecodeError::field("files", format!("has more than {MAX_FILES} entries")));
    }
    let digests = message.chunk_digests.chunks_exact(32);
    if !digests.remainder().is_empty() || digests.len() != message.chunk_bytes.len() {
        return Err(DecodeError::field("chunk_digests", "is not 32 bytes for each of chunk_bytes"));
    }
    if digests.len() > MAX_CHUNKS {
        return Err(DecodeError::field("chunk_digests", format!("has more than {MAX_CHUNKS} entries")));
    }
    let chunks = digests.zip(&message.chunk_bytes).map(|(digest, bytes)| {
        Ok(ChunkEntry { digest: read_digest("chunk_digests", digest)?, bytes: *bytes })
    });
    let chunks = chunks.collect::<Result<_, DecodeError>>()?;
    let files = message.files.into_iter().map(read_file).collect::<Result<_, _>>()?;
    let fleet = FleetId::new(&message.fleet).map_err(|e| DecodeError::field("fleet", e))?;
    let channel = read_channel(&message.channel)?;
    let digest = read_digest("digest", &message.digest)?;
    Manifest::new(fleet, channel, files, chunks, digest).map_err(|e| DecodeError::field("manifest", e))
}

fn read_file(file: v1::ManifestFile) -> Result<ManifestFile, DecodeError> {
    Ok(ManifestFile {
        path: FilePath::new(&file.path).map_err(|e| DecodeError::field("path", e))?,
        bytes: file.bytes,
        digest: read_digest("digest", &file.digest)?,
        executable: file.executable,
    })
}

fn read_digest(field: &'static str, bytes: &[u8]) -> Result<Digest, DecodeError> {
    bytes.try_into().map(Digest).map_err(|_| DecodeError::field(field, "is not 32 bytes long"))
}

fn read_channel(text: &str) -> Result<ChannelName, DecodeError> {
    ChannelName::new(text).map_err(|e| DecodeError::field("channel", e))
}

/// The name of a manifest: SHA-256 of the bytes that are signed.
#[must_use]
pub fn manifest_digest(manifest: &Manifest) -> Digest {
    Digest::of(&encode_manifest(manifest))
}

/// Signs a manifest with each of these keys.
#[must_use]
pub fn seal_manifest(manifest: &Manifest, keys: &[SigningKey]) -> Envelope {
    let payload = Bytes::from(encode_manifest(manifest));
    let seal = |key| envelope::seal(envelope::MANIFEST, payload.to_vec(), key).signatures;
    let signatures = keys.iter().flat_map(seal).collect();
    Envelope { payload_type: envelope::MANIFEST.to_owned(), payload: payload.clone(), signatures }
}

/// Checks the signatures of a manifest's envelope, then reads it.
///
/// # Errors
/// [`ContentError::OtherManifest`] before anything else if it is not the one with this digest,
/// [`ContentError::Envelope`] if it is not signed by enough keys or cannot be read.
pub fn open_manifest(envelope: &Envelope, named: &Digest, trust: &KeySet) -> Result<Manifest, ContentError> {
    let found = Digest::of(&envelope.payload);
    if found != *named {
        return Err(ContentError::OtherManifest { found, wanted: *named });
    }
    let payload = envelope::open_threshold(envelope, envelope::MANIFEST, &trust.keys, trust.threshold)?;
    Ok(read_manifest(payload).map_err(EnvelopeError::Payload)?)
}

/// Opens the manifest that a snapshot assigns: it must be exactly the one that the item names, and say the same.
///
/// # Errors
/// [`ContentError`]. Length, digest and signatures are checked before the manifest is parsed.
pub fn open_assigned(
    envelope: &Envelope,
    fleet: &FleetId,
    item: &ContentItem,
    trust: &KeySet,
) -> Result<Manifest, ContentError> {
    let found = envelope.payload.len() as u64;
    if found != item.manifest_bytes {
        return Err(ContentError::OtherLength { found, wanted: item.manifest_bytes });
    }
    let manifest = open_manifest(envelope, &item.manifest, trust)?;
    if manifest.fleet() != fleet {
        return Err(ContentError::Elsewhere("fleet"));
    }
    if *manifest.channel() != item.channel {
        return Err(ContentError::Elsewhere("channel"));
    }
    if manifest.content_bytes() != item.content_bytes {
        return Err(ContentError::Elsewhere("content"));
    }
    Ok(manifest)
}

/// Bytes of an index as they are signed.
#[must_use]
pub fn encode_index(index: &ContentIndex) -> Vec<u8> {
    v1::ContentIndex {
        fleet: index.fleet().to_string(),
        manifest: index.manifest().0.to_vec(),
        stored_bytes: index.stored_bytes().to_vec(),
        deltas: index.deltas().iter().map(delta_message).collect(),
    }
    .encode_to_vec()
}

fn delta_message(delta: &Delta) -> v1::Delta {
    let frames = delta.frames().iter().map(|frame| v1::DeltaFrame {
        bytes: frame.bytes,
        stored_bytes: frame.stored_bytes,
        old_offsets: frame.old.iter().map(|run| run.offset).collect(),
        old_bytes: frame.old.iter().map(|run| run.bytes).collect(),
        new_bytes: frame.new_bytes,
    });
    let parts = delta.parts().iter();
    v1::Delta {
        from: delta.from().map(|digest| digest.0.to_vec()).unwrap_or_default(),
        frames: frames.collect(),
        parts: parts
            .map(|part| v1::DeltaPart { bytes: part.bytes, digest: part.digest.0.to_vec() })
            .collect(),
    }
}

/// Reads an index whose signature has been checked.
///
/// # Errors
/// [`DecodeError`] names the field.
pub fn read_index(payload: &[u8]) -> Result<ContentIndex, DecodeError> {
    let message: v1::ContentIndex = decode(payload, MAX_INDEX_BYTES)?;
    if message.deltas.len() > MAX_DELTAS {
        return Err(DecodeError::field("deltas", format!("has more than {MAX_DELTAS} entries")));
    }
    let deltas = message.deltas.into_iter().map(read_delta).collect::<Result<_, _>>()?;
    let fleet = FleetId::new(&message.fleet).map_err(|e| DecodeError::field("fleet", e))?;
    let manifest = read_digest("manifest", &message.manifest)?;
    ContentIndex::new(fleet, manifest, message.stored_bytes, deltas)
        .map_err(|e| DecodeError::field("index", e))
}

fn read_delta(message: v1::Delta) -> Result<Delta, DecodeError> {
    let from = match &message.from[..] {
        [] => None,
        bytes => Some(read_digest("from", bytes)?),
    };
    let frames = message.frames.into_iter().map(read_frame).collect::<Result<_, _>>()?;
    let parts = message
        .parts
        .into_iter()
        .map(|part| Ok(DeltaPart { bytes: part.bytes, digest: read_digest("parts", &part.digest)? }));
    let parts = parts.collect::<Result<_, DecodeError>>()?;
    Delta::new(from, frames, parts).map_err(|e| DecodeError::field("deltas", e))
}

fn read_frame(message: v1::DeltaFrame) -> Result<DeltaFrame, DecodeError> {
    let runs = message.old_offsets.len();
    if runs != message.old_bytes.len() || runs > MAX_OLD_RUNS {
        let problem = format!("has another number of entries than old_bytes, or more than {MAX_OLD_RUNS}");
        return Err(DecodeError::field("old_offsets", problem));
    }
    let old = message.old_offsets.into_iter().zip(message.old_bytes);
    Ok(DeltaFrame {
        bytes: message.bytes,
        stored_bytes: message.stored_bytes,
        old: old.map(|(offset, bytes)| OldRun { offset, bytes }).collect(),
        new_bytes: message.new_bytes,
    })
}

/// Signs an index.
#[must_use]
pub fn seal_index(index: &ContentIndex, key: &SigningKey) -> Envelope {
    envelope::seal(envelope::CONTENT_INDEX, encode_index(index), key)
}

/// Checks the signature of an index's envelope, reads it and holds it against the manifest with this digest. One
/// signature is enough: an index proves nothing.
///
/// # Errors
/// [`ContentError`]: not signed by a content key, malformed, or for another manifest.
pub fn open_index(
    envelope: &Envelope,
    digest: &Digest,
    manifest: &Manifest,
    trusted: &[VerifyingKey],
) -> Result<ContentIndex, ContentError> {
    let payload = envelope::open(envelope, envelope::CONTENT_INDEX, trusted)?;
    let index = read_index(payload).map_err(EnvelopeError::Payload)?;
    index.check_against(digest, manifest).map_err(|_| ContentError::Elsewhere("manifest"))?;
    Ok(index)
}

/// Bytes of a census in its order; what does not fit in [`MAX_CENSUS_BYTES`] is left out.
#[must_use]
pub fn encode_census(census: &Census) -> Vec<u8> {
    let mut message = v1::ContentCensus { replica: census.replica, holders: Vec::new() };
    let mut room = MAX_CENSUS_BYTES - message.encoded_len();
    for holders in census.holders.iter().take(MAX_HOLDERS) {
        let entry = v1::ContentHolders {
            channel: holders.channel.to_string(),
            content_revision: holders.revision.0,
            active: holders.active,
            fetching: holders.fetching,
        };
        let bytes = entry.encoded_len() + prost::length_delimiter_len(entry.encoded_len()) + 1;
        let Some(rest) = room.checked_sub(bytes) else { break };
        room = rest;
        message.holders.push(entry);
    }
    message.encode_to_vec()
}

/// Reads a census.
///
/// # Errors
/// [`DecodeError`] if it is too large, malformed, or names what is no channel.
pub fn read_census(payload: &[u8]) -> Result<Census, DecodeError> {
    let message: v1::ContentCensus = decode(payload, MAX_CENSUS_BYTES)?;
    if message.holders.len() > MAX_HOLDERS {
        return Err(DecodeError::field("holders", format!("has more than {MAX_HOLDERS} entries")));
    }
    let holders = message.holders.into_iter().map(|holders| {
        Ok(Holders {
            channel: read_channel(&holders.channel)?,
            revision: ContentRevision(holders.content_revision),
            active: holders.active,
            fetching: holders.fetching,
        })
    });
    Ok(Census { replica: message.replica, holders: holders.collect::<Result<_, DecodeError>>()? })
}

#[cfg(test)]
mod tests;
