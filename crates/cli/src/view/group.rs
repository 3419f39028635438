//! Groups and their settings.

use wire::api::v1::content_reference::Which;
use wire::api::v1::{EffectiveContent, Group, ListGroupsResponse, Mode, Settings};
use wire::size;

use super::style::Style;
use super::table::{Cell, Table};
use super::text;

pub(crate) fn list(response: &ListGroupsResponse, style: Style) -> String {
    let mut table = Table::new(&["PATH", "NAME", "MODE", "HEARTBEAT", "AGENTS", "HEAD", "POLICIES"]);
    for group in &response.groups {
        let settings = group.effective_settings.unwrap_or_default();
        table.row([
            Cell::from(&group.path),
            Cell::from(&group.name),
            Cell::from(text::mode(settings.mode())),
            Cell::from(text::length(settings.heartbeat_interval.as_ref())),
            Cell::from(group.agents),
            text::revision(group.head_revision),
            Cell::from(text::list(&group.policies)),
        ]);
    }
    table.render(style)
}

pub(crate) fn show(group: &Group, style: Style) -> String {
    let mut table = Table::fields();
    table.field("Path", &group.path);
    table.field("Name", &group.name);
    table.field("Labels", text::labels(&group.labels));
    table.field("Policies assigned here", text::list(&group.policies));
    table.field("Agents", group.agents);
    table.field("Changed at revision", text::revision(group.revision));
    table.field("Head revision", text::revision(group.head_revision));
    text::managed(&mut table, &group.manager);
    let mut shown = format!("{}\n{}", table.render(style), settings(group, style));
    if !group.effective_content.is_empty() {
        shown += &format!("\n{}", content(&group.effective_content, &group.path).render(style));
    }
    shown
}

/// The content in force for the group at `path`, and which group says so.
pub(super) fn content(in_force: &[EffectiveContent], path: &str) -> Table {
    let mut table = Table::new(&["CONTENT", "FOLLOWS", "REVISION", "FROM"]);
    for content in in_force {
        let reference = content.reference.clone().unwrap_or_default();
        let follows = match &reference.which {
            None => text::NONE.to_owned(),
            Some(Which::Stage(stage)) => format!("stage {stage}"),
            Some(Which::Revision(revision)) => format!("revision {revision}"),
        };
        table.row([
            Cell::from(&reference.channel),
            Cell::from(follows),
            text::revision(u64::from(content.revision)),
            Cell::from(origin_words(&content.set_by, path)),
        ]);
    }
    table
}

/// Each setting in force and which group says so.
pub(crate) fn settings(group: &Group, style: Style) -> String {
    let effective = group.effective_settings.unwrap_or_default();
    let mut table = Table::new(&["SETTING", "IN FORCE", "FROM"]);
    for (name, value) in values(&effective) {
        let origin = group.settings_origin.get(name).map_or(text::NONE, String::as_str);
        table.row([Cell::from(name), Cell::from(value), Cell::from(origin_words(origin, &group.path))]);
    }
    table.render(style)
}

/// Every setting by its name in manifests.
pub(crate) fn values(settings: &Settings) -> [(&'static str, String); 5] {
    let mode = settings.mode.and_then(|mode| Mode::try_from(mode).ok()).unwrap_or_default();
    [
        ("mode", text::mode_explained(mode).to_owned()),
        ("heartbeatInterval", text::length(settings.heartbeat_interval.as_ref())),
        ("offlineAfter", text::length(settings.offline_after.as_ref())),
        ("contentSpread", text::length(settings.content_spread.as_ref())),
        ("contentRateLimit", rate_limit(settings.content_rate_limit)),
    ]
}

fn rate_limit(limit: Option<u64>) -> String {
    match limit {
        None | Some(0) => "none".to_owned(),
        Some(bytes) => size::format_rate(bytes),
    }
}

fn origin_words(origin: &str, path: &str) -> String {
    if origin == path { "this group".to_owned() } else { origin.to_owned() }
}

#[cfg(test)]
mod tests {
    use wire::api::v1::ContentReference;

    use super::*;

    fn group() -> Group {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let origin =
            [("mode", "/servers"), ("heartbeatInterval", "/servers/web"), ("offlineAfter", "default")];
        Group {
            name: "servers-web".into(),
            path: "/servers/web".into(),
            policies: vec!["firewall-web".into()],
            labels: [("tier".to_owned(), "front".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            effective_settings: Some(Settings {
                mode: Some(Mode::Push.into()),
                heartbeat_interval: seconds(60),
                offline_after: seconds(150),
                content_spread: seconds(300),
                content_rate_limit: Some(2 << 20),
            }),
            settings_origin: origin.map(|(field, from)| (field.to_owned(), from.to_owned())).into(),
            effective_content: [
                ("definitions/ips", Which::Stage("stable".into()), 7, "/servers"),
                ("models/text", Which::Revision(3), 3, "/servers/web"),
                ("rules", Which::Stage("canary".into()), 0, "/"),
            ]
            .map(|(channel, which, revision, set_by)| EffectiveContent {
                reference: Some(ContentReference { channel: channel.into(), which: Some(which) }),
                revision,
                set_by: set_by.into(),
            })
            .into(),
            agents: 12,
            revision: 7,
            head_revision: 9,
            ..Group::default()
        }
    }

    #[test]
    fn groups_are_listed() {
        let response =
            ListGroupsResponse { groups: vec![group()], next_page_token: String::new(), revision: 9 };
        assert_eq!(
            list(&response, Style::now(false)),
            "PATH          NAME         MODE  HEARTBEAT  AGENTS  HEAD  POLICIES\n\
             /servers/web  servers-web  push  1m             12     9  firewall-web\n"
        );
    }

    #[test]
    fn a_group_is_shown_with_the_origin_of_its_settings() {
        assert_eq!(
            show(&group(), Style::now(false)),
            "Path:                    /servers/web\n\
             Name:                    servers-web\n\
             Labels:                  a=1, tier=front\n\
             Policies assigned here:  firewall-web\n\
             Agents:                  12\n\
             Changed at revision:     7\n\
             Head revision:           9\n\
             \n\
             SETTING            IN FORCE                                                 FROM\n\
             mode               push (the agent holds a connection and is told at once)  /servers\n\
             heartbeatInterval  1m                                                       this group\n\
             offlineAfter       2m30s                                                    default\n\
             contentSpread      5m                                                       -\n\
             contentRateLimit   2MiB/s                                                   -\n\
             \n\
             CONTENT          FOLLOWS       REVISION  FROM\n\
             definitions/ips  stage stable  7         /servers\n\
             models/text      revision 3    3         this group\n\
             rules            stage canary  -         /\n"
        );
    }
}
