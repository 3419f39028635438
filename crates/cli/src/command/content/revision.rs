//! How revisions are named on the command line: by number, stage or label.

use clap::Args;
use domain::content::{ChannelName, StageName};
use wire::api::v1::content_reference::Which;
use wire::api::v1::{Channel, ContentReference, GetChannelRequest, ListChannelsRequest, Revision};

use crate::client::Client;
use crate::failure::{Failure, counted};

/// One line that says how revisions are named; every help text that takes one ends with it.
pub(super) const REVISIONS: &str = "REVISION is a number (7), a stage (@stable) or a label (2026-11-21); \
     CHANNEL@7 and CHANNEL@stable say it in one word";

/// Most names that a failure lists: enough to see what there is, little enough to read.
const MAX_LISTED: usize = 10;

/// A channel and which of its revisions.
#[derive(Debug, Args)]
pub(super) struct Selected {
    /// The channel, e.g. definitions/ips
    #[arg(value_name = "CHANNEL", value_parser = parse_selection)]
    selection: Selection,
    /// Which of its revisions: a number, @STAGE or a label
    revision: Option<String>,
}

/// `CHANNEL` or `CHANNEL@REVISION`.
#[derive(Debug, Clone)]
struct Selection {
    channel: String,
    revision: Option<String>,
}

fn parse_selection(text: &str) -> Result<Selection, String> {
    let (channel, revision) = match text.split_once('@') {
        Some((_, "")) => return Err("names no revision after \"@\"".to_owned()),
        // The "@" stays: what follows it may be a stage.
        Some((channel, _)) => (channel, Some(text[channel.len()..].to_owned())),
        None => (text, None),
    };
    Ok(Selection { channel: parse_channel(channel)?, revision })
}

/// A channel's name, as an argument.
pub(crate) fn parse_channel(text: &str) -> Result<String, String> {
    ChannelName::new(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

/// A stage's name, as an argument; "@stable" is as good as "stable".
pub(super) fn parse_stage(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('@').unwrap_or(text);
    StageName::new(name).map(|name| name.to_string()).map_err(|error| error.to_string())
}

/// `CHANNEL=STAGE`, `CHANNEL=#NUMBER`: what a group assigns, as an argument.
pub(crate) fn parse_assignment(text: &str) -> Result<ContentReference, String> {
    let Some((channel, which)) = text.split_once('=') else {
        return Err("must be CHANNEL=STAGE or CHANNEL=#NUMBER".to_owned());
    };
    let which = match which.strip_prefix('#').unwrap_or(which).parse() {
        Ok(0) => return Err("names revision 0; revisions count from 1".to_owned()),
        Ok(number) => Which::Revision(number),
        Err(_) if which.starts_with('#') => return Err("names no number after \"#\"".to_owned()),
        Err(_) => Which::Stage(parse_stage(which)?),
    };
    Ok(ContentReference { channel: parse_channel(channel)?, which: Some(which) })
}

impl Selected {
    pub(super) fn channel(&self) -> &str {
        &self.selection.channel
    }

    /// What names the revision; nothing if none is named.
    pub(super) fn revision(&self) -> Result<Option<&str>, Failure> {
        match (&self.selection.revision, &self.revision) {
            (Some(_), Some(_)) => Err(Failure::Usage("two revisions are named; one is enough".to_owned())),
            (one, other) => Ok(one.as_deref().or(other.as_deref())),
        }
    }

    /// The revision that must be named, by number.
    pub(super) async fn required(&self, client: &Client) -> Result<u32, Failure> {
        let Some(text) = self.revision()? else {
            let channel = self.channel();
            return Err(Failure::Usage(format!("which revision of {channel}? {REVISIONS}")));
        };
        Ok(find(&channel(client, self.channel()).await?, text)?.revision)
    }
}

/// A channel with its revisions. If there is none of this name, the failure lists those that there are.
pub(super) async fn channel(client: &Client, name: &str) -> Result<Channel, Failure> {
    let request = GetChannelRequest { channel: name.to_owned(), min_revision: 0 };
    match client.content().get_channel(request).await {
        Ok(channel) => Ok(channel.into_inner()),
        Err(status) if status.code() == tonic::Code::NotFound => {
            let cause = format!("there is no content channel {name}");
            Err(Failure::NotFound { cause, way_out: channels(client).await? })
        }
        Err(status) => Err(client.refusal(status)),
    }
}

/// Which channels there are, and how to make another.
async fn channels(client: &Client) -> Result<String, Failure> {
    let request = ListChannelsRequest { page_size: 100, page_token: String::new() };
    let page = client.content().list_channels(request).await;
    let page = page.map_err(|status| client.refusal(status))?.into_inner();
    let names: Vec<String> = page.channels.into_iter().map(|channel| channel.name).collect();
    let pushing = "`muster content push CHANNEL PATH` makes";
    Ok(match listed(&names) {
        None => format!("there is no channel yet; {pushing} one"),
        Some(names) => format!("there are {names}; {pushing} another"),
    })
}

/// The first few of them.
fn listed(names: &[String]) -> Option<String> {
    let more = names.len().saturating_sub(MAX_LISTED);
    let mut text = names.iter().take(MAX_LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    (!names.is_empty()).then_some(text)
}

/// The revision of a channel that a text names.
///
/// `#7` is a number and nothing else. With "@" a stage comes first, then a number, then a label; without it a number,
/// then a label, then a stage. So nothing that can be meant is out of reach.
pub(super) fn find<'a>(channel: &'a Channel, text: &str) -> Result<&'a Revision, Failure> {
    let name = text.trim_start_matches(['@', '#']);
    let number = || {
        let number: u32 = name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()))?;
        channel.revisions.iter().find(|revision| revision.revision == number)
    };
    let stage = || {
        let stage = channel.stages.iter().find(|stage| stage.name == name && stage.revision != 0)?;
        channel.revisions.iter().find(|revision| revision.revision == stage.revision)
    };
    let label = || channel.revisions.iter().find(|revision| revision.label == name && !name.is_empty());
    let found = match text.as_bytes().first() {
        Some(b'#') => number(),
        Some(b'@') => stage().or_else(number).or_else(label),
        Some(_) | None => number().or_else(label).or_else(stage),
    };
    found.ok_or_else(|| missing(channel, text))
}

