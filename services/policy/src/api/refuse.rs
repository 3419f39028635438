//! Errors as gRPC statuses with details that programs can read.

use std::collections::HashMap;

use domain::catalog::ObjectKey;
use domain::change::{Class, Refusal, Violation};
use runtime::store::{CommitError, ReadError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::change::{Behind, ChangeError};

/// Most text of the details of a status. They travel in an HTTP/2 header block, of which clients take 16 KiB
/// in all, and base64 makes them a third longer.
const MAX_DETAIL_BYTES: usize = 5 * 1024;
/// Longest message of a status: it stands in the same header block, and escaping can triple it.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Names the domain of the reasons in error details (AIP-193).
const DOMAIN: &str = "muster.dev";

/// What is wrong with the fields of a request, collected.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Notes that a field is wrong.
    pub(super) fn wrong(&mut self, field: impl Into<String>, why: impl ToString) {
        self.0.push((field.into(), why.to_string()));
    }

    /// Takes the value, or notes why there is none.
    pub(super) fn take<T, E: ToString>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.wrong(field, error)).ok()
    }

    /// # Errors
    /// If a field is wrong: `INVALID_ARGUMENT` that names them, as far as they fit a status.
    pub(super) fn check(self) -> Result<(), Status> {
        let message = match self.0.as_slice() {
            [] => return Ok(()),
            [(_, why)] => why.clone(),
            many => format!("{} fields are wrong", many.len()),
        };
        let mut details = ErrorDetails::new();
        let mut room = Room(MAX_DETAIL_BYTES);
        for (field, why) in self.0 {
            if room.take(field.len() + why.len()) {
                details.add_bad_request_violation(field, why);
            }
        }
        Err(Status::with_error_details(Code::InvalidArgument, cut(message), details))
    }
}

/// Room for details in a status.
struct Room(usize);

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        let rest = self.0.checked_sub(bytes);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    message
}

/// A single wrong field.
pub(super) fn field(field: &str, why: impl ToString) -> Status {
    let mut fields = Fields::default();
    fields.wrong(field, why);
    fields.check().err().unwrap_or_else(|| Status::invalid_argument("the request is wrong"))
}

/// There is no such object.
pub(super) fn missing(kind: &str, name: &str) -> Status {
    let message = format!("there is no {} {name:?}", noun(kind));
    let details = ErrorDetails::with_resource_info(kind, name, "", message.clone());
    Status::with_error_details(Code::NotFound, message, details)
}

fn noun(kind: &str) -> &str {
    match kind {
        "Group" => "group",
        "PolicyKind" => "kind",
        "Policy" => "policy",
        "EnrollmentToken" => "token",
        other => other,
    }
}

/// Kind (as in manifests) and name of an object.
pub(super) fn named(key: &ObjectKey) -> (&'static str, String) {
    let (kind, name) = match key {
        ObjectKey::Group(id) => ("Group", id.as_str()),
        ObjectKey::Kind(name) => ("PolicyKind", name.as_str()),
        ObjectKey::Policy(name) => ("Policy", name.as_str()),
        ObjectKey::Token(id) => ("EnrollmentToken", id.as_str()),
        ObjectKey::ApiToken(name) => ("ApiToken", name.as_str()),
        ObjectKey::Channel(name) => (super::release::CHANNEL, name.as_str()),
        ObjectKey::Content(channel, number) => return ("ContentRevision", format!("{channel} {number}")),
        ObjectKey::Uploads => ("Uploads", ""),
        ObjectKey::Sweep => ("Sweep", ""),
        ObjectKey::Epoch => ("Epoch", ""),
    };
    (kind, name.to_owned())
}

/// Which field of the request holds a part of an object (`.path`, or nothing for the object itself), if it
/// holds the object at all: names the field for violations.
pub(super) type Place<'a> = &'a (dyn Fn(&ObjectKey, &str) -> Option<String> + Sync);

/// The field of the request that a violation is about; empty if it is none.
fn field_of(violation: &Violation, place: Place<'_>) -> String {
    let Some(key) = violation.key() else { return String::new() };
    if let Some(field) = place(&key, part(violation, &key)) {
        return field;
    }
    // A policy that the request does not name breaks a rule where a group that it names assigns it.
    let group = match violation {
        Violation::Problem(problem) => place(&ObjectKey::Group(problem.group().clone()), ".policies"),
        _ => None,
    };
    group.unwrap_or_default()
}

