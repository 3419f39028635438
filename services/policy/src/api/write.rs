//! Writes to one object: create, update, move, delete.

use domain::catalog::{Group, ObjectKey};
use domain::change::{Expect, Operation, Wanted};
use domain::{GroupId, GroupPath, KindName, PolicyName, Revision};
use tonic::{Request, Status};
use wire::api::v1;

use super::refuse::{self, Fields, Place};
use super::{convert, manner, result, show};
use crate::change::{self, Made, Manner};
use crate::fold::View;
use crate::replica::Replica;

/// Fields of a group that a mask may name, and what they stand for.
const FIELDS: [&str; 9] = [
    "settings",
    "settings.mode",
    "settings.heartbeat_interval",
    "settings.offline_after",
    "settings.content_spread",
    "settings.content_rate_limit",
    "policies",
    "labels",
    "content",
];

/// If not 0, the object must be at this revision.
pub(super) fn expect(revision: u64) -> Expect {
    if revision == 0 { Expect::Any } else { Expect::At(Revision(revision)) }
}

/// Makes a change and shows its result.
pub(super) async fn make(
    replica: &Replica,
    manner: &Manner,
    place: Place<'_>,
    wish: impl FnMut(&View) -> Result<Vec<Operation>, Status>,
) -> Result<(Made, v1::ChangeResult), Status> {
    shown(change::make(replica, manner, wish).await.map_err(|error| refuse::change(error, place))?).await
}

/// A change with its result.
pub(super) async fn shown(made: Made) -> Result<(Made, v1::ChangeResult), Status> {
    // Diffs and provenance of a thousand groups take a tenth of a second.
    let shown = tokio::task::spawn_blocking(move || {
        let result = result::result(&made);
        (made, result)
    });
    shown.await.map_err(|error| Status::internal(format!("the result could not be shown: {error}")))
}

async fn change_group(
    replica: &Replica,
    manner: &Manner,
    place: Place<'_>,
    mut wish: impl FnMut(&View) -> Result<(Group, Expect), Status>,
) -> Result<v1::GroupChange, Status> {
    let mut id: Option<GroupId> = None;
    let (made, result) = make(replica, manner, place, |view| {
        let (group, expect) = wish(view)?;
        id = Some(group.id.clone());
        Ok(vec![Operation { wanted: Wanted::Group(group), expect }])
    })
    .await?;
    let shown = id.and_then(|id| {
        let effective = made.plan.recompiled.updated().get(&id).or(made.before.compiled.effective(&id));
        let group = made.plan.candidate.group(&id)?;
        Some(show::group(replica, &made.plan.candidate, effective, group))
    });
    Ok(v1::GroupChange { group: shown, result: Some(result) })
}

/// Every part of the one group of a request stands under `group`.
fn in_group(_: &ObjectKey, part: &str) -> Option<String> {
    Some(format!("group{part}"))
}

pub(super) async fn create_group(
    replica: &Replica,
    request: Request<v1::CreateGroupRequest>,
) -> Result<v1::GroupChange, Status> {
    let (manner, request) = manner(request, |r| (r.dry_run, std::mem::take(&mut r.message)))?;
    let message = request.group.ok_or_else(|| refuse::field("group", "must be given"))?;
    change_group(replica, &manner, &in_group, |view| {
        let mut fields = Fields::default();
        if message.path.is_empty() {
            fields.wrong("group.path", "must be given");
        }
        let group = convert::group(&view.catalog, &mut fields, "group", &message);
        fields.check()?;
        let group = group.ok_or_else(|| refuse::field("group", "is not complete"))?;
        Ok((group, Expect::Absent))
    })
    .await
}

