//! What a change does or did, as the API shows it.

use domain::change::{Action, ContentChange, Impact, Touched};
use domain::content::ContentRevision;
use domain::document::Pointer;
use domain::explain::settings_origin;
use domain::{GroupPath, Mode, Settings};
use serde_json::Value;
use wire::api::v1;

use super::{refuse, show};
use crate::change::Made;

/// Most groups that an answer lists; it counts all.
const MAX_GROUPS: usize = 1000;
/// Most values that an answer lists for one group.
const MAX_VALUES: usize = 100;
/// Bytes of values after which an answer lists no more of them: values may be large, and clients take
/// messages of 4 MiB by default.
const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// The result of a change. Looks at the documents of up to [`MAX_GROUPS`] groups: run it where it may take a
/// tenth of a second.
pub(super) fn result(made: &Made) -> v1::ChangeResult {
    let plan = &made.plan;
    let objects = plan.objects.iter().map(|(key, action)| {
        let (kind, name) = refuse::named(key);
        v1::ObjectChange { kind: kind.to_owned(), name, action: self::action(*action).into() }
    });
    let mut room = MAX_VALUE_BYTES;
    let groups = plan.touched.iter().take(MAX_GROUPS).map(|touched| impact(made, touched, &mut room));
    v1::ChangeResult {
        revision: made.revision.0,
        objects: objects.collect(),
        groups: groups.collect(),
        groups_touched: plan.touched.len() as u64,
        agents_touched: plan.agents_touched(),
        dry_run: made.dry_run,
    }
}

fn action(action: Action) -> v1::Action {
    match action {
        Action::Created => v1::Action::Created,
        Action::Updated => v1::Action::Updated,
        Action::Unchanged => v1::Action::Unchanged,
        Action::Deleted => v1::Action::Deleted,
    }
}

fn impact(made: &Made, touched: &Touched, room: &mut usize) -> v1::GroupImpact {
    let mut shown = v1::GroupImpact {
        path: touched.path.to_string(),
        group: touched.group.to_string(),
        agents: touched.agents,
        changes: Vec::new(),
        truncated: *room == 0,
    };
    if shown.truncated {
        return shown;
    }
    let Impact { settings, values, content } = made.plan.impact(made.current(), &touched.group);
    let settings = settings_changes(made, &touched.path, settings);
    let values = values.into_iter().map(|change| v1::ValueChange {
        kind: change.kind.to_string(),
        pointer: change.difference.pointer.to_string(),
        before: change.difference.before.as_ref().map(show::value),
        after: change.difference.after.as_ref().map(show::value),
        policy: change.source.as_ref().map(|source| source.policy.to_string()).unwrap_or_default(),
        set_by: change.source.map(|source| source.path.to_string()).unwrap_or_default(),
    });
    let content = content.into_iter().map(content_change);
    for change in settings.into_iter().chain(content).chain(values) {
        let bytes = prost::Message::encoded_len(&change);
        if shown.changes.len() == MAX_VALUES || bytes > *room {
            shown.truncated = true;
            // One that does not fit ends the list: what follows would look like all there is.
            *room = if bytes > *room { 0 } else { *room };
            break;
        }
        *room -= bytes;
        shown.changes.push(change);
    }
    shown
}

/// The revisions of a channel's content, as numbers.
fn content_change(change: ContentChange) -> v1::ValueChange {
    let mut pointer = Pointer::root();
    pointer.push("content");
    pointer.push(change.channel.as_str());
    let number = |number: Option<ContentRevision>| number.map(|number| show::value(&Value::from(number.0)));
    v1::ValueChange {
        pointer: pointer.to_string(),
        before: number(change.before),
        after: number(change.after),
        set_by: change.set_by.map(|path| path.to_string()).unwrap_or_default(),
        ..v1::ValueChange::default()
    }
}

