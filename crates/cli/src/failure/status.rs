//! What a server's refusal says: its message, the fields it names, and what to do about it.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::exit;

pub(super) fn exit_code(code: Code) -> u8 {
    match code {
        Code::Ok => exit::OK,
        Code::NotFound => exit::NOT_FOUND,
        Code::Unavailable | Code::DeadlineExceeded => exit::UNREACHABLE,
        Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => exit::REFUSED,
        Code::Cancelled | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            exit::FAILED
        }
    }
}

/// One thing that the server found wrong.
struct Wrong {
    field: String,
    why: String,
}

impl Wrong {
    fn line(&self) -> String {
        if self.field.is_empty() || self.why.starts_with(&self.field) {
            self.why.clone()
        } else {
            format!("{}: {}", self.field, self.why)
        }
    }
}

/// One line: what is wrong, or how many things are.
pub(super) fn cause(status: &Status, resources: &[String]) -> String {
    let message = status.message();
    let wrong = wrong(status, resources);
    match wrong.as_slice() {
        [] if message.is_empty() => format!("the server answered {:?} without saying why", status.code()),
        [only] if message.contains(&only.why) => only.line(),
        [first, .., last] if message.contains(&first.why) || message.contains(&last.why) => {
            format!("the server refused this: {} things are wrong", total(message, wrong.len()))
        }
        _ => message.to_owned(),
    }
}

/// One line for each thing that is wrong; none if the cause says it all.
pub(super) fn details(status: &Status, resources: &[String]) -> Vec<String> {
    let wrong = wrong(status, resources);
    match wrong.as_slice() {
        [only] if status.message().contains(&only.why) => Vec::new(),
        all => {
            let more = total(status.message(), all.len()) - all.len();
            let rest = (more > 0 && !all.is_empty()).then(|| format!("... and {more} more"));
            all.iter().map(Wrong::line).chain(rest).collect()
        }
    }
}

/// How many things are wrong: servers name the first few and end their message with "(and 7 more)".
fn total(message: &str, named: usize) -> usize {
    let more = message.rsplit_once("(and ").and_then(|(_, rest)| rest.strip_suffix(" more)")?.parse().ok());
    more.map_or(named, |more: usize| more.saturating_add(1).max(named))
}

fn wrong(status: &Status, resources: &[String]) -> Vec<Wrong> {
    let details = status.get_error_details();
    let fields = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    let conditions = details.precondition_failure().map_or(&[][..], |failed| &failed.violations);
    let quotas = details.quota_failure().map_or(&[][..], |failed| &failed.violations);
    let fields = fields.iter().map(|it| (&it.field, &it.description));
    let conditions = conditions.iter().map(|it| (&it.subject, &it.description));
    // What is used up is said by the description; the subject is "content" or "fleet".
    let nothing = String::new();
    let quotas = quotas.iter().map(|it| (&nothing, &it.description));
    let all = fields.chain(conditions).chain(quotas);
    all.map(|(field, why)| Wrong { field: in_words_of_the_file(field, resources), why: why.clone() })
        .collect()
}

/// `resources[2].policy.document` as `web.yaml:7 Policy firewall-web: spec.document`.
fn in_words_of_the_file(field: &str, resources: &[String]) -> String {
    let Some((index, rest)) = field.strip_prefix("resources[").and_then(|rest| rest.split_once(']')) else {
        return field.to_owned();
    };
    let Some(resource) = index.parse().ok().and_then(|index: usize| resources.get(index)) else {
        return field.to_owned();
    };
    let rest = rest.trim_start_matches('.');
    let rest = ["group", "kind", "policy", "token", "content_release"]
        .iter()
        .find_map(|kind| rest.strip_prefix(kind).filter(|rest| rest.is_empty() || rest.starts_with('.')))
        .unwrap_or(rest)
        .trim_start_matches('.');
    match rest {
        "" => resource.clone(),
        "name" => format!("{resource}: metadata.name"),
        other if other.starts_with("labels") => format!("{resource}: metadata.{other}"),
        other => format!("{resource}: spec.{other}"),
    }
}

