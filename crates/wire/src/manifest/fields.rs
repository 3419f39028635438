//! How single fields are read: every value is checked while its place in the file is still known.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;

use domain::catalog::{GroupRef, GroupRefError, Labels};
use domain::content::{ChannelName, ContentPointer, ContentRevision, MAX_CHANNELS_PER_GROUP, StageName};
use domain::enrol::{Approval, HostPattern, MAX_RULES, Rule};
use domain::{IdError, Mode, Span};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::spec::RuleSpec;
use super::{duration, size};

/// Longest list of policies or locks in one object. A group has at most one policy of a kind, and a fleet
/// has tens of kinds.
pub(super) const MAX_LIST: usize = 1_000;
/// Most agents that may join with one token, as in `muster.api.v1.Token.uses`.
pub(super) const MAX_USES: u32 = 100_000;
/// Longest life of a token, as in `muster.api.v1.Token.ttl`.
const MAX_TTL: Span = Span::from_secs(30 * 24 * 3600);

/// Any value with a checked text form.
pub(super) fn text<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
{
    deserializer.deserialize_str(Text(PhantomData))
}

struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err: Display>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// A list of such values.
pub(super) fn texts<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: FromStr<Err: Display>,
{
    deserializer.deserialize_seq(List::<T>(PhantomData))
}

struct List<T>(PhantomData<T>);

impl<'de, T: FromStr<Err: Display>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(Checked(item)) = sequence.next_element()? {
            if items.len() == MAX_LIST {
                return Err(A::Error::custom(format_args!("has more than {MAX_LIST} entries")));
            }
            items.push(item);
        }
        Ok(items)
    }
}

struct Checked<T>(T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer).map(Self)
    }
}

/// `push` or `pull`.
pub(super) fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mode>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Name {
        Push,
        Pull,
    }
    Ok(Some(match Name::deserialize(deserializer)? {
        Name::Push => Mode::Push,
        Name::Pull => Mode::Pull,
    }))
}

struct Length(Span);

impl FromStr for Length {
    type Err = duration::DurationError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        duration::parse(text).map(Self)
    }
}

/// A duration such as `5m`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    text(deserializer).map(|Length(span)| Some(span))
}

/// Bytes in a second, such as `2MiB`; `none`, which is 0, for no limit.
pub(super) fn rate_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    text(deserializer).map(|Rate(bytes)| Some(bytes))
}

struct Rate(u64);

impl FromStr for Rate {
    type Err = size::SizeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self(0)) } else { size::parse_rate(text).map(Self) }
    }
}

/// A name without meaning to the fleet, of the form that all names have.
pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer).map(|Name(name)| name)
}

struct Name(String);

impl FromStr for Name {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        domain::id::check(text).map(|()| Self(text.to_owned()))
    }
}

/// Number of a content revision.
pub(super) fn content_revision<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<ContentRevision, D::Error> {
    match u32::try_from(i64::deserialize(deserializer)?) {
        Ok(number @ 1..) => Ok(ContentRevision(number)),
        Ok(_) | Err(_) => Err(D::Error::custom("must be the number of a revision, from 1")),
    }
}

/// One entry of a group's content: a channel with a stage or a revision of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Followed {
    #[serde(deserialize_with = "text")]
    channel: ChannelName,
    #[serde(default, deserialize_with = "stage")]
    stage: Option<StageName>,
    #[serde(default, deserialize_with = "some_content_revision")]
    revision: Option<ContentRevision>,
}

fn stage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<StageName>, D::Error> {
    text(deserializer).map(Some)
}

fn some_content_revision<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ContentRevision>, D::Error> {
    content_revision(deserializer).map(Some)
}

/// The content that a group assigns.
pub(super) fn content<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<ChannelName, ContentPointer>, D::Error> {
    deserializer.deserialize_seq(Content)
}

struct Content;

impl<'de> Visitor<'de> for Content {
    type Value = BTreeMap<ChannelName, ContentPointer>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut content = BTreeMap::new();
        while let Some(Followed { channel, stage, revision }) = sequence.next_element()? {
            let name = channel.as_str().to_owned();
            let pointer = match (stage, revision) {
                (Some(stage), None) => ContentPointer::Stage(stage),
                (None, Some(number)) => ContentPointer::Revision(number),
                (Some(_), Some(_)) | (None, None) => {
                    let why = format!("channel {name:?} must have either a stage or a revision");
                    return Err(A::Error::custom(why));
                }
            };
            if content.insert(channel, pointer).is_some() {
                return Err(A::Error::custom(format_args!("names channel {name:?} twice")));
            }
            if content.len() > MAX_CHANNELS_PER_GROUP {
                let why = format!("has more than {MAX_CHANNELS_PER_GROUP} entries");
                return Err(A::Error::custom(why));
            }
        }
        Ok(content)
    }
}

/// How long a token is good for.
pub(super) fn token_ttl<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    let Length(ttl) = text(deserializer)?;
    if ttl < Span::from_secs(1) || ttl > MAX_TTL {
        return Err(D::Error::custom("must be between 1s and 30d"));
    }
    Ok(Some(ttl))
}

/// How many agents may join with a token.
pub(super) fn uses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let uses = i64::deserialize(deserializer)?;
    match u32::try_from(uses) {
        Ok(uses @ 1..=MAX_USES) => Ok(Some(uses)),
        Ok(_) | Err(_) => Err(D::Error::custom(format_args!("must be between 1 and {MAX_USES}"))),
    }
}

/// What a host name looks like.
pub(super) fn host_pattern<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<HostPattern>, D::Error> {
    text(deserializer).map(Some)
}

/// Whether somebody has to approve.
pub(super) fn approval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Approval, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Name {
        None,
        Required,
    }
    Ok(match Name::deserialize(deserializer)? {
        Name::None => Approval::None,
        Name::Required => Approval::Required,
    })
}

/// The rules of a token, each checked as far as that takes no group.
pub(super) fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RuleSpec>, D::Error> {
    deserializer.deserialize_seq(Rules)
}

struct Rules;

impl<'de> Visitor<'de> for Rules {
    type Value = Vec<RuleSpec>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut rules: Vec<RuleSpec> = Vec::new();
        while let Some(rule) = sequence.next_element::<RuleSpec>()? {
            if rules.len() == MAX_RULES {
                return Err(A::Error::custom(format_args!("has more than {MAX_RULES} entries")));
            }
            // Any group does to check the rest.
            let facts = rule.facts.clone();
            let checked = Rule::new(facts.labels, facts.hostname, domain::catalog::root_id());
            checked.map_err(|error| A::Error::custom(format_args!("rule {} {error}", rules.len() + 1)))?;
            rules.push(rule);
        }
        Ok(rules)
    }
}

struct GroupReference(String);

impl FromStr for GroupReference {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(GroupRef::Path(_) | GroupRef::Id(_)) => Ok(Self(text.to_owned())),
            Err(GroupRefError::Id(error)) => Err(format!("{error} (or a path such as /servers/web)")),
            Err(error @ (GroupRefError::Empty | GroupRefError::Path(_))) => Err(error.to_string()),
        }
    }
}

/// Path or name of a group.
pub(super) fn group_reference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer).map(|GroupReference(text)| text)
}

/// Labels within the bounds of the domain.
pub(super) fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    Labels::new(BTreeMap::deserialize(deserializer)?).map_err(D::Error::custom)
}
