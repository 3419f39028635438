//! Message headers that cannot be malformed, and that are found whatever case a sender used.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use wire::trace::{TRACEPARENT, TraceParent};

/// Why a text cannot be a header's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value of header {name} has a line break")]
pub struct HeaderError {
    /// The header.
    pub name: &'static str,
}

/// Headers of a message. Names come from the code; values are numbers or checked text.
#[derive(Debug, Clone, Default)]
pub struct Headers(HeaderMap);

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a number under `name`, which replaces an earlier value.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.0.insert(HeaderName::from_static(name), HeaderValue::from(value));
        self
    }

    /// With a text under `name`, which replaces an earlier value.
    ///
    /// # Errors
    /// [`HeaderError`] if the text has a line break. Nothing else is refused.
    pub fn text(mut self, name: &'static str, value: &str) -> Result<Self, HeaderError> {
        let value: HeaderValue = value.parse().map_err(|_| HeaderError { name })?;
        self.0.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// The value of a header; its name in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(key, _)| {
            let key: &str = key.as_ref();
            key.eq_ignore_ascii_case(name)
        });
        found.next().and_then(|(_, values)| values.first()).map(HeaderValue::as_str)
    }

    /// The value of a header as a number.
    #[must_use]
    pub fn get_number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Where in a trace it was sent, if it says so and says it rightly.
    #[must_use]
    pub fn place(&self) -> Option<TraceParent> {
        self.get(TRACEPARENT)?.parse().ok()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_inner(self) -> HeaderMap {
        self.0
    }
}

impl From<HeaderMap> for Headers {
    fn from(headers: HeaderMap) -> Self {
        Self(headers)
    }
}

/// Encodes free text (a change message, a name) for a header: control characters and `%` become `%XX`.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '%' || c.is_ascii_control() {
            escaped.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Undoes [`escape`]. A `%` that no two hexadecimal digits follow stays as it is.
#[must_use]
pub fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                plain.push(char::from(code));
                rest = &rest[at + 3..];
            }
            None => {
                plain.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        let headers = Headers::new().number("Muster-Epoch", 3).text("traceparent", "00-ab").unwrap();
        assert_eq!(headers.get_number("muster-epoch"), Some(3));
        assert_eq!(headers.get("TraceParent"), Some("00-ab"));
        assert_eq!(headers.get("Muster"), None);
    }

    #[test]
    fn line_breaks_are_refused_and_escaped_text_never_has_any() {
        assert_eq!(Headers::new().text("A", "x\r\nB: y").unwrap_err(), HeaderError { name: "A" });
        for text in ["", "100 %", "a\r\nb\0", "ümlaut %4 %zz %", "%25"] {
            let escaped = escape(text);
            Headers::new().text("A", &escaped).expect("escaped text is a value");
            assert_eq!(unescape(&escaped), text);
        }
    }
}
