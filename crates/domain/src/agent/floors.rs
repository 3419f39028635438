//! What an agent remembers so that it never goes backwards: floors, the time floor, what failed, and what
//! it is about to try. The shell keeps a [`Durable`] on disk and writes it before it acts.

use crate::agent::items::{Failed, Generation};
use crate::digest::Digest;
use crate::id::{AgentId, FleetId, GroupId};
use crate::revision::Cursor;
use crate::settings::Settings;
use crate::snapshot::{Assignment, Snapshot};
use crate::time::Timestamp;

/// Most groups whose floors are kept. An agent sees a new group only when an operator moves it; the least
/// recently used floor goes first, and the time floor with the expiry still bounds a replay into it.
pub const MAX_SCOPES: usize = 64;
/// Most failed items that are remembered, oldest forgotten first. Each takes at most about 1 KiB.
pub const MAX_FAILED: usize = 32;
/// Furthest step of a revision at once. A log that grows by a million entries a second takes twelve days
/// for it; a step beyond is a fast-forward attack or a fault, and would lock the agent out for good.
pub const MAX_REVISION_STEP: u64 = 1 << 40;
/// Furthest step of an epoch at once; leaves room for epochs made from a clock in milliseconds.
pub const MAX_EPOCH_STEP: u64 = 1 << 48;

/// Why an envelope or its content is not obeyed. The agent's state does not change; it counts and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// No signature by a trusted key holds.
    #[error("no signature by a trusted key holds")]
    Signature,
    /// The envelope or its payload cannot be read.
    #[error("the envelope or its payload cannot be read")]
    Malformed,
    /// Longer than the bound; nothing was parsed.
    #[error("the envelope is longer than the bound")]
    Oversized,
    /// It holds something else than its place calls for.
    #[error("the envelope holds something else than its place calls for")]
    WrongType,
    /// Meant for another fleet.
    #[error("it is meant for another fleet")]
    OtherFleet,
    /// Meant for another group.
    #[error("it is meant for another group")]
    OtherGroup,
    /// Meant for another agent.
    #[error("it is meant for another agent")]
    OtherAgent,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Older than what was accepted before.
    #[error("it is older than what was accepted before")]
    Older,
    /// The cursor of what was accepted before, with other content.
    #[error("it carries a cursor that was accepted with other content")]
    Conflict,
    /// Too far ahead of what was accepted before.
    #[error("it is too far ahead of what was accepted before")]
    TooFarAhead,
    /// A trust root that does not follow the one that is obeyed.
    #[error("a trust root does not follow the one before it")]
    Root,
    /// The newest trust root is good no more: nothing new is taken under it.
    #[error("the trust root has expired")]
    RootExpired,
}

/// The group an agent belongs to, as last assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The group.
    pub group: GroupId,
    /// Cursor of the assignment; only a higher one moves the agent.
    pub cursor: Cursor,
}

/// The highest cursor accepted in one scope, and what it stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Nothing below this is obeyed.
    pub cursor: Cursor,
    /// Content that came with this cursor.
    pub digest: Digest,
}

/// Floors by group, the most recently raised last. At most [`MAX_SCOPES`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Floors(Vec<(GroupId, Floor)>);

impl Floors {
    /// The floor of a group, if something of it was accepted before.
    #[must_use]
    pub fn of(&self, group: &GroupId) -> Option<Floor> {
        self.0.iter().find(|(id, _)| id == group).map(|(_, floor)| *floor)
    }

    /// Raises the floor of a group. A lower or equal cursor changes nothing.
    pub fn raise(&mut self, group: &GroupId, floor: Floor) {
        if self.of(group).is_some_and(|known| known.cursor >= floor.cursor) {
            return;
        }
        self.0.retain(|(id, _)| id != group);
        if self.0.len() >= MAX_SCOPES {
            self.0.remove(0);
        }
        self.0.push((group.clone(), floor));
    }

    /// All floors, the most recently raised last.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupId, Floor)> {
        self.0.iter().map(|(group, floor)| (group, *floor))
    }
}

impl FromIterator<(GroupId, Floor)> for Floors {
    fn from_iter<I: IntoIterator<Item = (GroupId, Floor)>>(items: I) -> Self {
        let mut floors = Self::default();
        for (group, floor) in items {
            floors.raise(&group, floor);
        }
        floors
    }
}

/// A generation that was switched on and has not proved healthy yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applying {
    /// Its cursor.
    pub cursor: Cursor,
    /// Its content.
    pub digest: Digest,
    /// How often it was started. An agent that dies each time gives up on it after
    /// [`MAX_STARTS`](crate::agent::MAX_STARTS).
    pub starts: u32,
}

/// New settings that still have to prove that the agent can be reached with them (commit-confirm).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Cursor of the snapshot that brought the settings.
    pub cursor: Cursor,
    /// Settings to return to.
    pub previous: Settings,
    /// Without a heartbeat that is answered by then, the agent returns to `previous`; `None` once it has.
    pub until: Option<Timestamp>,
}

