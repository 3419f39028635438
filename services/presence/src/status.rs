//! Errors as the API answers them: a gRPC status with details of `google.rpc`.

use std::fmt::Display;
use std::time::Duration;

use domain::Revision;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of the reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "muster.dev";
/// When a caller may try again what passes by itself: longer than most restarts and elections take.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// A field of the request breaks its rule.
pub(crate) fn invalid(field: &str, problem: impl Display) -> Status {
    let problem = problem.to_string();
    let details = ErrorDetails::with_bad_request_violation(field, problem.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field} {problem}"), details)
}

/// There is no such thing. `kind` is "group" or "agent".
pub(crate) fn not_found(kind: &str, name: &str) -> Status {
    let message = format!("there is no {kind} {name:?}");
    let details = ErrorDetails::with_resource_info(kind, name, "", message.clone());
    Status::with_error_details(Code::NotFound, message, details)
}

/// A bound is reached.
pub(crate) fn exhausted(subject: &str, message: String) -> Status {
    let details = ErrorDetails::with_quota_failure_violation(subject, message.clone());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// The heads of a store revision are not there in time.
pub(crate) fn behind(wanted: Revision, known: Revision) -> Status {
    let message = format!("the heads of revision {wanted} are not published yet; those of {known} are");
    passing(Code::Unavailable, "HEADS_BEHIND", message)
}

/// This replica is stopping.
pub(crate) fn stopping() -> Status {
    passing(Code::Unavailable, "STOPPING", "this replica of presence is stopping".to_owned())
}

/// A watcher did not keep up.
pub(crate) fn too_slow() -> Status {
    passing(Code::ResourceExhausted, "READ_TOO_SLOWLY", "the caller read too slowly; watch again".to_owned())
}

fn passing(code: Code, reason: &str, message: String) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(code, message, details)
}
