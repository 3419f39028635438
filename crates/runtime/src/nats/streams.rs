//! The streams of Muster: one table of their settings, and how a stream is made to have them.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wire::access::STREAMS;
use wire::subject::{
    STREAM_AUDIT, STREAM_CONTENT, STREAM_DESIRED, STREAM_EVENTS, STREAM_IDENTITY, STREAM_POLICY, pattern,
};

use super::Nats;
use super::api::ApiError;

/// How long to wait for JetStream when a service starts beside a broker that just started or has no leader.
const PATIENCE: Duration = Duration::from_secs(30);

/// JetStream's code for a folder that could not be made.
const STORE_FAILED: u64 = 10_049;

/// Tries to make a stream beside others: each lost race ends with one stream more.
const CREATE_TRIES: u32 = 8;

/// Pause between looks for a stream that another service makes.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Consumers of one stream: a handful for each replica of each service. A stream without a limit of its own
/// takes 1,000 since nats-server 2.15.
const MAX_CONSUMERS: u32 = 1000;

const GIB: u64 = 1 << 30;

/// Settings of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// The subjects it keeps.
    pub subjects: &'static str,
    /// Messages kept of each subject.
    pub per_subject: u32,
    /// Size limit in bytes; `None`: whoever writes it looks after that.
    pub max_bytes: Option<u64>,
    /// Age limit.
    pub max_age: Option<Duration>,
    /// At the size limit: refuse what is new (true) or drop what is old (false).
    pub refuse_when_full: bool,
    /// Whether atomic batches are taken.
    pub atomic: bool,
    /// Where stored messages are published again: pattern of subjects and of destinations.
    pub republish: Option<(&'static str, &'static str)>,
    /// Whether messages are only ever added: the server deletes none before its time.
    pub append_only: bool,
    /// Whether its content can be made again from other streams.
    pub rebuildable: bool,
}

/// The store of record: groups, kinds, policies, tokens, each with its history.
pub const POLICY: StreamSpec = StreamSpec {
    name: STREAM_POLICY,
    description: "Store of record: every change of the catalogue",
    subjects: pattern::STORE,
    // The history that people can look at and roll back to.
    per_subject: 100,
    max_bytes: Some(2 * GIB),
    max_age: None,
    refuse_when_full: true,
    atomic: true,
    republish: None,
    append_only: false,
    rebuildable: false,
};

/// The registry of agents and the uses of tokens.
pub const IDENTITY: StreamSpec = StreamSpec {
    name: STREAM_IDENTITY,
    description: "Registry: one record for each agent",
    subjects: pattern::IDENTITY,
    per_subject: 1,
    max_bytes: Some(GIB),
    max_age: None,
    refuse_when_full: true,
    atomic: true,
    republish: None,
    append_only: false,
    rebuildable: false,
};

/// What agents should have: the head of each group and the assignment of each agent.
pub const DESIRED: StreamSpec = StreamSpec {
    name: STREAM_DESIRED,
    description: "Desired state: signed heads and assignments, republished to agents",
    subjects: pattern::DESIRED,
    per_subject: 1,
    max_bytes: Some(4 * GIB),
    max_age: None,
    refuse_when_full: true,
    // A change of many groups is published in batches: each costs one sync of the disk.
    atomic: true,
    republish: Some((pattern::DESIRED, pattern::NOTIFY)),
    append_only: false,
    rebuildable: true,
};

/// Content: manifests, indexes, chunks and patches, each a message named by digest.
pub const CONTENT: StreamSpec = StreamSpec {
    name: STREAM_CONTENT,
    description: "Content: signed manifests, chunks and patches, named by digest",
    subjects: pattern::CONTENT,
    per_subject: 1,
    // The content service has a quota and refuses an upload that goes beyond it, with the way out.
    max_bytes: None,
    max_age: None,
    refuse_when_full: true,
    // Chunks are stored in batches: each costs one sync of the disk.
    atomic: true,
    republish: None,
    append_only: false,
    rebuildable: false,
};

/// Presence transitions and checkpoints.
pub const EVENTS: StreamSpec = StreamSpec {
    name: STREAM_EVENTS,
    description: "Presence transitions and checkpoints",
    subjects: pattern::EVENTS,
    // An agent that flaps fills its own share and nobody else's.
    per_subject: 32,
    max_bytes: Some(GIB),
    max_age: Some(Duration::from_secs(7 * 86_400)),
    refuse_when_full: false,
    atomic: false,
    republish: None,
    append_only: false,
    rebuildable: true,
};

/// The audit.
pub const AUDIT: StreamSpec = StreamSpec {
    name: STREAM_AUDIT,
    description: "Audit: what was asked of the API and what came of it, each entry bound to the one before",
    subjects: pattern::AUDIT,
    // All entries have one subject.
    per_subject: u32::MAX,
    max_bytes: Some(4 * GIB),
    // What a yearly review looks at, and a month to make it in.
    max_age: Some(Duration::from_secs(396 * 86_400)),
    // Nobody gets rid of entries by making more.
    refuse_when_full: true,
    atomic: false,
    republish: None,
    append_only: true,
    rebuildable: false,
};

