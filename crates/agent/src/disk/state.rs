//! The state file: what must survive a crash, as JSON behind a checksum.

use domain::agent::{Applying, Durable, Failed, Floor, GenerationId, Placement, Reason, Trial};
use domain::settings::SettingsOverlay;
use domain::{Cursor, Digest, GroupId, KindName, Mode, Revision, Settings, Span, Timestamp};
use serde::{Deserialize, Serialize};

/// What the file says. The last known good is named only: what it holds is read from its signed envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) durable: Durable,
    pub(crate) good: Option<GenerationId>,
    /// Fingerprint of the handlers under which items failed.
    pub(crate) handlers: Option<Digest>,
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
    assignment: Option<PlacementEntry>,
    floors: Vec<FloorEntry>,
    time_floor_ms: u64,
    good: Option<PlacementEntry>,
    applying: Option<ApplyingEntry>,
    failed: Vec<FailedEntry>,
    trial: Option<TrialEntry>,
    rollbacks: u64,
    root_version: u64,
    handlers: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PlacementEntry {
    group: String,
    epoch: u64,
    revision: u64,
}

#[derive(Serialize, Deserialize)]
struct FloorEntry {
    group: String,
    epoch: u64,
    revision: u64,
    digest: String,
}

#[derive(Serialize, Deserialize)]
struct ApplyingEntry {
    epoch: u64,
    revision: u64,
    digest: String,
    starts: u32,
}

#[derive(Serialize, Deserialize)]
struct FailedEntry {
    kind: Option<String>,
    revision: u64,
    digest: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct TrialEntry {
    epoch: u64,
    revision: u64,
    push: bool,
    heartbeat_interval_ms: u64,
    offline_after_ms: u64,
    /// Absent in files from before there was content.
    content_spread_ms: Option<u64>,
    content_rate_limit: Option<u64>,
    until_ms: Option<u64>,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { durable, good, handlers } = self;
        let file = File {
            assignment: durable.assignment.as_ref().map(|p| placement_entry(&p.group, p.cursor)),
            floors: durable.floors.iter().map(|(group, floor)| floor_entry(group, floor)).collect(),
            time_floor_ms: durable.time_floor.0,
            good: good.as_ref().map(|id| placement_entry(&id.group, id.cursor)),
            applying: durable.applying.map(|applying| ApplyingEntry {
                epoch: applying.cursor.epoch.0,
                revision: applying.cursor.revision.0,
                digest: applying.digest.to_string(),
                starts: applying.starts,
            }),
            failed: durable.failed.iter().map(failed_entry).collect(),
            trial: durable.trial.map(trial_entry),
            rollbacks: durable.rollbacks,
            root_version: durable.root_version,
            handlers: handlers.map(|digest| digest.to_string()),
        };
        serde_json::to_vec_pretty(&file).expect("invariant: texts and numbers have a JSON form")
    }

    pub(crate) fn decode(json: &[u8]) -> Result<Self, StateError> {
        let file: File = serde_json::from_slice(json)?;
        let assignment = file.assignment.map(|p| p.read("assignment")).transpose()?;
        let floors = file.floors.into_iter().map(FloorEntry::read).collect::<Result<_, _>>()?;
        let good = file.good.map(|p| p.read("good")).transpose()?;
        let applying = file.applying.map(|applying| {
            let cursor = Cursor::new(applying.epoch, applying.revision);
            Ok::<_, StateError>(Applying {
                cursor,
                digest: digest(&applying.digest)?,
                starts: applying.starts,
            })
        });
        let durable = Durable {
            assignment: assignment.map(|(group, cursor)| Placement { group, cursor }),
            floors,
            time_floor: Timestamp(file.time_floor_ms),
            good: None,
            applying: applying.transpose()?,
            failed: file.failed.into_iter().map(FailedEntry::read).collect::<Result<_, _>>()?,
            trial: file.trial.map(TrialEntry::read).transpose()?,
            rollbacks: file.rollbacks,
            root_version: file.root_version,
        };
        let good = good.map(|(group, cursor)| GenerationId { group, cursor });
        let handlers = file.handlers.as_deref().map(digest).transpose()?;
        Ok(Self { durable, good, handlers })
    }
}

fn placement_entry(group: &GroupId, cursor: Cursor) -> PlacementEntry {
    PlacementEntry { group: group.to_string(), epoch: cursor.epoch.0, revision: cursor.revision.0 }
}

fn floor_entry(group: &GroupId, floor: Floor) -> FloorEntry {
    FloorEntry {
        group: group.to_string(),
        epoch: floor.cursor.epoch.0,
        revision: floor.cursor.revision.0,
        digest: floor.digest.to_string(),
    }
}

