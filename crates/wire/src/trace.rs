//! The trace that a request or a message belongs to, as W3C Trace Context writes it.

use std::fmt;
use std::str::FromStr;

/// Name of the header, in requests and in messages.
pub const TRACEPARENT: &str = "traceparent";

/// A place in a trace: `00-<trace id>-<span id>-<flags>` in lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace; never zero.
    pub trace_id: [u8; 16],
    /// The span; never zero.
    pub span_id: [u8; 8],
    /// Whether whoever began the trace wants it to be recorded.
    pub sampled: bool,
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.sampled))
    }
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a traceparent: 00-<32 hexadecimal digits>-<16>-<2>")]
pub struct NoTraceParent;

impl FromStr for TraceParent {
    type Err = NoTraceParent;

    /// Further parts, which versions after 00 may have, are passed over.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::read(text).ok_or(NoTraceParent)
    }
}

impl TraceParent {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let good = part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
            good.then(|| u128::from_str_radix(part, 16).ok())?
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        if version == 0xff || trace == 0 || span == 0 {
            return None;
        }
        let span = u64::try_from(span).ok()?.to_be_bytes();
        Some(Self { trace_id: trace.to_be_bytes(), span_id: span, sampled: flags & 1 == 1 })
    }
}

/// The trace id of a `traceparent`.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<[u8; 16]> {
    TraceParent::read(traceparent).map(|parent| parent.trace_id)
}

/// A trace id as people and tracing systems write it: 32 hexadecimal digits.
#[must_use]
pub fn show(trace_id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(trace_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_read_from_well_formed_headers_only() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let check = |text: &str, good: bool| assert_eq!(text.parse::<TraceParent>().is_ok(), good, "{text}");
        check(&format!("00-{trace}-b7ad6b7169203331-01"), true);
        check(&format!("01-{trace}-b7ad6b7169203331-01-more"), true);
        check(&format!("00-{trace}-b7ad6b7169203331"), false);
        check(&format!("00-{trace}-0000000000000000-01"), false);
        check(&format!("ff-{trace}-b7ad6b7169203331-01"), false);
        check(&format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false);
        check(&format!("00-+{}-b7ad6b7169203331-01", &trace[1..]), false);
        check("00-abc-def-01", false);
        check("", false);
        assert_eq!(trace_id(&format!("00-{trace}-b7ad6b7169203331-00")).map(show).as_deref(), Some(trace));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for sampled in [true, false] {
            let parent = TraceParent { trace_id: [7; 16], span_id: [0, 0, 0, 0, 0, 0, 0, 9], sampled };
            assert_eq!(parent.to_string().parse(), Ok(parent));
        }
    }
}
