//! Changes of channels and their revisions.

use domain::access::Reach;
use domain::catalog::{Catalog, Channel, ObjectKey, StoredRevision};
use domain::change::{Operation, Wanted};
use domain::content::{ChannelName, ContentRevision, StageName};
use runtime::store::Author;
use tonic::{Request, Status};
use wire::api::v1;
use wire::time::read_duration;

use super::{convert, read, show};
use crate::change::Made;
use crate::replica::Replica;
use crate::{Refused, change, refuse};

/// What a change is about, as it was decided.
#[derive(Default)]
struct Subject {
    revision: Option<StoredRevision>,
    stage: Option<(StageName, Option<ContentRevision>)>,
}

/// Makes a change. `decide` is asked again whenever the catalogue has changed.
async fn make(
    replica: &Replica,
    author: &Author,
    dry_run: bool,
    mut decide: impl FnMut(&Catalog) -> Result<(Subject, Vec<Operation>), Status>,
) -> Result<v1::ContentChange, Status> {
    let mut decided = Subject::default();
    let made = change::make(replica, author, dry_run, |catalog| {
        let (subject, operations) = decide(catalog)?;
        decided = subject;
        Ok(operations)
    });
    let made = made.await.map_err(Refused::from)?;
    if !dry_run && !made.is_empty() {
        replica.wake.notify_one();
        let (message, revision) = (author.message.as_str(), made.revision.0);
        tracing::info!(revision, groups = made.plan.touched.len(), message, "changed a channel");
    }
    Ok(shown(&made, decided, dry_run))
}

fn shown(made: &Made, subject: Subject, dry_run: bool) -> v1::ContentChange {
    let (stage, before) = subject.stage.unzip();
    v1::ContentChange {
        store_revision: made.revision.0,
        // As it is after the change.
        revision: subject.revision.map(|revision| {
            let after = made.plan.candidate.content_revision(&revision.channel, revision.number);
            show::revision(&made.plan.candidate, after.map_or(&revision, |after| &after.value))
        }),
        stage: stage.map(|stage| stage.to_string()).unwrap_or_default(),
        stage_before: before.flatten().unwrap_or_default().0,
        unchanged: made.is_empty(),
        dry_run,
        groups_touched: made.plan.touched.len() as u64,
        agents_touched: made.plan.agents_touched(),
    }
}

/// The caller's words, or what is done.
fn reason(message: String, done: impl FnOnce() -> String) -> String {
    if message.is_empty() { done() } else { message }
}

fn found<'a>(catalog: &'a Catalog, name: &ChannelName) -> Result<&'a Channel, Status> {
    catalog.channel(name).map(|channel| &*channel.value).ok_or_else(|| refuse::no_channel(name))
}

/// A stage is made to name a revision.
fn named(channel: &Channel, stage: &StageName, revision: &StoredRevision) -> (Subject, Vec<Operation>) {
    let before = channel.stage(stage);
    let subject = Subject { revision: Some(revision.clone()), stage: Some((stage.clone(), before)) };
    (subject, vec![Wanted::Channel(channel.promoted(stage, revision.number)).into()])
}

pub(super) async fn promote(
    replica: &Replica,
    request: Request<v1::PromoteRequest>,
) -> Result<v1::ContentChange, Status> {
    let (metadata, extensions, request) = request.into_parts();
    let stage = convert::stage(&request.stage)?;
    let author =
        convert::author((&metadata, &extensions), reason(request.message, || format!("promote to {stage}")))?;
    make(replica, &author, request.dry_run, |catalog| {
        let revision = convert::select(catalog, "selector", request.selector.as_ref())?;
        Ok(named(found(catalog, &revision.channel)?, &stage, revision))
    })
    .await
}

pub(super) async fn rollback(
    replica: &Replica,
    request: Request<v1::RollbackContentRequest>,
) -> Result<v1::ContentChange, Status> {
    let (metadata, extensions, request) = request.into_parts();
    let name = convert::channel("channel", &request.channel)?;
    let stage = convert::stage(&request.stage)?;
    let author =
        convert::author((&metadata, &extensions), reason(request.message, || format!("roll back {stage}")))?;
    let to = Some(ContentRevision(request.to)).filter(|to| to.0 > 0);
    make(replica, &author, request.dry_run, |catalog| {
        let channel = found(catalog, &name)?;
        let now = channel.stage(&stage).ok_or_else(|| convert::no_stage(&name, &stage))?;
        let to = match to {
            Some(to) => to,
            None => before(catalog, channel, &stage).ok_or_else(|| nothing_before(&name, &stage))?,
        };
        if to > now {
            let message = format!("revision {to} is newer than {now}, which stage {stage} names: promote it");
            return Err(refuse::precondition("NEWER", message));
        }
        Ok(named(channel, &stage, convert::numbered(catalog, &name, to)?))
    })
    .await
}

