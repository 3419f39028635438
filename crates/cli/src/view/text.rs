//! Single values as text.

use std::collections::{BTreeMap, HashMap};

use domain::Span;
use prost_types::value::Kind;
use prost_types::{Duration, Timestamp, Value};
use wire::api::v1::{Mode, PresenceState, Progress};
use wire::manifest::duration;

use super::style::{Style, Tone, safe, shorten};
use super::table::{Cell, Table};

/// Widest value of a document on one line.
const MAX_VALUE_WIDTH: usize = 60;
/// Last second that has a year of four digits.
const LAST_SECOND: i64 = 253_402_300_799;

/// What stands where nothing is known.
pub(crate) const NONE: &str = "-";

pub(crate) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Unspecified => NONE,
        Mode::Pull => "pull",
        Mode::Push => "push",
    }
}

/// The mode and what it means.
pub(crate) fn mode_explained(mode: Mode) -> &'static str {
    match mode {
        Mode::Unspecified => NONE,
        Mode::Pull => "pull (the agent asks at each heartbeat)",
        Mode::Push => "push (the agent holds a connection and is told at once)",
    }
}

pub(crate) fn state(state: PresenceState) -> Cell {
    let (text, tone) = state_words(state);
    Cell::toned(text, tone)
}

pub(crate) fn state_words(state: PresenceState) -> (&'static str, Tone) {
    match state {
        PresenceState::Unspecified => (NONE, Tone::Quiet),
        PresenceState::NeverSeen => ("never-seen", Tone::Quiet),
        PresenceState::Online => ("online", Tone::Good),
        PresenceState::Late => ("late", Tone::Watch),
        PresenceState::Offline => ("offline", Tone::Bad),
    }
}

pub(crate) fn progress(progress: Progress) -> Cell {
    match progress {
        Progress::Unspecified => Cell::quiet(NONE),
        Progress::Current => Cell::toned("current", Tone::Good),
        Progress::Pending => Cell::toned("pending", Tone::Watch),
        Progress::Failed => Cell::toned("failed", Tone::Bad),
    }
}

/// A revision; 0 stands for none.
pub(crate) fn revision(revision: u64) -> Cell {
    if revision == 0 { Cell::quiet(NONE) } else { Cell::from(revision) }
}

fn millis(seconds: i64, nanos: i32) -> Option<u64> {
    let whole = u64::try_from(seconds).ok()?.checked_mul(1_000)?;
    whole.checked_add(u64::try_from(nanos / 1_000_000).ok()?)
}

pub(crate) fn span(length: Option<&Duration>) -> Option<Span> {
    length.and_then(wire::time::read_duration)
}

pub(crate) fn length(length: Option<&Duration>) -> String {
    span(length).map_or_else(|| NONE.to_owned(), duration::format)
}

/// A point in time, UTC, to the second.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    match time {
        Some(time) if (0..=LAST_SECOND).contains(&time.seconds) => {
            Timestamp { seconds: time.seconds, nanos: 0 }.to_string()
        }
        Some(_) | None => NONE.to_owned(),
    }
}

/// A point in time, UTC, to the millisecond.
pub(crate) fn exact_time(time: Option<&Timestamp>) -> String {
    let whole = self::time(time);
    match (whole.strip_suffix('Z'), time) {
        (Some(seconds), Some(time)) => format!("{seconds}.{:03}Z", (time.nanos / 1_000_000).clamp(0, 999)),
        (Some(_), None) | (None, _) => whole,
    }
}

/// How much later something was: "7ms"; nothing if it was not.
pub(crate) fn between(earlier: Option<&Timestamp>, later: Option<&Timestamp>) -> String {
    let known = |time: &Timestamp| millis(time.seconds, time.nanos).map(domain::Timestamp);
    match (earlier.and_then(known), later.and_then(known)) {
        (Some(earlier), Some(later)) if later > earlier => duration::format(later.since(earlier)),
        (Some(_) | None, _) => NONE.to_owned(),
    }
}

/// "4s ago".
pub(crate) fn ago(time: Option<&Timestamp>, style: Style) -> String {
    match time.and_then(|time| millis(time.seconds, time.nanos)) {
        Some(then) => format!("{} ago", coarse(style.now.since(domain::Timestamp(then)))),
        None => NONE.to_owned(),
    }
}

