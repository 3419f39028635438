//! Content: channels, revisions, and what differs between them.

mod done;
mod status;

use wire::api::v1::{
    Channel, DiffRevisionsResponse, FileAction, FileChange, ListChannelsResponse, Revision, RevisionDetail,
};
use wire::size;

pub(crate) use self::done::{Fetched, Pushed, Verb, changed, fetched, garbage, push};
pub(crate) use self::status::{of_agent, status};
use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::text;
use crate::failure::counted;

/// Most files that are listed without being asked for: enough to see what it is, little enough to read.
const MAX_FILES_SHOWN: usize = 20;

pub(crate) fn list(response: &ListChannelsResponse, style: Style) -> String {
    let mut table = Table::new(&["CHANNEL", "NEWEST", "LABEL", "SIZE", "STAGES", "ASSIGNED BY", "AGENTS"]);
    for channel in &response.channels {
        let newest = channel.revisions.first().cloned().unwrap_or_default();
        table.row([
            Cell::from(&channel.name),
            text::revision(u64::from(newest.revision)),
            Cell::from(text::or_none(&newest.label)),
            Cell::size(newest.bytes),
            Cell::from(stages(channel)),
            Cell::from(text::list(&channel.groups)),
            Cell::from(channel.agents),
        ]);
    }
    format!("{}\n{}\n", table.render(style), taken(response.stored_bytes, response.quota_bytes))
}

fn taken(stored: u64, quota: u64) -> String {
    format!("all content takes {} of {}", size::rounded(stored), size::rounded(quota))
}

/// "canary 7, stable 6".
fn stages(channel: &Channel) -> String {
    let name = |stage: &wire::api::v1::Stage| match stage.revision {
        0 => format!("{} {}", stage.name, text::NONE),
        revision => format!("{} {revision}", stage.name),
    };
    text::list(&channel.stages.iter().map(name).collect::<Vec<_>>())
}

pub(crate) fn channel(channel: &Channel, style: Style) -> String {
    let mut table = Table::fields();
    table.field("Channel", &channel.name);
    table.field("Assigned by", text::list(&channel.groups));
    table.field("Agents", channel.agents);
    table.field("Keeps", keeps(channel));
    table.field("Changed at revision", text::revision(channel.store_revision));
    let mut shown = table.render(style);
    if !channel.stages.is_empty() {
        let mut table = Table::new(&["STAGE", "REVISION", "BEFORE", "MANAGED BY"]);
        for stage in &channel.stages {
            let before: Vec<String> = stage.previous.iter().map(u32::to_string).collect();
            table.row([
                Cell::from(&stage.name),
                text::revision(u64::from(stage.revision)),
                Cell::from(text::list(&before)),
                Cell::from(text::or_none(&stage.manager)),
            ]);
        }
        shown += &format!("\n{}", table.render(style));
    }
    if !channel.revisions.is_empty() {
        shown += &format!("\n{}", revisions(&channel.revisions, style));
    }
    shown
}

fn revisions(revisions: &[Revision], style: Style) -> String {
    let mut table = Table::new(&["REVISION", "LABEL", "SIZE", "FILES", "PUSHED", "KEPT BY", "NOTE"]);
    for revision in revisions {
        table.row([
            Cell::from(u64::from(revision.revision)),
            Cell::from(text::or_none(&revision.label)),
            Cell::size(revision.bytes),
            Cell::from(u64::from(revision.files)),
            Cell::from(text::time(revision.created_at.as_ref())),
            Cell::from(kept_by(revision)),
            Cell::from(text::or_none(&revision.note)),
        ]);
    }
    table.render(style)
}

/// What keeps a revision from being removed: stages, groups, a pin.
fn kept_by(revision: &Revision) -> String {
    let stages = revision.stages.iter().map(|stage| format!("@{stage}"));
    let pin = revision.pinned.then(|| "pin".to_owned());
    text::list(&stages.chain(revision.groups.iter().cloned()).chain(pin).collect::<Vec<_>>())
}

fn keeps(channel: &Channel) -> String {
    let number = match channel.keep_revisions {
        0 => None,
        number => Some(counted(usize::try_from(number).unwrap_or(usize::MAX), "revision", "revisions")),
    };
    let span = text::span(channel.keep_for.as_ref()).filter(|span| span.0 > 0);
    let span = span.map(|span| format!("each at least {}", wire::manifest::duration::format(span)));
    match (number, span) {
        (None, None) => "as the server does by default".to_owned(),
        (Some(number), Some(span)) => format!("{number}, {span}"),
        (Some(one), None) | (None, Some(one)) => format!("{one}; the rest as the server does by default"),
    }
}

