//! What the API does when nothing goes wrong, and what it refuses.

use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;
use wire::api::v1;
use wire::api::v1::policy_service_server::PolicyService as _;

use super::{Rig, asked, base, documents, servers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_is_answered_when_its_heads_are_published() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    let answer = one.apply(&servers()).await.unwrap().result.unwrap();
    assert_eq!((answer.revision, answer.groups_touched), (6, 2));
    let web = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!(web.cursor, domain::Cursor::new(1, 6));
    let expected = json!({"rules": {"http": "allow", "ssh": "deny"}});
    assert_eq!(documents(&web)["firewall"], expected);
    assert_eq!(web.settings.mode, domain::Mode::Push);
    assert_eq!(web.path.as_str(), "/servers/web");
    let shown = one.group("/servers/web").await.unwrap();
    assert_eq!((shown.head_revision, shown.settings_origin["mode"].as_str()), (6, "/servers"));
    // What is as wanted is neither written nor published again.
    let before = rig.message("servers-web").await.unwrap().sequence;
    let again = one.apply(&servers()).await.unwrap().result.unwrap();
    assert_eq!((again.revision, again.groups_touched), (6, 0));
    // A change of one policy touches the groups below it; the revision of an untouched one stays.
    let change = json!({"policy": "web", "of": "firewall", "document": {"rules": {"http": "deny"}}});
    assert_eq!(one.applied(&[change]).await, 7);
    let web = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!((web.cursor.revision.0, web.policies[0].revision.0), (7, 7));
    assert!(rig.message("servers-web").await.unwrap().sequence > before);
    assert_eq!(rig.head(&one.replica, "servers").await.unwrap().cursor.revision.0, 6);
    rig.marked(7).await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_the_change_and_writes_nothing() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    let resources = vec![super::resource(&base("allow"))];
    let request = v1::ApplyRequest { resources, dry_run: true, ..v1::ApplyRequest::default() };
    let answer = one.api.apply(asked(request)).await.unwrap().into_inner().result.unwrap();
    assert_eq!((answer.dry_run, answer.groups_touched, answer.revision), (true, 2, 6));
    let changes: Vec<String> = answer.groups[1]
        .changes
        .iter()
        .map(|change| format!("{}{} by {} of {}", change.kind, change.pointer, change.policy, change.set_by))
        .collect();
    assert_eq!(changes, ["firewall/rules/ssh by base of /servers"]);
    assert_eq!(one.replica.log.end().await.unwrap().0, 6);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_name_the_field_and_write_nothing() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    let violates_lock = json!({"policy": "web", "of": "firewall", "document": {"rules": {"ssh": "allow"}}});
    let violates_schema =
        json!({"policy": "web", "of": "firewall", "document": {"rules": {"http": "maybe"}}});
    let orphan = json!({"group": "x", "path": "/no/such"});
    let dotted = json!({"group": "a.b", "path": "/ok"});
    let long = json!({"group": "x".repeat(10_000), "path": "/ok"});
    for (resource, field, why) in [
        (violates_lock, "resources[0].policy.document", "policy base of group /servers locks it"),
        (violates_schema, "resources[0].policy.document", "is not one of"),
        (orphan, "resources[0].group.path", "there is no group at /no"),
        (dotted, "resources[0].group.name", "has the character '.'"),
        (long, "resources[0].group.name", "is 10000 bytes long"),
        (json!({"token": "", "in": "/nowhere"}), "resources[0].token.group", "there is no group"),
    ] {
        let status = one.apply(std::slice::from_ref(&resource)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{resource}");
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, field);
        assert!(violation.description.contains(why), "{}", violation.description);
    }
    let in_use = v1::DeleteKindRequest { name: "firewall".into(), ..v1::DeleteKindRequest::default() };
    let status = one.api.delete_kind(asked(in_use)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("policy \"base\", policy \"web\""), "{}", status.message());
    let stale =
        v1::DeletePolicyRequest { name: "web".into(), revision: 4, ..v1::DeletePolicyRequest::default() };
    assert_eq!(one.api.delete_policy(asked(stale)).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(one.group("nobody").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(one.replica.log.end().await.unwrap().0, 6);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_diff_and_rollback() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    one.applied(&[base("allow")]).await;
    let name = || "base".to_owned();
    let history = v1::ListPolicyHistoryRequest { name: name(), page_size: 1, page_token: String::new() };
    let first = one.api.list_policy_history(asked(history)).await.unwrap().into_inner();
    assert_eq!((first.generations[0].generation, first.next_page_token.as_str()), (2, "2"));
    let history =
        v1::ListPolicyHistoryRequest { name: name(), page_size: 9, page_token: first.next_page_token };
    let second = one.api.list_policy_history(asked(history)).await.unwrap().into_inner();
    assert_eq!((second.generations.len(), second.next_page_token.as_str()), (1, ""));
    assert_eq!(second.generations[0].change.as_ref().unwrap().message, "test");
    let diff = v1::DiffPolicyRequest { name: name(), from: 0, to: 0 };
    let diff = one.api.diff_policy(asked(diff)).await.unwrap().into_inner();
    assert_eq!((diff.from, diff.to, diff.changes[0].pointer.as_str()), (1, 2, "/rules/ssh"));
    let rollback = v1::RollbackPolicyRequest { name: name(), ..v1::RollbackPolicyRequest::default() };
    let rolled = one.api.rollback_policy(asked(rollback)).await.unwrap().into_inner();
    let (policy, result) = (rolled.policy.unwrap(), rolled.result.unwrap());
    assert_eq!((policy.generation, policy.groups), (3, vec!["/servers".to_owned()]));
    let web = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!(documents(&web)["firewall"]["rules"]["ssh"], "deny");
    assert_eq!(web.cursor.revision.0, result.revision);
    let old = v1::GetPolicyRequest { name: name(), generation: 2, min_revision: 0 };
    let old = one.api.get_policy(asked(old)).await.unwrap().into_inner();
    assert_eq!((old.generation, old.revision), (2, 7));
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_created_updated_moved_and_deleted() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    let group = Some(v1::Group { path: "/servers/db".into(), ..v1::Group::default() });
    let create = v1::CreateGroupRequest { group, ..v1::CreateGroupRequest::default() };
    let created = one.api.create_group(asked(create.clone())).await.unwrap().into_inner().group.unwrap();
    assert_eq!(created.name, "servers-db");
    assert_eq!(one.api.create_group(asked(create)).await.unwrap_err().code(), Code::AlreadyExists);
    let settings = Some(v1::Settings { mode: Some(v1::Mode::Pull.into()), ..v1::Settings::default() });
    let group =
        v1::Group { name: created.name, settings, revision: created.revision, ..v1::Group::default() };
    let mask = prost_types::FieldMask { paths: vec!["settings.mode".into()] };
    let update = v1::UpdateGroupRequest {
        group: Some(group),
        update_mask: Some(mask),
        ..v1::UpdateGroupRequest::default()
    };
    let updated = one.api.update_group(asked(update)).await.unwrap().into_inner().group.unwrap();
    assert_eq!(updated.effective_settings.unwrap().mode(), v1::Mode::Pull);
    let move_it =
        v1::MoveGroupRequest { group: "/servers".into(), to: "/linux".into(), ..Default::default() };
    one.api.move_group(asked(move_it)).await.unwrap();
    // The head of a group that only moved says where it is now, under the cursor that it had.
    let web = rig.head(&one.replica, "servers-web").await.unwrap();
    assert_eq!((web.path.as_str(), web.cursor.revision.0), ("/linux/web", 6));
    let listed = v1::ListGroupsRequest { page_size: 3, ..v1::ListGroupsRequest::default() };
    let listed = one.api.list_groups(asked(listed)).await.unwrap().into_inner();
    let paths: Vec<&str> = listed.groups.iter().map(|group| group.path.as_str()).collect();
    assert_eq!((paths, listed.next_page_token.as_str()), (vec!["/", "/linux", "/linux/db"], "/linux/db"));
    let delete = v1::DeleteGroupRequest { group: "/linux/db".into(), ..v1::DeleteGroupRequest::default() };
    one.api.delete_group(asked(delete)).await.unwrap();
    super::until(async || rig.message("servers-db").await.unwrap().payload.is_empty()).await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_says_who_set_what() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    let request = v1::ExplainGroupRequest {
        group: "/servers/web".into(),
        pointer: "/rules/ssh".into(),
        min_revision: 6,
        ..v1::ExplainGroupRequest::default()
    };
    let answer = one.api.explain_group(asked(request)).await.unwrap().into_inner();
    assert_eq!((answer.documents.len(), answer.head_revision), (1, 6));
    let value = &answer.documents[0].values[0];
    assert_eq!((value.pointer.as_str(), value.policy.as_str()), ("/rules/ssh", "base"));
    assert_eq!((value.set_by.as_str(), value.locked_by.as_str()), ("/servers", "/servers"));
    assert_eq!((value.generation, value.revision), (1, 6));
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_an_apply_are_shown_once() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    let token = json!({"token": "site", "in": "/new"});
    let made = one.apply(&[token.clone(), json!({"group": "new", "path": "/new"})]).await.unwrap();
    assert_eq!(made.tokens.len(), 1);
    let read = wire::join::JoinToken::decode(&made.tokens[0].token).unwrap();
    let view = one.replica.current().unwrap();
    let stored = view.catalog.token(&read.token).unwrap();
    assert_eq!(stored.value.secret_digest, domain::Digest::of(&read.secret));
    let again = one.apply(&[token]).await.unwrap();
    assert_eq!((again.tokens.len(), again.result.unwrap().revision), (0, 3));
    one.stop().await;
}
