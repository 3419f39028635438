//! The fleet at a glance.

use wire::api::v1::{AgentCounts, FleetStatus};

use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::text;

/// By state, and how far they are. AT HEAD, PENDING and FAILED count agents whatever their state: an agent that is offline and
/// behind is one that is behind.
const COUNTS: [&str; 8] =
    ["AGENTS", "ONLINE", "LATE", "OFFLINE", "NEVER-SEEN", "AT HEAD", "PENDING", "FAILED"];

pub(crate) fn status(status: &FleetStatus, style: Style) -> String {
    let what = match status.group.as_str() {
        "" => format!("fleet {}", safe(&status.fleet)),
        group => format!("group {} of fleet {}", safe(group), safe(&status.fleet)),
    };
    let mut shown = format!(
        "{} at revision {}, {}\n\n",
        style.paint(&what, Tone::Heading),
        status.revision,
        text::time(status.time.as_ref())
    );
    let mut table = Table::new(&[&["MODE"][..], &COUNTS].concat());
    for (name, counts) in [("all", &status.all), ("push", &status.push), ("pull", &status.pull)] {
        table.row([Cell::from(name)].into_iter().chain(cells(counts.as_ref())));
    }
    shown += &table.render(style);
    if !status.groups.is_empty() {
        shown.push('\n');
        shown += &groups(status, style);
    }
    shown
}

fn groups(status: &FleetStatus, style: Style) -> String {
    let mut table = Table::new(&[&["GROUP", "MODE", "HEAD"][..], &COUNTS].concat());
    for group in &status.groups {
        let place = [
            Cell::from(&group.path),
            Cell::from(text::mode(group.mode())),
            text::revision(group.head_revision),
        ];
        table.row(place.into_iter().chain(cells(group.agents.as_ref())));
    }
    table.render(style)
}

fn cells(counts: Option<&AgentCounts>) -> [Cell; 8] {
    let counts = counts.copied().unwrap_or_default();
    [
        Cell::from(counts.total),
        Cell::count(counts.online, Tone::Good),
        Cell::count(counts.late, Tone::Watch),
        Cell::count(counts.offline, Tone::Bad),
        Cell::count(counts.never_seen, Tone::Plain),
        Cell::count(counts.current, Tone::Good),
        Cell::count(counts.pending, Tone::Watch),
        Cell::count(counts.failed, Tone::Bad),
    ]
}

#[cfg(test)]
mod tests {
    use wire::api::v1::GroupStatus;

    use super::*;

    #[test]
    fn a_fleet_is_shown_by_mode_and_group() {
        let counts =
            AgentCounts { total: 3, online: 2, offline: 1, current: 2, pending: 1, ..AgentCounts::default() };
        let fleet = FleetStatus {
            fleet: "default".into(),
            all: Some(counts),
            push: Some(counts),
            groups: vec![GroupStatus {
                path: "/servers".into(),
                group: "servers".into(),
                head_revision: 42,
                agents: Some(counts),
                mode: 2,
            }],
            revision: 42,
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..FleetStatus::default()
        };
        assert_eq!(
            status(&fleet, Style::now(false)),
            "fleet default at revision 42, 2023-11-14T22:13:20Z\n\
             \n\
             MODE  AGENTS  ONLINE  LATE  OFFLINE  NEVER-SEEN  AT HEAD  PENDING  FAILED\n\
             all        3       2     0        1           0        2        1       0\n\
             push       3       2     0        1           0        2        1       0\n\
             pull       0       0     0        0           0        0        0       0\n\
             \n\
             GROUP     MODE  HEAD  AGENTS  ONLINE  LATE  OFFLINE  NEVER-SEEN  AT HEAD  PENDING  FAILED\n\
             /servers  push    42       3       2     0        1           0        2        1       0\n"
        );
    }
}
