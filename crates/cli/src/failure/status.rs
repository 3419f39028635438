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

/// One line: the message, or the only thing that is wrong.
pub(super) fn cause(status: &Status, resources: &[String]) -> String {
    let message = status.message();
    let named = violations(status, resources);
    if message.is_empty() {
        return format!("the server answered {:?} without saying why", status.code());
    }
    if named.len() == 1 && named[0].ends_with(message) { named[0].clone() } else { message.to_owned() }
}

/// One line for each field or condition that is named; none if the cause says it all.
pub(super) fn details(status: &Status, resources: &[String]) -> Vec<String> {
    let mut lines = violations(status, resources);
    if lines.len() == 1 && lines[0].ends_with(status.message()) {
        lines.clear();
    }
    lines
}

fn violations(status: &Status, resources: &[String]) -> Vec<String> {
    let details = status.get_error_details();
    let fields = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    let conditions = details.precondition_failure().map_or(&[][..], |failed| &failed.violations);
    let fields = fields.iter().map(|it| line(&it.field, &it.description, resources));
    let conditions = conditions.iter().map(|it| line(&it.subject, &it.description, resources));
    fields.chain(conditions).collect()
}

fn line(field: &str, description: &str, resources: &[String]) -> String {
    let field = in_words_of_the_file(field, resources);
    if field.is_empty() { description.to_owned() } else { format!("{field}: {description}") }
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
    let rest = ["group", "kind", "policy", "token"]
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
    let text = match status.code() {
        Code::NotFound => {
            let kind = status.get_error_details().resource_info().map(|it| it.resource_type.to_lowercase());
            let noun = match kind.as_deref() {
                Some(kind) if kind.contains("group") => "group",
                Some(kind) if kind.contains("policykind") || kind == "kind" => "kind",
                Some(kind) if kind.contains("policy") => "policy",
                Some(kind) if kind.contains("agent") => "agent",
                Some(kind) if kind.contains("token") => "token",
                Some(_) | None => return None,
            };
            format!("`muster {noun} list` shows what there is")
        }
        Code::Aborted => "somebody else changed it meanwhile: look again, then repeat the command".to_owned(),
        Code::Unavailable | Code::DeadlineExceeded => {
            format!("repeat the command; if it stays so, {url}/readyz says which part is not ready")
        }
        Code::Unimplemented => format!("is the server at {url} older than this muster?"),
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
        check(Status::failed_precondition("it has\u{7} agents"), exit::REFUSED, "error: it has\\u{7} agents\n");
    }
}