/// Why a stream is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// JetStream cannot be asked.
    #[error("cannot {action} stream {stream}")]
    Api {
        /// "look up", "create" or "update".
        action: &'static str,
        /// The stream.
        stream: &'static str,
        /// Why not.
        source: ApiError,
    },
    /// The service that makes the stream has not.
    #[error(
        "stream {stream} does not exist; the service that makes it has not been started ({})",
        STREAMS.iter().filter(|one| one.name == *stream).flat_map(|one| one.makes).map(|role| role.name()).collect::<Vec<_>>().join(" or ")
    )]
    Absent {
        /// The stream.
        stream: &'static str,
    },
    /// The stream exists with a setting that cannot be changed in place.
    #[error(
        "stream {stream} exists with {field} {found} instead of {wanted}, which cannot be changed in place: was it made by something else? Back it up, delete it and start again"
    )]
    Incompatible {
        /// The stream.
        stream: &'static str,
        /// The setting, as JetStream names it.
        field: &'static str,
        /// What the stream has.
        found: String,
        /// What Muster needs.
        wanted: String,
    },
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// When it was made, as the server writes it. Changes when it is deleted and made again.
    pub created: String,
    /// Sequence of its oldest message.
    pub first_sequence: u64,
    /// Sequence of its newest message, deleted ones included; 0 if it never had any.
    pub last_sequence: u64,
    /// Number of messages.
    pub messages: u64,
    /// Bytes they take in the store, subjects and headers included.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Info {
    config: Map<String, Value>,
    created: String,
    state: RawState,
}

#[derive(Deserialize)]
struct RawState {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
}

impl From<Info> for StreamState {
    fn from(info: Info) -> Self {
        Self {
            created: info.created,
            first_sequence: info.state.first_seq,
            last_sequence: info.state.last_seq,
            messages: info.state.messages,
            bytes: info.state.bytes,
        }
    }
}

/// Settings that JetStream never changes in place.
const FIXED: [&str; 3] = ["retention", "storage", "max_consumers"];

/// Limits that an operator may have raised: an existing larger value stays.
const RAISED_ONLY: [&str; 2] = ["max_bytes", "max_age"];

impl StreamSpec {
    fn config(&self, replicas: u8) -> Map<String, Value> {
        let age_ns = self.max_age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        let config = json!({
            "name": self.name,
            "description": self.description,
            "subjects": [self.subjects],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_consumers": MAX_CONSUMERS,
            "max_msgs": -1,
            "max_msgs_per_subject": self.per_subject,
            "max_bytes": self.max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            "max_age": age_ns,
            "discard": if self.refuse_when_full { "new" } else { "old" },
            "allow_direct": true,
            "allow_rollup_hdrs": false,
            "allow_atomic": self.atomic,
            "deny_delete": self.append_only.then_some(true),
            "deny_purge": self.append_only.then_some(true),
            "republish": self.republish.map(|(source, destination)| json!({"src": source, "dest": destination})),
        });
        match config {
            Value::Object(mut config) => {
                config.retain(|_, value| !value.is_null());
                config
            }
            _ => unreachable!("invariant: the literal above is an object"),
        }
    }

    /// What has to be sent to turn `existing` into this; `None` if nothing.
    fn update(
        &self,
        existing: &Map<String, Value>,
        replicas: u8,
    ) -> Result<Option<Map<String, Value>>, StreamError> {
        let mut updated = existing.clone();
        for (field, wanted) in self.config(replicas) {
            let found = existing.get(&field).unwrap_or(&Value::Null);
            if equal(found, &wanted) || (RAISED_ONLY.contains(&field.as_str()) && larger(found, &wanted)) {
                continue;
            }
            if let Some(fixed) = FIXED.into_iter().find(|fixed| *fixed == field) {
                return Err(StreamError::Incompatible {
                    stream: self.name,
                    field: fixed,
                    found: found.to_string(),
                    wanted: wanted.to_string(),
                });
            }
            updated.insert(field, wanted);
        }
        if self.republish.is_none() {
            updated.remove("republish");
        }
        Ok((updated != *existing).then_some(updated))
    }
}

/// The server leaves out what is false, zero or empty.
fn equal(found: &Value, wanted: &Value) -> bool {
    found == wanted || (found.is_null() && (*wanted == json!(false) || *wanted == json!(0)))
}

fn larger(found: &Value, wanted: &Value) -> bool {
    // -1 and 0 mean no limit.
    let limit = |value: &Value| value.as_i64().filter(|limit| *limit > 0).unwrap_or(i64::MAX);
    limit(found) > limit(wanted)
}

