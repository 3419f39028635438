//! The one thing that an agent is doing to its files, and how far it got.

use std::sync::Arc;

use crate::agent::io::Offer;
use crate::agent::items::{Change, Failed, Generation};

/// What the agent is doing to its files: at most one thing at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    Idle,
    Busy(Box<Job>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) offer: Option<Arc<Offer>>,
    pub(super) generation: Generation,
    pub(super) changes: Vec<Change>,
    pub(super) purpose: Purpose,
    pub(super) step: Step,
    /// The disk refused the step; it is tried again later.
    pub(super) paused: bool,
    pub(super) ticket: u64,
    /// Handlers that have not answered.
    pub(super) handlers_left: usize,
    pub(super) failed: Option<Failed>,
    /// The key that signed it was taken away before it was switched on: it is not.
    pub(super) distrusted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new snapshot.
    Apply,
    /// One that was switched on when the agent stopped, and had not proved healthy.
    Resume,
    /// Back to the last known good.
    Return,
    /// Drifted files of the generation in force.
    Repair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Step {
    Stage,
    Persist,
    Activate,
    Handlers,
    Health,
    Revert,
    Repair,
}

impl Work {
    /// The generation that is on its way to be in force.
    pub(super) fn generation(&self) -> Option<&Generation> {
        match self {
            Self::Busy(job) if matches!(job.purpose, Purpose::Apply | Purpose::Resume) && !job.distrusted => {
                Some(&job.generation)
            }
            Self::Busy(_) | Self::Idle => None,
        }
    }

    /// Takes the trust from a snapshot that is on its way and not switched on yet; whether there is one.
    pub(super) fn distrust(&mut self) -> bool {
        let Self::Busy(job) = self else { return false };
        job.distrusted |= job.purpose == Purpose::Apply && job.step < Step::Activate;
        job.distrusted
    }

    pub(super) fn is_paused(&self) -> bool {
        matches!(self, Self::Busy(job) if job.paused)
    }

    pub(super) fn at(&mut self, step: Step) -> Option<&mut Job> {
        match self {
            Self::Busy(job) if job.step == step && !job.paused => Some(job),
            Self::Busy(_) | Self::Idle => None,
        }
    }
}

impl Job {
    pub(super) fn new(generation: Generation, purpose: Purpose, changes: Vec<Change>) -> Self {
        Self {
            offer: None,
            generation,
            changes,
            purpose,
            step: Step::Stage,
            paused: false,
            ticket: 0,
            handlers_left: 0,
            failed: None,
            distrusted: false,
        }
    }
}
