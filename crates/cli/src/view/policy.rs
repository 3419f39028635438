//! Kinds and policies.

use prost_types::Struct;
use prost_types::value::Kind as Value;
use wire::api::v1::{
    DiffPolicyResponse, Kind, ListKindsResponse, ListPoliciesResponse, ListPolicyHistoryResponse, Policy,
};

use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::{change, text};

pub(crate) fn kinds(response: &ListKindsResponse, style: Style) -> String {
    let mut table = Table::new(&["KIND", "REVISION", "TITLE"]);
    for kind in &response.kinds {
        let title = kind.schema.as_ref().and_then(|schema| schema.fields.get("title")?.kind.as_ref());
        let title = match title {
            Some(Value::StringValue(title)) => title,
            Some(_) | None => text::NONE,
        };
        table.row([Cell::from(&kind.name), text::revision(kind.revision), Cell::from(title)]);
    }
    table.render(style)
}

pub(crate) fn kind(kind: &Kind, style: Style) -> String {
    let mut table = Table::fields();
    table.field("Kind", &kind.name);
    table.field("Changed at revision", text::revision(kind.revision));
    text::managed(&mut table, &kind.manager);
    format!("{}\nschema:\n{}", table.render(style), document(kind.schema.as_ref()))
}

pub(crate) fn list(response: &ListPoliciesResponse, style: Style) -> String {
    let mut table = Table::new(&["POLICY", "KIND", "GENERATION", "REVISION", "LOCKS", "ASSIGNED BY"]);
    for policy in &response.policies {
        table.row([
            Cell::from(&policy.name),
            Cell::from(&policy.kind),
            Cell::from(policy.generation),
            text::revision(policy.revision),
            Cell::from(u64::try_from(policy.locks.len()).unwrap_or(u64::MAX)),
            Cell::from(text::list(&policy.groups)),
        ]);
    }
    table.render(style)
}

pub(crate) fn show(policy: &Policy, style: Style) -> String {
    let mut table = Table::fields();
    table.field("Policy", &policy.name);
    table.field("Kind", &policy.kind);
    table.field("Generation", policy.generation);
    table.field("Changed at revision", text::revision(policy.revision));
    table.field("Assigned by", text::list(&policy.groups));
    table.field("Locks", text::list(&policy.locks));
    text::managed(&mut table, &policy.manager);
    format!("{}\ndocument:\n{}", table.render(style), document(policy.document.as_ref()))
}

/// A document as indented YAML, as it stands in a manifest.
pub(crate) fn document(document: Option<&Struct>) -> String {
    let json = wire::document::from_struct(document.cloned().unwrap_or_default());
    let yaml = json.ok().and_then(|json| crate::session::yaml(&json).ok());
    match yaml {
        Some(yaml) => yaml.lines().map(|line| format!("  {}\n", safe(line))).collect(),
        None => "  (a document that cannot be shown)\n".to_owned(),
    }
}

pub(crate) fn history(response: &ListPolicyHistoryResponse, style: Style) -> String {
    let mut table =
        Table::new(&["GENERATION", "REVISION", "WHEN", "WHO", "VALUES CHANGED", "MESSAGE", "TRACE"]);
    for generation in &response.generations {
        let change = generation.change.clone().unwrap_or_default();
        let values = if generation.deleted {
            Cell::toned("deleted", Tone::Bad)
        } else {
            Cell::from(u64::from(generation.values_changed))
        };
        table.row([
            Cell::from(generation.generation),
            text::revision(change.revision),
            Cell::from(text::time(change.time.as_ref())),
            Cell::from(text::or_none(&change.actor)),
            values,
            Cell::from(text::or_none(&change.message)),
            Cell::quiet(text::or_none(&change.trace_id)),
        ]);
    }
    table.render(style)
}

