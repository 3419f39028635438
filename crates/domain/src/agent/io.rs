//! What goes into the agent machine and what comes out.

use std::sync::Arc;

use crate::agent::floors::Refusal;
use crate::agent::items::{Change, GenerationId, Reason, Status};
use crate::content::{ContentStatus, DownloadWish};
use crate::id::{GroupId, KindName};
use crate::revision::Cursor;
use crate::settings::Mode;
use crate::snapshot::{Assignment, Snapshot};
use crate::time::{Span, Timestamp};
use crate::trust::Adopted;

/// A snapshot whose signature was checked, with the envelope it came in (opaque here; kept on disk so that
/// the state can be rebuilt from signed bytes).
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    /// What was signed.
    pub snapshot: Snapshot,
    /// The envelope's exact bytes.
    pub envelope: Arc<[u8]>,
}

/// The road by which an envelope came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Pushed on a notify subject.
    Notify,
    /// The answer to a fetch.
    Fetch,
    /// Part of a heartbeat's reply.
    Heartbeat,
}

/// What the server makes of the agent. Advice: nothing is undone for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Known and enrolled.
    Ok,
    /// Not in the registry.
    Unknown,
    /// Deleted by an operator.
    Deleted,
    /// Another machine reports under the same identity, and was there before.
    Duplicate,
}

/// Answer to a heartbeat, without the envelopes: the shell passes those in first, as inputs of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Number of the heartbeat it answers.
    pub beat: u64,
    /// The server's clock; a hint.
    pub server_time: Timestamp,
    /// Delay until the next slot; a hint that is held within sane bounds.
    pub next: Span,
    /// Head of the agent's group; [`Cursor::NONE`] if it has none.
    pub head: Cursor,
    /// The server lacks this agent's status.
    pub want_status: bool,
    /// What the server makes of the agent.
    pub standing: Standing,
}

/// Everything that can happen to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The shell is ready. Exactly once, first.
    Started,
    /// The connection is up (again).
    Connected,
    /// The connection is lost or could not be made.
    Disconnected {
        /// Whether the transport goes on trying by itself.
        retrying: bool,
    },
    /// The server is about to stop: move to another at a random moment.
    LameDuck,
    /// A snapshot whose signature holds.
    SnapshotReceived {
        /// The snapshot.
        offer: Arc<Offer>,
        /// How it came.
        source: Source,
    },
    /// An assignment whose signature holds.
    AssignmentReceived(Assignment),
    /// The trust root that is obeyed from now on; it is on disk. Once after the start, and after each further root.
    RootAdopted(Adopted),
    /// An envelope that the shell refused before it could be read.
    EnvelopeRefused {
        /// Why.
        refusal: Refusal,
        /// How it came.
        source: Source,
    },
    /// A heartbeat was answered.
    HeartbeatReplied(Reply),
    /// A heartbeat failed, for example because no service listens.
    HeartbeatFailed {
        /// Its number.
        beat: u64,
    },
    /// Messages may have been missed (slow consumer): fetch.
    Resync,
    /// A fetch ended without an envelope.
    FetchDone {
        /// Its number.
        fetch: u64,
        /// `Ok`: the group has no snapshot. `Err`: no answer.
        result: Result<(), Reason>,
    },
    /// [`Effect::Persist`] ended.
    Persisted {
        /// Its ticket.
        ticket: u64,
        /// Whether the state is on disk.
        result: Result<(), Reason>,
    },
    /// [`Effect::Stage`] ended.
    Staged(Result<(), Reason>),
    /// [`Effect::Activate`] ended. `Err` means that nothing was switched.
    Activated(Result<(), Reason>),
    /// One handler of [`Effect::RunHandlers`] ended. After an error the shell runs no further ones.
    HandlerDone {
        /// Its kind.
        kind: KindName,
        /// How it ended.
        result: Result<(), Reason>,
    },
    /// [`Effect::CheckHealth`] ended: well, or with the first kind that is not healthy.
    HealthChecked(Result<(), (KindName, Reason)>),
    /// [`Effect::RevertTo`] ended.
    Reverted(Result<(), Reason>),
    /// [`Effect::Repair`] ended.
    Repaired(Result<(), Reason>),
    /// Files of these kinds differ from what was applied.
    DriftFound(Vec<KindName>),
    /// The generation in force is gone from disk beyond repair.
    GenerationLost,
    /// Where the agent stands with its content, for the next report: at most
    /// [`MAX_REPORTED_CHANNELS`](crate::content::MAX_REPORTED_CHANNELS), ordered by channel.
    ContentReported(Vec<ContentStatus>),
    /// What the agent wants of the fleet's allowance for full downloads from now on; also said again to ask for
    /// an answer soon.
    DownloadWished(DownloadWish),
    /// The deadline has come.
    Tick,
    /// The agent is to stop. Nothing after it has any effect.
    Stop,
}

