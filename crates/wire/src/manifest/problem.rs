//! What is wrong with a document, in words for whoever wrote it.

use std::borrow::Cow;

use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _};

/// Longest piece of a manifest that a message repeats, in characters.
const MAX_QUOTE: usize = 60;
/// Longest path of a field in a message, in characters: a place deep in a document still fits.
const MAX_FIELD: usize = 300;

/// Line and column (both from 1, as the parser counts them) and what is wrong.
pub(super) fn explain(error: &Error) -> (Option<(u64, u64)>, String) {
    let error = innermost(error);
    let place = error.location().filter(|at| at.line() > 0).map(|at| (at.line(), at.column()));
    (place, harmless(&message(error)).into_owned())
}

fn innermost(mut error: &Error) -> &Error {
    while let Error::WithSnippet { error: inner, .. } | Error::AliasError { error: inner, .. } = error {
        error = inner;
    }
    error
}

fn message(error: &Error) -> Cow<'_, str> {
    let text = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown field {}; known here: {}", quote(field), expected.join(", "))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("unknown value {}; allowed: {}", quote(variant), expected.join(", "))
        }
        Error::SerdeMissingField { field, .. } => format!("field {field} is missing"),
        Error::DuplicateMappingKey { key, .. } => {
            format!("key {} stands twice", quote(key.as_deref().unwrap_or("?")))
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("is {}, expected {expected}", shorten(unexpected))
        }
        Error::Unexpected { expected: "mapping start", .. } => "must be a map of names to values".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => "must be a list".to_owned(),
        Error::Unexpected { expected: "scalar" | "string scalar", .. } => "must be a single value".to_owned(),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => "aliases expand to too much".to_owned(),
        Error::Budget { breach, .. } => format!("is too large or too deep a document ({breach:?})"),
        Error::Message { msg, .. } => return Cow::Borrowed(msg),
        // The enum is open: what has no better words here is told in those of the parser.
        other => return DefaultMessageFormatter.format_message(other),
    };
    Cow::Owned(text)
}

/// The path of a field, which holds names that somebody wrote, fit to be shown.
pub(super) fn field(path: &str) -> String {
    let path = path.trim_end_matches(['.', '?']);
    let shown = match path.char_indices().nth(MAX_FIELD) {
        None => Cow::Borrowed(path),
        Some((end, _)) => Cow::Owned(format!("{}…", &path[..end])),
    };
    harmless(&shown).into_owned()
}

fn quote(text: &str) -> String {
    format!("{:?}", shorten(text))
}

fn shorten(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_QUOTE) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// Messages repeat what the file holds; what would move a terminal's cursor is escaped.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped =
        text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() });
    Cow::Owned(escaped.collect())
}
