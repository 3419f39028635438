//! Reading single messages by Direct Get: answered by any replica, without a consumer.

use async_nats::StatusCode;
use async_nats::jetstream::ErrorCode;
use base64::Engine;
use bytes::Bytes;
use domain::Timestamp;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use wire::subject::Subject;

use super::api::{API_TIMEOUT, ApiError};
use super::headers::Headers;
use super::publish::PATIENCE;
use super::request::RequestError;
use super::{Message, Nats};

/// Status of the message that ends the answer to a Direct Get of several messages.
const END_OF_BATCH: u16 = 204;

/// A message of a stream.
#[derive(Debug, Clone)]
pub struct StreamMessage {
    /// Its subject.
    pub subject: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// When the server stored it.
    pub time: Timestamp,
    /// Its headers. In a headers-only consumer, without the payload.
    pub headers: Headers,
    /// Its payload.
    pub payload: Bytes,
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No answer.
    #[error("cannot read {subject} from stream {stream}")]
    Request {
        /// The stream.
        stream: &'static str,
        /// The subject.
        subject: String,
        /// Why not.
        source: RequestError,
    },
    /// The server answered with a status that is neither a message nor "not found".
    #[error("reading {subject} from stream {stream} was refused with status {status}")]
    Status {
        /// The stream.
        stream: &'static str,
        /// The subject.
        subject: String,
        /// The status.
        status: u16,
    },
    /// The answer lacks what makes it a stored message.
    #[error("reading {subject} from stream {stream} gave no stored message")]
    Malformed {
        /// The stream.
        stream: &'static str,
        /// The subject.
        subject: String,
    },
    /// The API refused.
    #[error("cannot read from stream {stream}")]
    Api {
        /// The stream.
        stream: &'static str,
        /// Why not.
        source: ApiError,
    },
}

impl StreamMessage {
    /// Reads the answer to a Direct Get.
    fn from_direct(message: Message) -> Option<Self> {
        let headers = Headers::from(message.headers?);
        Some(Self {
            subject: headers.get("Nats-Subject")?.to_owned(),
            sequence: headers.get_number("Nats-Sequence")?,
            time: rfc3339(headers.get("Nats-Time-Stamp")?)?,
            headers,
            payload: message.payload,
        })
    }
}

/// Milliseconds of an RFC 3339 time in UTC.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since_epoch = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since_epoch.as_millis()).ok().map(Timestamp)
}

