//! Every subject of Muster, built from checked ids and read back into them. `proto/SUBJECTS.md` lists
//! them with who may publish and who may subscribe; a test holds the two against each other.

use std::fmt;

use domain::content::{ChannelName, ContentRevision};
use domain::registry::AgentKey;
use domain::{AgentId, ApiTokenName, Digest, GroupId, KindName, PolicyName, TokenId};

use crate::access::Role;

/// Stream of the store of record: the catalogue.
pub const STREAM_POLICY: &str = "POLICY";
/// Stream of the registry of agents.
pub const STREAM_IDENTITY: &str = "IDENTITY";
/// Stream of what agents should have.
pub const STREAM_DESIRED: &str = "DESIRED";
/// Stream of content: manifests, indexes, chunks and patches.
pub const STREAM_CONTENT: &str = "CONTENT";
/// Stream of presence transitions and checkpoints.
pub const STREAM_EVENTS: &str = "EVENTS";

/// Stream of the audit.
pub const STREAM_AUDIT: &str = "AUDIT";

/// Queue group of presence replicas on heartbeats.
pub const QUEUE_PRESENCE: &str = "presence";
/// Queue group of identity replicas on joins.
pub const QUEUE_IDENTITY: &str = "identity";

/// Headers of the messages in DESIRED.
pub mod header {
    /// Epoch of the snapshot in the message, decimal.
    pub const EPOCH: &str = "Muster-Epoch";
    /// Revision of the snapshot in the message, decimal.
    pub const REVISION: &str = "Muster-Revision";
    /// Content digest of the snapshot in the message, hex.
    pub const DIGEST: &str = "Muster-Digest";
    /// Signing time, milliseconds since the Unix epoch, decimal.
    pub const ISSUED_AT: &str = "Muster-Issued-At";
    /// End of validity, milliseconds since the Unix epoch, decimal.
    pub const EXPIRES_AT: &str = "Muster-Expires-At";
    /// Mode in force, `push` or `pull`.
    pub const MODE: &str = "Muster-Mode";
    /// Heartbeat interval in force, milliseconds, decimal.
    pub const HEARTBEAT_INTERVAL: &str = "Muster-Heartbeat-Interval";
    /// Silence after which an agent is offline, milliseconds, decimal.
    pub const OFFLINE_AFTER: &str = "Muster-Offline-After";
    /// Path of the group.
    pub const GROUP_PATH: &str = "Muster-Group-Path";
}

/// A subject that a message is published to. Built only here, so always well formed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(String);

impl Subject {
    /// The subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.0
    }
}

/// All subjects for subscriptions: patterns with wildcards, and the fixed ones.
pub mod pattern {
    /// Everything in the catalogue.
    pub const STORE: &str = "store.>";
    /// Groups of the catalogue.
    pub const STORE_GROUPS: &str = "store.group.*";
    /// API tokens of the catalogue.
    pub const STORE_API_TOKENS: &str = "store.apitoken.*";
    /// Every desired state.
    pub const DESIRED: &str = "desired.>";
    /// Heads of all groups.
    pub const DESIRED_GROUPS: &str = "desired.group.*";
    /// Assignments of all agents.
    pub const DESIRED_AGENTS: &str = "desired.agent.*";
    /// "Every head up to this store revision is published."
    pub const DESIRED_COMPILED: &str = "desired.compiled";
    /// Everything in the registry.
    pub const IDENTITY: &str = "identity.>";
    /// Agents of the registry.
    pub const IDENTITY_AGENTS: &str = "identity.agent.*";
    /// Uses of tokens.
    pub const IDENTITY_TOKENS: &str = "identity.token.*";
    /// Trust roots of the fleet.
    pub const IDENTITY_ROOTS: &str = "identity.root.*";
    /// What DESIRED republishes to.
    pub const NOTIFY: &str = "notify.>";
    /// Heartbeats of all agents.
    pub const HEARTBEATS: &str = "svc.heartbeat.*";
    /// Requests to join.
    pub const ENROL: &str = "svc.enrol";
    /// Where the broker takes changed accounts.
    pub const CLAIMS: &str = "$SYS.REQ.CLAIMS.UPDATE";
    /// Heartbeats that other presence replicas heard.
    pub const BEATS: &str = "presence.beats";
    /// Agents that send far more than they may.
    pub const FLOODS: &str = "presence.flood.*";
    /// How many agents hold which content.
    pub const CENSUS: &str = "presence.content";
    /// All content.
    pub const CONTENT: &str = "content.>";
    /// Manifests of all content.
    pub const CONTENT_MANIFESTS: &str = "content.manifest.*";
    /// Indexes of all content.
    pub const CONTENT_INDEXES: &str = "content.index.*";
    /// Chunks of all content.
    pub const CONTENT_CHUNKS: &str = "content.chunk.*";
    /// Messages of all deltas.
    pub const CONTENT_PATCHES: &str = "content.patch.*.*.*";
    /// All entries of the audit.
    pub const AUDIT: &str = "audit.>";
    /// Presence transitions and checkpoints.
    pub const EVENTS: &str = "events.>";
    /// Presence transitions.
    pub const EVENTS_PRESENCE: &str = "events.presence.*";
    /// Presence checkpoints.
    pub const EVENTS_CHECKPOINT: &str = "events.checkpoint.*";
}

