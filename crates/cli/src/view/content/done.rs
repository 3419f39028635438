//! What a command did with content, or would do.

use wire::api::v1::{
    Action, ChangeResult, CollectGarbageResponse, ContentChange, FinishUploadResponse, Revision,
};
use wire::size;

use super::taken;
use crate::content::upload::Sent;
use crate::failure::counted;
use crate::view::change;
use crate::view::style::{Style, safe};
use crate::view::table::{Cell, Table};
use crate::view::text;

/// What a push read and sent.
#[derive(Debug)]
pub(crate) struct Pushed {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    pub(crate) chunks: usize,
    pub(crate) sent: Sent,
}

pub(crate) fn push(response: &FinishUploadResponse, pushed: &Pushed, _style: Style) -> String {
    let revision = response.revision.clone().unwrap_or_default();
    let name =
        format!("{} of {}", text::content_revision(revision.revision, &revision.label), revision.channel);
    let name = safe(&name).into_owned();
    if !response.created {
        let sent = if pushed.sent.chunks == 0 { "; nothing was sent" } else { "" };
        return format!("{name} holds exactly this already{sent}\n");
    }
    let files = counted(pushed.files, "file", "files");
    let chunks = counted(pushed.chunks, "chunk", "chunks");
    format!("{name}: {files}, {} in {chunks}\n{}\n", size::rounded(pushed.bytes), saving(pushed))
}

fn saving(pushed: &Pushed) -> String {
    let sent = counted(usize::try_from(pushed.sent.chunks).unwrap_or(usize::MAX), "chunk", "chunks");
    let saved = pushed.bytes.saturating_sub(pushed.sent.bytes);
    let percent = u128::from(saved) * 100 / u128::from(pushed.bytes.max(1));
    match pushed.sent.chunks {
        0 => "sent nothing: every chunk was there already".to_owned(),
        _ => format!(
            "sent {} in {sent}; saved {} ({percent} %)",
            size::rounded(pushed.sent.bytes),
            size::rounded(saved)
        ),
    }
}

/// What a change was about.
#[derive(Debug, Clone)]
pub(crate) enum Verb {
    Stage,
    Pin,
    Unpin,
    Retire,
    Delete { channel: String },
}

pub(crate) fn changed(content: &ContentChange, verb: Verb, style: Style) -> String {
    let revision = content.revision.clone().unwrap_or_default();
    let removes = matches!(verb, Verb::Retire | Verb::Delete { .. });
    let action = match (content.unchanged, removes) {
        (true, _) => Action::Unchanged,
        (false, true) => Action::Deleted,
        (false, false) => Action::Updated,
    };
    let what = match &verb {
        Verb::Stage => stage(content, &revision),
        Verb::Pin => format!("revision {} is pinned", revision.revision),
        Verb::Unpin => format!("revision {} is not pinned", revision.revision),
        Verb::Retire => format!("revision {}", revision.revision),
        Verb::Delete { .. } => String::new(),
    };
    let channel = match verb {
        Verb::Delete { channel } => channel,
        Verb::Stage | Verb::Pin | Verb::Unpin | Verb::Retire => revision.channel,
    };
    let mut table = Table::default();
    let (word, tone) = change::action(action);
    table.row([Cell::toned(word, tone), Cell::from("Channel"), Cell::from(channel), Cell::from(what)]);
    let object = wire::api::v1::ObjectChange { action: action.into(), ..Default::default() };
    let result = ChangeResult {
        revision: content.store_revision,
        objects: vec![object],
        groups_touched: content.groups_touched,
        agents_touched: content.agents_touched,
        dry_run: content.dry_run,
        ..ChangeResult::default()
    };
    format!("{}\n{}\n", table.render(style), change::summary(&result))
}

/// "stable: 1 -> 2".
fn stage(content: &ContentChange, revision: &Revision) -> String {
    match (content.unchanged, content.stage_before) {
        (true, _) => format!("{}: {}", content.stage, revision.revision),
        (false, 0) => format!("{}: (none) -> {}", content.stage, revision.revision),
        (false, before) => format!("{}: {before} -> {}", content.stage, revision.revision),
    }
}

pub(crate) fn garbage(collected: &CollectGarbageResponse, style: Style) -> String {
    let mut table = Table::default();
    let (word, tone) = change::action(Action::Deleted);
    for revision in &collected.retired {
        table.row([
            Cell::toned(word, tone),
            Cell::from("Channel"),
            Cell::from(&revision.channel),
            Cell::from(text::content_revision(revision.revision, &revision.label)),
        ]);
    }
    let mut shown = table.render(style);
    if !shown.is_empty() {
        shown.push('\n');
    }
    let count = |number: u64, one, many| counted(usize::try_from(number).unwrap_or(usize::MAX), one, many);
    let freed = format!(
        "{} in {}, {} and {}",
        size::rounded(collected.freed_bytes),
        count(collected.chunks, "chunk", "chunks"),
        count(collected.patch_parts, "piece of a patch", "pieces of patches"),
        count(collected.manifests, "manifest", "manifests"),
    );
    let nothing = collected.chunks + collected.patch_parts + collected.manifests == 0;
    shown += &match (collected.dry_run, nothing && collected.retired.is_empty()) {
        (true, true) => "dry run: nothing would be deleted".to_owned(),
        (false, true) => "nothing to delete".to_owned(),
        (true, false) => format!("dry run, nothing was deleted: {freed} would be freed"),
        (false, false) => format!("freed {freed}"),
    };
    format!("{shown}\n{}\n", taken(collected.stored_bytes, collected.quota_bytes))
}

/// What a fetch wrote.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) place: String,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// Bytes that were not there yet.
    pub(crate) missing: u64,
    /// Bytes that travelled for that.
    pub(crate) travelled: u64,
    /// Whether the signatures were checked.
    pub(crate) signed: bool,
}

pub(crate) fn fetched(revision: &Revision, fetched: &Fetched, _style: Style) -> String {
    let name = text::content_revision(revision.revision, &revision.label);
    let way = match (fetched.missing, fetched.bytes.saturating_sub(fetched.missing)) {
        (0, _) => "everything was there already".to_owned(),
        (_, 0) => format!("fetched as {}", size::rounded(fetched.travelled)),
        (_, held) => format!(
            "fetched as {}; {} were there already",
            size::rounded(fetched.travelled),
            size::rounded(held)
        ),
    };
    let proof = if fetched.signed {
        "digests and signatures are right"
    } else {
        "digests are right; --trust-root also checks signatures"
    };
    let line = format!(
        "{name} of {} is in {}: {}, {}",
        revision.channel,
        fetched.place,
        counted(fetched.files, "file", "files"),
        size::rounded(fetched.bytes)
    );
    format!("{}\n{way}; {proof}\n", safe(&line))
}
