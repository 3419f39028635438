//! `status.json`: how the agent fares, for people and scripts on its machine.

use std::io;
use std::path::Path;

use domain::Mode;
use serde::{Deserialize, Serialize};

use super::files;
use crate::storage::View;

/// Name of the file.
const FILE: &str = "status.json";
/// Largest file that is read: 256 items with their reasons.
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
    /// Whether the snapshot in force has expired.
    pub stale: bool,
    /// Whether the newest settings were given up.
    pub settings_reverted: bool,
    /// One for each policy.
    pub items: Vec<ShownItem>,
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
        stale: status.stale,
        settings_reverted: status.settings_reverted,
        items: items.collect(),
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
