//! Errors as the API answers them: a gRPC status with details of `google.rpc`.

use std::error::Error;
use std::time::Duration;

use runtime::log::chain;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// Domain of the reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "muster.dev";

/// When a caller may try again what failed for a reason that passes: longer than a leader election mostly takes.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// A field of the request breaks its rule.
pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> Status {
    let problem = problem.to_string();
    let message = format!("{field} {problem}");
    Status::with_error_details(
        Code::InvalidArgument,
        message,
        ErrorDetails::with_bad_request_violation(field, problem),
    )
}

/// Fields of the request break their rules; each with what is wrong.
pub(crate) fn all_invalid(wrong: Vec<(String, String)>) -> Status {
    let message: Vec<_> = wrong.iter().map(|(field, problem)| format!("{field} {problem}")).collect();
    let violations = wrong.into_iter().map(|(field, problem)| FieldViolation::new(field, problem));
    let details = ErrorDetails::with_bad_request(violations.collect::<Vec<_>>());
    Status::with_error_details(Code::InvalidArgument, message.join("; "), details)
}

/// There is no such thing. `kind` is "group", "token" or "agent".
pub(crate) fn not_found(kind: &str, name: &str) -> Status {
    resource(Code::NotFound, kind, name, format!("there is no {kind} {name:?}"))
}

/// There is such a thing already.
pub(crate) fn exists(kind: &str, name: &str) -> Status {
    resource(Code::AlreadyExists, kind, name, format!("there is a {kind} {name:?} already"))
}

fn resource(code: Code, kind: &str, name: &str, message: String) -> Status {
    let details = ErrorDetails::with_resource_info(kind, name, "", message.clone());
    Status::with_error_details(code, message, details)
}

/// A bound of the fleet is reached.
pub(crate) fn exhausted(subject: &str, error: &dyn std::fmt::Display) -> Status {
    let message = error.to_string();
    let details = ErrorDetails::with_quota_failure_violation(subject, message.clone());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Others changed the same thing before every try.
pub(crate) fn contended(error: &dyn std::fmt::Display) -> Status {
    passing(Code::Aborted, "CONTENDED", error.to_string())
}

/// The store cannot be used now.
pub(crate) fn unavailable(error: &(dyn Error + 'static)) -> Status {
    let message = chain(error);
    tracing::warn!(error = message, "the store cannot be used");
    passing(Code::Unavailable, "STORE_UNAVAILABLE", message)
}

/// Not possible in the state the fleet is in.
pub(crate) fn precondition(reason: &str, error: &dyn std::fmt::Display) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(Code::FailedPrecondition, error.to_string(), details)
}

pub(crate) fn passing(code: Code, reason: &str, message: String) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(code, message, details)
}