fn settings_changes(
    made: &Made,
    path: &GroupPath,
    (before, after): (Option<Settings>, Option<Settings>),
) -> Vec<v1::ValueChange> {
    let origin = settings_origin(&made.plan.candidate, path);
    let places = [
        origin.mode,
        origin.heartbeat_interval,
        origin.offline_after,
        origin.content_spread,
        origin.content_rate_limit,
    ];
    let (before, after) = (before.map(texts), after.map(texts));
    let names = ["/mode", "/heartbeatInterval", "/offlineAfter", "/contentSpread", "/contentRateLimit"];
    let mut changes = Vec::new();
    for (index, (name, place)) in names.into_iter().zip(places).enumerate() {
        let side = |texts: &Option<[String; 5]>| texts.as_ref().map(|texts| texts[index].clone());
        let (before, after) = (side(&before), side(&after));
        if before != after {
            let text = |text: Option<String>| text.map(|text| show::value(&Value::String(text)));
            changes.push(v1::ValueChange {
                pointer: name.to_owned(),
                before: text(before),
                after: text(after),
                set_by: place.map(|path| path.to_string()).unwrap_or_default(),
                ..v1::ValueChange::default()
            });
        }
    }
    changes
}

/// Settings as people write them, in the order of their fields.
fn texts(settings: Settings) -> [String; 5] {
    let mode = match settings.mode {
        Mode::Pull => "pull",
        Mode::Push => "push",
    };
    let span = wire::manifest::duration::format;
    let rate = settings.content_rate_limit.map(wire::manifest::size::format_rate);
    [
        mode.to_owned(),
        span(settings.heartbeat_interval),
        span(settings.offline_after),
        span(settings.content_spread),
        rate.unwrap_or_else(|| "none".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use domain::catalog::{Group, Kind, Locks, Policy};
    use domain::change::{Current, Wanted, plan};
    use domain::document::Document;
    use domain::schema::Schema;
    use domain::{GroupId, KindName, PolicyName, Revision, SettingsOverlay};
    use serde_json::json;

    use super::*;
    use crate::fold::View;

    fn made(wanted: Vec<Wanted>) -> Made {
        let before = Arc::new(View::default());
        let agents = BTreeMap::from([(GroupId::new("root").unwrap(), 4)]);
        let current = Current { catalog: &before.catalog, compiled: &before.compiled, agents: &agents };
        let plan = plan(current, wanted.into_iter().map(Into::into).collect()).unwrap();
        Made { before, agents, plan, revision: Revision(9), dry_run: true }
    }

    fn policy(document: Value) -> Vec<Wanted> {
        let kind = KindName::new("k").unwrap();
        let name = PolicyName::new("p").unwrap();
        let root = Group {
            settings: SettingsOverlay { mode: Some(Mode::Push), ..SettingsOverlay::default() },
            policies: [name.clone()].into(),
            ..Group::root()
        };
        vec![
            Wanted::Kind(Kind { name: kind.clone(), schema: Schema::new(json!({})).unwrap(), manager: None }),
            Wanted::Policy(Policy {
                name,
                kind,
                document: Document::new(document).unwrap(),
                locks: Locks::default(),
                generation: 0,
                manager: None,
            }),
            Wanted::Group(root),
        ]
    }

    #[test]
    fn a_result_names_objects_groups_and_values() {
        let result = result(&made(policy(json!({"a": {"b": 1}}))));
        let objects: Vec<String> =
            result.objects.iter().map(|o| format!("{} {} {:?}", o.kind, o.name, o.action())).collect();
        assert_eq!(objects, ["PolicyKind k Created", "Policy p Created", "Group root Updated"]);
        assert_eq!((result.revision, result.groups_touched, result.agents_touched), (9, 1, 4));
        let changes: Vec<String> = result.groups[0]
            .changes
            .iter()
            .map(|change| format!("{}{} {} {}", change.kind, change.pointer, change.policy, change.set_by))
            .collect();
        assert_eq!(
            changes,
            [
                "/mode  /",
                "/heartbeatInterval  ",
                "/offlineAfter  ",
                "/contentSpread  ",
                "/contentRateLimit  ",
                "k/a/b p /"
            ]
        );
    }

    #[test]
    fn values_are_bounded_in_number_and_bytes() {
        let many: BTreeMap<String, u32> = (0..200).map(|n| (format!("v{n}"), n)).collect();
        let listed = result(&made(policy(json!(many))));
        assert_eq!((listed.groups[0].changes.len(), listed.groups[0].truncated), (MAX_VALUES, true));
        let large: BTreeMap<String, String> =
            (0..2).map(|n| (format!("v{n}"), "x".repeat(120_000))).collect();
        let made = made(policy(json!(large)));
        let mut room = 130_000;
        let shown = impact(&made, &made.plan.touched[0], &mut room);
        assert_eq!((shown.changes.len(), shown.truncated, room), (6, true, 0));
    }
}
