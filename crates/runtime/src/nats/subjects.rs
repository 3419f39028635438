//! Which subjects a stream holds messages of, without reading any; and deleting by subject. Services only.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::Nats;
use super::api::{API_TIMEOUT, ApiError};

/// One page of the subjects of a stream, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPage {
    /// The subjects.
    pub subjects: Vec<String>,
    /// Where the next page starts; `None` after the last one.
    pub next: Option<usize>,
}

#[derive(Deserialize)]
struct Info {
    state: State,
    /// How many subjects there are in all; absent without any.
    #[serde(default)]
    total: usize,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    subjects: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

impl Nats {
    /// The subjects matching `filter` that the stream holds messages of, as its leader has them: a page of what
    /// comes at and after the place `from`. The server makes pages of up to 100,000. Subjects that come and go
    /// between two pages move the places of others: a caller who must see each looks again.
    ///
    /// # Errors
    /// [`ApiError`] if JetStream does not answer within 5 s or refuses.
    pub async fn subjects(
        &self,
        stream: &'static str,
        filter: &str,
        from: usize,
    ) -> Result<SubjectPage, ApiError> {
        let info = self.matching(stream, filter, from).await?;
        let subjects: Vec<String> = info.state.subjects.into_keys().collect();
        let end = from + subjects.len();
        let next = (end < info.total && !subjects.is_empty()).then_some(end);
        Ok(SubjectPage { subjects, next })
    }

    /// How many subjects matching `filter` the stream holds messages of.
    ///
    /// # Errors
    /// As [`Nats::subjects`].
    pub async fn count_subjects(&self, stream: &'static str, filter: &str) -> Result<usize, ApiError> {
        let info = self.matching(stream, filter, 0).await?;
        Ok(info.total.max(info.state.subjects.len()))
    }

    async fn matching(&self, stream: &str, filter: &str, from: usize) -> Result<Info, ApiError> {
        let body = json!({"subjects_filter": filter, "offset": from});
        self.api_patiently(&format!("STREAM.INFO.{stream}"), &body, API_TIMEOUT).await
    }

    /// Deletes the messages of the stream whose subjects match `filter` and whose sequence is below `below`: a
    /// message that was stored after the caller looked stays, however late this is carried out.
    ///
    /// # Returns
    /// How many there were.
    ///
    /// # Errors
    /// [`ApiError`] if JetStream does not answer within 5 s or refuses. They may be deleted all the same.
    pub async fn purge(&self, stream: &'static str, filter: &str, below: u64) -> Result<u64, ApiError> {
        let (call, body) = (format!("STREAM.PURGE.{stream}"), json!({"filter": filter, "seq": below}));
        let purged: Purged = self.api_patiently(&call, &body, API_TIMEOUT).await?;
        Ok(purged.purged)
    }
}
