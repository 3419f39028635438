//! From messages of the API to what the domain works with. Every field that is wrong is named.

use std::collections::{BTreeMap, BTreeSet};

use domain::access::Reach;
use domain::catalog::{Catalog, Group, Keeper, Kind, Labels, Locks, Policy, ROOT};
use domain::change::Claim;
use domain::content::{ChannelName, ContentPointer, ContentRevision, StageName};
use domain::document::{Document, Pointer};
use domain::schema::Schema;
use domain::{GroupId, GroupPath, KindName, Mode, PolicyName, SettingsOverlay, Span};
use prost_types::{Duration, Struct};
use tonic::Status;
use wire::api::v1;
use wire::api::v1::content_reference::Which;

use super::refuse::{self, Fields};

/// Longest reason that a caller may give for a change, in bytes: every entry of the change carries it.
pub(super) const MAX_MESSAGE_BYTES: usize = 1024;

/// Checks the caller's reason for a change.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is too long.
pub(super) fn message(text: String) -> Result<String, Status> {
    if text.len() > MAX_MESSAGE_BYTES {
        let why = format!("is {} bytes long; at most {MAX_MESSAGE_BYTES} are allowed", text.len());
        return Err(refuse::field("message", why));
    }
    Ok(text)
}

/// Reads for whom a change is made.
///
/// # Errors
/// `INVALID_ARGUMENT` if the mark is none.
pub(super) fn claim(manager: &str, take_over: bool) -> Result<Claim, Status> {
    let manager = (!manager.is_empty()).then(|| Keeper::new(manager)).transpose();
    Ok(Claim { manager: manager.map_err(|error| refuse::field("manager", error))?, take_over })
}

/// Finds a group by path or name.
///
/// # Errors
/// `INVALID_ARGUMENT` if the text is neither, `NOT_FOUND` if there is no such group.
pub(super) fn find_group<'a>(
    catalog: &'a Catalog,
    reach: &Reach,
    field: &str,
    text: &str,
) -> Result<&'a Group, Status> {
    let found = if text.starts_with('/') {
        catalog.group_at(&GroupPath::new(text).map_err(|error| refuse::field(field, error))?)
    } else {
        catalog.group(&GroupId::new(text).map_err(|error| refuse::field(field, error))?)
    };
    let seen = found.map(|group| &*group.value).filter(|group| reach.holds(catalog, &group.path));
    seen.ok_or_else(|| refuse::missing("Group", text))
}

/// Reads a name.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub(super) fn name<T: std::str::FromStr<Err = domain::IdError>>(
    field: &str,
    text: &str,
) -> Result<T, Status> {
    text.parse().map_err(|error| refuse::field(field, error))
}

/// Reads a pointer; empty text is the whole document.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub(super) fn pointer(text: &str) -> Result<Pointer, Status> {
    Pointer::new(text).map_err(|error| refuse::field("pointer", error))
}

/// Reads a group. Where the name or the path is missing, the other one tells it. `field` is where it stands.
pub(super) fn group(
    catalog: &Catalog,
    fields: &mut Fields,
    field: &str,
    message: &v1::Group,
) -> Option<Group> {
    let at = |part: &str| format!("{field}.{part}");
    let path = match message.path.as_str() {
        "" if message.name.is_empty() => {
            fields.wrong(at("path"), "must be given");
            None
        }
        "" => known_path(catalog, fields, field, &message.name),
        text => fields.take(&at("path"), GroupPath::new(text)),
    };
    let id = match (message.name.as_str(), &path) {
        ("", Some(path)) => fields.take(&at("name"), id_of(catalog, path)),
        ("", None) => None,
        (text, _) => fields.take(&at("name"), GroupId::new(text)),
    };
    let settings = settings(fields, &at("settings"), message.settings.as_ref());
    let policies = policies(fields, &at("policies"), &message.policies);
    let content = content(fields, &at("content"), &message.content);
    let labels = labels(fields, &at("labels"), &message.labels);
    Some(Group {
        id: id?,
        path: path?,
        settings: settings?,
        policies: policies?,
        content: content?,
        labels: labels?,
        manager: None,
    })
}

fn known_path(catalog: &Catalog, fields: &mut Fields, field: &str, name: &str) -> Option<GroupPath> {
    // A name that is none is reported where the name is read.
    let known = catalog.group(&GroupId::new(name).ok()?).map(|group| group.value.path.clone());
    if known.is_none() {
        fields.wrong(format!("{field}.path"), "must be given: there is no group of this name yet");
    }
    known
}

/// The id of the group at a place, or the one that a new group there gets: `/servers/web` gives
/// `servers-web`.
fn id_of(catalog: &Catalog, path: &GroupPath) -> Result<GroupId, String> {
    if let Some(group) = catalog.group_at(path) {
        return Ok(group.value.id.clone());
    }
    let joined = path.segments().collect::<Vec<_>>().join("-");
    let text = if path.is_root() { ROOT } else { &joined };
    GroupId::new(text).map_err(|error| format!("must be given: {text:?}, made from the path, {error}"))
}

