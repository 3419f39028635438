//! Releases of content in an apply: what a stage of a channel should name.

use std::collections::BTreeMap;

use domain::catalog::{Catalog, Channel};
use domain::change::Claim;
use domain::content::{ChannelName, ContentRevision, StageName};
use wire::api::v1;

use super::refuse::Fields;

/// What one release asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    name: String,
    channel: ChannelName,
    stage: StageName,
    number: ContentRevision,
}

/// Reads a release as far as that needs no catalogue.
pub(super) fn read(fields: &mut Fields, field: &str, message: &v1::ContentRelease) -> Option<Release> {
    let at = |part: &str| format!("{field}.{part}");
    let name = fields.take(&at("name"), domain::id::check(&message.name));
    let channel = fields.take(&at("channel"), ChannelName::new(&message.channel));
    let stage = fields.take(&at("stage"), StageName::new(&message.stage));
    let number = if message.revision == 0 { Err("must be given") } else { Ok(message.revision) };
    let number = fields.take(&at("revision"), number);
    name?;
    Some(Release {
        name: message.name.clone(),
        channel: channel?,
        stage: stage?,
        number: ContentRevision(number?),
    })
}

/// The channels that releases change, each with all its stages as wanted, and the field of the first release
/// of each. A channel or a revision that is not there is noted as wrong, and so is a stage that two releases
/// want to name something.
pub(super) fn channels(
    (catalog, claim): (&Catalog, &Claim),
    wrong: &mut Fields,
    releases: &[(&str, &Release)],
) -> Vec<(String, Channel)> {
    let mut changed: BTreeMap<&ChannelName, (String, Channel)> = BTreeMap::new();
    let mut stages: BTreeMap<(&ChannelName, &StageName), &str> = BTreeMap::new();
    for (field, release) in releases {
        let Release { channel: name, stage, number, .. } = release;
        let Some(there) = catalog.channel(name) else {
            let why = format!(
                "there is no channel {:?}: push a first revision with `muster content push {name} PATH`",
                name.as_str()
            );
            wrong.wrong(format!("{field}.channel"), why);
            continue;
        };
        if catalog.content_revision(name, *number).is_none() {
            let why = format!(
                "channel {:?} has no revision {number}: `muster content show {name}` lists those that are there",
                name.as_str()
            );
            wrong.wrong(format!("{field}.revision"), why);
            continue;
        }
        if let Some(first) = stages.insert((name, stage), field) {
            let why = format!("{first} wants stage {:?} of this channel already", stage.as_str());
            wrong.wrong(format!("{field}.stage"), why);
            continue;
        }
        let entry = changed.entry(name).or_insert_with(|| ((*field).to_owned(), (*there.value).clone()));
        entry.1 = entry.1.promoted(stage, *number);
        if let Some(stage) = entry.1.stages.get_mut(stage) {
            stage.manager = claim.mark(stage.manager.as_ref());
        }
    }
    changed.into_values().collect()
}

/// What happens to each release, in place of the channels that they change.
pub(super) fn shown(
    before: &Catalog,
    releases: &[Release],
    objects: Vec<v1::ObjectChange>,
) -> Vec<v1::ObjectChange> {
    let others = objects.into_iter().filter(|object| object.kind != CHANNEL);
    let releases = releases.iter().map(|release| {
        let named = before.channel(&release.channel).and_then(|channel| channel.value.stage(&release.stage));
        let action = match named {
            None => v1::Action::Created,
            Some(number) if number == release.number => v1::Action::Unchanged,
            Some(_) => v1::Action::Updated,
        };
        let (kind, name) = ("ContentRelease".to_owned(), release.name.clone());
        v1::ObjectChange { kind, name, action: action.into() }
    });
    others.chain(releases).collect()
}