impl Nats {
    /// The last message of `subject`, by subject-appended Direct Get, as agents do it: it needs permission for
    /// this one subject only. May be stale for a moment after a write: compare with what you were told.
    ///
    /// # Errors
    /// [`GetError`] if nobody answers within 5 s, or the answer is not a message.
    pub async fn direct_get_last(
        &self,
        stream: &'static str,
        subject: &Subject,
    ) -> Result<Option<StreamMessage>, GetError> {
        let target = wire::subject::direct_get(stream, subject);
        let subject = subject.to_string();
        let reply = self.request(&target, Headers::new(), Bytes::new(), API_TIMEOUT).await;
        let reply = reply.map_err(|source| GetError::Request { stream, subject: subject.clone(), source })?;
        match reply.status {
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) if status != StatusCode::OK => {
                Err(GetError::Status { stream, subject, status: status.into() })
            }
            _ => StreamMessage::from_direct(reply).map(Some).ok_or(GetError::Malformed { stream, subject }),
        }
    }

    /// All messages of `subject` that the stream keeps, oldest first, at most `limit`. For services: it needs
    /// permission to read the whole stream.
    ///
    /// # Errors
    /// [`GetError`] if nobody answers within 5 s, or an answer is not a message.
    pub async fn direct_get_all(
        &self,
        stream: &'static str,
        subject: &Subject,
        limit: u32,
    ) -> Result<Vec<StreamMessage>, GetError> {
        self.direct_get_from(stream, subject, 1, limit).await
    }

    /// As [`Nats::direct_get_all`], from the sequence `from` on.
    ///
    /// # Errors
    /// As [`Nats::direct_get_all`].
    pub async fn direct_get_from(
        &self,
        stream: &'static str,
        subject: &Subject,
        from: u64,
        limit: u32,
    ) -> Result<Vec<StreamMessage>, GetError> {
        let subject = subject.to_string();
        let failed = |source| GetError::Request { stream, subject: subject.clone(), source };
        let inbox = self.client().new_inbox();
        let mut replies = self.subscribe(&inbox).await.map_err(|_| failed(RequestError::Closed))?;
        let body = json!({"seq": from, "next_by_subj": subject, "batch": limit});
        let body = serde_json::to_vec(&body).expect("invariant: the request is plain JSON");
        let target = format!("$JS.API.DIRECT.GET.{stream}");
        let sent = self.client().publish_with_reply(target, inbox, body.into()).await;
        sent.map_err(|_| failed(RequestError::Closed))?;
        let mut messages = Vec::new();
        let collect = async {
            while let Some(reply) = replies.next().await {
                match reply.status {
                    Some(status) if status == END_OF_BATCH || status == StatusCode::NOT_FOUND => {
                        return Ok(());
                    }
                    Some(StatusCode::NO_RESPONDERS) => {
                        return Err(failed(RequestError::NoResponders { subject: subject.clone() }));
                    }
                    Some(status) if status != StatusCode::OK => {
                        return Err(GetError::Status {
                            stream,
                            subject: subject.clone(),
                            status: status.into(),
                        });
                    }
                    _ => messages.push(
                        StreamMessage::from_direct(reply)
                            .ok_or_else(|| GetError::Malformed { stream, subject: subject.clone() })?,
                    ),
                }
            }
            Err(failed(RequestError::Closed))
        };
        let late = |_| failed(RequestError::TimedOut { subject: subject.clone(), timeout: API_TIMEOUT });
        tokio::time::timeout(API_TIMEOUT, collect).await.map_err(late)??;
        Ok(messages)
    }

    /// The message at `sequence` as the stream's leader has it; `None` if it is not (or no longer) there.
    ///
    /// # Errors
    /// [`GetError::Api`] if the leader does not answer within 10 s, two tries at least, or refuses.
    pub(crate) async fn message_at(
        &self,
        stream: &'static str,
        sequence: u64,
    ) -> Result<Option<StreamMessage>, GetError> {
        self.leader_get(stream, json!({"seq": sequence})).await
    }

    /// The last message of `subject` as the stream's leader has it.
    ///
    /// # Errors
    /// [`GetError::Api`] if the leader does not answer within 10 s, two tries at least, or refuses.
    pub async fn leader_get_last(
        &self,
        stream: &'static str,
        subject: &Subject,
    ) -> Result<Option<StreamMessage>, GetError> {
        self.leader_get(stream, json!({"last_by_subj": subject.as_str()})).await
    }

    async fn leader_get(
        &self,
        stream: &'static str,
        body: serde_json::Value,
    ) -> Result<Option<StreamMessage>, GetError> {
        // As patient as a write: one try may fall into an election, in which nobody answers until it times out.
        match self.api_patiently::<Stored>(&format!("STREAM.MSG.GET.{stream}"), &body, PATIENCE).await {
            Ok(stored) => {
                let malformed = || GetError::Malformed { stream, subject: stored.message.subject.clone() };
                stored.message.decode().map(Some).ok_or_else(malformed)
            }
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => Ok(None),
            Err(source) => Err(GetError::Api { stream, source }),
        }
    }
}

#[derive(Deserialize)]
struct Stored {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct StoredMessage {
    subject: String,
    seq: u64,
    time: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl StoredMessage {
    fn decode(&self) -> Option<StreamMessage> {
        let base64 = &base64::engine::general_purpose::STANDARD;
        let raw = String::from_utf8(base64.decode(&self.hdrs).ok()?).ok()?;
        // The header block: a version line, then "Name: value" lines.
        let lines = raw.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in lines {
            let name: async_nats::HeaderName = name.trim().parse().ok()?;
            let value: async_nats::HeaderValue = value.trim().parse().ok()?;
            headers.append(name, value);
        }
        Some(StreamMessage {
            subject: self.subject.clone(),
            sequence: self.seq,
            time: rfc3339(&self.time)?,
            headers: headers.into(),
            payload: base64.decode(&self.data).ok()?.into(),
        })
    }
}
