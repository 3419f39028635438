//! What goes into the content machine and what comes out.

use std::sync::Arc;

use crate::agent::Reason;
use crate::content::plan::Plan;
use crate::content::{ChannelName, ContentItem, ContentStatus, DownloadWish, SourceBytes};
use crate::digest::Digest;
use crate::time::Span;

/// How fast content is taken: from the settings of the snapshot in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Window over which the group's agents start to download; zero: at once.
    pub spread: Span,
    /// Most bytes fetched in a second; `None`: no limit.
    pub rate_limit: Option<u64>,
}

/// Why a step did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub reason: Reason,
    /// Whether another attempt may work: the network, the disk, a piece that is not there. If not (for example a
    /// signed manifest that names what its chunks are not), the item has failed until it changes.
    pub retry: bool,
}

/// Room on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that the content still takes beside all that is kept, its parts included.
    pub needed: u64,
    /// Bytes that the disk has left for it.
    pub free: u64,
    /// Bytes that all content of this agent may take; `None`: all that the disk has.
    pub quota: Option<u64>,
    /// Bytes that all content of this agent takes now.
    pub used: u64,
}

/// What an agent holds of a content and what is left to do. Its manifest was fetched and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The cheapest road, from [`plan`](crate::content::plan::plan).
    pub plan: Arc<Plan>,
    /// Whether there is room for it.
    pub space: Space,
}

/// Everything that can happen to an agent's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The shell is ready. Exactly once, first.
    Started,
    /// The content of the snapshot in force: once it is known, and whenever it or the settings change. Before the
    /// first one nothing is done but to end what a crash interrupted. No channel occurs twice.
    Wanted {
        /// What is assigned.
        items: Vec<ContentItem>,
        /// How fast it is taken.
        pace: Pace,
    },
    /// Whether the broker can be reached, as far as the shell knows. Before the first one it counts as reachable.
    Online(bool),
    /// [`Effect::Survey`] ended.
    Surveyed {
        /// The channel.
        channel: ChannelName,
        /// The manifest.
        manifest: Digest,
        /// What is held and left to do. From the disk alone: any failure means that the network is needed.
        result: Result<Survey, Failure>,
    },
    /// Pieces of the running [`Effect::Fetch`] arrived. As often as the shell likes.
    Progress {
        /// The channel.
        channel: ChannelName,
        /// The manifest.
        manifest: Digest,
        /// Bytes fetched since this fetch began, as they travelled.
        fetched: u64,
    },
    /// [`Effect::Fetch`] ended. `Ok`: the whole content is on disk, durable, and matches its manifest.
    Fetched {
        /// The channel.
        channel: ChannelName,
        /// The manifest.
        manifest: Digest,
        /// Bytes fetched since this fetch began, as they travelled.
        fetched: u64,
        /// How it ended. After [`Effect::StopFetch`] either.
        result: Result<(), Failure>,
    },
    /// [`Effect::Persist`] ended.
    Persisted {
        /// Its ticket.
        ticket: u64,
        /// Whether the state is on disk.
        result: Result<(), Reason>,
    },
    /// [`Effect::Switch`] ended. `Err` means that nothing was switched.
    Switched(Result<(), Reason>),
    /// [`Effect::RunHandler`] ended.
    HandlerDone(Result<(), Reason>),
    /// [`Effect::CheckHealth`] ended.
    HealthChecked(Result<(), Reason>),
    /// A heartbeat with a wish was answered.
    Allowance {
        /// For how long from now a full download may go on; `None`: it was not granted.
        granted_for: Option<Span>,
    },
    /// The files in force of these channels differ from their manifests, or are gone.
    DriftFound(Vec<ChannelName>),
    /// The deadline has come.
    Tick,
    /// The agent is to stop. Nothing after it has any effect.
    Stop,
}

/// Everything the content machine can do. [`Effect::Survey`], [`Effect::Fetch`] and handlers take long and run
/// beside the shell's loop; there is at most one of them at a time. All other effects are carried out in order,
/// also while one of those runs. Each that names an answer is answered by exactly one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Get and verify manifest and index, verify what is held, plan, look at the disk. Answer: `Surveyed`.
    Survey {
        /// What for.
        item: ContentItem,
        /// Whether the network may be used. If not, and the manifest is not on disk: a failure, at once.
        remote: bool,
    },
    /// Fetch what the plan of the last survey says, which was for this content, and build the content beside all others, also beside the one in force where that
    /// has the same manifest. What arrived stays, whatever happens. Answer: `Fetched`.
    Fetch {
        /// The content.
        item: ContentItem,
        /// How.
        plan: Arc<Plan>,
    },
    /// End the running fetch soon; it keeps what it has. Its answer is still to come. No answer of its own.
    StopFetch,
    /// Most bytes fetched in a second from now on, also by a running fetch; `None`: no limit. No answer.
    Limit(Option<u64>),
    /// Write [`Machine::durable`](super::Machine::durable) and make it durable. Answer: `Persisted`.
    Persist {
        /// Returned in the answer.
        ticket: u64,
    },
    /// Put a content that is on disk and verified in force, at once or not at all; `None`: none any more. It was
    /// fetched just now, or it is the one before. Answer: `Switched`.
    Switch {
        /// The channel.
        channel: ChannelName,
        /// What is to be in force.
        to: Option<ContentItem>,
    },
    /// Run the handler of a channel. Answer: `HandlerDone`; well if the agent has no handler for the channel.
    RunHandler {
        /// The channel.
        channel: ChannelName,
        /// What is in force now; `None`: the content is gone.
        item: Option<ContentItem>,
    },
    /// Check the health of a content in force. Answer: `HealthChecked`; well if the agent has no check for it.
    CheckHealth(ContentItem),
    /// Remove all contents but these, and what was begun of any others. The cache of chunks may keep their chunks
    /// within its bound. No answer.
    Prune {
        /// Manifests whose files stay, ascending; they stay themselves.
        keep: Vec<Digest>,
        /// Manifests of which what was begun stays, ascending: drafts, parts of deltas, the manifest itself.
        drafts: Vec<Digest>,
    },
    /// Compare the files in force with their manifests. Answer: `DriftFound`, or none if all is well.
    CheckDrift(Vec<ContentItem>),
    /// What all heartbeats from now on say of the allowance for full downloads; send one soon. No answer but
    /// `Allowance` with each heartbeat's reply.
    Wish(DownloadWish),
    /// What all heartbeats from now on say of content, ordered by channel. No answer.
    Report(Vec<ContentStatus>),
    /// Tell people.
    Note(Note),
}

/// Changes worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A download begins or goes on.
    Fetching {
        /// What.
        item: ContentItem,
        /// How.
        plan: Arc<Plan>,
    },
    /// All of it is on disk.
    Fetched {
        /// What.
        item: ContentItem,
        /// Where its bytes came from, over all attempts.
        bytes: SourceBytes,
    },
    /// It is in force, and healthy.
    Applied(ContentItem),
    /// It failed before and has not changed; it is not tried.
    NotTried(ContentItem, Reason),
    /// It failed for good; what was in force before stays or comes back.
    Failed(ContentItem, Reason),
    /// The last known good is in force again (`None`: nothing is).
    Reverted(ChannelName, Option<ContentItem>),
    /// Nothing assigns the channel any more, and its content is gone.
    Removed(ChannelName),
    /// Files in force were damaged; they are built again.
    Damaged(ChannelName),
    /// They are whole again.
    Repaired(ChannelName),
    /// Something does not work now; it is tried again.
    Delayed {
        /// The channel, if it is about one.
        channel: Option<ChannelName>,
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        reason: Reason,
    },
}
