//! The pieces of content in the stream CONTENT: reading them, writing them, how much they take.
//!
//! What is stored under a digest is either that or nothing. A piece is believed because the catalogue, or a
//! manifest that the catalogue names, says its digest; only indexes are believed for their signature.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::content::retention::Piece;
use domain::content::{ContentIndex, Manifest};
use domain::{Digest, FleetId};
use ed25519_dalek::VerifyingKey;
use prost::Message as _;
use runtime::Roots;
use runtime::keys::Signer;
use runtime::nats::{
    ApiError, BatchMessage, CONTENT, Expect, GetError, Headers, Nats, PublishError, StreamMessage,
};
use tokio::time::Instant;
use wire::agent::v1::Envelope;
use wire::content::ContentError;
use wire::envelope::EnvelopeError;
use wire::subject::{Subject, content_chunk, content_index, content_manifest, content_patch, pattern};

/// Manifests that are kept in memory once they were read: a handful of channels that are worked on. One has at
/// most about 2 MiB.
const MAX_MANIFESTS: usize = 8;
/// How old the knowledge of how much is stored may be. Within this, writers of other replicas are not seen.
const USED_FOR: Duration = Duration::from_secs(1);

/// Why a piece of content was not read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The stream does not answer.
    #[error("content cannot be read")]
    Get(#[from] GetError),
    /// The stream cannot be looked up.
    #[error("content cannot be looked up")]
    Api(#[from] ApiError),
    /// The stream does not take it.
    #[error("content cannot be stored")]
    Publish(#[from] PublishError),
    /// The broker takes none of a batch, and does not say why.
    #[error(
        "content cannot be stored: the broker gave up the same chunks twice; its disk is full, or nearly: free some of it"
    )]
    GivenUp(#[source] PublishError),
    /// The content key refused.
    #[error("content is not signed")]
    Sign(#[from] wire::sign::SignError),
    /// The stream is not there.
    #[error("there is no stream {}: was it deleted?", CONTENT.name)]
    NoStream,
    /// What is stored is not what it should be.
    #[error("the stored manifest {manifest} is damaged")]
    Damaged {
        /// The manifest.
        manifest: Digest,
        /// What is wrong with it.
        source: ContentError,
    },
}

/// An index as stored.
#[derive(Debug, Default)]
pub(crate) struct StoredIndex {
    /// The index; `None` if there is none, or none that can be used: it is made anew.
    pub(crate) index: Option<ContentIndex>,
    /// Place of what is stored, for compare-and-set; 0 if nothing is.
    pub(crate) sequence: u64,
}

/// The stream CONTENT.
pub(crate) struct Store {
    nats: Nats,
    pub(crate) fleet: FleetId,
    pub(crate) key: Arc<dyn Signer>,
    pub(crate) roots: Roots,
    manifests: Mutex<VecDeque<(Digest, Arc<Manifest>)>>,
    used: Mutex<Option<(Instant, u64)>>,
}

impl Store {
    pub(crate) fn new(nats: Nats, fleet: FleetId, key: Arc<dyn Signer>, roots: Roots) -> Self {
        Self { nats, fleet, key, roots, manifests: Mutex::default(), used: Mutex::default() }
    }

    pub(crate) fn nats(&self) -> &Nats {
        &self.nats
    }

    /// Reads a message; asks the stream's leader before it says that there is none.
    async fn get(&self, subject: &Subject) -> Result<Option<StreamMessage>, GetError> {
        match self.nats.direct_get_last(CONTENT.name, subject).await? {
            Some(message) => Ok(Some(message)),
            // A follower may be behind.
            None => self.nats.leader_get_last(CONTENT.name, subject).await,
        }
    }

    /// The envelope of a manifest, as stored.
    pub(crate) async fn envelope(&self, manifest: &Digest) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get(&content_manifest(manifest)).await?.map(|message| message.payload))
    }

    /// A manifest.
    pub(crate) async fn manifest(&self, name: &Digest) -> Result<Option<Arc<Manifest>>, StoreError> {
        let kept = self.manifests().iter().find(|(kept, _)| kept == name).map(|(_, it)| Arc::clone(it));
        if kept.is_some() {
            return Ok(kept);
        }
        let Some(manifest) = self.read_manifest(name).await?.map(Arc::new) else { return Ok(None) };
        let mut manifests = self.manifests();
        manifests.truncate(MAX_MANIFESTS - 1);
        manifests.push_front((*name, Arc::clone(&manifest)));
        Ok(Some(manifest))
    }

    /// As [`Store::manifest`], for one that will not be asked for again soon.
    pub(crate) async fn read_manifest(&self, name: &Digest) -> Result<Option<Manifest>, StoreError> {
        let Some(bytes) = self.envelope(name).await? else { return Ok(None) };
        let read = read_named(name, &bytes);
        read.map(Some).map_err(|source| StoreError::Damaged { manifest: *name, source })
    }

    fn manifests(&self) -> std::sync::MutexGuard<'_, VecDeque<(Digest, Arc<Manifest>)>> {
        // No code panics while it holds this lock, and the list stays usable if it did.
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the envelope of a manifest, unless one is there: that may have more signatures.
    pub(crate) async fn add_manifest(&self, name: &Digest, envelope: &Envelope) -> Result<(), StoreError> {
        let (subject, bytes) = (content_manifest(name), Bytes::from(envelope.encode_to_vec()));
        let expect = Expect::LastSubject(0);
        match self.nats.publish_cas(CONTENT.name, &subject, (Headers::new(), bytes), expect).await {
            Ok(_) | Err(PublishError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the envelope of a manifest in the place of what is there.
    pub(crate) async fn put_manifest(&self, name: &Digest, envelope: &Envelope) -> Result<(), StoreError> {
        let bytes = Bytes::from(envelope.encode_to_vec());
        let subject = content_manifest(name);
        if self.get(&subject).await?.is_some_and(|there| there.payload == bytes) {
            return Ok(());
        }
        self.nats.publish_cas(CONTENT.name, &subject, (Headers::new(), bytes), Expect::Any).await?;
        Ok(())
    }

    /// The index of a manifest. One that cannot be used is told apart from none by its place.
    pub(crate) async fn index(&self, name: &Digest, manifest: &Manifest) -> Result<StoredIndex, StoreError> {
        self.index_signed_by(name, manifest, &self.roots.content().keys).await
    }

    /// As [`Store::index`], signed by one of these keys.
    pub(crate) async fn index_signed_by(
        &self,
        name: &Digest,
        manifest: &Manifest,
        keys: &[VerifyingKey],
    ) -> Result<StoredIndex, StoreError> {
        let Some(message) = self.get(&content_index(name)).await? else { return Ok(StoredIndex::default()) };
        let envelope = wire::envelope::parse_shared(&message.payload);
        let index = envelope
            .map_err(ContentError::from)
            .and_then(|envelope| wire::content::open_index(&envelope, name, manifest, keys));
        let index = index.inspect_err(|error| {
            let error = runtime::log::chain(error);
            tracing::warn!(manifest = %name, error, "a stored index cannot be used: it is made anew");
        });
        Ok(StoredIndex { index: index.ok(), sequence: message.sequence })
    }

    /// Stores an index if what stands at its place is still what was read.
    ///
    /// # Returns
    /// Whether it was stored; if not, another replica was quicker.
    pub(crate) async fn put_index(&self, index: &ContentIndex, sequence: u64) -> Result<bool, StoreError> {
        let payload = wire::content::encode_index(index);
        let sealed = wire::envelope::seal_by(wire::envelope::CONTENT_INDEX, payload, &*self.key)?;
        let bytes = Bytes::from(sealed.encode_to_vec());
        let subject = content_index(&index.manifest());
        let expect = Expect::LastSubject(sequence);
        match self.nats.publish_cas(CONTENT.name, &subject, (Headers::new(), bytes), expect).await {
            Ok(_) => Ok(true),
            Err(PublishError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A chunk as stored.
    pub(crate) async fn chunk(&self, chunk: &Digest) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get(&content_chunk(chunk)).await?.map(|message| message.payload))
    }

    /// Whether a chunk is stored, as whichever server of the broker answers first has it: it may be stored although
    /// this says no.
    pub(crate) async fn seems_stored(&self, chunk: &Digest) -> Result<bool, StoreError> {
        Ok(self.nats.direct_get_last(CONTENT.name, &content_chunk(chunk)).await?.is_some())
    }

    /// Stores chunks, all or none.
    pub(crate) async fn put_chunks(&self, chunks: Vec<(Digest, Bytes)>) -> Result<(), StoreError> {
        let bytes = chunks.iter().map(|(_, stored)| stored.len() as u64).sum();
        let messages = chunks.into_iter().map(|(digest, payload)| {
            let subject = content_chunk(&digest);
            // What stands there already holds the same.
            (BatchMessage { subject, headers: Headers::new(), payload }, Expect::Any)
        });
        let messages: Vec<_> = messages.collect();
        let mut stored = self.nats.publish_batch_each(messages.clone()).await;
        if stored.as_ref().is_err_and(PublishError::is_batch_given_up) {
            // A message that was lost on its way is not lost twice.
            stored = self.nats.publish_batch_each(messages).await;
        }
        stored.map_err(|error| match error.is_batch_given_up() {
            true => StoreError::GivenUp(error),
            false => error.into(),
        })?;
        self.note_used(bytes);
        Ok(())
    }

    /// How long a piece is as stored; 0 if it is not there.
    pub(crate) async fn stored_length(&self, piece: &Piece) -> Result<u64, StoreError> {
        let stored = self.nats.direct_get_last(CONTENT.name, &wire::piece::subject(piece)).await?;
        Ok(stored.map_or(0, |message| message.payload.len() as u64))
    }

    /// The pieces that are stored, a page from the place `from` on, and where the next page starts.
    pub(crate) async fn pieces(&self, from: usize) -> Result<(Vec<Piece>, Option<usize>), StoreError> {
        let page = self.nats.subjects(CONTENT.name, pattern::CONTENT, from).await?;
        // What is not a piece was not put here by this service: it is none of its business.
        let pieces = page.subjects.iter().filter_map(|subject| wire::piece::parse(subject));
        Ok((pieces.collect(), page.next))
    }

    /// The place of the newest message.
    pub(crate) async fn last_sequence(&self) -> Result<u64, StoreError> {
        let state = self.nats.stream_state(CONTENT.name).await?;
        Ok(state.ok_or(StoreError::NoStream)?.last_sequence)
    }

    /// Deletes what matches `filter` and was stored before the place `below`.
    pub(crate) async fn delete(&self, filter: &str, below: u64) -> Result<(), StoreError> {
        self.nats.purge(CONTENT.name, filter, below).await?;
        Ok(())
    }

    /// Stores a part of a delta.
    pub(crate) async fn put_part(
        &self,
        (from, to): (Option<&Digest>, &Digest),
        number: u32,
        part: Bytes,
    ) -> Result<(), StoreError> {
        let bytes = part.len() as u64;
        let subject = content_patch(from, to, number);
        self.nats.publish_cas(CONTENT.name, &subject, (Headers::new(), part), Expect::Any).await?;
        self.note_used(bytes);
        Ok(())
    }

    /// How many parts of a delta are stored.
    pub(crate) async fn count_parts(&self, from: Option<&Digest>, to: &Digest) -> Result<usize, StoreError> {
        Ok(self.nats.count_subjects(CONTENT.name, &wire::piece::parts(from, to)).await?)
    }

    /// Bytes that all content takes in the store.
    pub(crate) async fn used(&self) -> Result<u64, StoreError> {
        let known = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, bytes)) = known
            && at.elapsed() < USED_FOR
        {
            return Ok(bytes);
        }
        let bytes = self.nats.stream_state(CONTENT.name).await?.ok_or(StoreError::NoStream)?.bytes;
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), bytes));
        Ok(bytes)
    }

    /// Forgets how much is stored: it was changed by more than what was noted.
    pub(crate) fn forget_used(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn note_used(&self, more: u64) {
        if let Some((_, bytes)) = &mut *self.used.lock().unwrap_or_else(PoisonError::into_inner) {
            *bytes += more;
        }
    }
}

/// Reads a manifest from its envelope. Its digest is proof enough: the catalogue names it.
fn read_named(name: &Digest, bytes: &Bytes) -> Result<Manifest, ContentError> {
    let envelope = wire::envelope::parse_shared(bytes)?;
    let found = Digest::of(&envelope.payload);
    if found != *name {
        return Err(ContentError::OtherManifest { found, wanted: *name });
    }
    Ok(wire::content::read_manifest(&envelope.payload).map_err(EnvelopeError::Payload)?)
}
