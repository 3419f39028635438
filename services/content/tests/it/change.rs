//! Promotion, rollback, pins, retirement, and what the API shows.

use domain::content::{ContentPointer, ContentRevision, StageName};
use tonic::{Code, Status};
use wire::api::v1;
use wire::api::v1::revision_selector::Which;

use crate::fleet::{Client, Content, Fleet, fetch, noise, numbered, push, quiet, reason};

const CHANNEL: &str = "definitions/ips";

/// Makes revisions of a few kilobytes, labelled r1, r2, ….
async fn make(api: &mut Client, revisions: std::ops::RangeInclusive<u32>) {
    for number in revisions {
        let content = Content::new(CHANNEL, noise(u64::from(number), 10_000));
        let begun = api.begin_upload(content.begin()).await.unwrap().into_inner();
        let messages = content.messages(&begun.manifest, &begun.missing);
        api.upload_chunks(futures::stream::iter(messages)).await.unwrap();
        let label = format!("r{number}");
        let finish = v1::FinishUploadRequest { label, ..content.finish(&begun.manifest) };
        let made = api.finish_upload(finish).await.unwrap().into_inner();
        assert_eq!(made.revision.unwrap().revision, number);
    }
}

fn select(which: Option<Which>) -> Option<v1::RevisionSelector> {
    Some(v1::RevisionSelector { channel: CHANNEL.to_owned(), which })
}

async fn promote(api: &mut Client, which: Option<Which>, dry_run: bool) -> Result<v1::ContentChange, Status> {
    let request = v1::PromoteRequest {
        selector: select(which),
        stage: "stable".to_owned(),
        dry_run,
        message: String::new(),
    };
    api.promote(request).await.map(tonic::Response::into_inner)
}

async fn rollback(api: &mut Client, to: u32) -> Result<v1::ContentChange, Status> {
    let request = v1::RollbackContentRequest {
        channel: CHANNEL.to_owned(),
        stage: "stable".to_owned(),
        to,
        ..v1::RollbackContentRequest::default()
    };
    api.rollback(request).await.map(tonic::Response::into_inner)
}

async fn channel(api: &mut Client) -> v1::Channel {
    let request = v1::GetChannelRequest { channel: CHANNEL.to_owned(), min_revision: 0 };
    api.get_channel(request).await.unwrap().into_inner()
}

