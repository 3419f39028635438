//! Times and spans between their domain form and the well-known types of protobuf.

use domain::{Span, Timestamp};

const MILLIS: u64 = 1000;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// A point in time as the API shows it; beyond the year 9999 the last moment that has a text form.
#[must_use]
pub fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    /// 9999-12-31T23:59:59Z, the last second of RFC 3339.
    const LAST: i64 = 253_402_300_799;
    let (seconds, nanos) = split(time.0);
    if seconds > LAST {
        return prost_types::Timestamp { seconds: LAST, nanos: 0 };
    }
    prost_types::Timestamp { seconds, nanos }
}

/// A span as the API shows it; beyond 10,000 years the longest that protobuf allows.
#[must_use]
pub fn to_duration(span: Span) -> prost_types::Duration {
    /// The most seconds of a `google.protobuf.Duration`.
    const MOST: i64 = 315_576_000_000;
    let (seconds, nanos) = split(span.0);
    if seconds > MOST {
        return prost_types::Duration { seconds: MOST, nanos: 0 };
    }
    prost_types::Duration { seconds, nanos }
}

fn split(millis: u64) -> (i64, i32) {
    let nanos = i32::try_from(millis % MILLIS * NANOS_PER_MILLI).expect("invariant: below one second");
    (i64::try_from(millis / MILLIS).expect("invariant: a thousandth of u64 fits"), nanos)
}

/// Reads a span from the API. Parts of a millisecond are dropped. `None` if it is negative or malformed.
#[must_use]
pub fn read_duration(duration: &prost_types::Duration) -> Option<Span> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u64::try_from(duration.nanos).ok().filter(|nanos| *nanos < MILLIS * NANOS_PER_MILLI)?;
    seconds.checked_mul(MILLIS)?.checked_add(nanos / NANOS_PER_MILLI).map(Span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_round_trip_in_milliseconds() {
        for millis in [0, 1, 999, 1000, 86_400_001, 315_576_000_000_000] {
            assert_eq!(read_duration(&to_duration(Span(millis))), Some(Span(millis)));
        }
        assert_eq!(to_duration(Span(u64::MAX)).seconds, 315_576_000_000);
        let duration = |seconds, nanos| prost_types::Duration { seconds, nanos };
        assert_eq!(read_duration(&duration(1, 1_999_999)), Some(Span(1001)));
        for bad in [duration(-1, 0), duration(0, -1), duration(0, 1_000_000_000), duration(i64::MAX, 0)] {
            assert_eq!(read_duration(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn times_have_a_text_form() {
        assert_eq!(to_timestamp(Timestamp(1_500)).to_string(), "1970-01-01T00:00:01.500Z");
        assert_eq!(to_timestamp(Timestamp(u64::MAX)).to_string(), "9999-12-31T23:59:59Z");
    }
}
