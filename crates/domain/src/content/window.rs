//! How many pieces of content are on their way at once, and how long each may take.
//!
//! A broker answers piece by piece. With one on its way a far agent spends its time waiting; with too many a slow
//! line is full of content when a policy wants through. The window starts small, grows with each piece while more
//! pieces bring more bytes a second, and halves when one is late.

use crate::time::{Span, Timestamp};

/// Most pieces on their way. With pieces of 64 KiB and a round trip of 100 ms that is 10 MB/s.
pub const MAX_PIECES: u32 = 16;
/// Most bytes on their way: what an agent holds in memory for them, and what a policy may have to wait behind in
/// a line that content fills.
pub const MAX_BYTES: u64 = 4 << 20;
/// Shortest time that a piece is given: a line with two seconds of latency that loses some packets.
pub const MIN_DEADLINE: Span = Span::from_secs(10);
/// Slowest rate at which content is taken, in bytes a second: half of a line of 64 kbit/s. Who sends slower is
/// given up, so that no server keeps an agent busy for ever.
pub const MIN_RATE: u64 = 4 * 1024;
/// Pieces on their way at first: one to wait for, one to follow it.
const FIRST_PIECES: u32 = 2;
/// A round of pieces has to be faster than the best by one part in this many to let the window grow on. Growing
/// doubles it in a round, so a line that is not full yet makes it much faster.
const WORTHWHILE: u64 = 4;
/// Rounds after which a window that stopped growing is let grow for one more: lines change.
const ROUNDS_UNTIL_PROBE: u32 = 16;

/// The pieces on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    limit: u32,
    pieces: u32,
    bytes: u64,
    phase: Phase,
    /// The widest that was worth it: what it goes back to where growing on was not.
    settled: u32,
    round: Round,
    /// Bytes a second of the best round since the window last shrank.
    best_rate: u64,
    rounds_held: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// As wide as it is.
    Holding,
    /// It grows for the first round. What comes in this one was asked for before.
    Probing,
    /// It grows as long as each round is faster.
    Growing,
}

/// As many pieces as the window was wide when the first of them was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    since: Timestamp,
    pieces: u32,
    left: u32,
    bytes: u64,
}

impl Round {
    fn new(since: Timestamp, pieces: u32) -> Self {
        Self { since, pieces, left: pieces, bytes: 0 }
    }
}

impl Window {
    /// Nothing on its way.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            limit: FIRST_PIECES,
            pieces: 0,
            bytes: 0,
            phase: Phase::Growing,
            settled: FIRST_PIECES,
            round: Round::new(now, FIRST_PIECES),
            best_rate: 0,
            rounds_held: 0,
        }
    }

    /// Whether a piece of this length may be asked for now. One always may when nothing is on its way.
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        let fits = self.pieces < self.limit && self.bytes.saturating_add(bytes) <= MAX_BYTES;
        self.pieces == 0 || fits
    }

    /// Pieces on their way.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// A piece was asked for. Returns when it must have come: all that is on its way before it comes first.
    pub fn sent(&mut self, now: Timestamp, bytes: u64) -> Timestamp {
        if self.pieces == 0 {
            // Time in which nothing was asked for says nothing about the line.
            self.round = Round::new(now, self.limit);
        }
        self.pieces = self.pieces.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        now + deadline(self.bytes)
    }

    /// A piece came.
    pub fn arrived(&mut self, now: Timestamp, bytes: u64) {
        self.gone(bytes);
        if self.phase != Phase::Holding {
            self.limit = (self.limit + 1).min(MAX_PIECES);
        }
        self.round.bytes = self.round.bytes.saturating_add(bytes);
        self.round.left = self.round.left.saturating_sub(1);
        if self.round.left == 0 {
            self.end_round(now);
        }
    }

    /// A piece did not come in time.
    pub fn late(&mut self, now: Timestamp, bytes: u64) {
        self.gone(bytes);
        self.limit = (self.limit / 2).max(1);
        self.phase = Phase::Holding;
        self.settled = self.limit;
        self.best_rate = 0;
        self.rounds_held = 0;
        self.round = Round::new(now, self.limit);
    }

    /// A piece is not waited for any more, for a reason that says nothing about the line.
    pub fn dropped(&mut self, bytes: u64) {
        self.gone(bytes);
    }

    fn gone(&mut self, bytes: u64) {
        self.pieces = self.pieces.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn end_round(&mut self, now: Timestamp) {
        let rate = self.round.bytes.saturating_mul(1000) / now.since(self.round.since).0.max(1);
        let is_faster = rate > self.best_rate.saturating_add(self.best_rate / WORTHWHILE);
        match self.phase {
            Phase::Holding => {
                self.rounds_held += 1;
                if is_faster || self.rounds_held >= ROUNDS_UNTIL_PROBE {
                    self.phase = Phase::Probing;
                    self.rounds_held = 0;
                }
            }
            Phase::Probing => self.phase = Phase::Growing,
            Phase::Growing if is_faster => self.settled = self.round.pieces,
            Phase::Growing => {
                self.phase = Phase::Holding;
                self.limit = self.settled;
            }
        }
        self.best_rate = self.best_rate.max(rate);
        self.round = Round::new(now, self.limit);
    }
}