/// State of a group in the catalogue.
#[must_use]
pub fn store_group(id: &GroupId) -> Subject {
    Subject(format!("store.group.{id}"))
}

/// State of a kind in the catalogue.
#[must_use]
pub fn store_kind(name: &KindName) -> Subject {
    Subject(format!("store.kind.{name}"))
}

/// State of a policy in the catalogue.
#[must_use]
pub fn store_policy(name: &PolicyName) -> Subject {
    Subject(format!("store.policy.{name}"))
}

/// State of an enrolment token in the catalogue.
#[must_use]
pub fn store_token(id: &TokenId) -> Subject {
    Subject(format!("store.token.{id}"))
}

/// State of an API token in the catalogue.
#[must_use]
pub fn store_api_token(name: &ApiTokenName) -> Subject {
    Subject(format!("store.apitoken.{name}"))
}

/// State of a content channel in the catalogue. "/" in the channel's name becomes ".".
#[must_use]
pub fn store_channel(name: &ChannelName) -> Subject {
    Subject(format!("store.channel.{}", tokens(name)))
}

/// State of one revision of a channel in the catalogue.
#[must_use]
pub fn store_content(name: &ChannelName, number: ContentRevision) -> Subject {
    Subject(format!("store.content.{}.{number}", tokens(name)))
}

/// Uploads under way.
#[must_use]
pub fn store_uploads() -> Subject {
    Subject("store.uploads".into())
}

/// The last garbage collection of content.
#[must_use]
pub fn store_sweep() -> Subject {
    Subject("store.sweep".into())
}

fn tokens(name: &ChannelName) -> String {
    name.as_str().replace('/', ".")
}

fn channel_of(tokens: &str) -> Option<ChannelName> {
    // A channel has one subject: what has the name's own separator in it is none.
    (!tokens.contains('/')).then(|| ChannelName::new(tokens.replace('.', "/")).ok())?
}

/// A signed manifest.
#[must_use]
pub fn content_manifest(manifest: &Digest) -> Subject {
    Subject(format!("content.manifest.{manifest}"))
}

/// The ways to a manifest.
#[must_use]
pub fn content_index(manifest: &Digest) -> Subject {
    Subject(format!("content.index.{manifest}"))
}

/// A chunk: one zstd frame, named by the digest of what it holds.
#[must_use]
pub fn content_chunk(chunk: &Digest) -> Subject {
    Subject(format!("content.chunk.{chunk}"))
}

/// A message of a delta between two manifests; without `from` of the whole content.
#[must_use]
pub fn content_patch(from: Option<&Digest>, to: &Digest, number: u32) -> Subject {
    match from {
        Some(from) => Subject(format!("content.patch.{from}.{to}.{number}")),
        None => Subject(format!("content.patch.none.{to}.{number}")),
    }
}

/// How many agents hold which content.
#[must_use]
pub fn census() -> Subject {
    Subject(pattern::CENSUS.into())
}

/// Generation of the store.
#[must_use]
pub fn store_epoch() -> Subject {
    Subject("store.epoch".into())
}

