//! The status of an agent as a table for people.

use std::fmt::Write as _;

use domain::Timestamp;

use crate::disk::{Shown, ShownContent, ShownItem};
use wire::size;

/// Rows of "name value", then one row for each policy, then one for each content channel.
pub(crate) fn render(shown: &Shown, running: bool, now: Timestamp) -> String {
    let seconds = |ms: u64| now.since(Timestamp(ms)).0 / 1000;
    let process = if running { "running".to_owned() } else { "not running".to_owned() };
    let mode = match shown.mode.as_str() {
        "push" => format!("push (told at once; heartbeat every {} s)", shown.heartbeat_interval_ms / 1000),
        _ => format!("pull (asks at each heartbeat, every {} s)", shown.heartbeat_interval_ms / 1000),
    };
    let reply = shown.last_reply_ms.map_or("none yet".to_owned(), |at| format!("{} s ago", seconds(at)));
    let revision = match shown.revision {
        0 => "none yet".to_owned(),
        revision if shown.seen_revision > revision => {
            format!("{revision} (newest seen: {})", shown.seen_revision)
        }
        revision => revision.to_string(),
    };
    let mut rows = vec![
        ("agent", shown.agent.clone()),
        ("fleet", shown.fleet.clone()),
        ("group", shown.group.clone().unwrap_or_else(|| "none yet".to_owned())),
        ("process", process),
        ("mode", mode),
        ("connected", if shown.connected && running { "yes" } else { "no" }.to_owned()),
        ("last reply", reply),
        ("revision", revision),
        ("trust root", shown.root_version.to_string()),
    ];
    if shown.stale {
        rows.push((
            "stale",
            "the snapshot in force or the trust root has expired; what is in force stays".to_owned(),
        ));
    }
    if shown.settings_reverted {
        rows.push(("settings", "given up: no heartbeat was answered with the newest ones".to_owned()));
    }
    rows.push(("rollbacks", shown.rollbacks.to_string()));
    let refusals = match &shown.last_refusal {
        Some(why) => format!("{} (last: {why})", shown.refusals),
        None => shown.refusals.to_string(),
    };
    rows.push(("refusals", refusals));
    rows.push(("repairs", shown.repairs.to_string()));
    let mut text = String::new();
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _ok = writeln!(text, "{name:<12}{value}");
    }
    if !shown.items.is_empty() {
        policies(&mut text, &shown.items);
    }
    if !shown.content.is_empty() {
        channels(&mut text, &shown.content);
    }
    text
}

fn policies(text: &mut String, items: &[ShownItem]) {
    let width = items.iter().map(|item| item.kind.len()).max().unwrap_or(0).max(4);
    let _ok = writeln!(text, "\n{:<width$}  {:<9} {:>9}  REASON", "KIND", "STATE", "REVISION");
    for item in items {
        let reason = item.reason.as_deref().unwrap_or("").replace('\n', " ");
        let line = format!("{:<width$}  {:<9} {:>9}  {reason}", item.kind, item.state, item.revision);
        let _ok = writeln!(text, "{}", line.trim_end());
    }
}

fn channels(text: &mut String, content: &[ShownContent]) {
    let width = content.iter().map(|one| one.channel.len()).max().unwrap_or(0).max(7);
    let head = ["IN FORCE", "ASSIGNED", "STATE", "THERE", "FETCHED", "HELD"];
    let [active, assigned, state, there, fetched, held] = head;
    let _ok = writeln!(
        text,
        "\n{:<width$}  {active:>8}  {assigned:>8}  {state:<9} {there:>5}  {fetched:<26}  {held:>9}  REASON",
        "CHANNEL"
    );
    let number = |number: u32| if number == 0 { "none".to_owned() } else { number.to_string() };
    for one in content {
        let reason = one.reason.as_deref().unwrap_or("").replace('\n', " ");
        let (active, assigned, held) =
            (number(one.active), number(one.assigned), size::rounded(one.held_bytes));
        let line = format!(
            "{:<width$}  {active:>8}  {assigned:>8}  {:<9} {:>4}%  {:<26}  {held:>9}  {reason}",
            one.channel,
            one.state,
            one.percent,
            fetched_bytes(one),
        );
        let _ok = writeln!(text, "{}", line.trim_end());
    }
}

/// Bytes fetched, by where they came from.
fn fetched_bytes(one: &ShownContent) -> String {
    let parts = [("patch", one.patch_bytes), ("chunks", one.chunk_bytes), ("full", one.full_bytes)];
    let some = parts.iter().filter(|(_, bytes)| *bytes > 0);
    let texts: Vec<String> = some.map(|(name, bytes)| format!("{} {name}", size::rounded(*bytes))).collect();
    if texts.is_empty() { "nothing".to_owned() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Vec<ShownContent> {
        vec![
            ShownContent {
                channel: "definitions/ips".into(),
                active: 41,
                assigned: 42,
                state: "received".into(),
                percent: 60,
                patch_bytes: 43_000,
                chunk_bytes: 0,
                full_bytes: 0,
                held_bytes: 67_000_000,
                reason: None,
                files: Some("content/current/definitions--ips".into()),
            },
            ShownContent {
                channel: "models".into(),
                active: 0,
                assigned: 3,
                state: "failed".into(),
                percent: 0,
                patch_bytes: 0,
                chunk_bytes: 0,
                full_bytes: 0,
                held_bytes: 0,
                reason: Some("does not fit:\nneeds 3 GiB".into()),
                files: None,
            },
        ]
    }

    #[test]
    fn people_see_what_counts() {
        let shown = Shown {
            fleet: "main".into(),
            agent: "web-1".into(),
            group: Some("web".into()),
            mode: "pull".into(),
            heartbeat_interval_ms: 5000,
            connected: true,
            last_reply_ms: Some(1000),
            epoch: 1,
            revision: 7,
            seen_revision: 9,
            root_version: 3,
            stale: false,
            settings_reverted: false,
            items: vec![ShownItem {
                kind: "firewall".into(),
                state: "failed".into(),
                revision: 9,
                reason: Some("exit\ncode 1".into()),
            }],
            content: content(),
            rollbacks: 1,
            refusals: 0,
            last_refusal: None,
            repairs: 0,
            written_ms: 1000,
        };
        let expected = "\
agent       web-1
fleet       main
group       web
process     running
mode        pull (asks at each heartbeat, every 5 s)
connected   yes
last reply  3 s ago
revision    7 (newest seen: 9)
trust root  3
rollbacks   1
refusals    0
repairs     0

KIND      STATE      REVISION  REASON
firewall  failed            9  exit code 1

CHANNEL          IN FORCE  ASSIGNED  STATE     THERE  FETCHED                          HELD  REASON
definitions/ips        41        42  received    60%  41.9 KiB patch               63.8 MiB
models               none         3  failed       0%  nothing                           0 B  does not fit: needs 3 GiB
";
        assert_eq!(render(&shown, true, Timestamp(4000)), expected);
    }
}
