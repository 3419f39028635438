//! Manifests: the YAML (or JSON) that people write, as [`Resource`]s of `muster.api.v1`.
//!
//! ```yaml
//! apiVersion: muster.dev/v1alpha1
//! kind: Policy
//! metadata: {name: firewall-base}
//! spec: {kind: firewall, document: {rules: {ssh: deny}}, locks: [/rules/ssh]}
//! ```
//!
//! A stream holds any number of documents in any order. What is not known is refused rather than
//! skipped: a setting that was misspelled must not look as if it were in force. Every error names the
//! file, the document, the line and the field, and says what is allowed. `yes`, `no`, `on` and `off`
//! are texts (YAML 1.2), a key that stands twice is refused, and aliases expand within bounds.

pub mod duration;
mod fields;
mod problem;
mod resource;
pub mod schema;
mod spec;
mod split;

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Options;

use crate::api::v1::Resource;

pub use crate::size;

pub use self::spec::{
    ContentReleaseSpec, EnrollmentTokenSpec, FactsSpec, GroupMetadata, GroupSpec, KindMetadata,
    PolicyKindSpec, PolicyMetadata, PolicySpec, ReleaseMetadata, RuleSpec, SettingsSpec, TokenMetadata,
};

/// Largest stream, in bytes: an apply is one atomic change, and a change holds at most 8 MiB.
pub const MAX_BYTES: usize = 8 << 20;
/// Most documents of a stream: an apply takes at most 1,000 objects.
pub const MAX_DOCUMENTS: usize = 1_000;

/// Deepest nesting of a manifest: a policy document may nest as deep as documents do, some levels down.
const MAX_DEPTH: usize = crate::document::MAX_DEPTH + 8;
/// Most nodes that aliases may add to one document. People use aliases to say a thing twice, not to
/// build a document that is larger than its file.
const MAX_ALIASED_NODES: usize = 20_000;
/// Deepest nesting of aliases in aliases.
const MAX_ALIAS_DEPTH: usize = 8;

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ApiVersion {
    /// The first.
    #[serde(rename = "muster.dev/v1alpha1")]
    V1Alpha1,
}

/// The kind of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Kind {
    /// A node of the tree.
    Group,
    /// A policy kind.
    PolicyKind,
    /// A policy.
    Policy,
    /// An enrolment token.
    EnrollmentToken,
    /// What a stage of a content channel names.
    ContentRelease,
}

/// One manifest: the outer form that all kinds share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest<M, S> {
    /// Version of the format.
    pub api_version: ApiVersion,
    /// What it describes.
    pub kind: Kind,
    /// Its name.
    pub metadata: M,
    /// What is wanted.
    pub spec: S,
}

/// Where a manifest, or a mistake in it, stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as the reader named it.
    pub file: String,
    /// Document in the file, from 1.
    pub document: usize,
    /// Line in the file, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{} (document {})", self.file, self.line, self.column, self.document)
    }
}

/// A resource and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// Where its document starts.
    pub place: Place,
    /// The resource.
    pub resource: Resource,
}

/// Why a stream of manifests cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MAX_BYTES`]; nothing was parsed.
    #[error("{file}: is {size} bytes long; at most {MAX_BYTES} are read")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size.
        size: usize,
    },
    /// Not UTF-8.
    #[error("{file}: is not UTF-8 text (first wrong byte at {at})")]
    NotUtf8 {
        /// The file.
        file: String,
        /// Offset of the first byte that is not.
        at: usize,
    },
    /// More than [`MAX_DOCUMENTS`].
    #[error("{file}: holds more than {MAX_DOCUMENTS} documents")]
    TooManyDocuments {
        /// The file.
        file: String,
    },
    /// Something is wrong in one document.
    #[error("{place}: {}{problem}", prefix(field))]
    Document {
        /// Where.
        place: Place,
        /// Path of the field, e.g. `spec.settings.mode`; empty for the document as a whole.
        field: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

fn prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}