/// Reads a group's own settings.
pub(super) fn settings(
    fields: &mut Fields,
    field: &str,
    message: Option<&v1::Settings>,
) -> Option<SettingsOverlay> {
    let Some(message) = message else { return Some(SettingsOverlay::default()) };
    let mode = match message.mode.map(v1::Mode::try_from) {
        None => Some(None),
        Some(Ok(v1::Mode::Pull)) => Some(Some(Mode::Pull)),
        Some(Ok(v1::Mode::Push)) => Some(Some(Mode::Push)),
        Some(Ok(v1::Mode::Unspecified) | Err(_)) => {
            fields.wrong(format!("{field}.mode"), "must be PULL or PUSH, or absent to inherit it");
            None
        }
    };
    let heartbeat_interval =
        span(fields, &format!("{field}.heartbeat_interval"), message.heartbeat_interval.as_ref());
    let offline_after = span(fields, &format!("{field}.offline_after"), message.offline_after.as_ref());
    let content_spread = span(fields, &format!("{field}.content_spread"), message.content_spread.as_ref());
    Some(SettingsOverlay {
        mode: mode?,
        heartbeat_interval: heartbeat_interval?,
        offline_after: offline_after?,
        content_spread: content_spread?,
        content_rate_limit: message.content_rate_limit,
    })
}

fn span(fields: &mut Fields, field: &str, duration: Option<&Duration>) -> Option<Option<Span>> {
    let Some(duration) = duration else { return Some(None) };
    let span = wire::time::read_duration(duration);
    if span.is_none() {
        fields.wrong(field, "must be a duration, not negative");
    }
    span.map(Some)
}

/// Reads the policies that a group assigns.
pub(super) fn policies(fields: &mut Fields, field: &str, names: &[String]) -> Option<BTreeSet<PolicyName>> {
    let mut policies = BTreeSet::new();
    let mut good = true;
    for (index, text) in names.iter().enumerate() {
        match PolicyName::new(text) {
            Ok(name) if policies.contains(&name) => {
                fields.wrong(format!("{field}[{index}]"), "stands there twice");
                good = false;
            }
            Ok(name) => {
                policies.insert(name);
            }
            Err(error) => {
                fields.wrong(format!("{field}[{index}]"), error);
                good = false;
            }
        }
    }
    good.then_some(policies)
}

/// Reads the content that a group assigns.
pub(super) fn content(
    fields: &mut Fields,
    field: &str,
    references: &[v1::ContentReference],
) -> Option<BTreeMap<ChannelName, ContentPointer>> {
    let mut content = BTreeMap::new();
    let mut good = true;
    for (index, reference) in references.iter().enumerate() {
        let at = |part: &str| format!("{field}[{index}].{part}");
        let channel = fields.take(&at("channel"), ChannelName::new(&reference.channel));
        let pointer = match &reference.which {
            Some(Which::Stage(stage)) => {
                fields.take(&at("stage"), StageName::new(stage)).map(ContentPointer::Stage)
            }
            Some(Which::Revision(0)) => {
                fields.wrong(at("revision"), "must not be 0");
                None
            }
            Some(Which::Revision(number)) => Some(ContentPointer::Revision(ContentRevision(*number))),
            None => {
                fields.wrong(at("stage"), "must be given, or a revision");
                None
            }
        };
        let (Some(channel), Some(pointer)) = (channel, pointer) else {
            good = false;
            continue;
        };
        if content.insert(channel, pointer).is_some() {
            fields.wrong(at("channel"), "stands there twice");
            good = false;
        }
    }
    good.then_some(content)
}

/// Reads labels.
pub(super) fn labels(
    fields: &mut Fields,
    field: &str,
    labels: &std::collections::HashMap<String, String>,
) -> Option<Labels> {
    let sorted: BTreeMap<String, String> = labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    fields.take(field, Labels::new(sorted))
}

/// Reads a kind.
pub(super) fn kind(fields: &mut Fields, field: &str, message: v1::Kind) -> Option<Kind> {
    let name = fields.take(&format!("{field}.name"), KindName::new(&message.name));
    let at = format!("{field}.schema");
    let Some(schema) = message.schema else {
        fields.wrong(at, "must be given");
        return None;
    };
    let schema = fields.take(&at, wire::document::from_struct(schema))?;
    let schema = fields.take(&at, Schema::new(schema));
    Some(Kind { name: name?, schema: schema?, manager: None })
}

/// Reads a policy.
pub(super) fn policy(fields: &mut Fields, field: &str, message: v1::Policy) -> Option<Policy> {
    let at = |part: &str| format!("{field}.{part}");
    let name = fields.take(&at("name"), PolicyName::new(&message.name));
    let kind = fields.take(&at("kind"), KindName::new(&message.kind));
    let document = document(fields, &at("document"), message.document);
    let mut locks = BTreeSet::new();
    let mut good = true;
    for (index, text) in message.locks.iter().enumerate() {
        let lock = fields.take(&at(&format!("locks[{index}]")), Pointer::new(text));
        good &= lock.is_some();
        locks.extend(lock);
    }
    let locks = fields.take(&at("locks"), Locks::new(locks)).filter(|_| good);
    let (name, kind, document, locks) = (name?, kind?, document?, locks?);
    Some(Policy { name, kind, document, locks, generation: 0, manager: None })
}

