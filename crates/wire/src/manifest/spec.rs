//! What people write: one type for each kind of manifest, with the field names of the file.

use std::collections::BTreeMap;

use domain::catalog::Labels;
use domain::content::{ChannelName, ContentPointer, ContentRevision, StageName};
use domain::document::Pointer;
use domain::enrol::{Approval, HostPattern};
use domain::{GroupId, GroupPath, KindName, Mode, PolicyName, Span, TokenId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{fields, schema};

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(transform = schema::group_rules)]
pub struct GroupSpec {
    /// Place in the tree, e.g. `/servers/web`. Parents exist or are in the same apply.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::path")]
    pub path: GroupPath,
    /// What the group sets itself; what is absent is inherited.
    #[serde(default)]
    pub settings: SettingsSpec,
    /// Names of the policies assigned here, at most one of a kind.
    #[serde(default, deserialize_with = "fields::texts")]
    #[schemars(schema_with = "schema::names")]
    pub policies: Vec<PolicyName>,
    /// Content assigned here, at most one for a channel; overrides what the groups above assign of it.
    #[serde(default, deserialize_with = "fields::content")]
    #[schemars(schema_with = "schema::content")]
    pub content: BTreeMap<ChannelName, ContentPointer>,
}

/// Communication settings. What is absent is inherited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SettingsSpec {
    /// `push`: agents hold a connection and are told at once; `pull`: they ask at each heartbeat.
    #[serde(default, deserialize_with = "fields::mode")]
    #[schemars(schema_with = "schema::mode")]
    pub mode: Option<Mode>,
    /// Time between heartbeats, 1s to 24h.
    #[serde(default, deserialize_with = "fields::duration")]
    #[schemars(schema_with = "schema::duration")]
    pub heartbeat_interval: Option<Span>,
    /// Silence after which an agent counts as offline: at least the interval, at most 240h.
    #[serde(default, deserialize_with = "fields::duration")]
    #[schemars(schema_with = "schema::duration")]
    pub offline_after: Option<Span>,
    /// Window over which agents start to download content, 0s to 24h.
    #[serde(default, deserialize_with = "fields::duration")]
    #[schemars(schema_with = "schema::duration")]
    pub content_spread: Option<Span>,
    /// Most bytes of content each agent fetches in a second, such as `2MiB`, `500KiB` or `500000`; `none` or 0:
    /// no limit, also where a group above sets one.
    #[serde(default, deserialize_with = "fields::rate_limit")]
    #[schemars(schema_with = "schema::rate")]
    pub content_rate_limit: Option<u64>,
}

/// A policy kind: documents of this kind satisfy its schema.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyKindSpec {
    /// JSON Schema, draft 2020-12.
    #[schemars(schema_with = "schema::object")]
    pub schema: Map<String, Value>,
}

/// A policy: a named document of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(transform = schema::policy_rules)]
pub struct PolicySpec {
    /// Its kind; fixed once created.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::name")]
    pub kind: KindName,
    /// The document: a JSON Merge Patch (RFC 7396) on what the groups above assign.
    #[schemars(schema_with = "schema::object")]
    pub document: Map<String, Value>,
    /// JSON Pointers (RFC 6901) that groups further down may not change.
    #[serde(default, deserialize_with = "fields::texts")]
    #[schemars(schema_with = "schema::pointers")]
    pub locks: Vec<Pointer>,
}

/// An enrolment token. The server makes its secret when the token is created.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EnrollmentTokenSpec {
    /// Group that agents join: its path or its name. Absent: the group at /default.
    #[serde(default, deserialize_with = "fields::group_reference")]
    #[schemars(schema_with = "schema::group")]
    pub group: String,
    /// How many agents may join with it: 1 to 100,000. Absent: 1.
    #[serde(default, deserialize_with = "fields::uses")]
    #[schemars(schema_with = "schema::uses")]
    pub uses: Option<u32>,
    /// How long it is good for, from creation: at most 30 days. Absent: 24h.
    #[serde(default, deserialize_with = "fields::token_ttl")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<Span>,
    /// Which agents get another group; the first that matches counts. At most 32.
    #[serde(default, deserialize_with = "fields::rules")]
    #[schemars(length(max = domain::enrol::MAX_RULES))]
    pub rules: Vec<RuleSpec>,
    /// `required`: agents that join wait until somebody approves them. Absent, or `none`: they are in at once.
    #[serde(default, deserialize_with = "fields::approval")]
    #[schemars(schema_with = "schema::approval")]
    pub approval: Approval,
}

/// Which agents get which group when they join.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// What an agent must have.
    #[serde(rename = "match")]
    pub facts: FactsSpec,
    /// The group: its path or its name.
    #[serde(deserialize_with = "fields::group_reference")]
    #[schemars(schema_with = "schema::group")]
    pub group: String,
}

/// What a rule looks for; all of it must be there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FactsSpec {
    /// Labels, with these values. At most 8.
    #[serde(default)]
    #[schemars(schema_with = "schema::facts")]
    pub labels: BTreeMap<String, String>,
    /// What the host name looks like, such as `web-*`.
    #[serde(default, deserialize_with = "fields::host_pattern")]
    #[schemars(schema_with = "schema::host_pattern")]
    pub hostname: Option<HostPattern>,
}

/// What a stage of a content channel names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ContentReleaseSpec {
    /// The channel; it exists since its first upload.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::channel")]
    pub channel: ChannelName,
    /// The stage; made if there is none of this name.
    #[serde(deserialize_with = "fields::text")]
    #[schemars(schema_with = "schema::name")]
    pub stage: StageName,
    /// The revision, from 1.
    #[serde(deserialize_with = "fields::content_revision")]
    #[schemars(schema_with = "schema::revision")]
    pub revision: ContentRevision,
}

/// Name and labels of a group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupMetadata {
    /// Its name: stable, also when the group moves.
    #[serde(deserialize_with = "fields::text")]
    pub name: GroupId,
    /// Free labels.
    #[serde(default, deserialize_with = "fields::labels")]
    pub labels: Labels,
}

/// Name of a policy kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindMetadata {
    /// Its name.
    #[serde(deserialize_with = "fields::text")]
    pub name: KindName,
}

/// Name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyMetadata {
    /// Its name.
    #[serde(deserialize_with = "fields::text")]
    pub name: PolicyName,
}

/// Name of a content release.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseMetadata {
    /// Its name; it has no meaning to the fleet.
    #[serde(deserialize_with = "fields::name")]
    pub name: String,
}

/// Name of an enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenMetadata {
    /// Its id.
    #[serde(deserialize_with = "fields::text")]
    pub name: TokenId,
}
