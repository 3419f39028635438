//! Time for deadlines.

use std::time::Instant;

use domain::{Span, Timestamp};

/// The wall clock as it was at the start, and the time that passed since. A wall clock that is set makes
/// nobody late or offline, and a machine that was suspended did not listen meanwhile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { wall: runtime::clock::now(), started: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.wall + Span::from(self.started.elapsed())
    }
}