fn failed_entry(failed: &Failed) -> FailedEntry {
    FailedEntry {
        kind: failed.kind.as_ref().map(KindName::to_string),
        revision: failed.revision.0,
        digest: failed.digest.to_string(),
        reason: failed.reason.to_string(),
    }
}

fn trial_entry(trial: Trial) -> TrialEntry {
    TrialEntry {
        epoch: trial.cursor.epoch.0,
        revision: trial.cursor.revision.0,
        push: trial.previous.mode == Mode::Push,
        heartbeat_interval_ms: trial.previous.heartbeat_interval.0,
        offline_after_ms: trial.previous.offline_after.0,
        content_spread_ms: Some(trial.previous.content_spread.0),
        content_rate_limit: trial.previous.content_rate_limit,
        until_ms: trial.until.map(|until| until.0),
    }
}

impl PlacementEntry {
    fn read(self, field: &'static str) -> Result<(GroupId, Cursor), StateError> {
        let group = GroupId::new(self.group).map_err(|_| StateError::Value(field))?;
        Ok((group, Cursor::new(self.epoch, self.revision)))
    }
}

impl FloorEntry {
    fn read(self) -> Result<(GroupId, Floor), StateError> {
        let group = GroupId::new(self.group).map_err(|_| StateError::Value("floors"))?;
        Ok((group, Floor { cursor: Cursor::new(self.epoch, self.revision), digest: digest(&self.digest)? }))
    }
}

impl FailedEntry {
    fn read(self) -> Result<Failed, StateError> {
        let kind = self.kind.map(KindName::new).transpose().map_err(|_| StateError::Value("failed"))?;
        let (revision, reason) = (Revision(self.revision), Reason::new(self.reason));
        Ok(Failed { kind, revision, digest: digest(&self.digest)?, reason })
    }
}

impl TrialEntry {
    fn read(self) -> Result<Trial, StateError> {
        let overlay = SettingsOverlay {
            mode: Some(if self.push { Mode::Push } else { Mode::Pull }),
            heartbeat_interval: Some(Span(self.heartbeat_interval_ms)),
            offline_after: Some(Span(self.offline_after_ms)),
            content_spread: self.content_spread_ms.map(Span),
            content_rate_limit: self.content_rate_limit,
        };
        let previous: Settings = overlay.effective().map_err(|_| StateError::Value("trial"))?;
        let cursor = Cursor::new(self.epoch, self.revision);
        Ok(Trial { cursor, previous, until: self.until_ms.map(Timestamp) })
    }
}

fn digest(text: &str) -> Result<Digest, StateError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| StateError::Value("a digest"))?;
    Ok(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_its_file() {
        let group = GroupId::new("web").unwrap();
        let cursor = Cursor::new(2, u64::MAX);
        let failed = |kind: Option<&str>| Failed {
            kind: kind.map(|kind| KindName::new(kind).unwrap()),
            revision: Revision(7),
            digest: Digest([7; 32]),
            reason: Reason::new("no \"such\"\nthing"),
        };
        let settings = SettingsOverlay {
            content_spread: Some(Span::from_secs(7)),
            content_rate_limit: Some(1 << 20),
            ..SettingsOverlay::default()
        };
        let previous = settings.effective().unwrap();
        let durable = Durable {
            assignment: Some(Placement { group: group.clone(), cursor }),
            floors: [(group.clone(), Floor { cursor, digest: Digest([1; 32]) })].into_iter().collect(),
            time_floor: Timestamp(5),
            good: None,
            applying: Some(Applying { cursor, digest: Digest([2; 32]), starts: 2 }),
            failed: vec![failed(None), failed(Some("firewall"))],
            trial: Some(Trial { cursor, previous, until: Some(Timestamp(9)) }),
            rollbacks: 3,
            root_version: 4,
        };
        let good = Some(GenerationId { group, cursor });
        let state = State { durable, good, handlers: Some(Digest([3; 32])) };
        assert_eq!(State::decode(&state.encode()).unwrap(), state);
        assert_eq!(State::decode(&State::default().encode()).unwrap(), State::default());
    }

    #[test]
    fn json_that_is_no_state_is_refused() {
        assert!(State::decode(b"{}").is_err());
        let mut json: serde_json::Value = serde_json::from_slice(&State::default().encode()).unwrap();
        json["handlers"] = "zz".into();
        assert_eq!(
            State::decode(json.to_string().as_bytes()).unwrap_err().to_string(),
            "a digest is not valid"
        );
    }
}