/// "3m": how long it is until then; nothing if it is over.
pub(crate) fn ahead(time: &Timestamp, style: Style) -> Option<String> {
    let then = domain::Timestamp(millis(time.seconds, time.nanos)?);
    let left = then.since(style.now);
    (left.0 > 0).then(|| coarse(left))
}

/// A span by its two largest units, at least seconds: nobody reads the milliseconds of an hour.
fn coarse(span: Span) -> String {
    let unit = match span.0 {
        0..3_600_000 => 1_000,
        3_600_000..86_400_000 => 60_000,
        _ => 3_600_000,
    };
    duration::format(Span(span.0 / unit * unit))
}

/// A value of a document on one line; simple texts without quotes, as in YAML.
pub(crate) fn value(value: Option<&Value>) -> String {
    let Some(value) = value else { return "(none)".to_owned() };
    let text = match &value.kind {
        Some(Kind::StringValue(text)) if reads_as_text(text) => text.clone(),
        Some(_) | None => match wire::document::from_proto_value(value.clone()) {
            Ok(json) => json.to_string(),
            Err(_) => "(a value that cannot be shown)".to_owned(),
        },
    };
    shorten(&safe(&text), MAX_VALUE_WIDTH).into_owned()
}

fn reads_as_text(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:+@".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    (starts || duration::parse(text).is_ok())
        && text.chars().all(plain)
        && !["true", "false", "null"].contains(&text)
}

/// Labels in order of key.
pub(crate) fn labels(labels: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = labels.iter().collect();
    if sorted.is_empty() {
        return NONE.to_owned();
    }
    let pairs: Vec<String> = sorted.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(", ")
}

/// A revision of a content channel with its label, if it has one.
pub(crate) fn content_revision(revision: u32, label: &str) -> String {
    if label.is_empty() { format!("revision {revision}") } else { format!("revision {revision} ({label})") }
}

/// Who keeps an object in order, if somebody does.
pub(crate) fn managed(table: &mut Table, manager: &str) {
    if !manager.is_empty() {
        table.field("Managed by", manager);
    }
}

pub(crate) fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

pub(crate) fn list(items: &[String]) -> String {
    if items.is_empty() { NONE.to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_lengths() {
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        assert_eq!(time(Some(&at(1_700_000_000, 999))), "2023-11-14T22:13:20Z");
        assert_eq!(time(Some(&at(i64::MAX, 0))), "-");
        assert_eq!(time(None), "-");
        assert_eq!(length(Some(&Duration { seconds: 90, nanos: 0 })), "1m30s");
        assert_eq!(length(Some(&Duration { seconds: -1, nanos: 0 })), "-");
        let style = Style::plain_at(domain::Timestamp(1_700_000_000_000));
        for (seconds, nanos, expected) in [
            (1_699_999_996, 300_000_000, "3s ago"),
            (1_699_999_000, 0, "16m40s ago"),
            (1_699_990_000, 0, "2h46m ago"),
            (1_699_000_000, 0, "11d13h ago"),
            (1_700_000_009, 0, "0s ago"),
        ] {
            assert_eq!(ago(Some(&at(seconds, nanos)), style), expected);
        }
    }

    #[test]
    fn values_read_as_in_yaml() {
        let shown = |json: serde_json::Value| value(Some(&wire::document::to_proto_value(&json).unwrap()));
        for (json, expected) in [
            (serde_json::json!("deny"), "deny"),
            (serde_json::json!("/var/log/x.log"), "/var/log/x.log"),
            (serde_json::json!("true"), "\"true\""),
            (serde_json::json!("22"), "\"22\""),
            (serde_json::json!("1m30s"), "1m30s"),
            (serde_json::json!("a b"), "\"a b\""),
            (serde_json::json!("a\u{1b}b"), "\"a\\u001bb\""),
            (serde_json::json!(22), "22"),
            (serde_json::json!({"b": [1, null], "a": true}), r#"{"a":true,"b":[1,null]}"#),
        ] {
            assert_eq!(shown(json), expected);
        }
        assert_eq!(value(None), "(none)");
        assert_eq!(value(Some(&Value { kind: None })), "(a value that cannot be shown)");
        assert_eq!(shown(serde_json::json!("x".repeat(100))).chars().count(), MAX_VALUE_WIDTH);
    }
}
