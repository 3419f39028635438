//! `content/state.json`: what must survive a crash, as JSON behind a checksum.

use std::collections::BTreeMap;

use domain::agent::Reason;
use domain::content::agent::{Applying, ChannelState, Durable, Failed, Good};
use domain::content::{ChannelName, ContentItem, ContentRevision, SourceBytes};
use domain::{Digest, Revision};
use serde::{Deserialize, Serialize};

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) durable: Durable,
    /// Fingerprint of the hooks under which contents failed.
    pub(crate) hooks: Option<Digest>,
}

/// Why a state file's JSON is not a state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("it is not the JSON of a state")]
    Json(#[from] serde_json::Error),
    #[error("{0} is not valid")]
    Value(&'static str),
}

#[derive(Serialize, Deserialize)]
struct File {
    channels: BTreeMap<String, ChannelEntry>,
    failed: Vec<FailedEntry>,
    hooks: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ChannelEntry {
    good: Option<HeldEntry>,
    applying: Option<ApplyingEntry>,
    previous: Option<ItemEntry>,
    begun: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ItemEntry {
    number: u32,
    revision: u64,
    manifest: String,
    manifest_bytes: u64,
    content_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct BytesEntry {
    patch: u64,
    chunk: u64,
    full: u64,
    held: u64,
}

#[derive(Serialize, Deserialize)]
struct HeldEntry {
    item: ItemEntry,
    bytes: BytesEntry,
}

#[derive(Serialize, Deserialize)]
struct ApplyingEntry {
    item: Option<ItemEntry>,
    bytes: BytesEntry,
    starts: u32,
}

#[derive(Serialize, Deserialize)]
struct FailedEntry {
    channel: String,
    revision: u64,
    manifest: String,
    reason: String,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let channels = self.durable.channels.iter();
        let file = File {
            channels: channels.map(|(name, state)| (name.to_string(), ChannelEntry::of(state))).collect(),
            failed: self.durable.failed.iter().map(FailedEntry::of).collect(),
            hooks: self.hooks.map(|digest| digest.to_string()),
        };
        serde_json::to_vec_pretty(&file).expect("invariant: texts and numbers have a JSON form")
    }

    pub(crate) fn decode(json: &[u8]) -> Result<Self, StateError> {
        let file: File = serde_json::from_slice(json)?;
        let mut durable = Durable::default();
        for (name, entry) in file.channels {
            let name = channel(&name)?;
            durable.channels.insert(name.clone(), entry.read(&name)?);
        }
        durable.failed = file.failed.into_iter().map(FailedEntry::read).collect::<Result<_, _>>()?;
        Ok(Self { durable, hooks: file.hooks.as_deref().map(digest).transpose()? })
    }
}

impl ChannelEntry {
    fn of(state: &ChannelState) -> Self {
        let good =
            |good: &Good| HeldEntry { item: ItemEntry::of(&good.item), bytes: BytesEntry::of(good.bytes) };
        let applying = |applying: &Applying| ApplyingEntry {
            item: applying.item.as_ref().map(ItemEntry::of),
            bytes: BytesEntry::of(applying.bytes),
            starts: applying.starts,
        };
        Self {
            good: state.good.as_ref().map(good),
            applying: state.applying.as_ref().map(applying),
            previous: state.previous.as_ref().map(ItemEntry::of),
            begun: state.begun.map(|digest| digest.to_string()),
        }
    }

    fn read(self, name: &ChannelName) -> Result<ChannelState, StateError> {
        let good = |entry: HeldEntry| {
            Ok::<_, StateError>(Good { item: entry.item.read(name)?, bytes: entry.bytes.read() })
        };
        let applying = |entry: ApplyingEntry| {
            let item = entry.item.map(|item| item.read(name)).transpose()?;
            Ok::<_, StateError>(Applying { item, bytes: entry.bytes.read(), starts: entry.starts })
        };
        Ok(ChannelState {
            good: self.good.map(good).transpose()?,
            applying: self.applying.map(applying).transpose()?,
            previous: self.previous.map(|item| item.read(name)).transpose()?,
            begun: self.begun.as_deref().map(digest).transpose()?,
        })
    }
}

impl ItemEntry {
    fn of(item: &ContentItem) -> Self {
        Self {
            number: item.number.0,
            revision: item.revision.0,
            manifest: item.manifest.to_string(),
            manifest_bytes: item.manifest_bytes,
            content_bytes: item.content_bytes,
        }
    }

    fn read(self, channel: &ChannelName) -> Result<ContentItem, StateError> {
        Ok(ContentItem {
            channel: channel.clone(),
            number: ContentRevision(self.number),
            revision: Revision(self.revision),
            manifest: digest(&self.manifest)?,
            manifest_bytes: self.manifest_bytes,
            content_bytes: self.content_bytes,
        })
    }
}

impl BytesEntry {
    fn of(bytes: SourceBytes) -> Self {
        let SourceBytes { patch, chunk, full, held } = bytes;
        Self { patch, chunk, full, held }
    }

    fn read(self) -> SourceBytes {
        let Self { patch, chunk, full, held } = self;
        SourceBytes { patch, chunk, full, held }
    }
}

impl FailedEntry {
    fn of(failed: &Failed) -> Self {
        Self {
            channel: failed.channel.to_string(),
            revision: failed.revision.0,
            manifest: failed.manifest.to_string(),
            reason: failed.reason.to_string(),
        }
    }

    fn read(self) -> Result<Failed, StateError> {
        Ok(Failed {
            channel: channel(&self.channel)?,
            revision: Revision(self.revision),
            manifest: digest(&self.manifest)?,
            reason: Reason::new(self.reason),
        })
    }
}

fn channel(text: &str) -> Result<ChannelName, StateError> {
    ChannelName::new(text).map_err(|_| StateError::Value("a channel"))
}

fn digest(text: &str) -> Result<Digest, StateError> {
    super::dirs::digest(text).ok_or(StateError::Value("a digest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_its_file() {
        let name = ChannelName::new("definitions/ips").unwrap();
        let item = |number: u32| ContentItem {
            channel: name.clone(),
            number: ContentRevision(number),
            revision: Revision(u64::MAX),
            manifest: Digest([7; 32]),
            manifest_bytes: 1,
            content_bytes: u64::MAX,
        };
        let bytes = SourceBytes { patch: 1, chunk: 2, full: 3, held: 4 };
        let state = ChannelState {
            good: Some(Good { item: item(1), bytes }),
            applying: Some(Applying { item: Some(item(2)), bytes, starts: 2 }),
            previous: Some(item(3)),
            begun: Some(Digest([1; 32])),
        };
        let gone = Applying { item: None, bytes: SourceBytes::default(), starts: 1 };
        let other = ChannelState { applying: Some(gone), ..ChannelState::default() };
        let failed = Failed {
            channel: name.clone(),
            revision: Revision(9),
            manifest: Digest([9; 32]),
            reason: Reason::new("no \"such\"\nthing"),
        };
        let channels = [(name, state), (ChannelName::new("x").unwrap(), other)].into_iter().collect();
        let state =
            State { durable: Durable { channels, failed: vec![failed] }, hooks: Some(Digest([3; 32])) };
        assert_eq!(State::decode(&state.encode()).unwrap(), state);
        assert_eq!(State::decode(&State::default().encode()).unwrap(), State::default());
        assert!(State::decode(b"{}").is_err());
    }
}
