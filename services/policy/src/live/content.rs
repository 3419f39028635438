//! Content in groups: what others write about channels reaches the snapshots, and applies say what stages name.

use std::sync::Arc;

use domain::catalog::{Channel, Entry, Note, RevisionLabel, StoredRevision};
use domain::content::{ChannelName, ContentRevision, StageName};
use domain::{Digest, Revision, Snapshot, Timestamp};
use runtime::store::ChangeInfo;
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;
use wire::api::v1;
use wire::api::v1::policy_service_server::PolicyService as _;

use super::{Rig, Running, asked, servers, soon};

fn ips() -> ChannelName {
    ChannelName::new("definitions/ips").unwrap()
}

fn revision(number: u32) -> Entry {
    Entry::Content(Arc::new(StoredRevision {
        channel: ips(),
        number: ContentRevision(number),
        manifest: Digest::of(&number.to_be_bytes()),
        manifest_bytes: 1_000,
        content_bytes: 100_000_000,
        digest: Digest::of(b"content"),
        files: 1,
        created_at: Timestamp(1),
        label: RevisionLabel::default(),
        note: Note::default(),
        pinned: false,
    }))
}

fn channel(last: u32, stages: &[(&str, u32)]) -> Entry {
    let new = Channel { last_revision: ContentRevision(last), ..Channel::new(ips()) };
    let channel = stages.iter().fold(new, |channel, (stage, number)| {
        channel.promoted(&StageName::new(stage).unwrap(), ContentRevision(*number))
    });
    Entry::Channel(Arc::new(channel))
}

/// A change that another service writes, and its revision. This replica has folded it.
async fn written(running: &Running, entries: &[Entry]) -> u64 {
    let info = ChangeInfo {
        id: runtime::ids::random_id().parse().unwrap(),
        actor: "content".to_owned(),
        message: String::new(),
        time: Timestamp(1),
        trace_id: None,
    };
    let entries = entries.iter().map(crate::change::stored).collect();
    let revision = running.replica.log.commit(&info, entries, running.revision()).await.unwrap();
    soon(crate::change::reach(&running.replica, revision)).await.unwrap();
    revision.0
}

/// `channel number@item revision` of each item, at the revision of the snapshot.
fn content(snapshot: &Snapshot) -> (Vec<String>, u64) {
    let item = |item: &domain::content::ContentItem| {
        assert_eq!(item.manifest, Digest::of(&item.number.0.to_be_bytes()));
        format!("{} {}@{}", item.channel, item.number, item.revision)
    };
    (snapshot.content.iter().map(item).collect(), snapshot.cursor.revision.0)
}

async fn head(rig: &Rig, running: &Running, group: &str) -> (Vec<String>, u64) {
    content(&rig.head(&running.replica, group).await.unwrap())
}

/// Two revisions, of which stable names the first, and /servers with what it assigns and a limit on the rate.
async fn followed(rig: &Rig) -> Running {
    let one = rig.run().await;
    one.applied(&servers()).await;
    let entries = [revision(1), revision(2), channel(2, &[("stable", 1)])];
    assert_eq!(written(&one, &entries).await, 9);
    let group = json!({"group": "servers", "path": "/servers", "policies": ["base"], "mode": "push",
        "content": {"definitions/ips": "stable"}, "rate": 2_097_152});
    assert_eq!(one.applied(&[group]).await, 10);
    one
}