/// How long so many bytes may take.
#[must_use]
pub fn deadline(bytes: u64) -> Span {
    Span((bytes.saturating_mul(1000) / MIN_RATE).max(MIN_DEADLINE.0))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const PIECE: u64 = 64 * 1024;

    /// Fetches pieces over a line with this round trip and rate; says how wide the window got and the bytes a
    /// second.
    fn fetch(window: &mut Window, round_trip: Span, rate: u64, pieces: u32) -> (u32, u64) {
        let mut now = Timestamp(1_000);
        let (mut left, mut widest, mut line_free) = (pieces, 0, now);
        let mut coming = VecDeque::new();
        while left > 0 || !coming.is_empty() {
            while left > 0 && window.has_room(PIECE) {
                let due = window.sent(now, PIECE);
                line_free = line_free.max(now + round_trip) + Span(PIECE * 1000 / rate);
                assert!(line_free <= due, "a line that is fast enough is never too late");
                coming.push_back(line_free);
                left -= 1;
            }
            widest = widest.max(window.pieces());
            now = coming.pop_front().unwrap();
            window.arrived(now, PIECE);
        }
        (widest, u64::from(pieces) * PIECE * 1000 / now.since(Timestamp(1_000)).0)
    }

    #[test]
    fn a_far_line_is_filled_and_a_near_one_is_not_flooded() {
        let fresh = || Window::new(Timestamp(1_000));
        let (widest, rate) = fetch(&mut fresh(), Span(200), 100 << 20, 500);
        assert_eq!(widest, MAX_PIECES);
        assert!(rate > 4 << 20, "{rate}");
        let (widest, rate) = fetch(&mut fresh(), Span(2_000), 8 * 1024, 100);
        assert!(widest <= 8, "{widest} pieces wait in a line of 64 kbit/s");
        assert!(rate > 6 * 1024, "{rate}");
        let (widest, _) = fetch(&mut fresh(), Span(1), 1 << 20, 500);
        assert!(widest <= 8, "{widest} pieces wait in a line that one fills");
    }

    #[test]
    fn late_pieces_make_it_narrow_and_time_makes_it_wide_again() {
        let mut window = Window::new(Timestamp(1_000));
        fetch(&mut window, Span(200), 100 << 20, 200);
        assert_eq!(window.limit, MAX_PIECES);
        for expected in [8, 4, 2, 1, 1] {
            window.sent(Timestamp(1_000), PIECE);
            window.late(Timestamp(1_000), PIECE);
            assert_eq!(window.limit, expected);
        }
        assert!(window.has_room(u64::MAX), "one piece may always be asked for");
        let (widest, _) = fetch(&mut window, Span(200), 100 << 20, 200);
        assert_eq!(widest, MAX_PIECES);
    }

    #[test]
    fn a_deadline_is_long_enough_for_a_slow_line() {
        for (bytes, expected) in
            [(0, 10_000), (40 * 1024, 10_000), (512 * 1024, 128_000), (4 << 20, 1_024_000)]
        {
            assert_eq!(deadline(bytes), Span(expected), "{bytes} bytes");
        }
        assert!(deadline(u64::MAX) >= deadline(1));
    }

    proptest! {
        #[test]
        fn never_more_than_the_bounds(steps in prop::collection::vec((0u8..4, 1u64..600_000, 0u64..3_000), 1..300)) {
            let mut now = Timestamp(0);
            let mut window = Window::new(now);
            let mut coming = VecDeque::new();
            for (step, bytes, wait) in steps {
                now = now + Span(wait);
                match step {
                    0 | 1 => while window.has_room(bytes) {
                        window.sent(now, bytes);
                        coming.push_back(bytes);
                    },
                    2 => if let Some(bytes) = coming.pop_front() { window.arrived(now, bytes) },
                    _ => if let Some(bytes) = coming.pop_front() { window.late(now, bytes) },
                }
                prop_assert!(window.pieces() <= MAX_PIECES);
                prop_assert!(window.pieces() <= 1 || window.bytes <= MAX_BYTES);
                prop_assert_eq!(usize::try_from(window.pieces()).unwrap(), coming.len());
                prop_assert_eq!(window.bytes, coming.iter().sum::<u64>());
            }
        }
    }
}
