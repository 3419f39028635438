//! When to beat, fetch and connect: small state, no decisions about content.

use crate::agent::backoff::{self, full_jitter, spread};
use crate::agent::items::Status;
use crate::content::DownloadWish;
use crate::revision::Cursor;
use crate::settings::{MAX_HEARTBEAT_INTERVAL, Settings};
use crate::time::{Span, Timestamp};

/// Soonest next heartbeat that a server may ask for: a faulty or hostile one cannot make agents spin.
pub(super) const MIN_NEXT_BEAT: Span = Span::from_secs(1);
/// A server may stretch the interval up to this factor under load; beyond, agents would seem dead.
pub(super) const MAX_STRETCH: u64 = 4;
/// Pull agents with a longer interval than this disconnect between heartbeats: a connection costs the
/// broker about 40 KB, making one costs some milliseconds of its time.
pub const KEEP_CONNECTED_UP_TO: Span = Span::from_secs(60);
/// Shortest cap of the back-off of heartbeats.
pub(super) const MIN_BEAT_CAP: Span = Span::from_secs(10);
/// Heartbeats without any answer, in a row, after which the connection is made anew: it may be half open.
pub(super) const SILENT_BEATS: u32 = 2;
/// A heartbeat that names a newer head usually arrives while that head is on its way. Waiting this long
/// saves a fetch for almost every agent; as much again is added at random.
pub(super) const GAP_GRACE: Span = Span(500);
/// Stale answers to fetches in a row before the agent waits for the next heartbeat to name the head again.
pub(super) const MAX_STALE_FETCHES: u32 = 5;
/// Smallest time between two fetches, so that no flood of hints becomes a flood of fetches.
pub(super) const MIN_FETCH_GAP: Span = Span::from_secs(1);
/// Longest random wait before moving away from a server that announced its end.
pub(super) const LAME_DUCK_SPREAD: Span = Span::from_secs(30);

/// Waits that a deployment or a test may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Longest random wait before the first connection, against a fleet that starts at one moment.
    pub first_spread: Span,
    /// How long an answer to a heartbeat or a fetch may take. Twice a slow link's round trip and more.
    pub answer_within: Span,
    /// How long new settings may take to prove themselves by an answered heartbeat.
    pub confirm_within: Span,
    /// Time between comparisons of the files in force with what was applied.
    pub drift_every: Span,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_spread: Span::from_secs(2),
            answer_within: Span::from_secs(10),
            confirm_within: Span::from_secs(300),
            drift_every: Span::from_secs(60),
        }
    }
}

/// The connection as the machine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// None; not tried before this time.
    Down { retry_at: Timestamp },
    /// Being made.
    Connecting,
    /// Lost; the transport tries by itself.
    Reconnecting,
    /// Usable.
    Up,
}

/// A heartbeat that waits for its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) beat: u64,
    pub(super) until: Timestamp,
    pub(super) status: Option<Status>,
    pub(super) download: DownloadWish,
}

/// The heartbeat schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beats {
    pub(super) next_at: Timestamp,
    /// Something is to be asked before the next slot.
    soon_at: Option<Timestamp>,
    pub(super) in_flight: Option<InFlight>,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Silences (not refusals) in a row.
    pub(super) silent: u32,
    last: u64,
}

impl Beats {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { next_at: now, soon_at: None, in_flight: None, failures: 0, silent: 0, last: 0 }
    }

    pub(super) fn send(&mut self, until: Timestamp, status: Option<Status>, download: DownloadWish) -> u64 {
        self.last += 1;
        self.in_flight = Some(InFlight { beat: self.last, until, status, download });
        self.next_at = until;
        self.soon_at = None;
        self.last
    }

    /// When the next heartbeat is due: at its slot, or sooner if there is something to ask.
    pub(super) fn due_at(&self) -> Timestamp {
        self.soon_at.map_or(self.next_at, |at| at.min(self.next_at))
    }

    /// Asks for a heartbeat by then, also if one is on its way now.
    pub(super) fn want(&mut self, at: Timestamp) {
        self.soon_at = Some(self.soon_at.map_or(at, |known| known.min(at)));
    }

    /// The heartbeat that a reply answers; late and repeated replies answer none.
    pub(super) fn answered(&mut self, beat: u64) -> Option<InFlight> {
        self.in_flight.take_if(|sent| sent.beat == beat)
    }

    /// Sets the next slot as the server asks, within bounds. Zero means "no opinion".
    pub(super) fn replied(&mut self, now: Timestamp, next: Span, settings: &Settings) {
        self.failures = 0;
        self.silent = 0;
        let interval = settings.heartbeat_interval;
        let most = interval.scaled(MAX_STRETCH, 1).min(MAX_HEARTBEAT_INTERVAL);
        let asked = if next.0 == 0 { interval } else { next };
        self.next_at = now + asked.clamp(MIN_NEXT_BEAT, most.max(MIN_NEXT_BEAT));
    }

    /// Backs off. The cap is two intervals, within bounds: failing heartbeats never come more often than
    /// good ones on average, and a group with short intervals is soon seen again.
    pub(super) fn failed(&mut self, now: Timestamp, settings: &Settings, random: u64) {
        let cap = settings.heartbeat_interval.scaled(2, 1).clamp(MIN_BEAT_CAP, backoff::CAP);
        self.in_flight = None;
        self.next_at = now + MIN_NEXT_BEAT + full_jitter(self.failures, backoff::BASE, cap, random);
        self.failures = self.failures.saturating_add(1);
    }

    /// The clock went back by `span`.
    pub(super) fn shift(&mut self, span: Span) {
        self.next_at = self.next_at - span;
        self.soon_at = self.soon_at.map(|at| at - span);
        if let Some(sent) = &mut self.in_flight {
            sent.until = sent.until - span;
        }
    }

    /// The connection went: a heartbeat that was on its way is due again.
    pub(super) fn lost(&mut self, now: Timestamp) {
        if self.in_flight.take().is_some() {
            self.next_at = now;
        }
    }
}