/// What must survive a crash. The shell writes it whole when it gets
/// [`Effect::Persist`](crate::agent::Effect::Persist).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durable {
    /// The agent's group.
    pub assignment: Option<Placement>,
    /// Highest cursor accepted for each group.
    pub floors: Floors,
    /// Latest signed time seen: the clock may stand still or run backwards, this does not.
    pub time_floor: Timestamp,
    /// The last generation that proved healthy.
    pub good: Option<Generation>,
    /// The generation under trial, if any.
    pub applying: Option<Applying>,
    /// Items that failed, oldest first; not tried again until they change. At most [`MAX_FAILED`].
    pub failed: Vec<Failed>,
    /// Settings under trial, or given up.
    pub trial: Option<Trial>,
    /// Times the agent returned to its last known good since it joined.
    pub rollbacks: u64,
    /// Version of the newest trust root that was adopted; 0 before the first.
    pub root_version: u64,
}

impl Durable {
    /// The failure that stands against a generation, if one of its items (or it as a whole) failed before
    /// and has not changed.
    #[must_use]
    pub fn failure_of(&self, generation: &Generation) -> Option<&Failed> {
        self.failed.iter().find(|failed| match &failed.kind {
            None => failed.revision == generation.cursor.revision && failed.digest == generation.digest,
            Some(kind) => generation.items.iter().any(|item| {
                item.kind == *kind && item.revision == failed.revision && item.digest == failed.digest
            }),
        })
    }

    /// Remembers a failure, once.
    pub fn remember(&mut self, failed: Failed) {
        self.failed.retain(|known| {
            (&known.kind, known.revision, known.digest) != (&failed.kind, failed.revision, failed.digest)
        });
        if self.failed.len() >= MAX_FAILED {
            self.failed.remove(0);
        }
        self.failed.push(failed);
    }
}

/// Who the agent is: the audience that snapshots and assignments must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The fleet.
    pub fleet: FleetId,
    /// The agent.
    pub agent: AgentId,
}

/// How an acceptable snapshot compares with what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Higher than anything known.
    Newer,
    /// The cursor and content already known.
    Same,
}

/// Checks a snapshot against its audience, its expiry and the newest cursor known for its group.
/// `now` is the clock; the time floor counts where the clock is behind it.
///
/// # Errors
/// [`Refusal`]: the first rule that is broken, audience first.
pub fn judge(
    snapshot: &Snapshot,
    identity: &Identity,
    group: Option<&GroupId>,
    newest: Option<Floor>,
    now: Timestamp,
) -> Result<Verdict, Refusal> {
    if snapshot.fleet != identity.fleet {
        return Err(Refusal::OtherFleet);
    }
    if Some(&snapshot.group) != group {
        return Err(Refusal::OtherGroup);
    }
    if snapshot.cursor == Cursor::NONE || snapshot.expires_at <= snapshot.issued_at {
        return Err(Refusal::Malformed);
    }
    let floor = newest.map_or(Cursor::NONE, |floor| floor.cursor);
    if snapshot.cursor < floor {
        return Err(Refusal::Older);
    }
    if snapshot.expires_at <= now {
        return Err(Refusal::Expired);
    }
    if newest.is_some() && is_too_far(floor, snapshot.cursor) {
        return Err(Refusal::TooFarAhead);
    }
    match newest {
        Some(known) if known.cursor == snapshot.cursor => {
            if known.digest == snapshot.content_digest() {
                Ok(Verdict::Same)
            } else {
                Err(Refusal::Conflict)
            }
        }
        _ => Ok(Verdict::Newer),
    }
}

fn is_too_far(from: Cursor, to: Cursor) -> bool {
    let epochs = to.epoch.0.saturating_sub(from.epoch.0);
    let revisions = to.revision.0.saturating_sub(from.revision.0);
    epochs > MAX_EPOCH_STEP || (epochs == 0 && revisions > MAX_REVISION_STEP)
}

/// Checks an assignment against its audience and the placement known. `Same` is a repeat.
///
/// # Errors
/// [`Refusal`]: the first rule that is broken.
pub fn judge_assignment(
    assignment: &Assignment,
    identity: &Identity,
    known: Option<&Placement>,
) -> Result<Verdict, Refusal> {
    if assignment.fleet != identity.fleet {
        return Err(Refusal::OtherFleet);
    }
    if assignment.agent != identity.agent {
        return Err(Refusal::OtherAgent);
    }
    if assignment.cursor == Cursor::NONE {
        return Err(Refusal::Malformed);
    }
    let Some(known) = known else { return Ok(Verdict::Newer) };
    match assignment.cursor.cmp(&known.cursor) {
        std::cmp::Ordering::Less => Err(Refusal::Older),
        std::cmp::Ordering::Equal if assignment.group == known.group => Ok(Verdict::Same),
        std::cmp::Ordering::Equal => Err(Refusal::Conflict),
        std::cmp::Ordering::Greater if is_too_far(known.cursor, assignment.cursor) => {
            Err(Refusal::TooFarAhead)
        }
        std::cmp::Ordering::Greater => Ok(Verdict::Newer),
    }
}
