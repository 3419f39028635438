//! What callers are told whom the gate does not let through.

use std::collections::HashMap;
use std::time::Duration;

use domain::Span;
use domain::access::{Forbidden, OutOfReach, Refused};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::tokens::LookUpError;
use crate::audit::AuditError;

/// Names the domain of the reasons in error details (AIP-193).
const DOMAIN: &str = "muster.dev";
/// When a caller may try again what cannot be told now.
const RETRY_DELAY: Duration = Duration::from_secs(2);

fn status(code: Code, reason: &str, message: String, retry: Option<Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::<String, String>::new());
    if let Some(retry) = retry {
        details.set_retry_info(Some(retry));
    }
    Status::with_error_details(code, message, details)
}

pub(super) fn no_credential() -> Status {
    let message = "this takes a credential: send an API token as \"authorization: Bearer mat1_…\"".to_owned();
    status(Code::Unauthenticated, "NO_CREDENTIAL", message, None)
}

pub(super) fn unauthenticated(refused: Refused) -> Status {
    let reason = match refused {
        Refused::Unknown => "BAD_CREDENTIAL",
        Refused::Expired => "CREDENTIAL_EXPIRED",
    };
    status(Code::Unauthenticated, reason, refused.to_string(), None)
}

pub(super) fn locked_out(wait: Span) -> Status {
    let seconds = wait.0.div_ceil(1_000);
    let message = format!("too many bad credentials came from your address: wait {seconds} s");
    status(Code::ResourceExhausted, "LOCKED_OUT", message, Some(wait.into()))
}

pub(super) fn cannot_tell(error: &LookUpError) -> Status {
    let text = crate::log::chain(error);
    tracing::warn!(error = text, "credentials cannot be checked");
    status(Code::Unavailable, "STORE_UNAVAILABLE", text, Some(RETRY_DELAY))
}

pub(super) fn not_audited(error: &AuditError) -> Status {
    let text = crate::log::chain(error);
    tracing::error!(error = text, "changes are refused: they cannot be entered in the audit");
    let message = format!("nothing was changed, because the audit cannot be written: {text}");
    status(Code::Unavailable, "STORE_UNAVAILABLE", message, Some(RETRY_DELAY))
}

pub(super) fn forbidden(forbidden: &Forbidden) -> Status {
    let reason = match forbidden {
        Forbidden::Role { .. } => "ROLE",
        Forbidden::Bound { .. } => "OUT_OF_REACH",
    };
    status(Code::PermissionDenied, reason, forbidden.to_string(), None)
}

/// A caller reaches for what lies outside of its part of the tree.
#[must_use]
pub fn out_of_reach(error: &OutOfReach) -> Status {
    status(Code::PermissionDenied, "OUT_OF_REACH", error.to_string(), None)
}