fn part(violation: &Violation, key: &ObjectKey) -> &'static str {
    use domain::compile::Problem;
    match violation {
        Violation::PathTaken { .. }
        | Violation::ParentMissing { .. }
        | Violation::Cycle { .. }
        | Violation::TooDeep { .. }
        | Violation::RootMoved(_) => ".path",
        Violation::Dangling { needs: ObjectKey::Channel(_) | ObjectKey::Content(..), .. }
        | Violation::Problem(Problem::TooManyChannels { .. }) => ".content",
        Violation::Dangling { .. } => match key {
            ObjectKey::Group(_) => ".policies",
            ObjectKey::Policy(_) => ".kind",
            ObjectKey::Token(_) => ".group",
            ObjectKey::Kind(_)
            | ObjectKey::Channel(_)
            | ObjectKey::ApiToken(_)
            | ObjectKey::Content(..)
            | ObjectKey::Uploads
            | ObjectKey::Sweep
            | ObjectKey::Epoch => "",
        },
        Violation::TwoOfAKind { .. } | Violation::Problem(Problem::SnapshotTooLarge { .. }) => ".policies",
        Violation::KindFixed { .. } => ".kind",
        Violation::Problem(Problem::Settings { .. }) => ".settings",
        Violation::Problem(
            Problem::Locked { .. } | Problem::Schema { .. } | Problem::DocumentTooLarge { .. },
        ) => ".document",
        Violation::TooManyEntries(_)
        | Violation::Duplicate(_)
        | Violation::Missing(_)
        | Violation::Exists(_)
        | Violation::Stale { .. }
        | Violation::Managed { .. }
        | Violation::RootDeleted
        | Violation::HasChildren { .. }
        | Violation::HasAgents { .. }
        | Violation::InUse { .. }
        | Violation::ContentInUse { .. }
        | Violation::ContentNumber { .. }
        | Violation::ContentFixed { .. }
        | Violation::TooManyObjects { .. } => "",
    }
}

/// A change that was not made. `place` says where in the request an object stands.
pub(super) fn change(error: ChangeError, place: Place<'_>) -> Status {
    match error {
        ChangeError::Refused(refusal) => refused(&refusal, place),
        ChangeError::OutOfReach(error) => runtime::access::out_of_reach(&error),
        ChangeError::Request(status) => *status,
        ChangeError::Behind(behind) => self::behind(&behind),
        ChangeError::Contended => reason(Code::Aborted, "CONTENDED", error.to_string()),
        ChangeError::TooLarge(_) => field("resources", error),
        ChangeError::Commit(CommitError::TooLarge { bytes }) => {
            field("resources", ChangeError::TooLarge(bytes))
        }
        ChangeError::Commit(CommitError::Entries { entries }) => {
            field("resources", CommitError::Entries { entries })
        }
        ChangeError::Commit(
            CommitError::Conflict { .. } | CommitError::Publish(_) | CommitError::Read(_),
        ) => {
            let text = runtime::log::chain(&error);
            tracing::warn!(error = text, "a change could not be stored");
            reason(Code::Unavailable, "STORE_UNAVAILABLE", text)
        }
        ChangeError::Planner(_) => {
            let text = runtime::log::chain(&error);
            tracing::error!(error = text, "a change could not be planned");
            Status::internal(text)
        }
    }
}

/// This replica has not reached what was asked for.
pub(super) fn behind(behind: &Behind) -> Status {
    reason(Code::Unavailable, "BEHIND", behind.to_string())
}

/// The store cannot be read.
pub(super) fn unreadable(error: &ReadError) -> Status {
    let text = runtime::log::chain(error);
    tracing::warn!(error = text, "the history could not be read");
    reason(Code::Unavailable, "STORE_UNAVAILABLE", text)
}

/// A token cannot be made yet.
pub(super) fn no_root(error: runtime::trust::NoRoot) -> Status {
    reason(Code::FailedPrecondition, "NO_TRUST_ROOT", error.to_string())
}

fn reason(code: Code, reason: &str, message: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::<String, String>::new());
    Status::with_error_details(code, cut(message), details)
}

fn refused(refusal: &Refusal, place: Place<'_>) -> Status {
    let class = refusal.class();
    let code = match class {
        Class::Invalid => Code::InvalidArgument,
        Class::NotFound => Code::NotFound,
        Class::Exists => Code::AlreadyExists,
        Class::Stale => Code::Aborted,
        Class::Managed | Class::Precondition => Code::FailedPrecondition,
        Class::Exhausted => Code::ResourceExhausted,
    };
    let mut details = ErrorDetails::new();
    details.set_error_info(reason_of(&refusal.violations), DOMAIN, HashMap::<String, String>::new());
    let mut room = Room(MAX_DETAIL_BYTES);
    for violation in &refusal.violations {
        let (field, text) = (field_of(violation, place), violation.to_string());
        if room.take(field.len() + text.len()) {
            add(&mut details, violation, (field, text));
        }
    }
    Status::with_error_details(code, cut(refusal.to_string()), details)
}

fn add(details: &mut ErrorDetails, violation: &Violation, (field, text): (String, String)) {
    let key = violation.key();
    let (kind, name) = key.as_ref().map(named).unwrap_or_default();
    match violation.class() {
        Class::Invalid => {
            details.add_bad_request_violation(field, text);
        }
        Class::NotFound | Class::Exists => {
            details.set_resource_info(kind, name, "", text);
        }
        Class::Stale | Class::Managed | Class::Precondition => {
            details.add_precondition_failure_violation(rule(violation), field, text);
        }
        Class::Exhausted => {
            details.add_quota_failure_violation("fleet", text);
        }
    }
}