/// Reads of the current snapshot: wanted for many reasons, one at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Wanted for its own sake: messages may have been missed.
    wanted_at: Option<Timestamp>,
    /// Wanted unless `head` arrives by itself before.
    gap_at: Option<Timestamp>,
    pub(super) in_flight: Option<(u64, Timestamp)>,
    /// The head that a heartbeat named, until it is reached.
    head: Cursor,
    failures: u32,
    stale: u32,
    last: u64,
    last_at: Timestamp,
}

impl Fetch {
    pub(super) fn want(&mut self, at: Timestamp) {
        let at = at.max(self.last_at + MIN_FETCH_GAP);
        self.wanted_at = Some(self.wanted_at.map_or(at, |known| known.min(at)));
    }

    /// When the next fetch is due; none while one is under way.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        if self.in_flight.is_some() {
            return None;
        }
        self.wanted_at.into_iter().chain(self.gap_at).min()
    }

    pub(super) fn send(&mut self, now: Timestamp, until: Timestamp) -> u64 {
        self.last += 1;
        self.last_at = now;
        self.wanted_at = None;
        self.gap_at = None;
        self.in_flight = Some((self.last, until));
        self.last
    }

    pub(super) fn failed(&mut self, now: Timestamp, random: u64) {
        self.in_flight = None;
        self.want(now + full_jitter(self.failures, backoff::BASE, backoff::CAP, random));
        self.failures = self.failures.saturating_add(1);
    }

    /// An answer came. If the head that a heartbeat named is still newer, the answer was stale: ask again,
    /// a bounded number of times.
    pub(super) fn answered(&mut self, now: Timestamp, reached: Cursor, random: u64) {
        self.in_flight = None;
        self.failures = 0;
        if reached >= self.head {
            self.stale = 0;
        } else if self.stale < MAX_STALE_FETCHES {
            self.want(now + full_jitter(self.stale, backoff::BASE, backoff::CAP, random));
            self.stale += 1;
        } else {
            self.stale = 0;
            self.head = Cursor::NONE;
        }
    }

    /// A heartbeat named a head that was not seen yet.
    pub(super) fn behind(&mut self, now: Timestamp, head: Cursor, random: u64) {
        if head > self.head {
            self.head = head;
            self.stale = 0;
        }
        if self.in_flight.is_none() && self.due_at().is_none() {
            let at = now + GAP_GRACE + spread(GAP_GRACE, random);
            self.gap_at = Some(at.max(self.last_at + MIN_FETCH_GAP));
        }
    }

    /// Arrived by another road before the fetch was sent: no need to ask.
    pub(super) fn reached(&mut self, reached: Cursor) {
        if self.head != Cursor::NONE && reached >= self.head {
            self.head = Cursor::NONE;
            self.gap_at = None;
        }
    }

    /// The clock went back by `span`.
    pub(super) fn shift(&mut self, span: Span) {
        self.wanted_at = self.wanted_at.map(|at| at - span);
        self.gap_at = self.gap_at.map(|at| at - span);
        self.in_flight = self.in_flight.map(|(fetch, until)| (fetch, until - span));
        self.last_at = self.last_at - span;
    }

    /// Forgets what was asked: the group changed or the connection went.
    pub(super) fn reset(&mut self) {
        *self = Self { last: self.last, last_at: self.last_at, ..Self::default() };
    }
}
