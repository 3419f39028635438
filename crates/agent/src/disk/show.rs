//! `status.json`: how the agent fares, for people and scripts on its machine.

use std::io;
use std::path::Path;

use domain::Mode;
use domain::content::ContentStatus;
use serde::{Deserialize, Serialize};

use super::files;
use crate::storage::View;

/// Name of the file.
const FILE: &str = "status.json";
/// Largest file that is read: 256 items and 128 channels with their reasons.
const MAX_BYTES: usize = 1024 * 1024;

/// What `muster-agent status -o json` prints, with what it adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The fleet.
    pub fleet: String,
    /// The agent.
    pub agent: String,
    /// Its group.
    pub group: Option<String>,
    /// `push` or `pull`.
    pub mode: String,
    /// Time between heartbeats, ms.
    pub heartbeat_interval_ms: u64,
    /// Whether it was connected when this was written.
    pub connected: bool,
    /// When a heartbeat was answered last, ms since 1970.
    pub last_reply_ms: Option<u64>,
    /// Epoch in force.
    pub epoch: u64,
    /// Revision in force; 0 if nothing is.
    pub revision: u64,
    /// Newest revision seen.
    pub seen_revision: u64,
    /// Version of the trust root that is obeyed.
    #[serde(default)]
    pub root_version: u64,
    /// Whether the snapshot in force, or the trust root, has expired.
    pub stale: bool,
    /// Whether the newest settings were given up.
    pub settings_reverted: bool,
    /// One for each policy.
    pub items: Vec<ShownItem>,
    /// One for each content channel that is assigned or in force.
    #[serde(default)]
    pub content: Vec<ShownContent>,
    /// Returns to the last known good since it joined.
    pub rollbacks: u64,
    /// Envelopes refused since it started.
    pub refusals: u64,
    /// Why the last one was refused.
    pub last_refusal: Option<String>,
    /// Repairs of drifted files since it started.
    pub repairs: u64,
    /// When this was written, ms since 1970.
    pub written_ms: u64,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownItem {
    /// Its kind.
    pub kind: String,
    /// How far it got.
    pub state: String,
    /// Its revision.
    pub revision: u64,
    /// Why it failed or what it waits for.
    pub reason: Option<String>,
}

/// One content channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownContent {
    /// The channel.
    pub channel: String,
    /// Content revision in force; 0 if there is none.
    pub active: u32,
    /// Content revision that is assigned; 0 if none is any more.
    pub assigned: u32,
    /// How far the assigned one got.
    pub state: String,
    /// Share of the bytes planned that are there.
    pub percent: u8,
    /// Bytes fetched as patches for the assigned one.
    pub patch_bytes: u64,
    /// Bytes fetched as chunks.
    pub chunk_bytes: u64,
    /// Bytes fetched of the whole content.
    pub full_bytes: u64,
    /// Bytes taken from what was held already.
    pub held_bytes: u64,
    /// Why it failed or what it waits for.
    pub reason: Option<String>,
    /// Where the files in force lie, below the state directory; absent if none are.
    pub files: Option<String>,
}

impl ShownContent {
    fn of(status: &ContentStatus) -> Self {
        Self {
            channel: status.channel.to_string(),
            active: status.active.0,
            assigned: status.wanted.0,
            state: status.state.to_string(),
            percent: status.percent,
            patch_bytes: status.bytes.patch,
            chunk_bytes: status.bytes.chunk,
            full_bytes: status.bytes.full,
            held_bytes: status.bytes.held,
            reason: Some(status.reason.to_string()).filter(|reason| !reason.is_empty()),
            files: (status.active.0 > 0).then(|| crate::content::path_in_force(&status.channel)),
        }
    }
}

pub(super) fn write(root: &Path, view: &View) -> io::Result<()> {
    let status = &view.status;
    let items = status.items.iter().map(|item| ShownItem {
        kind: item.kind.to_string(),
        state: item.state.to_string(),
        revision: item.revision.0,
        reason: item.reason.as_ref().map(ToString::to_string),
    });
    let mode = match view.settings.mode {
        Mode::Push => "push",
        Mode::Pull => "pull",
    };
    let shown = Shown {
        fleet: view.fleet.to_string(),
        agent: view.agent.to_string(),
        group: view.group.as_ref().map(ToString::to_string),
        mode: mode.to_owned(),
        heartbeat_interval_ms: view.settings.heartbeat_interval.0,
        connected: view.connected,
        last_reply_ms: view.last_reply.map(|at| at.0),
        epoch: view.active.epoch.0,
        revision: view.active.revision.0,
        seen_revision: status.seen.revision.0,
        root_version: status.root_version,
        stale: status.stale,
        settings_reverted: status.settings_reverted,
        items: items.collect(),
        content: status.content.iter().map(ShownContent::of).collect(),
        rollbacks: status.rollbacks,
        refusals: status.refusals,
        last_refusal: status.last_refusal.map(|refusal| refusal.to_string()),
        repairs: status.repairs,
        written_ms: runtime::clock::now().0,
    };
    let json = serde_json::to_vec_pretty(&shown)?;
    // Not synced: it describes a running agent and is written anew when one starts.
    let draft = root.join(".status.json.draft");
    std::fs::write(&draft, json)?;
    std::fs::rename(draft, root.join(FILE))
}

impl Shown {
    /// Reads what the agent last wrote. `None` if it never did.
    ///
    /// # Errors
    /// If the file cannot be read or is not one of ours.
    pub fn read(root: &Path) -> io::Result<Option<Self>> {
        let bytes = files::read(&root.join(FILE), MAX_BYTES)?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from)).transpose()
    }
}