pub(super) async fn update_group(
    replica: &Replica,
    request: Request<v1::UpdateGroupRequest>,
) -> Result<v1::GroupChange, Status> {
    let (manner, request) = manner(request, |r| (r.dry_run, std::mem::take(&mut r.message)))?;
    let message = request.group.ok_or_else(|| refuse::field("group", "must be given"))?;
    let mask = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    let mask: Vec<&str> = if mask.is_empty() {
        vec!["settings", "policies", "labels", "content"]
    } else {
        mask.iter().map(String::as_str).collect()
    };
    if let Some(unknown) = mask.iter().find(|field| !FIELDS.contains(field)) {
        let why = format!("{unknown:?} cannot be updated; possible are {}", FIELDS.join(", "));
        return Err(refuse::field("update_mask", why));
    }
    let named = if message.name.is_empty() { &message.path } else { &message.name };
    change_group(replica, &manner, &in_group, |view| {
        let group = convert::find_group(&view.catalog, &manner.caller.reach, "group.name", named)?;
        let group = masked(group, &message, &mask)?;
        Ok((group, expect(message.revision)))
    })
    .await
}

/// The group with the fields that the mask names taken from the message.
fn masked(group: &Group, message: &v1::Group, mask: &[&str]) -> Result<Group, Status> {
    let mut fields = Fields::default();
    let settings = convert::settings(&mut fields, "group.settings", message.settings.as_ref());
    let policies = convert::policies(&mut fields, "group.policies", &message.policies);
    let labels = convert::labels(&mut fields, "group.labels", &message.labels);
    let content = convert::content(&mut fields, "group.content", &message.content);
    fields.check()?;
    let mut group = group.clone();
    let (Some(settings), Some(policies), Some(labels), Some(content)) = (settings, policies, labels, content)
    else {
        return Err(refuse::field("group", "is not complete"));
    };
    for field in mask {
        match *field {
            "settings" => group.settings = settings,
            "settings.mode" => group.settings.mode = settings.mode,
            "settings.heartbeat_interval" => group.settings.heartbeat_interval = settings.heartbeat_interval,
            "settings.offline_after" => group.settings.offline_after = settings.offline_after,
            "settings.content_spread" => group.settings.content_spread = settings.content_spread,
            "settings.content_rate_limit" => group.settings.content_rate_limit = settings.content_rate_limit,
            "policies" => group.policies.clone_from(&policies),
            "labels" => group.labels.clone_from(&labels),
            "content" => group.content.clone_from(&content),
            _ => {}
        }
    }
    Ok(group)
}

pub(super) async fn move_group(
    replica: &Replica,
    request: Request<v1::MoveGroupRequest>,
) -> Result<v1::GroupChange, Status> {
    let (manner, request) = manner(request, |r| (r.dry_run, std::mem::take(&mut r.message)))?;
    let path = GroupPath::new(&request.to).map_err(|error| refuse::field("to", error))?;
    let place =
        |_: &ObjectKey, part: &str| Some(if part == ".path" { "to".to_owned() } else { "group".to_owned() });
    change_group(replica, &manner, &place, |view| {
        let group = convert::find_group(&view.catalog, &manner.caller.reach, "group", &request.group)?;
        Ok((Group { path: path.clone(), ..group.clone() }, Expect::Any))
    })
    .await
}

pub(super) async fn delete_group(
    replica: &Replica,
    request: Request<v1::DeleteGroupRequest>,
) -> Result<v1::ChangeResult, Status> {
    let (mut manner, request) = manner(request, |r| (r.dry_run, std::mem::take(&mut r.message)))?;
    manner.claim = convert::claim(&request.manager, request.take_over)?;
    let place = |_: &ObjectKey, _: &str| Some("group".to_owned());
    let wish = |view: &View| {
        let group = convert::find_group(&view.catalog, &manner.caller.reach, "group", &request.group)?;
        Ok(delete(ObjectKey::Group(group.id.clone()), request.revision))
    };
    make(replica, &manner, &place, wish).await.map(|(_, result)| result)
}