/// Kind of a channel in the objects of a result.
pub(super) const CHANNEL: &str = "Channel";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::catalog::{Entry, Note, RevisionLabel, StoredRevision};
    use domain::{Digest, Revision, Timestamp};
    use tonic_types::StatusExt as _;

    use super::*;

    fn catalog() -> Catalog {
        let channel = ChannelName::new("rules").unwrap();
        let revision = |number: u32| {
            Entry::Content(Arc::new(StoredRevision {
                channel: channel.clone(),
                number: ContentRevision(number),
                manifest: Digest([1; 32]),
                manifest_bytes: 1,
                content_bytes: 1,
                digest: Digest([2; 32]),
                files: 1,
                created_at: Timestamp(1),
                label: RevisionLabel::default(),
                note: Note::default(),
                pinned: false,
            }))
        };
        let rules = Channel { last_revision: ContentRevision(2), ..Channel::new(channel.clone()) };
        let rules = rules.promoted(&StageName::new("stable").unwrap(), ContentRevision(1));
        let mut catalog = Catalog::new();
        catalog.fold([Entry::Channel(Arc::new(rules)), revision(1), revision(2)], Revision(3));
        catalog
    }

    fn message(name: &str, channel: &str, stage: &str, revision: u32) -> v1::ContentRelease {
        let [name, channel, stage] = [name, channel, stage].map(str::to_owned);
        v1::ContentRelease { name, channel, stage, revision }
    }

    fn wrong(messages: &[v1::ContentRelease]) -> Vec<String> {
        let mut wrong = Fields::default();
        let read: Vec<Option<Release>> =
            messages.iter().enumerate().map(|(n, m)| read(&mut wrong, &format!("r{n}"), m)).collect();
        let fields: Vec<String> = (0..read.len()).map(|n| format!("r{n}")).collect();
        let good: Vec<(&str, &Release)> = fields
            .iter()
            .zip(&read)
            .filter_map(|(field, release)| Some((field.as_str(), release.as_ref()?)))
            .collect();
        channels((&catalog(), &Claim::default()), &mut wrong, &good);
        let Err(status) = wrong.check() else { return Vec::new() };
        let violations = status.get_error_details().bad_request().unwrap().field_violations.clone();
        violations.into_iter().map(|it| format!("{}: {}", it.field, it.description)).collect()
    }

    #[test]
    fn what_is_not_there_is_refused_with_a_way_out() {
        assert_eq!(wrong(&[message("a", "rules", "stable", 2), message("b", "rules", "canary", 2)]), [""; 0]);
        assert_eq!(
            wrong(&[message("a", "other", "stable", 2)]),
            [
                "r0.channel: there is no channel \"other\": push a first revision with `muster content push other PATH`"
            ]
        );
        assert_eq!(
            wrong(&[message("a", "rules", "stable", 9)]),
            [
                "r0.revision: channel \"rules\" has no revision 9: `muster content show rules` lists those that are there"
            ]
        );
        assert_eq!(
            wrong(&[message("a", "rules", "stable", 1), message("b", "rules", "stable", 2)]),
            ["r1.stage: r0 wants stage \"stable\" of this channel already"]
        );
        assert_eq!(
            wrong(&[message("", "a//b", "S", 0)]),
            [
                "r0.name: must not be empty",
                "r0.channel: \"\" in it must not be empty",
                "r0.stage: has the character 'S' at byte 0; only a-z, 0-9, '_' and '-' are allowed",
                "r0.revision: must be given",
            ]
        );
    }

    #[test]
    fn releases_of_one_channel_are_one_change_and_shown_one_by_one() {
        let catalog = catalog();
        let mut fields = Fields::default();
        let releases: Vec<Release> = [("a", "stable", 1), ("b", "canary", 2), ("c", "beta", 1)]
            .map(|(name, stage, number)| {
                read(&mut fields, name, &message(name, "rules", stage, number)).unwrap()
            })
            .into();
        let named: Vec<(&str, &Release)> = releases.iter().map(|it| (it.name.as_str(), it)).collect();
        let changed = channels((&catalog, &Claim::default()), &mut fields, &named);
        let [(field, channel)] = &changed[..] else { panic!("{changed:?}") };
        let stages: Vec<String> =
            channel.stages.iter().map(|(name, it)| format!("{name} {}", it.revision.unwrap())).collect();
        assert_eq!((field.as_str(), stages.join(", ").as_str()), ("a", "beta 1, canary 2, stable 1"));
        let object = |kind: &str| v1::ObjectChange { kind: kind.to_owned(), ..v1::ObjectChange::default() };
        let shown = shown(&catalog, &releases, vec![object("Group"), object(CHANNEL)]);
        let shown: Vec<String> =
            shown.iter().map(|it| format!("{} {} {:?}", it.kind, it.name, it.action())).collect();
        assert_eq!(
            shown,
            [
                "Group  Unspecified",
                "ContentRelease a Unchanged",
                "ContentRelease b Created",
                "ContentRelease c Created"
            ]
        );
    }
}
