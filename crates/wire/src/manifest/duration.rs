//! Durations as people write them: `90s`, `5m`, `1h30m`.
//!
//! A unit is part of every number, so that nobody has to know whether a bare 60 means seconds.

use std::fmt::Write as _;

use domain::Span;

/// Units from long to short with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Longest text of a duration, in bytes: every unit once with a number of its own fits many times over.
const MAX_BYTES: usize = 64;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Empty, without a unit, with an unknown unit, or with anything else in it.
    #[error("must be a duration such as 90s, 5m or 1h30m (units: d, h, m, s, ms)")]
    Malformed,
    /// Units stand in the wrong order or twice.
    #[error("must name each unit once, from the longest to the shortest, as in 1h30m")]
    Order,
    /// More milliseconds than 64 bits hold.
    #[error("is too long a duration")]
    TooLong,
}

/// Reads a duration.
///
/// # Errors
/// [`DurationError`] says what a duration looks like.
pub fn parse(text: &str) -> Result<Span, DurationError> {
    if text.is_empty() || text.len() > MAX_BYTES {
        return Err(DurationError::Malformed);
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |c| !c.is_ascii_digit());
        let (unit, after) = split_where(after, |c| c.is_ascii_digit());
        if number.is_empty() || !UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(DurationError::Malformed);
        }
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or(DurationError::Order)?;
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        let millis = number.checked_mul(*factor).ok_or(DurationError::TooLong)?;
        total = total.checked_add(millis).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    Ok(Span(total))
}

fn split_where(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

/// Writes a duration so that [`parse`] gives it back: the shortest form, zero as `0s`.
#[must_use]
pub fn format(span: Span) -> String {
    if span.0 == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let mut rest = span.0;
    for (name, factor) in UNITS {
        if rest >= factor {
            write!(text, "{}{name}", rest / factor).expect("writing to a string does not fail");
            rest %= factor;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, expected) in [
            ("90s", Ok(90_000)),
            ("5m", Ok(300_000)),
            ("1h30m", Ok(5_400_000)),
            ("24h", Ok(86_400_000)),
            ("1d12h", Ok(129_600_000)),
            ("250ms", Ok(250)),
            ("1s500ms", Ok(1_500)),
            ("0s", Ok(0)),
            ("", Err(DurationError::Malformed)),
            ("60", Err(DurationError::Malformed)),
            ("5 m", Err(DurationError::Malformed)),
            ("-5m", Err(DurationError::Malformed)),
            ("1.5h", Err(DurationError::Malformed)),
            ("5M", Err(DurationError::Malformed)),
            ("5min", Err(DurationError::Malformed)),
            ("٣s", Err(DurationError::Malformed)),
            ("30m1h", Err(DurationError::Order)),
            ("1m1m", Err(DurationError::Order)),
            ("99999999999999999999s", Err(DurationError::TooLong)),
            ("999999999999999d", Err(DurationError::TooLong)),
        ] {
            assert_eq!(parse(text), expected.map(Span), "{text:?}");
        }
        assert_eq!(parse(&"1s".repeat(5_000)), Err(DurationError::Malformed));
    }

    proptest! {
        #[test]
        fn writing_and_reading_give_the_same(millis in any::<u64>()) {
            assert_eq!(parse(&format(Span(millis))), Ok(Span(millis)));
        }
    }
}