/// A channel after its retention was changed.
pub(crate) fn kept(channel: &Channel, _style: Style) -> String {
    format!("{} keeps {}\n", safe(&channel.name), keeps(channel))
}

/// With `all_files`, however many there are.
pub(crate) fn revision(detail: &RevisionDetail, all_files: bool, style: Style) -> String {
    let revision = detail.revision.clone().unwrap_or_default();
    let mut table = Table::fields();
    table.field("Channel", &revision.channel);
    table.field("Revision", u64::from(revision.revision));
    table.field("Label", text::or_none(&revision.label));
    table.field("Note", text::or_none(&revision.note));
    table.field("Pushed", text::time(revision.created_at.as_ref()));
    table.field("Kept by", kept_by(&revision));
    table.field("Size", format!("{} in {}", size::rounded(revision.bytes), files_counted(revision.files)));
    let chunks = counted(usize::try_from(detail.chunks).unwrap_or(usize::MAX), "chunk", "chunks");
    table.field("As chunks", format!("{} in {chunks}", size::rounded(detail.chunk_bytes)));
    let whole = match detail.full_bytes {
        0 => "not made yet".to_owned(),
        bytes => size::rounded(bytes),
    };
    table.field("Full download", whole);
    table.field("Content", hex(&revision.digest));
    table.field("Manifest", hex(&revision.manifest));
    format!("{}\n{}\n{}", table.render(style), patches(detail, style), files(detail, all_files, style))
}

fn files_counted(files: u32) -> String {
    counted(usize::try_from(files).unwrap_or(usize::MAX), "file", "files")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn patches(detail: &RevisionDetail, style: Style) -> String {
    let mut table = Table::new(&["PATCH FROM", "SIZE"]);
    for patch in &detail.patches {
        table.row([Cell::from(u64::from(patch.from)), Cell::size(patch.bytes)]);
    }
    let mut shown = match detail.patches.is_empty() {
        true => "no patches\n".to_owned(),
        false => table.render(style),
    };
    if detail.patches_pending > 0 {
        let pending = usize::try_from(detail.patches_pending).unwrap_or(usize::MAX);
        shown += &format!("{} being made\n", counted(pending, "more patch is", "more patches are"));
    }
    shown
}

fn files(detail: &RevisionDetail, all: bool, style: Style) -> String {
    let shown = if all { detail.files.len() } else { MAX_FILES_SHOWN };
    let mut table = Table::new(&["FILE", "SIZE", "MODE", "SHA-256"]);
    for file in detail.files.iter().take(shown) {
        table.row([
            Cell::from(&file.path),
            Cell::size(file.bytes),
            Cell::from(if file.executable { "0755" } else { "0644" }),
            Cell::quiet(hex(&file.digest)),
        ]);
    }
    let mut text = table.render(style);
    let more = detail.files.len().saturating_sub(shown);
    if more > 0 {
        text += &format!("... and {}; --files lists all\n", counted(more, "more file", "more files"));
    }
    text
}

pub(crate) fn diff(diff: &DiffRevisionsResponse, style: Style) -> String {
    let from = diff.from.clone().unwrap_or_default();
    let to = diff.to.clone().unwrap_or_default();
    let head = format!("{} revision {} -> {}", safe(&to.channel), from.revision, to.revision);
    let mut table = Table::default();
    for change in &diff.files {
        let (word, tone, sizes) = file_change(change);
        table.row([Cell::toned(word, tone), Cell::from(&change.path), Cell::from(sizes)]);
    }
    let files = match diff.files.is_empty() {
        true => "  no difference\n".to_owned(),
        false => table.render_indented(style, 2),
    };
    let whole = format!(
        "missing chunks are {}, a full download is {}",
        size::rounded(diff.chunk_bytes),
        size::rounded(diff.full_bytes)
    );
    let way = match diff.patch_bytes {
        Some(bytes) => {
            format!("an agent at {} fetches a patch of {}; {whole}", from.revision, size::rounded(bytes))
        }
        None => format!("there is no patch; {whole}"),
    };
    format!("{}\n{files}\n{way}\n", style.paint(&head, Tone::Heading))
}

fn file_change(change: &FileChange) -> (&'static str, Tone, String) {
    let (before, after) = (size::rounded(change.bytes_before), size::rounded(change.bytes_after));
    match change.action() {
        FileAction::Unspecified => (text::NONE, Tone::Quiet, String::new()),
        FileAction::FileAdded => ("added", Tone::Good, after),
        FileAction::FileChanged if before == after => ("changed", Tone::Watch, after),
        FileAction::FileChanged => ("changed", Tone::Watch, format!("{before} -> {after}")),
        FileAction::FileRemoved => ("removed", Tone::Bad, before),
    }
}

#[cfg(test)]
mod tests;
