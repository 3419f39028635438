//! Inputs that several measurements share: documents, signed snapshots, a tree of groups, a fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use domain::catalog::{Catalog, Entry, Group, Kind, Locks, Policy, root_id};
use domain::content::{ChannelName, ContentRevision, ContentStatus, SourceBytes};
use domain::document::{Document, canonical};
use domain::presence::{Beat, Enrolment, GroupHead, ItemReport, ItemState, Labels, Presence, Report, Status};
use domain::schema::Schema;
use domain::trust::{Role, Root};
use domain::{
    AgentId, Cursor, Digest, FleetId, GroupId, GroupPath, KindName, Mode, PolicyItem, PolicyName, Revision,
    SettingsOverlay, Snapshot, Span, Timestamp,
};
use ed25519_dalek::{SigningKey, VerifyingKey};
use prost::Message as _;
use serde_json::{Map, Value, json};
use wire::agent::v1::Envelope;
use wire::root::Chain;
use wire::sign::public_key;

/// When the fleets of the measurements begin: any moment that real clocks could show.
pub const START: Timestamp = Timestamp(1_700_000_000_000);

/// A document of about `bytes` bytes as canonical JSON: many short rules, as policies are. `salt` makes it
/// another document of the same size.
#[must_use]
pub fn document(bytes: usize, salt: u64) -> Value {
    let mut rules = Map::new();
    let mut size = r#"{"rules":{},"salt":""}"#.len() + 16;
    for n in 0_u64.. {
        let key = format!("rule-{n:05}");
        let rule =
            json!({"action": "deny", "from": format!("10.{}.{}.0/24", n % 256, n % 100), "port": n % 65_536});
        size += key.len() + 4 + rule.to_string().len();
        if size > bytes {
            break;
        }
        rules.insert(key, rule);
    }
    json!({"rules": rules, "salt": format!("{salt:016x}")})
}

/// A schema that such documents satisfy and that looks at every value.
#[must_use]
pub fn schema() -> Value {
    let rule = json!({
        "type": "object",
        "required": ["action", "from", "port"],
        "additionalProperties": false,
        "properties": {
            "action": {"enum": ["allow", "deny"]},
            "from": {"type": "string", "maxLength": 43},
            "port": {"type": "integer", "minimum": 0, "maximum": 65_535}
        }
    });
    json!({
        "type": "object",
        "required": ["rules", "salt"],
        "properties": {"rules": {"type": "object", "additionalProperties": rule}, "salt": {"type": "string"}}
    })
}

/// A signed snapshot with one document of about `bytes` bytes, as agents receive it, and the key to check
/// it with.
///
/// # Errors
/// Never for the sizes used here: a name or a setting would have to be refused.
pub fn sealed(bytes: usize) -> Result<(Bytes, VerifyingKey)> {
    let document: Arc<[u8]> = canonical(&document(bytes, 1)).into();
    let key = SigningKey::from_bytes(&[7; 32]);
    let snapshot = Snapshot {
        fleet: FleetId::new("main")?,
        group: GroupId::new("bench")?,
        path: GroupPath::new("/bench")?,
        cursor: Cursor::new(1, 9),
        issued_at: START,
        expires_at: Timestamp(START.0 + 86_400_000),
        settings: SettingsOverlay { mode: Some(Mode::Push), ..SettingsOverlay::default() }.effective()?,
        policies: vec![PolicyItem {
            kind: KindName::new("bench")?,
            revision: Revision(9),
            digest: Digest::of(&document),
            document,
        }],
        content: vec![],
        trace_id: [9; 16],
    };
    Ok((wire::snapshot::seal(&snapshot, &key).encode_to_vec().into(), key.verifying_key()))
}

/// What an agent does with the bytes of a notification before it acts: parse, verify, decode, compare
/// digests.
///
/// # Errors
/// When the envelope is not what [`sealed`] made.
pub fn open(bytes: &Bytes, key: VerifyingKey) -> Result<Snapshot> {
    let envelope = wire::envelope::parse_shared(bytes)?;
    Ok(wire::snapshot::open(&envelope, &key.into())?)
}

