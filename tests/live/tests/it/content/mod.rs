//! Content: from a tree on an operator's disk to the same tree in force on agents.

mod allowance;
mod bad_pieces;
mod evil_input;
mod faults;
mod full_disk;
mod kills;
mod network;
mod observer;
mod raw;
mod roads;
mod signatures;
mod tour;
mod uploads;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::Digest;
use live::{AgentProcess, Cli, Fleet, Proxy, Tree, eventually};
use serde_json::Value;

/// The channel that most tests use.
pub(crate) const CHANNEL: &str = "rules/ips";

/// Part of the name of the connection that agents fetch content over.
pub(crate) const CONTENT: &str = "content";

/// /edge (push) follows `stable` of [`CHANNEL`], /edge/canary its `canary`; /pull (pull) follows `stable`.
/// Downloads start at once.
const GROUPS: &str = r"
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: edge}
spec:
  path: /edge
  settings: {mode: push, heartbeatInterval: 1s, offlineAfter: 5s, contentSpread: 0s}
  content: [{channel: rules/ips, stage: stable}]
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: canary}
spec: {path: /edge/canary, content: [{channel: rules/ips, stage: canary}]}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: pull}
spec:
  path: /pull
  settings: {mode: pull, heartbeatInterval: 1s, offlineAfter: 5s, contentSpread: 0s}
  content: [{channel: rules/ips, stage: stable}]
";

/// An agent and the proxy through which alone it reaches the broker.
pub(crate) struct Edge {
    pub(crate) agent: AgentProcess,
    pub(crate) proxy: Proxy,
}

/// Options that take the waiting out of an agent.
pub(crate) const PROMPT: [&str; 4] = ["--start-spread", "0s", "--drift-every", "1s"];

impl Edge {
    /// One that has not been started.
    pub(crate) async fn new(fleet: &Fleet, id: &str, group: &str) -> Self {
        let proxy = Proxy::start(&fleet.nats.url()).await;
        let options = ["--nats-url", &proxy.nats_url()];
        let agent = AgentProcess::new(fleet.dir(), id, &fleet.token(group, 1).await);
        Self { agent: agent.with_options(&PROMPT).with_options(&options), proxy }
    }

    /// One that runs.
    pub(crate) async fn start(fleet: &Fleet, id: &str, group: &str) -> Self {
        let mut edge = Self::new(fleet, id, group).await;
        edge.agent.start();
        edge
    }

    /// Bytes of content that travelled to it so far, by what they are a part of: patches and whole contents,
    /// chunks.
    pub(crate) fn fetched(&self) -> Fetched {
        let bytes = |kind| self.proxy.piece_bytes("", kind);
        Fetched {
            patch: bytes("patch") - bytes("patch.none"),
            full: bytes("patch.none"),
            chunk: bytes("chunk"),
        }
    }

    /// Pieces that travelled whole more than once, with what each repetition cost.
    pub(crate) fn fetched_again(&self) -> Vec<live::Piece> {
        let mut pieces = self.proxy.pieces("");
        pieces.retain(|piece| {
            piece.subject.starts_with("content.chunk.") || piece.subject.starts_with("content.patch.")
        });
        pieces.sort();
        pieces.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0].clone()).collect()
    }
}

/// Bytes of content as they travelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) patch: u64,
    pub(crate) full: u64,
    pub(crate) chunk: u64,
}

impl Fetched {
    pub(crate) fn all(self) -> u64 {
        self.patch + self.full + self.chunk
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            patch: self.patch - before.patch,
            full: self.full - before.full,
            chunk: self.chunk - before.chunk,
        }
    }
}

/// Applies [`GROUPS`]; the channel has to be there.
pub(crate) async fn groups(fleet: &Fleet) {
    let _ = fleet.cli("policy").apply(GROUPS).await;
}

