//! What callers are told whom the gate does not let through.

use std::collections::HashMap;
use std::time::Duration;

use domain::Span;
use domain::access::oidc::{Admitted, Denied};
use domain::access::{Forbidden, OutOfReach, Refused};
use oidc::TokenError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::oidc::KeysUnknown;
use super::tokens::LookUpError;
use crate::audit::AuditError;

/// Names the domain of the reasons in error details (AIP-193).
const DOMAIN: &str = "muster.dev";
/// When a caller may try again what cannot be told now.
const RETRY_DELAY: Duration = Duration::from_secs(2);

fn status(code: Code, reason: &str, message: String, retry: Option<Duration>) -> Status {
    let info = (reason, HashMap::new());
    with_metadata(code, info, message, retry)
}

fn with_metadata(
    code: Code,
    (reason, metadata): (&str, HashMap<String, String>),
    message: String,
    retry: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if let Some(retry) = retry {
        details.set_retry_info(Some(retry));
    }
    Status::with_error_details(code, message, details)
}

/// `challenge` says where people sign in, if they can.
pub(super) fn no_credential(challenge: Option<HashMap<String, String>>) -> Status {
    let or = if challenge.is_some() { ", or a token of the OpenID provider" } else { "" };
    let message =
        format!("this takes a credential: send an API token as \"authorization: Bearer mat1_…\"{or}");
    let info = ("NO_CREDENTIAL", challenge.unwrap_or_default());
    with_metadata(Code::Unauthenticated, info, message, None)
}

/// Nobody signed this token.
pub(super) fn bad_token(error: &TokenError) -> Status {
    status(Code::Unauthenticated, "BAD_CREDENTIAL", error.to_string(), None)
}

/// What a token says lets nobody in.
pub(super) fn denied(denied: &Denied) -> Status {
    let (code, reason) = match denied {
        Denied::Expired => (Code::Unauthenticated, "CREDENTIAL_EXPIRED"),
        Denied::NoRole(_) => (Code::PermissionDenied, "NO_ROLE"),
        Denied::Issuer(_) | Denied::Audience(_) | Denied::NotYet | Denied::Claim { .. } => {
            (Code::Unauthenticated, "BAD_CREDENTIAL")
        }
    };
    tracing::info!(reason, "refused: {denied}");
    status(code, reason, denied.to_string(), None)
}

/// Whoever it is is bound to a place that is empty.
pub(super) fn no_place(admitted: &Admitted) -> Status {
    let place = admitted.under.as_ref().map(ToString::to_string).unwrap_or_default();
    let message = format!(
        "{} is bound to {place}, and no group stands there: ask an administrator to make it",
        admitted.name
    );
    status(Code::PermissionDenied, "NO_ROLE", message, None)
}

pub(super) fn no_keys(error: &KeysUnknown) -> Status {
    let retry = match error {
        KeysUnknown::Asked { wait } => (*wait).into(),
        KeysUnknown::Unreachable(_) | KeysUnknown::Busy => RETRY_DELAY,
    };
    status(Code::Unavailable, "PROVIDER_UNAVAILABLE", error.to_string(), Some(retry))
}

pub(super) fn loading() -> Status {
    let message = "the groups that roles are bound to are not loaded yet: try again".to_owned();
    status(Code::Unavailable, "STORE_UNAVAILABLE", message, Some(RETRY_DELAY))
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