fn document(fields: &mut Fields, field: &str, document: Option<Struct>) -> Option<Document> {
    let Some(document) = document else {
        fields.wrong(field, "must be given");
        return None;
    };
    let value = fields.take(field, wire::document::from_struct(document))?;
    fields.take(field, Document::new(value))
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[track_caller]
    fn check(message: v1::Group, expected: Result<(&str, &str), &[(&str, &str)]>) {
        let mut catalog = Catalog::new();
        let web = Group::new(GroupId::new("w").unwrap(), GroupPath::new("/web").unwrap());
        catalog.fold([domain::catalog::Entry::Group(web.into())], domain::Revision(1));
        let mut fields = Fields::default();
        let got = group(&catalog, &mut fields, "group", &message);
        let got = fields.check().map(|()| got.unwrap()).map_err(|status| {
            let violations = status.get_error_details().bad_request().unwrap().field_violations.clone();
            violations.into_iter().map(|v| (v.field, v.description)).collect::<Vec<_>>()
        });
        let got = got.map(|group| (group.id.to_string(), group.path.to_string()));
        let own = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
        assert_eq!(got, expected.map(own).map_err(|all| all.iter().map(|pair| own(*pair)).collect()));
    }

    fn at(name: &str, path: &str) -> v1::Group {
        v1::Group { name: name.into(), path: path.into(), ..v1::Group::default() }
    }

    #[test]
    fn name_and_path_tell_each_other() {
        check(at("", "/servers/db"), Ok(("servers-db", "/servers/db")));
        check(at("", "/web"), Ok(("w", "/web")));
        check(at("w", ""), Ok(("w", "/web")));
        check(at("", "/"), Ok(("root", "/")));
        check(at("x", "/y"), Ok(("x", "/y")));
        check(at("", ""), Err(&[("group.path", "must be given")]));
        check(at("x", ""), Err(&[("group.path", "must be given: there is no group of this name yet")]));
    }

    fn reference(channel: &str, which: Option<Which>) -> v1::ContentReference {
        v1::ContentReference { channel: channel.into(), which }
    }

    #[test]
    fn every_wrong_field_is_named() {
        let characters = "only a-z, 0-9, '_' and '-' are allowed";
        let bad = v1::Group {
            settings: Some(v1::Settings {
                mode: Some(9),
                heartbeat_interval: Some(Duration { seconds: -1, nanos: 0 }),
                ..v1::Settings::default()
            }),
            policies: vec!["a".into(), "a".into(), "b*".into()],
            content: vec![
                reference("a", Some(Which::Stage("s".into()))),
                reference("a", Some(Which::Revision(1))),
                reference("b//c", Some(Which::Stage("S".into()))),
                reference("d", Some(Which::Revision(0))),
                reference("e", None),
            ],
            labels: [("a b".to_owned(), String::new())].into(),
            ..at("w.x", "web")
        };
        check(
            bad,
            Err(&[
                ("group.path", "must start with '/'"),
                ("group.name", &format!("has the character '.' at byte 1; {characters}")),
                ("group.settings.mode", "must be PULL or PUSH, or absent to inherit it"),
                ("group.settings.heartbeat_interval", "must be a duration, not negative"),
                ("group.policies[1]", "stands there twice"),
                ("group.policies[2]", &format!("has the character '*' at byte 1; {characters}")),
                ("group.content[1].channel", "stands there twice"),
                ("group.content[2].channel", "\"\" in it must not be empty"),
                ("group.content[2].stage", &format!("has the character 'S' at byte 0; {characters}")),
                ("group.content[3].revision", "must not be 0"),
                ("group.content[4].stage", "must be given, or a revision"),
                ("group.labels", "label key \"a b\" must be 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-' and '/'"),
            ]),
        );
    }

    #[test]
    fn policies_and_kinds_name_what_is_wrong() {
        let fields_of = |read: &dyn Fn(&mut Fields)| -> Vec<String> {
            let mut fields = Fields::default();
            read(&mut fields);
            let status = fields.check().unwrap_err();
            let violations = status.get_error_details().bad_request().unwrap().field_violations.clone();
            violations.into_iter().map(|violation| violation.field).collect()
        };
        let wrong = v1::Policy { locks: vec!["/ok".into(), "no".into()], ..v1::Policy::default() };
        let read = |fields: &mut Fields| drop(policy(fields, "policy", wrong.clone()));
        assert_eq!(fields_of(&read), ["policy.name", "policy.kind", "policy.document", "policy.locks[1]"]);
        let read = |fields: &mut Fields| drop(kind(fields, "kind", v1::Kind::default()));
        assert_eq!(fields_of(&read), ["kind.name", "kind.schema"]);
    }
}