/// Head of a group.
#[must_use]
pub fn desired_group(id: &GroupId) -> Subject {
    Subject(format!("desired.group.{id}"))
}

/// Assignment of an agent.
#[must_use]
pub fn desired_agent(id: &AgentId) -> Subject {
    Subject(format!("desired.agent.{id}"))
}

/// Marker: every head up to a store revision is published.
#[must_use]
pub fn desired_compiled() -> Subject {
    Subject(pattern::DESIRED_COMPILED.into())
}

/// Where a group's push agents hear of a new head.
#[must_use]
pub fn notify_group(id: &GroupId) -> Subject {
    Subject(format!("notify.group.{id}"))
}

/// Where an agent hears of a new assignment.
#[must_use]
pub fn notify_agent(id: &AgentId) -> Subject {
    Subject(format!("notify.agent.{id}"))
}

/// Entries of the audit.
#[must_use]
pub fn audit_entry() -> Subject {
    Subject("audit.entry".into())
}

/// An agent's record in the registry.
#[must_use]
pub fn identity_agent(id: &AgentId) -> Subject {
    Subject(format!("identity.agent.{id}"))
}

/// Uses of a token.
#[must_use]
pub fn identity_token(id: &TokenId) -> Subject {
    Subject(format!("identity.token.{id}"))
}

/// A version of the fleet's trust root, as kept.
#[must_use]
pub fn identity_root(version: u64) -> Subject {
    Subject(format!("identity.root.{version}"))
}

/// A version of the fleet's trust root, for agents.
#[must_use]
pub fn desired_root(version: u64) -> Subject {
    Subject(format!("desired.root.{version}"))
}

/// An agent's heartbeat.
#[must_use]
pub fn heartbeat(id: &AgentId) -> Subject {
    Subject(format!("svc.heartbeat.{id}"))
}

/// Requests to join.
#[must_use]
pub fn enrol() -> Subject {
    Subject(pattern::ENROL.into())
}

/// Changed accounts, for the broker.
#[must_use]
pub fn claims() -> Subject {
    Subject(pattern::CLAIMS.into())
}

/// Heartbeats shared between presence replicas.
#[must_use]
pub fn beats() -> Subject {
    Subject(pattern::BEATS.into())
}

/// An agent sends far more than it may.
#[must_use]
pub fn flood(id: &AgentId) -> Subject {
    Subject(format!("presence.flood.{id}"))
}

/// A presence transition of an agent.
#[must_use]
pub fn events_presence(id: &AgentId) -> Subject {
    Subject(format!("events.presence.{id}"))
}

/// A chunk of a presence checkpoint.
#[must_use]
pub fn events_checkpoint(chunk: u32) -> Subject {
    Subject(format!("events.checkpoint.{chunk}"))
}

/// Prefix of an agent's inboxes, without a final dot. Services answer an agent nowhere else. The id is a token of
/// its own, so that no choice of an id leads into the inboxes of joins or of services.
#[must_use]
pub fn inbox_prefix(id: &AgentId) -> Subject {
    Subject(format!("_INBOX_agent.{id}"))
}

/// Prefix of the inboxes of whoever asks to be let in with `key`.
#[must_use]
pub fn join_inbox_prefix(key: &AgentKey) -> Subject {
    Subject(format!("_INBOX_join.{key}"))
}

/// Prefix of a service's inboxes.
#[must_use]
pub fn service_inbox_prefix(role: Role) -> Subject {
    Subject(format!("_INBOX_svc.{role}"))
}

/// Subject-appended Direct Get of the last message of `subject`; needs no permission on any other
/// subject of the stream.
#[must_use]
pub fn direct_get(stream: &'static str, subject: &Subject) -> Subject {
    Subject(format!("$JS.API.DIRECT.GET.{stream}.{subject}"))
}

/// What an object of the catalogue is, as told by its subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreKey {
    /// `store.group.<id>`
    Group(GroupId),
    /// `store.kind.<name>`
    Kind(KindName),
    /// `store.policy.<name>`
    Policy(PolicyName),
    /// `store.token.<id>`
    Token(TokenId),
    /// `store.apitoken.<name>`
    ApiToken(ApiTokenName),
    /// `store.channel.<channel>`
    Channel(ChannelName),
    /// `store.content.<channel>.<number>`
    Content(ChannelName, ContentRevision),
    /// `store.uploads`
    Uploads,
    /// `store.sweep`
    Sweep,
    /// `store.epoch`
    Epoch,
}

