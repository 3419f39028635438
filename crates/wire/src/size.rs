//! Sizes as people write and read them: `512KiB`, `2MiB`, `1GiB`. Units are powers of 1,024 and named so.

/// Units from large to small with their bytes.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Longest text of a size, in bytes: twenty digits, a blank and a unit fit.
const MAX_BYTES: usize = 32;

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Empty, negative, with a fraction, with an unknown unit, or with anything else in it.
    #[error("must be a size such as 500000, 512KiB or 2MiB (units: B, KiB, MiB, GiB, TiB)")]
    Malformed,
    /// More bytes than 64 bits hold.
    #[error("is too large a size")]
    TooLarge,
}

/// Reads a size in bytes; a number without a unit is one of bytes.
///
/// # Errors
/// [`SizeError`] says what a size looks like.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    if text.len() > MAX_BYTES {
        return Err(SizeError::Malformed);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    if number.is_empty() {
        return Err(SizeError::Malformed);
    }
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let factor = match UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if number.len() == text.len() => 1,
        None => return Err(SizeError::Malformed),
    };
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(factor).ok_or(SizeError::TooLarge)
}

/// Reads bytes in a second: a size that may end in `/s`.
///
/// # Errors
/// As [`parse`].
pub fn parse_rate(text: &str) -> Result<u64, SizeError> {
    parse(text.strip_suffix("/s").unwrap_or(text))
}

/// Writes a size so that [`parse`] gives it back: by the largest unit of which it is a whole number.
#[must_use]
pub fn format(bytes: u64) -> String {
    let whole = UNITS.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    let (unit, factor) = whole.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// Writes bytes in a second so that [`parse_rate`] gives them back.
#[must_use]
pub fn format_rate(bytes: u64) -> String {
    format!("{}/s", format(bytes))
}

/// Writes a size for people: three digits at least, by the largest unit that leaves something before the point.
#[must_use]
pub fn rounded(bytes: u64) -> String {
    let (unit, factor) = UNITS.into_iter().find(|(_, factor)| bytes >= *factor).unwrap_or(("B", 1));
    let (whole, rest) = (bytes / factor, bytes % factor);
    // Cut, not rounded: 1023.9 KiB must not read as 1024 KiB, and nothing must look complete that is not.
    let tenth = u64::try_from(u128::from(rest) * 10 / u128::from(factor)).unwrap_or_default();
    if factor == 1 || whole >= 100 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("500000", Ok(500_000)),
            ("7B", Ok(7)),
            ("512KiB", Ok(524_288)),
            ("2MiB", Ok(2_097_152)),
            ("2 MiB", Ok(2_097_152)),
            ("1GiB", Ok(1_073_741_824)),
            ("1TiB", Ok(1_099_511_627_776)),
            ("", Err(SizeError::Malformed)),
            ("MiB", Err(SizeError::Malformed)),
            ("1 ", Err(SizeError::Malformed)),
            ("1.5MiB", Err(SizeError::Malformed)),
            ("-1MiB", Err(SizeError::Malformed)),
            ("2MB", Err(SizeError::Malformed)),
            ("2mib", Err(SizeError::Malformed)),
            ("2MiB/s", Err(SizeError::Malformed)),
            ("٣B", Err(SizeError::Malformed)),
            ("99999999999999999999", Err(SizeError::TooLarge)),
            ("99999999TiB", Err(SizeError::TooLarge)),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
        assert_eq!(parse(&"1".repeat(5_000)), Err(SizeError::Malformed));
        assert_eq!(parse_rate("2MiB/s"), Ok(2_097_152));
        assert_eq!(parse_rate("2MiB"), Ok(2_097_152));
        assert_eq!(parse_rate("2MiB/s/s"), Err(SizeError::Malformed));
    }

    #[test]
    fn writes_what_people_read() {
        for (bytes, exact, short) in [
            (0, "0B", "0 B"),
            (1_000, "1000B", "1000 B"),
            (1_536, "1536B", "1.5 KiB"),
            (1 << 21, "2MiB", "2.0 MiB"),
            ((1 << 20) - 1, "1048575B", "1023 KiB"),
            (102_400_000, "100000KiB", "97.6 MiB"),
            (u64::MAX, "18446744073709551615B", "16777215 TiB"),
        ] {
            assert_eq!((format(bytes).as_str(), rounded(bytes).as_str()), (exact, short), "{bytes}");
        }
        assert_eq!(format_rate(1 << 21), "2MiB/s");
    }

    proptest! {
        #[test]
        fn writing_and_reading_give_the_same(bytes in any::<u64>(), shift in 0_u32..64) {
            let bytes = bytes >> shift;
            assert_eq!(parse(&format(bytes)), Ok(bytes));
            assert_eq!(parse_rate(&format_rate(bytes)), Ok(bytes));
        }
    }
}
