//! Colours, and text that is safe to show.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use domain::Timestamp;

/// How to write: with colours or without, and what time it is for "4s ago".
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colour: bool,
    pub(crate) now: Timestamp,
}

/// What a piece of text is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Somebody may have to look.
    Watch,
    /// Not as it should be.
    Bad,
    /// Of little interest.
    Quiet,
    /// A heading.
    Heading,
}

impl Style {
    pub(crate) fn now(colour: bool) -> Self {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self { colour, now: Timestamp(u64::try_from(millis).unwrap_or(u64::MAX)) }
    }

    #[cfg(test)]
    pub(crate) fn plain_at(now: Timestamp) -> Self {
        Self { colour: false, now }
    }

    pub(crate) fn paint(self, text: &str, tone: Tone) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let style = console::Style::new().force_styling(true);
        let style = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => style.green(),
            Tone::Watch => style.yellow(),
            Tone::Bad => style.red(),
            Tone::Quiet => style.dim(),
            Tone::Heading => style.bold(),
        };
        style.apply_to(text).to_string()
    }
}

/// Text from elsewhere without what would move the cursor or change the terminal: agents report
/// their own host names and reasons.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmful(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// At most `width` characters of a text, the last one an ellipsis if more are left.
pub(crate) fn shorten(text: &str, width: usize) -> Cow<'_, str> {
    console::truncate_str(text, width, "…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(safe("web-1 ü"), "web-1 ü");
        assert_eq!(safe("a\u{1b}[2Jb\r\nc\u{202e}d"), "a\\u{1b}[2Jb\\r\\nc\\u{202e}d");
    }

    #[test]
    fn colours_only_where_wanted() {
        assert_eq!(Style::now(false).paint("x", Tone::Bad), "x");
        assert_eq!(Style::now(true).paint("x", Tone::Bad), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(Style::now(true).paint("x", Tone::Plain), "x");
    }
}
