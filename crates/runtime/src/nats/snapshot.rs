//! Whole streams out of JetStream and back into it, sequences included: what backups are made of.
//!
//! The server packs a stream as a compressed archive of its own, sends it in pieces, and waits for each piece to be
//! acknowledged. Back in, the pieces are requests. Source: NATS, ADR-31 and the JetStream API reference.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Nats;
use super::api::ApiError;
use super::headers::Headers;
use super::request::RequestError;

/// Bytes of one piece.
const PIECE: usize = 128 << 10;
/// How long the server may take to pack or take the next piece: it reads or syncs some hundred MiB meanwhile.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the server may take to start. It verifies the stream first.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// What a stream was when it was packed. It is given back with the pieces.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
pub struct Packed {
    /// Its settings.
    pub config: Map<String, Value>,
    /// Its messages, bytes and sequences.
    pub state: Map<String, Value>,
}

/// Why a stream was not packed or not put back.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The server refused.
    #[error("the server did not do it")]
    Api(#[from] ApiError),
    /// A piece was not sent or not answered.
    #[error("the server does not take or give the next piece")]
    Request(#[from] RequestError),
    /// Nothing came for a while, or the connection was closed.
    #[error("the server gave no further piece within {} s", PIECE_TIMEOUT.as_secs())]
    Silent,
    /// The server gave up.
    #[error("the server gave up with status {status}: {description}")]
    Status {
        /// Its status.
        status: u16,
        /// Its words.
        description: String,
    },
    /// What keeps or gives pieces failed.
    #[error("a piece cannot be kept or read")]
    Io(#[from] std::io::Error),
}

impl Nats {
    /// Packs a stream and hands each piece to `keep`, in order.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was kept until then is of no use.
    pub async fn pack_stream(
        &self,
        stream: &str,
        mut keep: impl AsyncFnMut(Bytes) -> std::io::Result<()>,
    ) -> Result<Packed, SnapshotError> {
        let inbox = self.client().new_inbox();
        let subscribed = self.subscribe(&inbox).await;
        let mut pieces = subscribed.map_err(|_| RequestError::Closed)?;
        let body = json!({"deliver_subject": inbox, "no_consumers": true, "jsck": true, "chunk_size": PIECE});
        let packed: Packed =
            self.api_within(&format!("STREAM.SNAPSHOT.{stream}"), &body, START_TIMEOUT).await?;
        loop {
            let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.next()).await;
            let piece = piece.ok().flatten().ok_or(SnapshotError::Silent)?;
            if let Some(status) = piece.status.filter(|_| piece.payload.is_empty()) {
                let (status, description) = (u16::from(status), piece.description.unwrap_or_default());
                // The end has a status too, of success.
                return if status < 300 {
                    Ok(packed)
                } else {
                    Err(SnapshotError::Status { status, description })
                };
            }
            if piece.payload.is_empty() {
                return Ok(packed);
            }
            keep(piece.payload).await?;
            if let Some(reply) = piece.reply {
                self.respond(reply.as_str(), Bytes::new()).await?;
            }
        }
    }

    /// Puts a stream back as it was, with other replicas if need be. `pieces` gives the bytes in order, an empty piece at
    /// the end.
    ///
    /// # Errors
    /// [`SnapshotError`]; refused if a stream of this name is there.
    pub async fn unpack_stream(
        &self,
        stream: &str,
        packed: &Packed,
        mut pieces: impl AsyncFnMut(usize) -> std::io::Result<Bytes>,
    ) -> Result<(), SnapshotError> {
        let begun: Begun =
            self.api_within(&format!("STREAM.RESTORE.{stream}"), packed, START_TIMEOUT).await?;
        loop {
            let piece = pieces(PIECE).await?;
            let is_last = piece.is_empty();
            let sent = self.0.router.request(&begun.deliver_subject, Headers::new(), piece, PIECE_TIMEOUT);
            let reply = sent.await?;
            if is_last || !reply.payload.is_empty() {
                // Before the end, only a refusal has something to say.
                super::api::parse::<Value>(&begun.deliver_subject, &reply)?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Deletes a stream, if it is there.
    ///
    /// # Errors
    /// [`ApiError`] if the server refuses or does not answer.
    pub async fn delete_stream(&self, stream: &str) -> Result<(), ApiError> {
        match self.api_within::<Value>(&format!("STREAM.DELETE.{stream}"), &json!({}), START_TIMEOUT).await {
            Err(error) if error.is(async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND) => Ok(()),
            answered => answered.map(drop),
        }
    }
}

#[derive(Deserialize)]
struct Begun {
    deliver_subject: String,
}
