//! Checked manifests as messages of `muster.api.v1`.

use domain::content::{ChannelName, ContentPointer};
use domain::document::Document;
use domain::enrol::{Approval, HostPattern};
use prost_types::Struct;
use serde_json::{Map, Value};

use super::spec::{
    ContentReleaseSpec, EnrollmentTokenSpec, GroupMetadata, GroupSpec, KindMetadata, PolicyKindSpec,
    PolicyMetadata, PolicySpec, ReleaseMetadata, RuleSpec, SettingsSpec, TokenMetadata,
};
use super::{Located, Manifest};
use crate::api::v1::resource::Resource as Any;
use crate::api::v1::{
    ContentReference, ContentRelease, EnrolmentRule, Group, Kind, Mode, Policy, Resource, Settings, Token,
    content_reference,
};
use crate::document::to_struct;
use crate::time::to_duration;

/// A field and what is wrong with it.
type Problem = (&'static str, String);

impl Located {
    /// The kind as manifests name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.resource.resource {
            Some(Any::Group(_)) => "Group",
            Some(Any::Kind(_)) => "PolicyKind",
            Some(Any::Policy(_)) => "Policy",
            Some(Any::Token(_)) => "EnrollmentToken",
            Some(Any::ContentRelease(_)) => "ContentRelease",
            None => "",
        }
    }

    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.resource.resource {
            Some(Any::Group(group)) => &group.name,
            Some(Any::Kind(kind)) => &kind.name,
            Some(Any::Policy(policy)) => &policy.name,
            Some(Any::Token(token)) => &token.name,
            Some(Any::ContentRelease(release)) => &release.name,
            None => "",
        }
    }
}

pub(super) fn group(manifest: Manifest<GroupMetadata, GroupSpec>) -> Resource {
    let Manifest { metadata, spec, .. } = manifest;
    wrap(Any::Group(Group {
        name: metadata.name.to_string(),
        path: spec.path.to_string(),
        settings: Some(settings(spec.settings)),
        policies: spec.policies.iter().map(ToString::to_string).collect(),
        labels: metadata.labels.as_map().clone().into_iter().collect(),
        content: spec.content.into_iter().map(reference).collect(),
        ..Group::default()
    }))
}

pub(super) fn kind(manifest: Manifest<KindMetadata, PolicyKindSpec>) -> Result<Resource, Problem> {
    Ok(wrap(Any::Kind(Kind {
        name: manifest.metadata.name.to_string(),
        schema: Some(structure("spec.schema", &Value::Object(manifest.spec.schema))?),
        ..Kind::default()
    })))
}

pub(super) fn policy(manifest: Manifest<PolicyMetadata, PolicySpec>) -> Result<Resource, Problem> {
    let Manifest { metadata, spec, .. } = manifest;
    Ok(wrap(Any::Policy(Policy {
        name: metadata.name.to_string(),
        kind: spec.kind.to_string(),
        document: Some(document("spec.document", spec.document)?),
        locks: spec.locks.iter().map(ToString::to_string).collect(),
        ..Policy::default()
    })))
}

pub(super) fn token(manifest: Manifest<TokenMetadata, EnrollmentTokenSpec>) -> Resource {
    let Manifest { metadata, spec, .. } = manifest;
    wrap(Any::Token(Token {
        name: metadata.name.to_string(),
        group: spec.group,
        uses: spec.uses.unwrap_or_default(),
        ttl: spec.ttl.map(to_duration),
        rules: spec.rules.into_iter().map(rule).collect(),
        approval_required: spec.approval == Approval::Required,
        ..Token::default()
    }))
}

fn rule(spec: RuleSpec) -> EnrolmentRule {
    EnrolmentRule {
        labels: spec.facts.labels.into_iter().collect(),
        hostname: spec.facts.hostname.as_ref().map(HostPattern::to_string).unwrap_or_default(),
        group: spec.group,
    }
}

pub(super) fn release(manifest: Manifest<ReleaseMetadata, ContentReleaseSpec>) -> Resource {
    let Manifest { metadata, spec, .. } = manifest;
    wrap(Any::ContentRelease(ContentRelease {
        name: metadata.name,
        channel: spec.channel.to_string(),
        stage: spec.stage.to_string(),
        revision: spec.revision.0,
    }))
}

fn reference((channel, pointer): (ChannelName, ContentPointer)) -> ContentReference {
    let which = match pointer {
        ContentPointer::Stage(stage) => content_reference::Which::Stage(stage.to_string()),
        ContentPointer::Revision(number) => content_reference::Which::Revision(number.0),
    };
    ContentReference { channel: channel.to_string(), which: Some(which) }
}

fn wrap(resource: Any) -> Resource {
    Resource { resource: Some(resource) }
}

fn settings(spec: SettingsSpec) -> Settings {
    let mode = |mode| match mode {
        domain::Mode::Pull => Mode::Pull.into(),
        domain::Mode::Push => Mode::Push.into(),
    };
    Settings {
        mode: spec.mode.map(mode),
        heartbeat_interval: spec.heartbeat_interval.map(to_duration),
        offline_after: spec.offline_after.map(to_duration),
        content_spread: spec.content_spread.map(to_duration),
        content_rate_limit: spec.content_rate_limit,
    }
}

fn document(field: &'static str, members: Map<String, Value>) -> Result<Struct, Problem> {
    let document = Document::new(Value::Object(members)).map_err(|error| (field, error.to_string()))?;
    structure(field, document.value())
}

fn structure(field: &'static str, value: &Value) -> Result<Struct, Problem> {
    let structure = to_struct(value).map_err(|error| (field, error.to_string()))?;
    Ok(structure.unwrap_or_default())
}