/// A trust root and the one that follows it, each with three root keys of which two must sign.
///
/// # Errors
/// When the roots are none.
pub fn roots() -> Result<(Chain, Envelope)> {
    let key = |seed: u8| SigningKey::from_bytes(&[seed; 32]);
    let role = |seeds: &[u8], threshold| {
        Role::new(seeds.iter().map(|seed| public_key(&key(*seed).verifying_key())), threshold)
    };
    let first = Root {
        fleet: FleetId::new("bench")?,
        version: 1,
        issued_at: START,
        expires_at: START + Span::from_secs(86_400),
        root: role(&[1, 2, 3], 2),
        director: role(&[4], 1),
        content: role(&[5], 1),
    };
    let signed = |root: &Root| -> Result<Envelope> {
        let mut envelope = wire::root::unsigned(root);
        for seed in [1, 2] {
            wire::root::sign(&mut envelope, &key(seed))?;
        }
        Ok(envelope)
    };
    let next = first.next(first.issued_at, first.expires_at);
    Ok((Chain::begin(signed(&first)?)?, signed(&next)?))
}

/// How the groups of a tree differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// They only inherit.
    Inherits,
    /// Each assigns a policy of its own that overlays the root's.
    Overlays,
}

/// The policy of the root with a document of about 4 KiB.
///
/// # Errors
/// Never: the names are valid.
pub fn root_policy(salt: u64) -> Result<Policy> {
    policy("base", document(4096, salt))
}

fn policy(name: &str, document: Value) -> Result<Policy> {
    Ok(Policy {
        name: PolicyName::new(name)?,
        kind: KindName::new("bench")?,
        document: Document::new(document)?,
        locks: Locks::default(),
        generation: 1,
        manager: None,
    })
}

/// A catalogue with `count` groups below the root, three levels deep.
///
/// # Errors
/// Never: the names are valid.
pub fn catalog(count: usize, tree: Tree) -> Result<Catalog> {
    let mut entries = vec![
        Entry::Kind(Arc::new(Kind {
            name: KindName::new("bench")?,
            schema: Schema::new(schema())?,
            manager: None,
        })),
        Entry::Policy(Arc::new(root_policy(0)?)),
    ];
    let root = Group { policies: BTreeSet::from([PolicyName::new("base")?]), ..Group::root() };
    entries.push(Entry::Group(Arc::new(Group { id: root_id(), ..root })));
    for n in 0..count {
        let mut group = Group::new(GroupId::new(format!("group-{n}"))?, GroupPath::new(path(n))?);
        if tree == Tree::Overlays {
            let own = policy(
                &format!("own-{n}"),
                json!({"rules": {format!("own-{n}"):
                {"action": "allow", "from": "192.0.2.0/24", "port": 443}}}),
            )?;
            group.policies.insert(own.name.clone());
            entries.push(Entry::Policy(Arc::new(own)));
        }
        entries.push(Entry::Group(Arc::new(group)));
    }
    let mut catalog = Catalog::new();
    let revision = Revision(u64::try_from(entries.len())?);
    catalog.fold(entries, revision);
    Ok(catalog)
}

/// The place of group `n` of a tree that is three levels deep. Parents have lower numbers.
#[must_use]
pub fn path(n: usize) -> String {
    match n {
        0..10 => format!("/region-{n}"),
        10..110 => format!("/region-{}/site-{n}", n % 10),
        _ => format!("/region-{}/site-{}/group-{n}", n % 10, 10 + n % 100),
    }
}

/// Groups that the agents of [`fleet`] are spread over.
const GROUPS: u64 = 1_000;

/// The id of agent `n`, as agents make their own: host name and eight hexadecimal digits.
#[must_use]
pub fn agent_id(n: u64) -> String {
    format!("host-{n:07}-{:08x}", n.wrapping_mul(0x9e37_79b9) & 0xffff_ffff)
}

