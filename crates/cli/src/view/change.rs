//! What a change did or would do.

use std::borrow::Cow;

use wire::api::v1::{Action, ApplyResponse, ChangeResult, GroupImpact, ValueChange};

use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::{text, token};
use crate::failure::counted;

/// Most groups whose values are shown; the counts name all.
const MAX_GROUPS_SHOWN: usize = 20;

pub(crate) fn apply(response: &ApplyResponse, style: Style) -> String {
    let mut shown = response.result.as_ref().map(|result| change(result, style)).unwrap_or_default();
    for secret in &response.tokens {
        shown.push('\n');
        shown += &token::secret(secret, style);
    }
    shown
}

pub(crate) fn change(result: &ChangeResult, style: Style) -> String {
    let mut table = Table::default();
    for object in &result.objects {
        let (action, tone) = action(object.action());
        table.row([Cell::toned(action, tone), Cell::from(&object.kind), Cell::from(&object.name)]);
    }
    let mut shown = table.render(style);
    if result.dry_run {
        shown += &impacts(result, style);
    }
    if !shown.is_empty() {
        shown.push('\n');
    }
    shown += &summary(result);
    shown.push('\n');
    shown
}

pub(super) fn action(action: Action) -> (&'static str, Tone) {
    match action {
        Action::Unspecified => (text::NONE, Tone::Quiet),
        Action::Created => ("created", Tone::Good),
        Action::Updated => ("updated", Tone::Watch),
        Action::Unchanged => ("unchanged", Tone::Quiet),
        Action::Deleted => ("deleted", Tone::Bad),
    }
}

