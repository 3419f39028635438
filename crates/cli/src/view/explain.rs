//! What is in force for a group, and why.

use wire::api::v1::{EffectiveDocument, ExplainGroupResponse, Provenance};

use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::{group, text};

/// With `settings`, the communication settings and the content as well.
pub(crate) fn explain(response: &ExplainGroupResponse, settings: bool, style: Style) -> String {
    let head = match response.head_revision {
        0 => "without a snapshot yet".to_owned(),
        revision => format!("at revision {revision}"),
    };
    let mut shown = format!("{} {head}\n", style.paint(&safe(&response.path), Tone::Heading));
    for document in response.documents.iter().filter(|document| !document.values.is_empty()) {
        shown +=
            &format!("\n{}\n{}", style.paint(&safe(&document.kind), Tone::Heading), values(document, style));
    }
    if settings {
        shown += &format!("\n{}\n{}", style.paint("settings", Tone::Heading), settings_of(response, style));
    }
    if settings && !response.content.is_empty() {
        shown += &format!("\n{}", group::content(&response.content, &response.path).render(style));
    }
    shown
}

fn values(document: &EffectiveDocument, style: Style) -> String {
    let mut table = Table::new(&["POINTER", "VALUE", "POLICY", "ASSIGNED BY", "LOCKED BY"]);
    for value in &document.values {
        table.row([
            Cell::from(&value.pointer),
            Cell::from(text::value(value.value.as_ref())),
            Cell::from(policy(value)),
            Cell::from(&value.set_by),
            if value.locked_by.is_empty() {
                Cell::quiet(text::NONE)
            } else {
                Cell::toned(&value.locked_by, Tone::Watch)
            },
        ]);
    }
    table.render_indented(style, 2)
}

fn policy(value: &Provenance) -> String {
    format!("{} (generation {})", value.policy, value.generation)
}

fn settings_of(response: &ExplainGroupResponse, style: Style) -> String {
    let effective = response.settings.unwrap_or_default();
    let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
    for (name, value) in group::values(&effective) {
        let origin = response.settings_origin.get(name).map_or(text::NONE, String::as_str);
        table.row([Cell::from(name), Cell::from(value), Cell::from(origin)]);
    }
    table.render_indented(style, 2)
}

#[cfg(test)]
mod tests {
    use wire::api::v1::content_reference::Which;
    use wire::api::v1::{ContentReference, EffectiveContent, Settings};

    use super::*;

    #[test]
    fn every_value_has_its_origin() {
        let value = |pointer: &str, text: &str, locked_by: &str| Provenance {
            pointer: pointer.into(),
            value: wire::document::to_proto_value(&text.into()).ok(),
            policy: "firewall-base".into(),
            generation: 3,
            revision: 41,
            set_by: "/servers".into(),
            locked_by: locked_by.into(),
        };
        let response = ExplainGroupResponse {
            path: "/servers/web".into(),
            documents: vec![
                EffectiveDocument {
                    kind: "firewall".into(),
                    document: None,
                    values: vec![value("/rules/http", "allow", ""), value("/rules/ssh", "deny", "/servers")],
                },
                EffectiveDocument { kind: "logging".into(), ..EffectiveDocument::default() },
            ],
            settings: Some(Settings { mode: Some(2), ..Settings::default() }),
            settings_origin: [("mode".to_owned(), "/servers".to_owned())].into(),
            head_revision: 42,
            content: vec![EffectiveContent {
                reference: Some(ContentReference {
                    channel: "definitions/ips".into(),
                    which: Some(Which::Stage("stable".into())),
                }),
                revision: 7,
                set_by: "/servers".into(),
            }],
        };
        let values = "/servers/web at revision 42\n\
             \n\
             firewall\n\
             \u{20} POINTER      VALUE  POLICY                        ASSIGNED BY  LOCKED BY\n\
             \u{20} /rules/http  allow  firewall-base (generation 3)  /servers     -\n\
             \u{20} /rules/ssh   deny   firewall-base (generation 3)  /servers     /servers\n";
        assert_eq!(explain(&response, false, Style::now(false)), values);
        let settings = "\nsettings\n\
             \u{20} SETTING            VALUE                                                    FROM\n\
             \u{20} mode               push (the agent holds a connection and is told at once)  /servers\n\
             \u{20} heartbeatInterval  -                                                        -\n\
             \u{20} offlineAfter       -                                                        -\n\
             \u{20} contentSpread      -                                                        -\n\
             \u{20} contentRateLimit   none                                                     -\n\
             \n\
             CONTENT          FOLLOWS       REVISION  FROM\n\
             definitions/ips  stage stable         7  /servers\n";
        assert_eq!(explain(&response, true, Style::now(false)), format!("{values}{settings}"));
    }
}
