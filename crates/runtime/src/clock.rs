//! The wall clock. Domain machines take the time as an argument; this is where shells get it.

use std::time::{SystemTime, UNIX_EPOCH};

use domain::Timestamp;

/// The current time, in milliseconds since the Unix epoch. A clock set before 1970 reads as 0.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn now_is_in_milliseconds() {
        let year_2020 = 1_577_836_800_000;
        let year_2200 = 7_258_118_400_000;
        assert!((year_2020..year_2200).contains(&super::now().0));
    }
}
