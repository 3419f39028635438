//! Errors as gRPC statuses with details that programs can read.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use domain::catalog::ObjectKey;
use domain::change::{Class, Refusal, Violation};
use runtime::nats::PublishError;
use runtime::store::{CatchUpError, ChangeError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::change::NotMade;
use crate::store::StoreError;

/// Names the domain of the reasons in error details (AIP-193).
const DOMAIN: &str = "muster.dev";
/// Longest message of a status, and longest text of its details: they travel in an HTTP/2 header block, of which
/// clients take 16 KiB in all, and escaping can triple a text.
const MAX_TEXT_BYTES: usize = 1024;
/// Violations that the details of a status name.
const MAX_VIOLATIONS: usize = 4;
/// When a caller may try again what failed for a reason that passes: longer than a leader election mostly takes.
const RETRY_DELAY: Duration = Duration::from_secs(2);

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('…');
    }
    text
}

/// A field of the request is wrong: `why` follows its name ("must be …", "names …").
pub(crate) fn field(field: &str, why: impl Display) -> Status {
    let why = cut(why.to_string());
    let message = format!("{field} {why}");
    Status::with_error_details(
        Code::InvalidArgument,
        message,
        ErrorDetails::with_bad_request_violation(field, why),
    )
}

/// There is no such channel.
pub(crate) fn no_channel(name: impl Display) -> Status {
    missing("Channel", &name.to_string(), format!("there is no channel {name:?}", name = name.to_string()))
}

/// There is no such thing: `kind` and `name` for programs.
pub(crate) fn missing(kind: &str, name: &str, message: String) -> Status {
    let message = cut(message);
    let details = ErrorDetails::with_resource_info(kind, name, "", message.clone());
    Status::with_error_details(Code::NotFound, message, details)
}

/// The state of things forbids it; the message says what to do.
pub(crate) fn precondition(reason: &'static str, message: String) -> Status {
    let message = cut(message);
    let mut details = info(reason);
    details.add_precondition_failure_violation(reason, "", message.clone());
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// A bound is reached; the message says which and what to do.
pub(crate) fn exhausted(reason: &'static str, message: String) -> Status {
    let message = cut(message);
    let mut details = info(reason);
    details.add_quota_failure_violation("content", message.clone());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// It does not go now and will go in a while.
pub(crate) fn later(reason: &'static str, message: String, delay: Duration) -> Status {
    let mut details = info(reason);
    details.set_retry_info(Some(delay));
    Status::with_error_details(Code::Unavailable, cut(message), details)
}

fn info(reason: &'static str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::<String, String>::new())
}

fn unavailable(error: &(dyn std::error::Error + 'static)) -> Status {
    let text = runtime::log::chain(error);
    tracing::warn!(error = text, "the store cannot be used");
    later("STORE_UNAVAILABLE", text, RETRY_DELAY)
}

impl From<CatchUpError> for crate::Refused {
    fn from(error: CatchUpError) -> Self {
        Self(unavailable(&error))
    }
}

impl From<StoreError> for crate::Refused {
    fn from(error: StoreError) -> Self {
        Self(match &error {
            StoreError::Damaged { .. } => {
                let text = runtime::log::chain(&error);
                tracing::error!(error = text, "stored content is damaged");
                Status::data_loss(text)
            }
            StoreError::Publish(PublishError::Full { .. }) | StoreError::GivenUp(_) => {
                exhausted("STORE_FULL", runtime::log::chain(&error))
            }
            StoreError::Get(_)
            | StoreError::Api(_)
            | StoreError::Publish(_)
            | StoreError::Sign(_)
            | StoreError::NoStream => unavailable(&error),
        })
    }
}

impl From<NotMade> for crate::Refused {
    fn from(error: NotMade) -> Self {
        Self(match error {
            NotMade::Request(status) => *status,
            NotMade::Refused(refusal) => refused(&refusal),
            NotMade::Behind(error) => unavailable(&error),
            NotMade::Contended => {
                Status::with_error_details(Code::Aborted, error.to_string(), info("CONTENDED"))
            }
            NotMade::Commit(ChangeError::Encode(_)) | NotMade::Planner(_) => {
                let text = runtime::log::chain(&error);
                tracing::error!(error = text, "a change could not be made");
                Status::internal(text)
            }
            NotMade::Commit(_) => unavailable(&error),
        })
    }
}

fn refused(refusal: &Refusal) -> Status {
    let (code, reason) = match refusal.class() {
        Class::Invalid => (Code::InvalidArgument, "INVALID"),
        Class::NotFound => (Code::NotFound, "NOT_FOUND"),
        Class::Exists => (Code::AlreadyExists, "EXISTS"),
        Class::Stale => (Code::Aborted, "STALE_REVISION"),
        Class::Managed => (Code::FailedPrecondition, "MANAGED"),
        Class::Precondition => (Code::FailedPrecondition, "IN_USE"),
        Class::Exhausted => (Code::ResourceExhausted, "TOO_MANY_OBJECTS"),
    };
    let mut details = info(reason);
    for violation in refusal.violations.iter().take(MAX_VIOLATIONS) {
        add(&mut details, reason, violation);
    }
    Status::with_error_details(code, cut(refusal.to_string()), details)
}

fn add(details: &mut ErrorDetails, reason: &'static str, violation: &Violation) {
    let text = cut(violation.to_string());
    match violation.class() {
        Class::Invalid => {
            details.add_bad_request_violation("", text);
        }
        Class::NotFound | Class::Exists => {
            let (kind, name) = violation.key().map_or(("", String::new()), named);
            details.set_resource_info(kind, name, "", text);
        }
        Class::Stale | Class::Managed | Class::Precondition => {
            details.add_precondition_failure_violation(reason, "", text);
        }
        Class::Exhausted => {
            details.add_quota_failure_violation("fleet", text);
        }
    }
}

fn named(key: ObjectKey) -> (&'static str, String) {
    match key {
        ObjectKey::Channel(name) => ("Channel", name.to_string()),
        ObjectKey::Content(channel, number) => ("ContentRevision", format!("{channel}:{number}")),
        ObjectKey::Group(id) => ("Group", id.to_string()),
        ObjectKey::Uploads => ("Uploads", String::new()),
        ObjectKey::Sweep => ("Sweep", String::new()),
        ObjectKey::Kind(name) => ("PolicyKind", name.to_string()),
        ObjectKey::Policy(name) => ("Policy", name.to_string()),
        ObjectKey::Token(id) => ("EnrollmentToken", id.to_string()),
        ObjectKey::ApiToken(name) => ("ApiToken", name.to_string()),
        ObjectKey::Epoch => ("Epoch", String::new()),
    }
}