pub(super) fn way_out(status: &Status, url: &str) -> Option<String> {
    let details = status.get_error_details();
    match details.error_info().map(|info| info.reason.as_str()) {
        Some("LOCKED") => {
            return Some("`muster policy explain --group GROUP` shows who locks what".to_owned());
        }
        Some("SIGNATURES") => {
            return Some("push again with --sign-with KEYFILE, once for each further key".to_owned());
        }
        Some("NO_CREDENTIAL") => {
            return Some(
                "`muster login`, `muster login --oidc`, or name the file of an API token with --token-file or \
                 MUSTER_TOKEN_FILE; `musterd all` keeps one in DATA_DIR/admin.token"
                    .to_owned(),
            );
        }
        Some("BAD_CREDENTIAL" | "CREDENTIAL_EXPIRED") => {
            return Some(
                "sign in again with `muster login --oidc`, or get an API token: an administrator makes one with \
                 `muster api-token create`"
                    .to_owned(),
            );
        }
        Some("ROLE" | "OUT_OF_REACH") => return Some("`muster whoami` shows what you may do".to_owned()),
        Some(_) | None => {}
    }
    let text = match status.code() {
        Code::NotFound => {
            let kind = details.resource_info().map(|it| it.resource_type.to_lowercase());
            let noun = match kind.as_deref() {
                Some(kind) if kind.contains("group") => "group",
                Some(kind) if kind.contains("policykind") || kind == "kind" => "kind",
                Some(kind) if kind.contains("policy") => "policy",
                Some(kind) if kind.contains("agent") => "agent",
                Some(kind) if kind.contains("token") => "token",
                Some(kind) if kind.contains("channel") || kind.contains("content") => "content",
                Some("change") => {
                    return Some(
                        "`muster policy history NAME` shows the revisions of a policy's changes".to_owned(),
                    );
                }
                Some(_) | None => return None,
            };
            format!("`muster {noun} list` shows what there is")
        }
        Code::Aborted => "somebody else changed it meanwhile: look again, then repeat the command".to_owned(),
        Code::Unavailable | Code::DeadlineExceeded => {
            format!("repeat the command; if it stays so, {url}/readyz says which part is not ready")
        }
        Code::Unimplemented => format!("is the server at {url} older than this muster?"),
        // Whoever listens there did not understand a word.
        Code::Unknown if url.starts_with("http://") && std::error::Error::source(status).is_some() => {
            format!("does the server speak TLS? then it is at {}", url.replacen("http://", "https://", 1))
        }
        Code::Internal | Code::Unknown | Code::DataLoss => "the log of musterd says more".to_owned(),
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::failure::Failure;
    use crate::view::style::Style;

    #[track_caller]
    fn check(status: Status, code: u8, expected: &str) {
        let resources = vec!["a.yaml:1 Group web".to_owned(), "a.yaml:9 Policy p".to_owned()];
        let failure = Failure::Status { status: Box::new(status), url: "http://h:1".into(), resources };
        assert_eq!(failure.exit_code(), code);
        assert_eq!(failure.render(&Style::now(false)).unwrap(), expected);
    }

    #[test]
    fn violations_stand_one_in_a_line_in_the_words_of_the_file() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("resources[1].policy.document", "/rules: is locked by /servers")
            .add_bad_request_violation("resources[0].group.name", "must not be empty")
            .add_bad_request_violation("resources[7].group", "is one too many")
            .add_bad_request_violation("message", "is too long");
        check(
            Status::with_error_details(Code::InvalidArgument, "the change is refused", details),
            exit::REFUSED,
            "error: the change is refused\n\
             \u{20} a.yaml:9 Policy p: spec.document: /rules: is locked by /servers\n\
             \u{20} a.yaml:1 Group web: metadata.name: must not be empty\n\
             \u{20} resources[7].group: is one too many\n\
             \u{20} message: is too long\n",
        );
    }

    #[test]
    fn one_violation_is_said_once() {
        let details = ErrorDetails::with_bad_request_violation("group.path", "must start with '/'");
        check(
            Status::with_error_details(Code::InvalidArgument, "must start with '/'", details),
            exit::REFUSED,
            "error: group.path: must start with '/'\n",
        );
    }

    #[test]
    fn what_the_message_says_is_not_said_again() {
        let locked = "policy p may not set /rules: policy base locks it";
        let mut details =
            ErrorDetails::with_error_info("LOCKED", "muster.dev", std::collections::HashMap::new());
        details.add_precondition_failure_violation("LOCKED", "resources[1]", locked);
        check(
            Status::with_error_details(Code::FailedPrecondition, locked, details.clone()),
            exit::REFUSED,
            "error: a.yaml:9 Policy p: policy p may not set /rules: policy base locks it\n\
             try: `muster policy explain --group GROUP` shows who locks what\n",
        );
        details.add_precondition_failure_violation("HAS_AGENTS", "", "group at /a has 2 agents");
        check(
            Status::with_error_details(Code::FailedPrecondition, format!("{locked} (and 6 more)"), details),
            exit::REFUSED,
            "error: the server refused this: 7 things are wrong\n\
             \u{20} a.yaml:9 Policy p: policy p may not set /rules: policy base locks it\n\
             \u{20} group at /a has 2 agents\n\
             \u{20} ... and 5 more\n\
             try: `muster policy explain --group GROUP` shows who locks what\n",
        );
    }

    #[test]
    fn missing_signatures_and_revisions_have_a_way_out() {
        let info =
            || ErrorDetails::with_error_info("SIGNATURES", "muster.dev", std::collections::HashMap::new());
        check(
            Status::with_error_details(Code::FailedPrecondition, "two keys must sign", info()),
            exit::REFUSED,
            "error: two keys must sign\ntry: push again with --sign-with KEYFILE, once for each further key\n",
        );
        let details = ErrorDetails::with_resource_info("ContentRevision", "a:3", "", "");
        check(
            Status::with_error_details(Code::NotFound, "revision 3 of channel a was retired", details),
            exit::NOT_FOUND,
            "error: revision 3 of channel a was retired\ntry: `muster content list` shows what there is\n",
        );
        let details = ErrorDetails::with_resource_info("Change", "22", "", "");
        check(
            Status::with_error_details(Code::NotFound, "there is no Change \"22\"", details),
            exit::NOT_FOUND,
            "error: there is no Change \"22\"\n\
             try: `muster policy history NAME` shows the revisions of a policy's changes\n",
        );
    }

    #[test]
    fn every_refusal_has_its_code_and_a_way_out() {
        let details = ErrorDetails::with_resource_info("Group", "/a", "", "");
        check(
            Status::with_error_details(Code::NotFound, "there is no group /a", details),
            exit::NOT_FOUND,
            "error: there is no group /a\ntry: `muster group list` shows what there is\n",
        );
        check(
            Status::aborted("policy p is at revision 9"),
            exit::REFUSED,
            "error: policy p is at revision 9\n\
             try: somebody else changed it meanwhile: look again, then repeat the command\n",
        );
        check(
            Status::unavailable("the store cannot be reached"),
            exit::UNREACHABLE,
            "error: the store cannot be reached\n\
             try: repeat the command; if it stays so, http://h:1/readyz says which part is not ready\n",
        );
        check(
            Status::internal(""),
            exit::FAILED,
            "error: the server answered Internal without saying why\ntry: the log of musterd says more\n",
        );
        check(
            Status::failed_precondition("it has\u{7} agents"),
            exit::REFUSED,
            "error: it has\\u{7} agents\n",
        );
    }
}