/// A heartbeat to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Counts heartbeats from 1; the reply names it.
    pub beat: u64,
    /// Cursor of the snapshot in force.
    pub active: Cursor,
    /// Cursor of the assignment in force.
    pub assignment: Cursor,
    /// Absent while nothing changed since the last acknowledged one.
    pub status: Option<Status>,
    /// What the agent wants of the fleet's allowance for full downloads.
    pub download: DownloadWish,
}

/// Everything an agent can do. The shell carries effects out in order; those that touch the disk or run
/// handlers one after the other, each answered by exactly one input (`RunHandlers`: one for each kind).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Open a connection; listen on the own inbox and the own assignment subject. Answer: `Connected` or
    /// `Disconnected`, within a bounded time.
    Connect,
    /// Flush and close the connection. No answer.
    Disconnect,
    /// Drop the connection and make a new one. Answer: `Disconnected`, then `Connected`.
    Reconnect,
    /// Listen to the snapshots of a group.
    Subscribe(GroupId),
    /// Stop to listen to a group.
    Unsubscribe(GroupId),
    /// Read the current snapshot of a group. Answer: `SnapshotReceived`, `EnvelopeRefused` or `FetchDone`.
    FetchSnapshot {
        /// The group.
        group: GroupId,
        /// Number of the fetch.
        fetch: u64,
    },
    /// Write [`Machine::durable`](crate::agent::Machine::durable) and make it durable. Answer: `Persisted`.
    Persist {
        /// Returned in the answer.
        ticket: u64,
    },
    /// Write a generation beside the one in force, read it back, compare digests. Answer: `Staged`.
    Stage(Arc<Offer>),
    /// Switch to a staged generation. Answer: `Activated`.
    Activate(GenerationId),
    /// Run the handlers of these kinds, in order. Answer: `HandlerDone` for each.
    RunHandlers(Vec<Change>),
    /// Check the health of these kinds. Answer: `HealthChecked`.
    CheckHealth(Vec<KindName>),
    /// Switch back to a generation, or to none. Answer: `Reverted`.
    RevertTo(Option<GenerationId>),
    /// Replace the stored envelope of the generation in force by one of the same content that was signed
    /// later. No answer.
    Refresh(Arc<Offer>),
    /// Restore files of these kinds from the stored envelope. Answer: `Repaired`.
    Repair(Vec<KindName>),
    /// Compare the files in force with what was applied. Answer: `DriftFound` or `GenerationLost`, or none
    /// if all is well.
    CheckDrift,
    /// Remove all generations but these. No answer.
    Prune {
        /// What stays.
        keep: Vec<GenerationId>,
    },
    /// Send a heartbeat. Answer: `HeartbeatReplied` or `HeartbeatFailed`; none if the reply is lost.
    SendHeartbeat(Box<Beat>),
    /// Send a status at once, as a heartbeat that asks for no reply (its number is 0).
    SendStatus(Box<Beat>),
    /// Tell people.
    Note(Note),
}

/// Changes worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// An envelope was not obeyed.
    Refused {
        /// Why.
        refusal: Refusal,
        /// How it came.
        source: Source,
    },
    /// A snapshot is being applied.
    Applying(GenerationId),
    /// It is in force, and healthy.
    Applied(GenerationId),
    /// It holds an item that failed before and has not changed; it is not tried.
    NotTried(GenerationId, Reason),
    /// It failed; the agent returns to its last known good.
    Failed {
        /// What failed.
        generation: GenerationId,
        /// The kind that failed, if one did.
        kind: Option<KindName>,
        /// Why.
        reason: Reason,
    },
    /// The last known good is in force again (`None`: nothing is).
    Reverted(Option<GenerationId>),
    /// The disk or a handler does not let the agent go on now; it tries again.
    Delayed {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        reason: Reason,
    },
    /// Files that had drifted are restored.
    Repaired(Vec<KindName>),
    /// The agent belongs to another group.
    Moved(GroupId),
    /// The agent obeys this version of the trust root.
    RootAdopted(u64),
    /// The root took a director's key away: what that key signed counts no more, and floors start again.
    FloorsReset,
    /// Push or pull from now on.
    ModeChanged(Mode),
    /// The snapshot in force has expired and stays in force.
    Stale,
    /// The snapshot in force is fresh again.
    Fresh,
    /// The new settings are confirmed by an answered heartbeat.
    SettingsConfirmed,
    /// No heartbeat was answered under the new settings; the previous ones are in force again.
    SettingsReverted,
    /// The server's view of the agent changed.
    Standing(Standing),
}