/// Why nothing can be shown of a channel without revisions.
pub(super) fn missing_revisions(channel: &Channel) -> Failure {
    missing(channel, "yet")
}

fn missing(channel: &Channel, text: &str) -> Failure {
    let cause = format!("{} has no revision {text}", channel.name);
    let describe = |revision: &Revision| match revision.label.as_str() {
        "" => revision.revision.to_string(),
        label => format!("{} ({label})", revision.revision),
    };
    let revisions: Vec<String> = channel.revisions.iter().map(describe).collect();
    let stages = channel.stages.iter().filter(|stage| stage.revision != 0);
    let stages: Vec<String> = stages.map(|stage| format!("@{} ({})", stage.name, stage.revision)).collect();
    let way_out = match (listed(&revisions), listed(&stages)) {
        (None, _) => format!("it has none; `muster content push {} PATH` makes one", channel.name),
        (Some(revisions), None) => format!("it has {revisions}; no stage names one"),
        (Some(revisions), Some(stages)) => format!("it has {revisions}; stages: {stages}"),
    };
    Failure::NotFound { cause, way_out }
}

/// "3 revisions".
pub(super) fn revisions(count: usize) -> String {
    counted(count, "revision", "revisions")
}

#[cfg(test)]
mod tests {
    use wire::api::v1::Stage;

    use super::*;

    fn sample() -> Channel {
        let revision = |number, label: &str| Revision {
            revision: number,
            label: label.to_owned(),
            ..Revision::default()
        };
        let stage = |name: &str, revision| Stage { name: name.to_owned(), revision, ..Stage::default() };
        Channel {
            name: "definitions/ips".into(),
            revisions: vec![revision(9, "stable"), revision(8, "nov"), revision(7, "nov"), revision(3, "")],
            stages: vec![stage("stable", 7), stage("8", 3), stage("none", 0)],
            ..Channel::default()
        }
    }

    #[test]
    fn a_revision_is_a_number_a_stage_or_a_label() {
        let channel = sample();
        for (text, expected) in [
            ("7", 7),
            ("#7", 7),
            ("@7", 7),
            ("@stable", 7),
            ("stable", 9),
            ("nov", 8),
            ("@nov", 8),
            ("8", 8),
            ("@8", 3),
            ("#8", 8),
        ] {
            assert_eq!(find(&channel, text).unwrap().revision, expected, "{text}");
        }
    }

    #[test]
    fn what_there_is_not_is_told_with_what_there_is() {
        let told = |channel: &Channel, text: &str| match find(channel, text).unwrap_err() {
            Failure::NotFound { cause, way_out } => format!("{cause}: {way_out}"),
            other => panic!("{other}"),
        };
        assert_eq!(
            told(&sample(), "12"),
            "definitions/ips has no revision 12: it has 9 (stable), 8 (nov), 7 (nov), 3; \
             stages: @stable (7), @8 (3)"
        );
        for text in ["@none", "#stable", "+7", "", "@", "99999999999"] {
            assert!(told(&sample(), text).starts_with("definitions/ips has no revision "), "{text}");
        }
        let empty = Channel { name: "a".into(), ..Channel::default() };
        assert_eq!(
            told(&empty, "1"),
            "a has no revision 1: it has none; `muster content push a PATH` makes one"
        );
        let many = (0..12).map(|n| Revision { revision: n, ..Revision::default() }).collect();
        let many = Channel { revisions: many, ..empty };
        assert_eq!(
            told(&many, "x"),
            "a has no revision x: it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more; no stage names one"
        );
    }

    #[test]
    fn channels_may_carry_their_revision() {
        for (text, channel, revision) in [
            ("definitions/ips", "definitions/ips", None),
            ("definitions/ips@7", "definitions/ips", Some("@7")),
            ("a@stable", "a", Some("@stable")),
        ] {
            let selection = parse_selection(text).unwrap();
            assert_eq!((selection.channel.as_str(), selection.revision.as_deref()), (channel, revision));
        }
        for text in ["", "@7", "a@", "A", "a/../b"] {
            assert!(parse_selection(text).is_err(), "{text}");
        }
        assert_eq!(parse_stage("@stable").as_deref(), Ok("stable"));
        assert!(parse_stage("a/b").is_err());
    }

    #[test]
    fn a_group_assigns_a_stage_or_a_number() {
        for (text, expected) in [
            ("definitions/ips=stable", Which::Stage("stable".into())),
            ("definitions/ips=@stable", Which::Stage("stable".into())),
            ("definitions/ips=@7", Which::Stage("7".into())),
            ("definitions/ips=#7", Which::Revision(7)),
            ("definitions/ips=7", Which::Revision(7)),
        ] {
            let assignment = parse_assignment(text).unwrap();
            assert_eq!((assignment.channel.as_str(), assignment.which), ("definitions/ips", Some(expected)));
        }
        for text in ["", "a", "a=", "a=#", "a=#x", "a=#0", "a=b/c", "=stable", "A=stable"] {
            assert!(parse_assignment(text).is_err(), "{text}");
        }
    }
}
