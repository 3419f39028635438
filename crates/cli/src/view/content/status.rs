//! How far content has got among agents.

use wire::api::v1::{Agent, AgentContent, ContentBytes, ContentStatus};
use wire::size;

use crate::view::style::{Style, Tone, safe};
use crate::view::table::{Cell, Table};
use crate::view::text;

pub(crate) fn status(status: &ContentStatus, style: Style) -> String {
    let mut shown = format!(
        "{}, {}\n\n",
        style.paint(&safe(&status.channel), Tone::Heading),
        text::time(status.time.as_ref())
    );
    let mut counts = Table::new(&["AGENTS", "CURRENT", "WAITING", "DOWNLOADING", "APPLYING", "FAILED"]);
    counts.row([
        Cell::from(status.agents),
        Cell::count(status.current, Tone::Good),
        Cell::count(status.waiting, Tone::Watch),
        Cell::count(status.downloading, Tone::Watch),
        Cell::count(status.applying, Tone::Watch),
        Cell::count(status.failed, Tone::Bad),
    ]);
    shown += &counts.render(style);
    if !status.revisions.is_empty() {
        let mut revisions = Table::new(&["REVISION", "IN FORCE", "ASSIGNED", "DOWNLOADING", "FAILED"]);
        for revision in &status.revisions {
            revisions.row([
                Cell::from(u64::from(revision.revision)),
                Cell::count(revision.active, Tone::Good),
                Cell::from(revision.wanted),
                Cell::count(revision.downloading, Tone::Watch),
                Cell::count(revision.failed, Tone::Bad),
            ]);
        }
        shown += &format!("\n{}", revisions.render(style));
    }
    if !status.failures.is_empty() {
        let mut failures = Table::new(&["FAILED ON", "REVISION", "REASON"]);
        for failure in &status.failures {
            failures.row([
                Cell::from(&failure.agent),
                Cell::from(u64::from(failure.revision)),
                Cell::toned(&failure.reason, Tone::Bad),
            ]);
        }
        shown += &format!("\n{}", failures.render(style));
    }
    format!("{shown}\n{}\n{}\n", sources(status.bytes.as_ref()), finish(status, style))
}

fn sources(bytes: Option<&ContentBytes>) -> String {
    let bytes = bytes.copied().unwrap_or_default();
    let fetched = bytes.patch.saturating_add(bytes.chunk).saturating_add(bytes.full);
    format!(
        "fetched {}: patches {}, chunks {}, full {}; held already {}",
        size::rounded(fetched),
        size::rounded(bytes.patch),
        size::rounded(bytes.chunk),
        size::rounded(bytes.full),
        size::rounded(bytes.held)
    )
}

/// When it will be over, in words.
fn finish(status: &ContentStatus, style: Style) -> String {
    let on_the_way = status.waiting + status.downloading + status.applying;
    let expected = status.expected_finish.as_ref();
    match (status.agents, on_the_way, status.failed) {
        (0, ..) => "no agent follows this channel".to_owned(),
        (_, 0, 0) => "every agent has what is assigned to it".to_owned(),
        (_, 0, _) => {
            "no agent is on its way; what failed is tried again when another revision is assigned".to_owned()
        }
        (..) => match expected.and_then(|time| Some((text::ahead(time, style)?, time))) {
            Some((left, time)) => format!("expected to be done in {left}, at {}", text::time(Some(time))),
            None if expected.is_some() => "expected to be done any moment".to_owned(),
            None => "when it will be done cannot be told yet".to_owned(),
        },
    }
}

/// The state of each channel on an agent.
pub(crate) fn of_agent(agent: &Agent, style: Style) -> String {
    let mut table = Table::new(&["CONTENT", "STATE", "IN FORCE", "ASSIGNED", "FETCHED", "HELD", "REASON"]);
    for content in &agent.content {
        let bytes = content.bytes.unwrap_or_default();
        table.row([
            Cell::from(&content.channel),
            state(content),
            text::revision(u64::from(content.active)),
            text::revision(u64::from(content.wanted)),
            Cell::from(fetched(&bytes)),
            Cell::size(bytes.held),
            Cell::from(text::or_none(&content.reason)),
        ]);
    }
    table.render(style)
}

fn state(content: &AgentContent) -> Cell {
    match content.state.as_str() {
        "" => Cell::quiet(text::NONE),
        "applied" | "healthy" => Cell::toned(&content.state, Tone::Good),
        "failed" => Cell::toned(&content.state, Tone::Bad),
        "received" => Cell::toned(format!("received {} %", content.percent.min(100)), Tone::Watch),
        other => Cell::toned(other, Tone::Watch),
    }
}

/// "1.2 KiB (patch)": what was fetched, and how.
fn fetched(bytes: &ContentBytes) -> String {
    let ways = [("patch", bytes.patch), ("chunks", bytes.chunk), ("full", bytes.full)];
    let used: Vec<(&str, u64)> = ways.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
    match used.as_slice() {
        [] => text::NONE.to_owned(),
        [(way, bytes)] => format!("{} ({way})", size::rounded(*bytes)),
        many => {
            let parts: Vec<String> =
                many.iter().map(|(way, bytes)| format!("{} {way}", size::rounded(*bytes))).collect();
            parts.join(" + ")
        }
    }
}