/// Writes a tree where the CLI finds it.
pub(crate) fn on_disk(fleet: &Fleet, tree: &Tree) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let dir = fleet.dir().join(format!("tree-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    tree.write(&dir);
    dir
}

/// Pushes a tree; what the CLI answers.
pub(crate) async fn push(fleet: &Fleet, channel: &str, tree: &Tree) -> Value {
    push_with(&fleet.cli("content"), fleet, channel, tree).await
}

/// As [`push`], by a given replica.
pub(crate) async fn push_with(cli: &Cli, fleet: &Fleet, channel: &str, tree: &Tree) -> Value {
    let path = on_disk(fleet, tree).to_string_lossy().into_owned();
    cli.json(&format!("content push {channel} {path}")).await
}

/// Makes a stage name a revision.
pub(crate) async fn promote(fleet: &Fleet, channel: &str, revision: u32, stage: &str) -> Value {
    fleet.cli("content").json(&format!("content promote {channel} {revision} --stage {stage}")).await
}

/// A fleet whose `stable` and `canary` name revision 1 of [`CHANNEL`], which is this tree.
pub(crate) async fn seeded(tree: &Tree) -> Fleet {
    let fleet = Fleet::start().await;
    seed(&fleet, tree).await;
    fleet
}

/// As [`seeded`], for a fleet that runs.
pub(crate) async fn seed(fleet: &Fleet, tree: &Tree) {
    let pushed = push(fleet, CHANNEL, tree).await;
    assert_eq!(
        (number(&pushed["revision"]["revision"]), &pushed["created"]),
        (1, &Value::Bool(true)),
        "{pushed}"
    );
    for stage in ["stable", "canary"] {
        let _ = promote(fleet, CHANNEL, 1, stage).await;
    }
    groups(fleet).await;
}

/// A revision in full.
pub(crate) async fn revision(fleet: &Fleet, channel: &str, number: u32) -> Value {
    fleet.cli("content").json(&format!("content show {channel} {number}")).await
}

/// What a revision costs an agent that holds nothing of it: the whole content as one delta, if that was worth
/// keeping, or else its chunks.
pub(crate) fn whole_bytes(shown: &Value) -> u64 {
    let [full, chunks] = ["fullBytes", "chunkBytes"].map(|field| number(&shown[field]));
    if full > 0 { full } else { chunks }
}

/// Waits until everything that speeds up a revision is made: the whole content, and patches from these.
pub(crate) async fn prepared(fleet: &Fleet, channel: &str, of: u32, from: &[u32]) -> Value {
    eventually(format!("{channel} {of} has patches from {from:?}"), async || {
        let shown = revision(fleet, channel, of).await;
        let done =
            number(&shown["patchesPending"]) == 0 && from.iter().all(|&from| patch_bytes(&shown, from) > 0);
        if done { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await
}

/// Length of the patch from a revision; 0 if there is none.
pub(crate) fn patch_bytes(shown: &Value, from: u32) -> u64 {
    let patches = shown["patches"].as_array().map(Vec::as_slice).unwrap_or_default();
    patches
        .iter()
        .find(|patch| number(&patch["from"]) == u64::from(from))
        .map_or(0, |patch| number(&patch["bytes"]))
}

/// A number of protobuf's JSON: 64 bits are text, and 0 is left out.
pub(crate) fn number(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::String(text) => text.parse().expect("a number"),
        other => other.as_u64().expect("a number"),
    }
}

/// What presence knows of a channel on an agent.
pub(crate) fn channel_of<'a>(shown: &'a Value, channel: &str) -> &'a Value {
    let all = shown["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|one| one["channel"] == channel).unwrap_or(&Value::Null)
}

/// Waits until presence shows a channel of an agent in a certain way; what it shows of the channel.
pub(crate) async fn shows(
    fleet: &Fleet,
    agent: &str,
    channel: &str,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let shown = fleet.shows(agent, what, |shown| holds(channel_of(shown, channel))).await;
    channel_of(&shown, channel).clone()
}

/// Waits until an agent reports a revision in force and healthy; what it reports.
pub(crate) async fn settled(fleet: &Fleet, agent: &str, channel: &str, revision: u32) -> Value {
    let what = format!("{channel} {revision} healthy");
    shows(fleet, agent, channel, &what, |one| {
        number(&one["active"]) == u64::from(revision)
            && number(&one["wanted"]) == u64::from(revision)
            && one["state"] == "healthy"
    })
    .await
}

/// A digest of protobuf's JSON.
pub(crate) fn digest(value: &Value) -> Digest {
    let bytes = STANDARD.decode(value.as_str().expect("bytes are text")).expect("base64");
    Digest(bytes.try_into().expect("32 bytes"))
}