fn stable(channel: &v1::Channel) -> u32 {
    channel.stages.iter().find(|stage| stage.name == "stable").map_or(0, |stage| stage.revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_go_forward_and_back() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let api = &mut replica.api;
    let none = promote(api, None, false).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound, "{}", none.message());
    make(api, 1..=4).await;

    let planned = promote(api, Some(Which::Label("r2".to_owned())), true).await.unwrap();
    assert!(planned.dry_run && !planned.unchanged);
    assert_eq!(planned.revision.unwrap().stages, ["stable"], "as it would be");
    assert_eq!(stable(&channel(api).await), 0, "nothing was written");

    let two = promote(api, Some(Which::Revision(2)), false).await.unwrap();
    assert_eq!((two.stage.as_str(), two.stage_before, two.revision.unwrap().revision), ("stable", 0, 2));
    let newest = promote(api, None, false).await.unwrap();
    assert_eq!((newest.stage_before, newest.revision.unwrap().revision), (2, 4));
    assert!(newest.store_revision > two.store_revision, "a change like any other");
    assert!(promote(api, Some(Which::Stage("stable".to_owned())), false).await.unwrap().unchanged);

    let newer = rollback(api, 5).await.unwrap_err();
    assert_eq!(reason(&newer), "NEWER");
    let back = rollback(api, 0).await.unwrap();
    assert_eq!((back.stage_before, back.revision.as_ref().unwrap().revision), (4, 2));
    assert!(back.store_revision > newest.store_revision, "back is a new and higher revision");
    assert_eq!(rollback(api, 1).await.unwrap().revision.unwrap().revision, 1);
    let end = rollback(api, 0).await.unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::FailedPrecondition, "NOTHING_BEFORE"));

    for (which, text) in [
        (Which::Revision(9), "revision 9 of channel definitions/ips was never made"),
        (Which::Label("x".to_owned()), "no revision with the label"),
        (Which::Stage("canary".to_owned()), "muster content promote"),
    ] {
        let refused = promote(api, Some(which), false).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains(text), "{}", refused.message());
    }
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_stays() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let api = &mut replica.api;
    make(api, 1..=4).await;
    promote(api, Some(Which::Revision(2)), false).await.unwrap();
    let pointer = ContentPointer::Revision(ContentRevision(3));
    fleet.group("web", "/web", CHANNEL, pointer).await;
    let pin = |revision, pinned| v1::PinRequest { channel: CHANNEL.to_owned(), revision, pinned };
    let pinned = api.pin(pin(1, true)).await.unwrap().into_inner();
    assert!(pinned.revision.unwrap().pinned && !pinned.unchanged);
    assert!(api.pin(pin(1, true)).await.unwrap().into_inner().unchanged);

    let retire = |revision| v1::RetireRequest { channel: CHANNEL.to_owned(), revision, dry_run: false };
    for (revision, user) in [(1, "pin"), (2, "stable"), (3, "/web")] {
        let refused = api.retire(retire(revision)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "IN_USE"));
        assert!(refused.message().contains(user), "{}", refused.message());
    }
    let delete = |dry_run| v1::DeleteChannelRequest { channel: CHANNEL.to_owned(), dry_run };
    let refused = api.delete_channel(delete(false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{}", refused.message());
    assert!(refused.message().contains("web"), "{}", refused.message());

    let dry = v1::RetireRequest { dry_run: true, ..retire(4) };
    assert!(api.retire(dry).await.unwrap().into_inner().dry_run);
    api.retire(retire(4)).await.unwrap();
    let gone = api.retire(retire(4)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert!(gone.message().contains("was retired"), "{}", gone.message());
    make(api, 5..=5).await;
    let numbers: Vec<u32> = channel(api).await.revisions.iter().map(|it| it.revision).collect();
    assert_eq!(numbers, [5, 3, 2, 1], "newest first, and no number twice");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_nobody_uses_goes_with_all_that_is_in_it() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let api = &mut replica.api;
    make(api, 1..=2).await;
    promote(api, None, false).await.unwrap();
    let delete = |dry_run| v1::DeleteChannelRequest { channel: CHANNEL.to_owned(), dry_run };
    assert!(api.delete_channel(delete(true)).await.unwrap().into_inner().dry_run);
    api.delete_channel(delete(false)).await.unwrap();
    assert_eq!(fetch(api, CHANNEL, 0).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(api.delete_channel(delete(false)).await.unwrap_err().code(), Code::NotFound);
    // The same content again is a new revision, with a number that was never used.
    let content = Content::new(CHANNEL, noise(1, 10_000));
    assert_eq!(push(api, &content).await.unwrap().revision.revision, 3);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_of_channels_and_revisions() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let api = &mut replica.api;
    make(api, 1..=3).await;
    let stage = ContentPointer::Stage(StageName::new("stable").unwrap());
    fleet.group("root", "/", CHANNEL, stage).await;
    promote(api, Some(Which::Revision(1)), false).await.unwrap();
    let update = v1::UpdateChannelRequest {
        channel: CHANNEL.to_owned(),
        keep_revisions: Some(7),
        keep_for: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
    };
    let updated = api.update_channel(update).await.unwrap().into_inner();
    assert_eq!((updated.keep_revisions, updated.keep_for.unwrap().seconds), (7, 60));
    let back =
        v1::UpdateChannelRequest { channel: CHANNEL.to_owned(), keep_revisions: Some(0), keep_for: None };
    let updated = api.update_channel(back).await.unwrap().into_inner();
    assert_eq!((updated.keep_revisions, updated.keep_for.unwrap().seconds), (0, 60));
    assert_eq!(updated.groups, ["/"]);

    push(api, &Content::new("a", noise(9, 1000))).await.unwrap();
    let mut names = Vec::new();
    let mut request = v1::ListChannelsRequest { page_size: 1, page_token: String::new() };
    loop {
        let page = api.list_channels(request.clone()).await.unwrap().into_inner();
        names.extend(page.channels.iter().map(|it| format!("{} {}", it.name, it.revisions.len())));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a 1", "definitions/ips 2"], "the newest and the staged one");

    let detail = v1::GetRevisionRequest { selector: numbered(CHANNEL, 2) };
    let detail = api.get_revision(detail).await.unwrap().into_inner();
    assert_eq!((detail.files[0].path.as_str(), detail.files[0].bytes), ("data", 10_000));
    assert!(detail.chunks == 1 && detail.chunk_bytes > 9_000 && detail.full_bytes == 0);
    let diff = v1::DiffRevisionsRequest { from: numbered(CHANNEL, 1), to: numbered(CHANNEL, 3) };
    let diff = api.diff_revisions(diff).await.unwrap().into_inner();
    assert_eq!((diff.files.len(), diff.patch_bytes), (1, None));
    assert_eq!(diff.files[0].action(), v1::FileAction::FileChanged);
    assert_eq!(diff.chunk_bytes, diff.full_bytes, "they share nothing");
    let across = v1::DiffRevisionsRequest { from: numbered("a", 1), to: numbered(CHANNEL, 3) };
    assert_eq!(api.diff_revisions(across).await.unwrap_err().code(), Code::InvalidArgument);
    replica.stop().await;
}