pub(super) fn summary(result: &ChangeResult) -> String {
    let groups = counted(size(result.groups_touched), "group", "groups");
    let agents = counted(size(result.agents_touched), "agent", "agents");
    let nothing = result.objects.iter().all(|object| object.action() == Action::Unchanged);
    let are = if result.agents_touched == 1 { "is" } else { "are" };
    let them = if result.groups_touched == 1 { "it" } else { "them" };
    match (result.dry_run, nothing, result.groups_touched) {
        (true, true, _) => "dry run: nothing would change".to_owned(),
        (false, true, _) => format!("nothing to change; the fleet is at revision {}", result.revision),
        (true, false, 0) => "dry run, nothing was written: no group would get a new snapshot".to_owned(),
        (false, false, 0) => format!("revision {}: no group gets a new snapshot", result.revision),
        (true, false, _) => {
            format!(
                "dry run, nothing was written: {groups} would get a new snapshot; {agents} {are} in {them}"
            )
        }
        (false, false, touched) => {
            let get = if touched == 1 { "gets" } else { "get" };
            format!("revision {}: {groups} {get} a new snapshot; {agents} {are} in {them}", result.revision)
        }
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn impacts(result: &ChangeResult, style: Style) -> String {
    let mut shown = String::new();
    for group in result.groups.iter().take(MAX_GROUPS_SHOWN) {
        shown.push('\n');
        shown += &impact(group, style);
    }
    let more = size(result.groups_touched).saturating_sub(result.groups.len().min(MAX_GROUPS_SHOWN));
    if more > 0 {
        shown += &format!("\n... and {}\n", counted(more, "more group", "more groups"));
    }
    shown
}

fn impact(group: &GroupImpact, style: Style) -> String {
    let agents = counted(size(group.agents), "agent", "agents");
    let mut shown = format!("{}  ({agents})\n", style.paint(&safe(&group.path), Tone::Heading));
    shown += &values(&group.changes, style);
    if group.truncated {
        shown += "  ... and more values\n";
    }
    shown
}

/// Green for what comes, red for what goes.
pub(crate) fn tone(change: &ValueChange) -> Tone {
    match (&change.before, &change.after) {
        (None, _) => Tone::Good,
        (_, None) => Tone::Bad,
        (Some(_), Some(_)) => Tone::Watch,
    }
}

/// What a value belongs to, and its pointer or, of content, the channel.
fn subject(change: &ValueChange) -> (&str, Cow<'_, str>) {
    match (change.kind.as_str(), change.pointer.strip_prefix("/content/")) {
        ("", Some(channel)) => ("content", channel.replace("~1", "/").into()),
        ("", None) => ("settings", change.pointer.as_str().into()),
        (kind, _) => (kind, change.pointer.as_str().into()),
    }
}

/// One line for each value: kind, pointer, what it was and will be, and who says so.
fn values(changes: &[ValueChange], style: Style) -> String {
    let mut table = Table::default();
    for change in changes {
        let (before, after) = (text::value(change.before.as_ref()), text::value(change.after.as_ref()));
        let (kind, what) = subject(change);
        let source = match (change.policy.as_str(), change.set_by.as_str()) {
            ("", "") => "(default)".to_owned(),
            ("", group) => format!("(set by {group})"),
            (policy, "") => format!("(policy {policy})"),
            (policy, group) => format!("(policy {policy}, set by {group})"),
        };
        table.row([
            Cell::quiet(kind),
            Cell::from(what.as_ref()),
            Cell::toned(format!("{before} -> {after}"), tone(change)),
            Cell::quiet(source),
        ]);
    }
    table.render_indented(style, 2)
}

#[cfg(test)]
mod tests {
    use wire::api::v1::ObjectChange;

    use super::*;

    fn value(text: &str) -> Option<prost_types::Value> {
        Some(prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.into())) })
    }

    fn result(dry_run: bool) -> ChangeResult {
        let object = |kind: &str, name: &str, action: Action| ObjectChange {
            kind: kind.into(),
            name: name.into(),
            action: action.into(),
        };
        ChangeResult {
            revision: 42,
            objects: vec![
                object("PolicyKind", "firewall", Action::Unchanged),
                object("Policy", "firewall-web", Action::Updated),
            ],
            groups: vec![GroupImpact {
                path: "/servers/web".into(),
                group: "servers-web".into(),
                agents: 12,
                changes: vec![
                    ValueChange {
                        kind: "firewall".into(),
                        pointer: "/rules/ssh".into(),
                        before: value("allow"),
                        after: value("deny"),
                        policy: "firewall-web".into(),
                        set_by: "/servers/web".into(),
                    },
                    ValueChange {
                        pointer: "/mode".into(),
                        after: value("push"),
                        set_by: "/servers".into(),
                        ..ValueChange::default()
                    },
                    ValueChange {
                        pointer: "/offlineAfter".into(),
                        before: value("30s"),
                        after: value("1m"),
                        ..ValueChange::default()
                    },
                    ValueChange {
                        pointer: "/content/definitions~1ips".into(),
                        before: wire::document::to_proto_value(&1.into()).ok(),
                        after: wire::document::to_proto_value(&2.into()).ok(),
                        set_by: "/servers".into(),
                        ..ValueChange::default()
                    },
                ],
                truncated: true,
            }],
            groups_touched: 3,
            agents_touched: 14,
            dry_run,
        }
    }

    #[test]
    fn a_change_tells_objects_and_counts() {
        assert_eq!(
            change(&result(false), Style::now(false)),
            "unchanged  PolicyKind  firewall\n\
             updated    Policy      firewall-web\n\
             \n\
             revision 42: 3 groups get a new snapshot; 14 agents are in them\n"
        );
    }

    #[test]
    fn a_dry_run_tells_values_and_who_sets_them() {
        assert_eq!(
            change(&result(true), Style::now(false)),
            "unchanged  PolicyKind  firewall\n\
             updated    Policy      firewall-web\n\
             \n\
             /servers/web  (12 agents)\n\
             \u{20} firewall  /rules/ssh       allow -> deny   (policy firewall-web, set by /servers/web)\n\
             \u{20} settings  /mode            (none) -> push  (set by /servers)\n\
             \u{20} settings  /offlineAfter    30s -> 1m       (default)\n\
             \u{20} content   definitions/ips  1 -> 2          (set by /servers)\n\
             \u{20} ... and more values\n\
             \n\
             ... and 2 more groups\n\
             \n\
             dry run, nothing was written: 3 groups would get a new snapshot; 14 agents are in them\n"
        );
    }

    #[test]
    fn summaries_count_in_words() {
        let check = |dry_run, groups_touched, agents_touched, unchanged: bool, expected: &str| {
            let objects = if unchanged { vec![] } else { result(false).objects };
            let result = ChangeResult {
                revision: 7,
                objects,
                groups_touched,
                agents_touched,
                dry_run,
                ..ChangeResult::default()
            };
            assert_eq!(summary(&result), expected);
        };
        check(false, 0, 0, true, "nothing to change; the fleet is at revision 7");
        check(true, 0, 0, true, "dry run: nothing would change");
        check(false, 0, 0, false, "revision 7: no group gets a new snapshot");
        check(true, 0, 0, false, "dry run, nothing was written: no group would get a new snapshot");
        check(false, 1, 1, false, "revision 7: 1 group gets a new snapshot; 1 agent is in it");
        check(
            true,
            1,
            0,
            false,
            "dry run, nothing was written: 1 group would get a new snapshot; 0 agents are in it",
        );
    }
}
