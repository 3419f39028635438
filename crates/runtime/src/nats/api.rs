//! The JetStream API: JSON requests with a timeout and typed refusals.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::headers::Headers;
use super::request::RequestError;
use super::{Message, Nats};

/// Time for one API call. In a leader election none is answered for some seconds; callers that retry do so
/// around this.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between tries while JetStream has no leader: full jitter below this.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Why a JetStream API call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer.
    #[error("JetStream does not answer")]
    Request(#[from] RequestError),
    /// The server refused.
    #[error("JetStream refused ({code}): {description}")]
    Refused {
        /// JetStream's error code (`err_code`).
        code: u64,
        /// Its description.
        description: String,
    },
    /// The answer is not what the API promises.
    #[error("JetStream answered something else than expected on {subject}")]
    Malformed {
        /// The API subject.
        subject: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl ApiError {
    /// Whether the server said so with this code.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused { code: found, .. } if *found == code.0)
    }

    /// Whether the same call may succeed soon: no connection, no leader, or no answer.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Request(error) => error.is_temporary(),
            Self::Refused { code, .. } => {
                *code == ErrorCode::CLUSTER_NOT_AVAILABLE.0 || *code == ErrorCode::INSUFFICIENT_RESOURCES.0
            }
            Self::Malformed { .. } => false,
        }
    }
}

impl RequestError {
    /// Whether the same request may succeed soon.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NoResponders { .. } | Self::TimedOut { .. } | Self::Disconnected => true,
            Self::TooLarge { .. } | Self::Subject { .. } | Self::Closed => false,
        }
    }
}

impl Nats {
    /// Calls `$JS.API.<call>` once.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        self.api_within(call, body, API_TIMEOUT).await
    }

    /// As [`Nats::api`], for calls that take long.
    pub(crate) async fn api_within<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, ApiError> {
        let subject = format!("$JS.API.{call}");
        let body = serde_json::to_vec(body).expect("invariant: API requests are plain JSON");
        let reply = self.0.router.request(&subject, Headers::new(), body.into(), timeout).await?;
        parse(&subject, &reply)
    }

    /// As [`Nats::api`], again and again while the failure is temporary and `patience` lasts.
    pub(crate) async fn api_patiently<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, ApiError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.api(call, body).await {
                Err(error) if error.is_temporary() && tokio::time::Instant::now() < deadline => {
                    tracing::debug!(call, error = %crate::log::chain(&error), "JetStream is not available yet");
                    tokio::time::sleep(RETRY_PAUSE / 5 + crate::ids::jitter(RETRY_PAUSE)).await;
                }
                settled => return settled,
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Refused { error: Refusal },
    Ok(T),
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

pub(crate) fn parse<T: DeserializeOwned>(subject: &str, reply: &Message) -> Result<T, ApiError> {
    match serde_json::from_slice::<Answer<T>>(&reply.payload) {
        Ok(Answer::Ok(answer)) => Ok(answer),
        Ok(Answer::Refused { error }) => {
            Err(ApiError::Refused { code: error.err_code, description: error.description })
        }
        Err(source) => Err(ApiError::Malformed { subject: subject.to_owned(), source }),
    }
}