pub(super) async fn delete_kind(
    replica: &Replica,
    request: Request<v1::DeleteKindRequest>,
) -> Result<v1::ChangeResult, Status> {
    let (mut manner, request) = manner(request, |r| (r.dry_run, std::mem::take(&mut r.message)))?;
    manner.claim = convert::claim(&request.manager, request.take_over)?;
    let name: KindName = convert::name("name", &request.name)?;
    let wish = |_: &View| Ok(delete(ObjectKey::Kind(name.clone()), request.revision));
    make(replica, &manner, &named, wish).await.map(|(_, result)| result)
}

pub(super) async fn delete_policy(
    replica: &Replica,
    request: Request<v1::DeletePolicyRequest>,
) -> Result<v1::ChangeResult, Status> {
    let (mut manner, request) = manner(request, |r| (r.dry_run, std::mem::take(&mut r.message)))?;
    manner.claim = convert::claim(&request.manager, request.take_over)?;
    let name: PolicyName = convert::name("name", &request.name)?;
    let wish = |_: &View| Ok(delete(ObjectKey::Policy(name.clone()), request.revision));
    make(replica, &manner, &named, wish).await.map(|(_, result)| result)
}

fn delete(key: ObjectKey, revision: u64) -> Vec<Operation> {
    vec![Operation { wanted: Wanted::Deleted(key), expect: expect(revision) }]
}

/// The request names its one object and nothing else.
pub(super) fn named(_: &ObjectKey, _: &str) -> Option<String> {
    Some("name".to_owned())
}

#[cfg(test)]
mod tests {
    use domain::{Mode, SettingsOverlay, Span};

    use super::*;

    #[test]
    fn a_mask_changes_what_it_names_and_nothing_else() {
        let group = Group {
            settings: SettingsOverlay {
                mode: Some(Mode::Push),
                heartbeat_interval: Some(Span::from_secs(30)),
                ..SettingsOverlay::default()
            },
            policies: [PolicyName::new("p").unwrap()].into(),
            ..Group::new(GroupId::new("g").unwrap(), GroupPath::new("/g").unwrap())
        };
        let message = v1::Group {
            settings: Some(v1::Settings {
                mode: Some(v1::Mode::Pull.into()),
                content_spread: Some(prost_types::Duration { seconds: 9, nanos: 0 }),
                content_rate_limit: Some(4096),
                ..v1::Settings::default()
            }),
            policies: vec!["q".into()],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            content: vec![v1::ContentReference {
                channel: "rules".into(),
                which: Some(v1::content_reference::Which::Revision(3)),
            }],
            ..v1::Group::default()
        };
        let check = |mask: &[&str], expected: (Option<Mode>, Option<u64>, &str, usize)| {
            let got = masked(&group, &message, mask).unwrap();
            let interval = got.settings.heartbeat_interval.map(|span| span.0);
            let policy = got.policies.iter().next().unwrap().as_str();
            assert_eq!(
                (got.settings.mode, interval, policy, got.labels.as_map().len()),
                expected,
                "{mask:?}"
            );
        };
        check(&["settings"], (Some(Mode::Pull), None, "p", 0));
        check(&["settings.mode"], (Some(Mode::Pull), Some(30_000), "p", 0));
        check(&["settings.heartbeat_interval"], (Some(Mode::Push), None, "p", 0));
        check(&["policies", "labels"], (Some(Mode::Push), Some(30_000), "q", 1));
        check(&["content"], (Some(Mode::Push), Some(30_000), "p", 0));
        let content = |mask: &[&str]| masked(&group, &message, mask).unwrap().content.len();
        assert_eq!([content(&["content"]), content(&["policies", "labels", "settings"])], [1, 0]);
        let rates = |mask: &[&str]| {
            let settings = masked(&group, &message, mask).unwrap().settings;
            (settings.mode, settings.content_rate_limit, settings.content_spread)
        };
        let (mode, limit, spread) = (Some(Mode::Push), Some(4096), Some(Span::from_secs(9)));
        assert_eq!(rates(&["settings.content_rate_limit"]), (mode, limit, None));
        assert_eq!(rates(&["settings.content_spread"]), (mode, None, spread));
    }
}