/// Reads all manifests of a stream. `file` is for messages only.
///
/// # Errors
/// One [`ManifestError`] for each document that is wrong, so that all can be put right at once.
pub fn read(file: &str, bytes: &[u8]) -> Result<Vec<Located>, Vec<ManifestError>> {
    let stream = text(file, bytes).map_err(|error| vec![error])?;
    let mut located = Vec::new();
    let mut errors = Vec::new();
    for (index, section) in split::documents(stream).enumerate() {
        if index == MAX_DOCUMENTS {
            return Err(vec![ManifestError::TooManyDocuments { file: file.to_owned() }]);
        }
        let document = Document { file, number: index + 1, section };
        match document.resource() {
            Ok(resource) => located.push(Located { place: document.place(None), resource }),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(located) } else { Err(errors) }
}

/// Why an object is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", prefix(field))]
pub struct ObjectError {
    /// Path of the field, e.g. `spec.settings.mode`; empty for the object as a whole.
    pub field: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// Reads one manifest that is an object already, as Kubernetes keeps them. Of its metadata there are only name and labels.
///
/// # Errors
/// [`ObjectError`] names the field that is wrong.
pub fn from_object(object: &serde_json::Value) -> Result<Resource, ObjectError> {
    let resource = match parse_object::<Head>(object)?.kind {
        Kind::Group => Ok(resource::group(parse_object(object)?)),
        Kind::PolicyKind => resource::kind(parse_object(object)?),
        Kind::Policy => resource::policy(parse_object(object)?),
        Kind::EnrollmentToken => Ok(resource::token(parse_object(object)?)),
        Kind::ContentRelease => Ok(resource::release(parse_object(object)?)),
    };
    resource.map_err(|(field, problem)| ObjectError { field: field.to_owned(), problem })
}

fn parse_object<'a, T: Deserialize<'a>>(object: &'a serde_json::Value) -> Result<T, ObjectError> {
    serde_path_to_error::deserialize(object).map_err(|error| {
        let field = problem::field(&error.path().to_string());
        ObjectError { field, problem: problem::harmless(&error.into_inner().to_string()).into_owned() }
    })
}

fn text<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, ManifestError> {
    if bytes.len() > MAX_BYTES {
        return Err(ManifestError::TooLarge { file: file.to_owned(), size: bytes.len() });
    }
    std::str::from_utf8(bytes)
        .map_err(|error| ManifestError::NotUtf8 { file: file.to_owned(), at: error.valid_up_to() })
}

/// What tells how to read the rest.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    kind: Kind,
}

struct Document<'a> {
    file: &'a str,
    number: usize,
    section: split::Section<'a>,
}

impl Document<'_> {
    fn resource(&self) -> Result<Resource, ManifestError> {
        let head: Head = self.parse()?;
        let resource = match head.kind {
            Kind::Group => Ok(resource::group(self.parse()?)),
            Kind::PolicyKind => resource::kind(self.parse()?),
            Kind::Policy => resource::policy(self.parse()?),
            Kind::EnrollmentToken => Ok(resource::token(self.parse()?)),
            Kind::ContentRelease => Ok(resource::release(self.parse()?)),
        };
        resource.map_err(|(field, problem)| self.error(None, field.to_owned(), problem))
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, ManifestError> {
        let mut field = String::new();
        let parsed =
            serde_saphyr::with_deserializer_from_str_with_options(self.section.text, options(), |yaml| {
                serde_path_to_error::deserialize(yaml).map_err(|error| {
                    field = error.path().to_string();
                    error.into_inner()
                })
            });
        parsed.map_err(|error| {
            let (at, problem) = problem::explain(&error);
            self.error(at, problem::field(&field), problem)
        })
    }

    fn error(&self, at: Option<(u64, u64)>, field: String, problem: String) -> ManifestError {
        ManifestError::Document { place: self.place(at), field, problem }
    }

    /// A place in the section as a place in the file; without one, where its text starts.
    fn place(&self, at: Option<(u64, u64)>) -> Place {
        let (line, column) = at.unwrap_or_else(|| (split::first_content_line(self.section.text), 1));
        let before = u64::try_from(self.section.first_line).unwrap_or(u64::MAX);
        Place { file: self.file.to_owned(), document: self.number, line: before.saturating_add(line), column }
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED_NODES,
            max_replay_stack_depth: MAX_ALIAS_DEPTH,
        },
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
        emit_comments: false,
    }
}

#[cfg(test)]
mod tests;
