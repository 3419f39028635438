//! How fast content is fetched: the limit of bytes in a second, and when in its window an agent starts.

use crate::digest::Digest;
use crate::id::AgentId;
use crate::time::{Span, Timestamp};

use super::ChannelName;

/// Bytes that may always go at once: the longest piece, or a limit below it could never let one go.
pub const MIN_BURST_BYTES: u64 = super::index::MAX_STORED_CHUNK_BYTES as u64;

/// Milliseconds in a second: rates are by the second, time is in milliseconds.
const SECOND_MS: u64 = 1000;

/// When in the window an agent starts to download a content: the same for each restart, even over the window for
/// many agents, and another one for each content, so that no agent is always the last.
#[must_use]
pub fn phase(agent: &AgentId, channel: &ChannelName, manifest: &Digest, spread: Span) -> Span {
    let parts = [agent.as_str().as_bytes(), channel.as_str().as_bytes(), &manifest.0];
    let digest = Digest::of_parts(parts);
    let mut number = [0; 8];
    number.copy_from_slice(&digest.0[..8]);
    // The upper half of the product: even over 0..spread to within one in 2^64, without a division.
    let scaled = (u128::from(u64::from_be_bytes(number)) * u128::from(spread.0)) >> 64;
    Span(u64::try_from(scaled).unwrap_or(spread.0))
}

/// A token bucket: lets pieces go at a rate, with a burst of one second and at least one piece. Over any time
/// no more goes than the rate makes of it, and one burst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second; `None`: no limit.
    rate: Option<u64>,
    /// Thousandths of a byte that may go now; negative: debt.
    tokens: i128,
    at: Timestamp,
}

impl TokenBucket {
    /// A full bucket. A rate of 0 counts as 1.
    #[must_use]
    pub fn new(now: Timestamp, rate: Option<u64>) -> Self {
        let mut bucket = Self { rate: rate.map(|rate| rate.max(1)), tokens: 0, at: now };
        bucket.tokens = bucket.burst();
        bucket
    }

    /// Another limit from now on. What was saved up or is owed stays, within the new burst.
    pub fn set_rate(&mut self, now: Timestamp, rate: Option<u64>) {
        self.refill(now);
        self.rate = rate.map(|rate| rate.max(1));
        self.tokens = self.tokens.min(self.burst());
    }

    /// Asks to let a piece of this length go. `Ok`: it may go now and is counted. `Err`: not before this time.
    ///
    /// # Errors
    /// The time at which to ask again.
    pub fn take(&mut self, now: Timestamp, bytes: u64) -> Result<(), Timestamp> {
        self.refill(now);
        let Some(rate) = self.rate else { return Ok(()) };
        // What is longer than a burst goes when the bucket is full, and leaves a debt.
        let needed = i128::from(bytes.min(self.burst_bytes())) * i128::from(SECOND_MS);
        if self.tokens < needed {
            let missing = (needed - self.tokens).unsigned_abs();
            let wait = missing.div_ceil(u128::from(rate));
            return Err(now + Span(u64::try_from(wait).unwrap_or(u64::MAX)));
        }
        self.tokens -= i128::from(bytes) * i128::from(SECOND_MS);
        Ok(())
    }

    /// Gives back what was taken for a piece that did not travel.
    pub fn give_back(&mut self, now: Timestamp, bytes: u64) {
        self.refill(now);
        self.tokens = (self.tokens + i128::from(bytes) * i128::from(SECOND_MS)).min(self.burst());
    }

    fn burst_bytes(&self) -> u64 {
        self.rate.map_or(u64::MAX, |rate| rate.max(MIN_BURST_BYTES))
    }

    fn burst(&self) -> i128 {
        i128::from(self.burst_bytes()) * i128::from(SECOND_MS)
    }

    /// A clock that went back counts as one that stood still.
    fn refill(&mut self, now: Timestamp) {
        let passed = now.since(self.at);
        self.at = now;
        if let Some(rate) = self.rate {
            self.tokens = (self.tokens + i128::from(passed.0) * i128::from(rate)).min(self.burst());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agent(number: usize) -> AgentId {
        AgentId::new(format!("agent-{number}")).unwrap()
    }

    #[test]
    fn phases_are_even_steady_and_differ_by_content() {
        let channel = ChannelName::new("definitions/ips").unwrap();
        let of = |number, text: &[u8]| phase(&agent(number), &channel, &Digest::of(text), Span(1_000));
        let mut tenths = [0; 10];
        for number in 0..1_000 {
            let span = of(number, b"1");
            assert_eq!(span, of(number, b"1"));
            tenths[usize::try_from(span.0 / 100).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (70..130).contains(count)), "{tenths:?}");
        let same = (0..1_000).filter(|number| of(*number, b"1") == of(*number, b"2")).count();
        assert!(same < 10, "{same} of 1000 agents start at the same moment again");
        assert_eq!(phase(&agent(0), &channel, &Digest::of(b"1"), Span(0)), Span(0));
        assert!(phase(&agent(0), &channel, &Digest::of(b"1"), Span(u64::MAX)) < Span(u64::MAX));
    }

    #[test]
    fn pieces_wait_for_the_rate() {
        let mib = 1 << 20;
        let mut bucket = TokenBucket::new(Timestamp(0), Some(2 * mib));
        let mut now = Timestamp(0);
        for _ in 0..4 {
            assert_eq!(bucket.take(now, mib / 2), Ok(()), "the burst is one second");
        }
        assert_eq!(bucket.take(now, mib / 2), Err(Timestamp(250)));
        now = Timestamp(250);
        assert_eq!(bucket.take(now, mib / 2), Ok(()));
        bucket.give_back(now, mib / 2);
        assert_eq!(bucket.take(now, mib / 2), Ok(()));
        bucket.set_rate(now, None);
        assert_eq!(bucket.take(now, u64::MAX), Ok(()));
        bucket.set_rate(now, Some(1_024));
        let due = bucket.take(now, 1_024).unwrap_err();
        assert_eq!(bucket.take(due, 1_024), Ok(()));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_one_burst(
            rate in 1u64..10_000_000,
            steps in prop::collection::vec((0u64..5_000, 1u64..MIN_BURST_BYTES), 1..60),
        ) {
            let (mut now, mut sent) = (Timestamp(1_000), 0);
            let mut bucket = TokenBucket::new(now, Some(rate));
            for (wait, bytes) in steps {
                now = now + Span(wait);
                while let Err(due) = bucket.take(now, bytes) {
                    prop_assert!(due > now, "asked to come back at once");
                    now = due;
                }
                sent += bytes;
                let most = now.since(Timestamp(1_000)).0 * rate / 1_000 + rate.max(MIN_BURST_BYTES);
                prop_assert!(sent <= most, "{sent} of {most} bytes went");
            }
        }
    }
}