impl Nats {
    /// Makes the stream, or updates an existing one to `spec`. Limits that were raised stay raised.
    ///
    /// # Errors
    /// [`StreamError`] if JetStream cannot be reached in 30 s, refuses, or the stream has a setting that
    /// cannot be changed in place.
    pub async fn ensure_stream(&self, spec: &StreamSpec, replicas: u8) -> Result<StreamState, StreamError> {
        let failed = |action| move |source| StreamError::Api { action, stream: spec.name, source };
        let info = match self.stream_info(spec.name, PATIENCE).await {
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
                let call = format!("STREAM.CREATE.{}", spec.name);
                tracing::info!(stream = spec.name, replicas, "making the stream");
                let made = self.create_stream(&call, &spec.config(replicas)).await;
                match made {
                    // Another replica was quicker, perhaps with other settings.
                    Err(error) if error.is(ErrorCode::STREAM_NAME_EXIST) => {
                        self.stream_info(spec.name, PATIENCE).await.map_err(failed("look up"))?
                    }
                    made => return made.map(Info::into).map_err(failed("create")),
                }
            }
            found => found.map_err(failed("look up"))?,
        };
        match spec.update(&info.config, replicas)? {
            None => Ok(info.into()),
            Some(config) => {
                tracing::info!(stream = spec.name, "updating the stream's settings");
                let call = format!("STREAM.UPDATE.{}", spec.name);
                let updated: Info =
                    self.api_patiently(&call, &config, PATIENCE).await.map_err(failed("update"))?;
                Ok(updated.into())
            }
        }
    }

    /// The server makes the folder of an account with its first stream, and fails if two make theirs at once.
    async fn create_stream(&self, call: &str, config: &Map<String, Value>) -> Result<Info, ApiError> {
        let mut tries = CREATE_TRIES;
        loop {
            match self.api_patiently(call, config, PATIENCE).await {
                Err(ApiError::Refused { code: STORE_FAILED, .. }) if tries > 1 => tries -= 1,
                made => return made,
            }
            tokio::time::sleep(crate::ids::jitter(LOOK_AGAIN)).await;
        }
    }

    /// Waits until another service has made the stream, at most 30 s.
    ///
    /// # Errors
    /// [`StreamError`] if it is not made in that time, or JetStream does not answer.
    pub async fn await_stream(&self, spec: &StreamSpec) -> Result<(), StreamError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.stream_info(spec.name, PATIENCE).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {}
                Err(source) => {
                    return Err(StreamError::Api { action: "look up", stream: spec.name, source });
                }
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(StreamError::Absent { stream: spec.name });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What the stream holds now; `None` if it does not exist.
    ///
    /// # Errors
    /// [`ApiError`] if JetStream does not answer or refuses.
    pub async fn stream_state(&self, stream: &'static str) -> Result<Option<StreamState>, ApiError> {
        match self.stream_info(stream, Duration::ZERO).await {
            Ok(info) => Ok(Some(info.into())),
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn stream_info(&self, stream: &str, patience: Duration) -> Result<Info, ApiError> {
        self.api_patiently(&format!("STREAM.INFO.{stream}"), &json!({}), patience).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_stream_is_left_alone_and_raised_limits_stay() {
        let mut existing = DESIRED.config(1);
        existing.remove("allow_rollup_hdrs");
        existing.remove("max_age");
        existing.insert("max_bytes".to_owned(), json!(17 * GIB));
        existing.insert("metadata".to_owned(), json!({"_nats.ver": "2.15.1"}));
        assert_eq!(DESIRED.update(&existing, 1).unwrap(), None);
        existing.insert("max_bytes".to_owned(), json!(-1));
        assert_eq!(DESIRED.update(&existing, 1).unwrap(), None);
    }

    #[test]
    fn what_differs_is_updated_and_what_is_unknown_is_kept() {
        let mut existing = POLICY.config(1);
        existing.insert("max_msgs_per_subject".to_owned(), json!(10));
        existing.insert("max_bytes".to_owned(), json!(1));
        existing.insert("a_setting_of_tomorrow".to_owned(), json!(true));
        let updated = POLICY.update(&existing, 3).unwrap().unwrap();
        assert_eq!(updated["max_msgs_per_subject"], json!(100));
        assert_eq!(updated["max_bytes"], json!(2 * GIB));
        assert_eq!(updated["num_replicas"], json!(3));
        assert_eq!(updated["a_setting_of_tomorrow"], json!(true));
    }

    #[test]
    fn a_stream_of_another_kind_is_refused() {
        let mut existing = POLICY.config(1);
        existing.insert("storage".to_owned(), json!("memory"));
        let error = POLICY.update(&existing, 1).unwrap_err().to_string();
        assert!(error.contains("POLICY exists with storage \"memory\" instead of \"file\""), "{error}");
    }
}