fn reason_of(violations: &[Violation]) -> &'static str {
    violations.first().map_or("REFUSED", rule)
}

/// The rule that is broken, as a constant for programs.
fn rule(violation: &Violation) -> &'static str {
    use domain::compile::Problem;
    match violation {
        Violation::TooManyEntries(_) => "TOO_MANY_ENTRIES",
        Violation::Duplicate(_) => "DUPLICATE",
        Violation::Missing(_) => "NOT_FOUND",
        Violation::Exists(_) => "EXISTS",
        Violation::Stale { .. } => "STALE_REVISION",
        Violation::Managed { .. } => "MANAGED",
        Violation::RootDeleted | Violation::RootMoved(_) => "ROOT",
        Violation::PathTaken { .. } => "PATH_TAKEN",
        Violation::ParentMissing { .. } => "PARENT_MISSING",
        Violation::Cycle { .. } => "CYCLE",
        Violation::TooDeep { .. } => "TOO_DEEP",
        Violation::HasChildren { .. } => "HAS_CHILDREN",
        Violation::HasAgents { .. } => "HAS_AGENTS",
        Violation::InUse { .. } | Violation::ContentInUse { .. } => "IN_USE",
        Violation::ContentNumber { .. } => "CONTENT_NUMBER",
        Violation::ContentFixed { .. } => "CONTENT_FIXED",
        Violation::Dangling { .. } => "DANGLING",
        Violation::TwoOfAKind { .. } => "TWO_OF_A_KIND",
        Violation::KindFixed { .. } => "KIND_FIXED",
        Violation::TooManyObjects { .. } => "TOO_MANY_OBJECTS",
        Violation::Problem(Problem::Settings { .. }) => "SETTINGS",
        Violation::Problem(Problem::Locked { .. }) => "LOCKED",
        Violation::Problem(Problem::Schema { .. }) => "SCHEMA",
        Violation::Problem(Problem::DocumentTooLarge { .. } | Problem::SnapshotTooLarge { .. }) => {
            "TOO_LARGE"
        }
        Violation::Problem(Problem::TooManyChannels { .. }) => "TOO_MANY_CHANNELS",
    }
}

#[cfg(test)]
mod tests {
    use domain::{GroupId, GroupPath, PolicyName, Revision};

    use super::*;

    fn status(violations: Vec<Violation>) -> Status {
        let total = violations.len();
        let place = |key: &ObjectKey, part: &str| match key {
            ObjectKey::Group(id) => Some(format!("resources[2].group[{id}]{part}")),
            _ => None,
        };
        change(ChangeError::Refused(Refusal { violations, total }), &place)
    }

    #[test]
    fn refusals_name_the_field_the_rule_and_the_object() {
        let web = || GroupId::new("web").unwrap();
        let path = || GroupPath::new("/a/web").unwrap();
        let parent = GroupPath::new("/a").unwrap();
        let orphan = Violation::ParentMissing { group: web(), path: path(), parent };
        let refused = status(vec![orphan, Violation::HasAgents { group: web(), path: path(), agents: 3 }]);
        assert_eq!(refused.code(), Code::InvalidArgument);
        let details = refused.get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        assert_eq!(fields[0].field, "resources[2].group[web].path");
        assert!(fields[0].description.contains("no group at /a"));
        assert_eq!(details.error_info().unwrap().reason, "PARENT_MISSING");
        assert_eq!(details.precondition_failure().unwrap().violations[0].r#type, "HAS_AGENTS");

        let policy = ObjectKey::Policy(PolicyName::new("p").unwrap());
        let missing = status(vec![Violation::Missing(policy.clone())]);
        assert_eq!(missing.code(), Code::NotFound);
        let details = missing.get_error_details();
        let resource = details.resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("Policy", "p"));

        let (expected, found) = (Revision(3), Revision(4));
        let stale = status(vec![Violation::Stale { key: policy, expected, found }]);
        assert_eq!(stale.code(), Code::Aborted);
    }

    #[test]
    fn wrong_fields_are_all_named() {
        let mut fields = Fields::default();
        assert_eq!(fields.take("a", Ok::<_, String>(1)), Some(1));
        assert_eq!(fields.take("group.path", Err::<(), _>("must start with '/'")), None);
        fields.wrong("b", "is missing");
        let status = fields.check().unwrap_err();
        assert_eq!(status.message(), "2 fields are wrong");
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), 2);
        assert_eq!(field("a", "is missing").message(), "is missing");
    }

    #[test]
    fn a_status_fits_a_header_block() {
        let mut fields = Fields::default();
        for n in 0..1000 {
            fields.wrong(format!("resources[{n}].group.path"), "must start with '/'");
        }
        let status = fields.check().unwrap_err();
        let violations = status.get_error_details().bad_request().unwrap().field_violations.len();
        assert!((50..200).contains(&violations), "{violations}");
        assert!(status.details().len() < 8 * 1024, "{}", status.details().len());
        assert!(field("a", "ü".repeat(5000)).message().len() <= MAX_MESSAGE_BYTES + 3);
    }
}