pub(crate) fn diff(response: &DiffPolicyResponse, style: Style) -> String {
    let mut shown = format!("generation {} -> {}\n", response.from, response.to);
    let mut table = Table::default();
    for change in &response.changes {
        let (before, after) = (text::value(change.before.as_ref()), text::value(change.after.as_ref()));
        table.row([
            Cell::from(&change.pointer),
            Cell::toned(format!("{before} -> {after}"), change::tone(change)),
        ]);
    }
    for (locks, word, tone) in [
        (&response.locks_added, "locked", Tone::Good),
        (&response.locks_removed, "no longer locked", Tone::Bad),
    ] {
        for pointer in locks {
            table.row([Cell::from(pointer), Cell::toned(word, tone)]);
        }
    }
    let lines = table.render_indented(style, 2);
    shown += if lines.is_empty() { "  no difference\n" } else { &lines };
    shown
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;
    use wire::api::v1::{ChangeInfo, PolicyGeneration, ValueChange};

    use super::*;

    fn structure(json: &serde_json::Value) -> Option<Struct> {
        wire::document::to_struct(json).unwrap()
    }

    #[test]
    fn a_policy_is_shown_as_its_manifest_has_it() {
        let policy = Policy {
            name: "firewall-base".into(),
            kind: "firewall".into(),
            document: structure(&serde_json::json!({"rules": {"ssh": "deny"}, "note": "yes"})),
            locks: vec!["/rules/ssh".into()],
            generation: 3,
            revision: 41,
            groups: vec!["/servers".into()],
            manager: "kubernetes:default".into(),
        };
        assert_eq!(
            show(&policy, Style::now(false)),
            "Policy:               firewall-base\n\
             Kind:                 firewall\n\
             Generation:           3\n\
             Changed at revision:  41\n\
             Assigned by:          /servers\n\
             Locks:                /rules/ssh\n\
             Managed by:           kubernetes:default\n\
             \n\
             document:\n\
             \u{20} note: \"yes\"\n\
             \u{20} rules:\n\
             \u{20}   ssh: deny\n"
        );
        let response = ListPoliciesResponse { policies: vec![policy], ..ListPoliciesResponse::default() };
        assert_eq!(
            list(&response, Style::now(false)),
            "POLICY         KIND      GENERATION  REVISION  LOCKS  ASSIGNED BY\n\
             firewall-base  firewall           3        41      1  /servers\n"
        );
    }

    #[test]
    fn kinds_are_listed_by_their_title() {
        let kind = Kind {
            name: "firewall".into(),
            schema: structure(&serde_json::json!({"title": "Host firewall", "type": "object"})),
            revision: 4,
            manager: String::new(),
        };
        let shown = super::kind(&kind, Style::now(false));
        assert_eq!(
            shown,
            "Kind:                 firewall\nChanged at revision:  4\n\nschema:\n  title: Host firewall\n  type: object\n"
        );
        let response = ListKindsResponse { kinds: vec![kind], ..ListKindsResponse::default() };
        assert_eq!(
            kinds(&response, Style::now(false)),
            "KIND      REVISION  TITLE\nfirewall         4  Host firewall\n"
        );
    }

    #[test]
    fn history_tells_who_when_and_why() {
        let generation = |generation, deleted, message: &str| PolicyGeneration {
            generation,
            change: Some(ChangeInfo {
                revision: 40 + generation,
                actor: "ana".into(),
                message: message.into(),
                time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
                trace_id: String::new(),
            }),
            deleted,
            values_changed: 2,
        };
        let response = ListPolicyHistoryResponse {
            generations: vec![generation(2, true, ""), generation(1, false, "first\nline")],
            next_page_token: String::new(),
        };
        assert_eq!(
            history(&response, Style::now(false)),
            "GENERATION  REVISION  WHEN                  WHO  VALUES CHANGED  MESSAGE      TRACE\n\
             \u{20}        2        42  2023-11-14T22:13:20Z  ana  deleted         -            -\n\
             \u{20}        1        41  2023-11-14T22:13:20Z  ana  2               first\\nline  -\n"
        );
    }

    #[test]
    fn a_diff_has_a_line_for_each_value_and_lock() {
        let value = |text: &str| wire::document::to_proto_value(&text.into()).ok();
        let response = DiffPolicyResponse {
            from: 2,
            to: 5,
            changes: vec![ValueChange {
                pointer: "/rules/ssh".into(),
                before: value("allow"),
                after: value("deny"),
                ..ValueChange::default()
            }],
            locks_added: vec!["/rules".into()],
            locks_removed: vec!["/note".into()],
        };
        assert_eq!(
            diff(&response, Style::now(false)),
            "generation 2 -> 5\n  /rules/ssh  allow -> deny\n  /rules      locked\n  /note       no longer locked\n"
        );
        let same = DiffPolicyResponse { from: 1, to: 2, ..DiffPolicyResponse::default() };
        assert_eq!(diff(&same, Style::now(false)), "generation 1 -> 2\n  no difference\n");
    }
}
