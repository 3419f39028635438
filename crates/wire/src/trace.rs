//! The trace that a request belongs to.

/// The trace id of a W3C `traceparent`: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<[u8; 16]> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex(version, 2) || version == "ff" || !hex(trace, 32) || !hex(parent, 16) {
        return None;
    }
    u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0).map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_are_read_from_well_formed_headers_only() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let check = |text: &str, good: bool| assert_eq!(trace_id(text).is_some(), good, "{text}");
        check(&format!("00-{trace}-b7ad6b7169203331-01"), true);
        check(&format!("00-{trace}-b7ad6b7169203331"), true);
        check(&format!("ff-{trace}-b7ad6b7169203331-01"), false);
        check(&format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false);
        check(&format!("00-+{}-b7ad6b7169203331-01", &trace[1..]), false);
        check("00-abc-def-01", false);
        check("", false);
    }
}