fn release(name: &str, stage: &str, revision: u32) -> Value {
    json!({"release": name, "channel": "definitions/ips", "stage": stage, "revision": revision})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_reaches_the_groups_that_follow_its_channel() {
    let rig = Rig::start().await;
    let one = followed(&rig).await;
    let items = |text: &str| vec![text.to_owned()];
    assert_eq!(head(&rig, &one, "servers").await, (items("definitions/ips 1@10"), 10));
    assert_eq!(head(&rig, &one, "servers-web").await, (items("definitions/ips 1@10"), 10));
    assert_eq!(
        rig.head(&one.replica, "servers-web").await.unwrap().settings.content_rate_limit,
        Some(2 << 20)
    );
    let root = rig.message("root").await.unwrap().sequence;
    let at_1 = rig.head(&one.replica, "servers-web").await.unwrap().content_digest();

    // What does not concern the content leaves its items as they are.
    assert_eq!(one.applied(&[super::base("allow")]).await, 11);
    assert_eq!(head(&rig, &one, "servers-web").await, (items("definitions/ips 1@10"), 11));
    assert_eq!(one.applied(&[super::base("deny")]).await, 12);

    let promoted = one.apply(&[release("ips", "stable", 2)]).await.unwrap().result.unwrap();
    assert_eq!((promoted.revision, promoted.groups_touched), (13, 2));
    let object = &promoted.objects[0];
    let shown = (object.kind.as_str(), object.name.as_str(), object.action());
    assert_eq!((promoted.objects.len(), shown), (1, ("ContentRelease", "ips", v1::Action::Updated)));
    let change = &promoted.groups[0].changes[0];
    assert_eq!((change.pointer.as_str(), change.set_by.as_str()), ("/content/definitions~1ips", "/servers"));
    assert_eq!(head(&rig, &one, "servers-web").await, (items("definitions/ips 2@13"), 13));

    let again = one.apply(&[release("ips", "stable", 2)]).await.unwrap().result.unwrap();
    assert_eq!((again.revision, again.objects[0].action()), (13, v1::Action::Unchanged));

    // Back: an older content by a newer revision.
    assert_eq!(one.applied(&[release("ips", "stable", 1)]).await, 14);
    assert_eq!(head(&rig, &one, "servers-web").await, (items("definitions/ips 1@14"), 14));
    assert_eq!(rig.head(&one.replica, "servers-web").await.unwrap().content_digest(), at_1);
    assert_eq!(rig.message("root").await.unwrap().sequence, root);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_content_service_writes_is_compiled_and_kept_over_a_restart() {
    let rig = Rig::start().await;
    let one = followed(&rig).await;
    let promoted = written(&one, &[channel(2, &[("stable", 1), ("stable", 2)])]).await;
    rig.marked(promoted).await;
    let expected = (vec![format!("definitions/ips 2@{promoted}")], promoted);
    assert_eq!(head(&rig, &one, "servers-web").await, expected);
    // A pin, a label: nothing that agents have to know.
    let before = rig.message("servers-web").await.unwrap().sequence;
    let Entry::Content(two) = revision(2) else { panic!("a revision") };
    let pinned = Entry::Content(Arc::new(StoredRevision { pinned: true, ..(*two).clone() }));
    let pinned = written(&one, &[pinned]).await;
    rig.marked(pinned).await;
    assert_eq!(rig.message("servers-web").await.unwrap().sequence, before);
    one.stop().await;

    let other = rig.run().await;
    assert_eq!(other.revision(), Revision(pinned));
    rig.marked(pinned).await;
    assert_eq!(head(&rig, &other, "servers-web").await, expected);
    assert_eq!(rig.message("servers-web").await.unwrap().sequence, before);
    // Another change of the same groups: this replica learned the item's revision from the head.
    let changed = other.applied(&[super::base("allow")]).await;
    assert_eq!(head(&rig, &other, "servers-web").await, (expected.0, changed));
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_show_what_they_follow_and_who_says_so() {
    let rig = Rig::start().await;
    let one = followed(&rig).await;
    let number = |revision| v1::content_reference::Which::Revision(revision);
    let reference = |which| v1::ContentReference { channel: "definitions/ips".into(), which: Some(which) };
    let update = v1::UpdateGroupRequest {
        group: Some(v1::Group {
            path: "/servers/web".into(),
            content: vec![reference(number(2))],
            ..v1::Group::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["content".into()] }),
        ..v1::UpdateGroupRequest::default()
    };
    let updated = one.api.update_group(asked(update)).await.unwrap().into_inner().group.unwrap();
    assert_eq!(updated.policies, ["web"]);
    let shown = |content: &[v1::EffectiveContent]| -> Vec<(Option<v1::ContentReference>, u32, String)> {
        content.iter().map(|it| (it.reference.clone(), it.revision, it.set_by.clone())).collect()
    };
    let expected = [(Some(reference(number(2))), 2, "/servers/web".to_owned())];
    assert_eq!(shown(&updated.effective_content), expected);
    let servers = one.group("/servers").await.unwrap();
    let stable = reference(v1::content_reference::Which::Stage("stable".into()));
    assert_eq!(servers.content, std::slice::from_ref(&stable));
    assert_eq!(shown(&servers.effective_content), [(Some(stable), 1, "/servers".to_owned())]);
    assert_eq!(servers.settings_origin["contentRateLimit"], "/servers");
    assert_eq!(servers.settings_origin["contentSpread"], "default");
    let explain = v1::ExplainGroupRequest { group: "/servers/web".into(), ..Default::default() };
    let explained = one.api.explain_group(asked(explain)).await.unwrap().into_inner();
    assert_eq!(shown(&explained.content), expected);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_is_not_there_is_refused_with_a_way_out() {
    let rig = Rig::start().await;
    let one = followed(&rig).await;
    let group = |content: Value| json!({"group": "x", "path": "/x", "content": content});
    let other = json!({"release": "r", "channel": "other", "stage": "s", "revision": 1});
    for (resource, field, why) in [
        (
            group(json!({"other": "s"})),
            "group.content",
            "push a first revision with `muster content push other",
        ),
        (
            group(json!({"definitions/ips": 3})),
            "group.content",
            "`muster content show definitions/ips` lists",
        ),
        (other, "content_release.channel", "push a first revision with `muster content push other PATH`"),
        (
            release("r", "stable", 3),
            "content_release.revision",
            "`muster content show definitions/ips` lists",
        ),
        (release("r", "stable", 0), "content_release.revision", "must be given"),
        (release("R", "stable", 1), "content_release.name", "has the character 'R'"),
    ] {
        let status = one.apply(std::slice::from_ref(&resource)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{resource}");
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, format!("resources[0].{field}"));
        assert!(violation.description.contains(why), "{}", violation.description);
    }
    assert_eq!(one.revision(), Revision(10));
    one.stop().await;
}