/// The heartbeat number `sequence` of agent `n`.
#[must_use]
pub fn beat(n: u64, sequence: u64, report: Option<Report>) -> Beat {
    Beat { session: n, sequence, cursor: Cursor::new(1, 9), assignment: Cursor::new(1, 1), report }
}

/// What an agent with four healthy policies and four channels reports.
///
/// # Errors
/// Never: the names are valid.
pub fn report(n: u64) -> Result<Report> {
    let item = |kind: &str| {
        let kind = KindName::new(kind)?;
        Ok(ItemReport { kind, state: ItemState::Healthy, revision: Revision(9), reason: "".into() })
    };
    let items = ["antivirus", "firewall", "logging", "updates"].into_iter().map(item);
    let items = items.collect::<Result<Vec<_>>>()?;
    let status = Status { seen: Cursor::new(1, 9), items, ..Status::default() };
    let hostname = format!("host-{n:07}").into_boxed_str();
    Ok(Report { version: "1.0.0".into(), mode: Some(Mode::Push), hostname, status, content: content()? })
}

/// Four channels at the revision that is assigned.
fn content() -> Result<Vec<ContentStatus>> {
    let status = |channel| {
        Ok(ContentStatus {
            channel: ChannelName::new(channel)?,
            active: ContentRevision(30),
            wanted: ContentRevision(30),
            revision: Revision(9),
            state: ItemState::Healthy,
            percent: 100,
            bytes: SourceBytes { patch: 90_000, ..SourceBytes::default() },
            reason: "".into(),
        })
    };
    ["definitions/av", "definitions/ips", "models/large", "rules"].into_iter().map(status).collect()
}

/// Presence of `count` agents that have all been heard once, with labels and a full status.
///
/// # Errors
/// Never: the names are valid.
pub fn fleet(count: u64) -> Result<Presence> {
    let mut fleet = Presence::new(START);
    let settings = SettingsOverlay { mode: Some(Mode::Push), ..SettingsOverlay::default() }.effective()?;
    let group = |n: u64| GroupId::new(format!("group-{}", n % GROUPS));
    for n in 0..GROUPS {
        let path = GroupPath::new(format!("/site-{}/group-{n}", n % 10))?;
        fleet.group_changed(START, GroupHead { group: group(n)?, path, settings, cursor: Cursor::new(1, 9) });
    }
    for n in 0..count {
        let labels =
            Labels::from([("os".into(), "linux".into()), ("site".into(), format!("s{}", n % 100).into())]);
        let hostname = format!("host-{n:07}").into_boxed_str();
        let agent = AgentId::new(agent_id(n))?;
        fleet.enrolled(
            START,
            &Enrolment { agent, group: group(n)?, assignment: Cursor::new(1, 1), hostname, labels },
        );
        fleet.heartbeat(Timestamp(START.0 + n / 64), &agent_id(n), beat(n, 1, Some(report(n)?)));
        fleet.take_effects().for_each(drop);
    }
    Ok(fleet)
}

/// No agents in any group, for plans.
#[must_use]
pub fn no_agents() -> BTreeMap<GroupId, u64> {
    BTreeMap::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_the_size_asked_for_and_satisfy_the_schema() {
        let schema = Schema::new(schema()).unwrap();
        for bytes in [4096, 65_536] {
            let document = document(bytes, 3);
            let size = canonical(&document).len();
            assert!((bytes - 128..=bytes).contains(&size), "{size}");
            assert!(schema.failures(&document).is_empty());
        }
    }

    #[test]
    fn sealed_snapshots_open() {
        let (bytes, key) = sealed(4096).unwrap();
        assert_eq!(open(&bytes, key).unwrap().policies.len(), 1);
    }

    #[test]
    fn every_agent_of_a_fleet_is_heard() {
        let fleet = fleet(500).unwrap();
        assert_eq!(fleet.len(), 500);
        assert_eq!(fleet.counters(), domain::presence::Counters::default());
    }
}