/// The latest revision that a stage named before, is older than the one it names, and is still there.
fn before(catalog: &Catalog, channel: &Channel, stage: &StageName) -> Option<ContentRevision> {
    let stage = channel.stages.get(stage)?;
    let there = |number: &ContentRevision| {
        stage.revision.is_some_and(|now| *number < now)
            && catalog.content_revision(&channel.name, *number).is_some()
    };
    stage.previous.iter().copied().find(there)
}

fn nothing_before(channel: &ChannelName, stage: &StageName) -> Status {
    let message = format!(
        "stage {stage} of channel {channel} named no older revision that is still there: say which one to go back to"
    );
    refuse::precondition("NOTHING_BEFORE", message)
}

pub(super) async fn pin(
    replica: &Replica,
    request: Request<v1::PinRequest>,
) -> Result<v1::ContentChange, Status> {
    let (metadata, extensions, request) = request.into_parts();
    let name = convert::channel("channel", &request.channel)?;
    let (number, pinned) = (ContentRevision(request.revision), request.pinned);
    let done = if pinned { "pin" } else { "unpin" };
    let author = convert::author((&metadata, &extensions), format!("{done} {name} {number}"))?;
    make(replica, &author, false, |catalog| {
        let revision = StoredRevision { pinned, ..convert::numbered(catalog, &name, number)?.clone() };
        let subject = Subject { revision: Some(revision.clone()), stage: None };
        Ok((subject, vec![Wanted::Content(revision).into()]))
    })
    .await
}

pub(super) async fn retire(
    replica: &Replica,
    request: Request<v1::RetireRequest>,
) -> Result<v1::ContentChange, Status> {
    let (metadata, extensions, request) = request.into_parts();
    let name = convert::channel("channel", &request.channel)?;
    let number = ContentRevision(request.revision);
    let author = convert::author((&metadata, &extensions), format!("retire {name} {number}"))?;
    make(replica, &author, request.dry_run, |catalog| {
        let revision = convert::numbered(catalog, &name, number)?.clone();
        let subject = Subject { revision: Some(revision), stage: None };
        Ok((subject, vec![Wanted::Deleted(ObjectKey::Content(name.clone(), number)).into()]))
    })
    .await
}

pub(super) async fn delete(
    replica: &Replica,
    request: Request<v1::DeleteChannelRequest>,
) -> Result<v1::ContentChange, Status> {
    let (metadata, extensions, request) = request.into_parts();
    let name = convert::channel("channel", &request.channel)?;
    let author = convert::author((&metadata, &extensions), format!("delete channel {name}"))?;
    make(replica, &author, request.dry_run, |catalog| {
        found(catalog, &name)?;
        let revisions = catalog.content_revisions(&name);
        let keys = revisions.map(|revision| ObjectKey::Content(name.clone(), revision.value.number));
        let all = keys.chain([ObjectKey::Channel(name.clone())]);
        Ok((Subject::default(), all.map(|key| Wanted::Deleted(key).into()).collect()))
    })
    .await
}

pub(super) async fn update(
    replica: &Replica,
    request: Request<v1::UpdateChannelRequest>,
) -> Result<v1::Channel, Status> {
    let (metadata, extensions, request) = request.into_parts();
    let name = convert::channel("channel", &request.channel)?;
    let author =
        convert::author((&metadata, &extensions), format!("change how long {name} keeps revisions"))?;
    let keep_for = request.keep_for.as_ref().map(|keep_for| {
        read_duration(keep_for).ok_or_else(|| refuse::field("keep_for", "must not be negative or too long"))
    });
    let keep_for = keep_for.transpose()?;
    make(replica, &author, false, |catalog| {
        let mut channel = found(catalog, &name)?.clone();
        if let Some(revisions) = request.keep_revisions {
            channel.keep_revisions = Some(revisions).filter(|revisions| *revisions > 0);
        }
        if let Some(keep_for) = keep_for {
            channel.keep_for = Some(keep_for).filter(|keep_for| keep_for.0 > 0);
        }
        Ok((Subject::default(), vec![Wanted::Channel(channel).into()]))
    })
    .await?;
    read::shown(replica, &Reach::Everywhere, &name)
}