impl StoreKey {
    /// Reads a subject; `None` if it is none of the catalogue's.
    #[must_use]
    pub fn parse(subject: &str) -> Option<Self> {
        let rest = subject.strip_prefix("store.")?;
        match rest {
            "epoch" => return Some(Self::Epoch),
            "uploads" => return Some(Self::Uploads),
            "sweep" => return Some(Self::Sweep),
            _ => {}
        }
        let (noun, id) = rest.split_once('.')?;
        match noun {
            "group" => GroupId::new(id).ok().map(Self::Group),
            "kind" => KindName::new(id).ok().map(Self::Kind),
            "policy" => PolicyName::new(id).ok().map(Self::Policy),
            "token" => TokenId::new(id).ok().map(Self::Token),
            "apitoken" => ApiTokenName::new(id).ok().map(Self::ApiToken),
            "channel" => channel_of(id).map(Self::Channel),
            "content" => {
                let (channel, number) = id.rsplit_once('.')?;
                let number = number.parse().ok().filter(|_| !number.starts_with(['0', '+']))?;
                Some(Self::Content(channel_of(channel)?, ContentRevision(number)))
            }
            _ => None,
        }
    }

    /// The subject of this object.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::Group(id) => store_group(id),
            Self::Kind(name) => store_kind(name),
            Self::Policy(name) => store_policy(name),
            Self::Token(id) => store_token(id),
            Self::ApiToken(name) => store_api_token(name),
            Self::Channel(name) => store_channel(name),
            Self::Content(name, number) => store_content(name, *number),
            Self::Uploads => store_uploads(),
            Self::Sweep => store_sweep(),
            Self::Epoch => store_epoch(),
        }
    }
}

/// The group of `desired.group.<id>` or `notify.group.<id>`.
#[must_use]
pub fn parse_group(subject: &str) -> Option<GroupId> {
    let id = subject.strip_prefix("desired.group.").or_else(|| subject.strip_prefix("notify.group."))?;
    GroupId::new(id).ok()
}

/// The agent of `svc.heartbeat.<id>`.
#[must_use]
pub fn parse_heartbeat(subject: &str) -> Option<AgentId> {
    AgentId::new(subject.strip_prefix("svc.heartbeat.")?).ok()
}

/// The agent of `identity.agent.<id>`, `desired.agent.<id>`, `notify.agent.<id>`, `events.presence.<id>` or
/// `presence.flood.<id>`.
#[must_use]
pub fn parse_agent(subject: &str) -> Option<AgentId> {
    let id = ["identity.agent.", "desired.agent.", "notify.agent.", "events.presence.", "presence.flood."]
        .iter()
        .find_map(|prefix| subject.strip_prefix(prefix))?;
    AgentId::new(id).ok()
}

/// The token of `identity.token.<id>`.
#[must_use]
pub fn parse_token_use(subject: &str) -> Option<TokenId> {
    TokenId::new(subject.strip_prefix("identity.token.")?).ok()
}

/// Whether `reply` lies in the inboxes of `agent`. A client chooses its reply subject freely, and publish
/// permissions do not cover it: without this check a service could be made to write anywhere.
#[must_use]
pub fn is_inbox_of(reply: &str, agent: &AgentId) -> bool {
    reply
        .strip_prefix("_INBOX_agent.")
        .and_then(|rest| rest.strip_prefix(agent.as_str()))
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(is_inbox_tail)
}

/// Whether `reply` is an inbox for a join.
#[must_use]
pub fn is_join_inbox(reply: &str) -> bool {
    reply
        .strip_prefix("_INBOX_join.")
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(key, tail)| AgentKey::new(key).is_ok() && is_inbox_tail(tail))
}

fn is_inbox_tail(tail: &str) -> bool {
    tail.len() <= 128
        && tail
            .split('.')
            .all(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

#[cfg(test)]
mod tests;
