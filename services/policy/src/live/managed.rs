//! Objects that somebody keeps in order, and what others may do with them.

use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;
use wire::api::v1;
use wire::api::v1::policy_service_server::PolicyService as _;

use super::{Rig, Running, asked, base, resource, servers};

const OURS: &str = "kubernetes:default";

/// Applies objects for a manager.
async fn apply(
    one: &Running,
    objects: &[Value],
    manager: &str,
    take_over: bool,
) -> Result<u64, tonic::Status> {
    let resources = objects.iter().map(resource).collect();
    let (manager, take_over) = (manager.to_owned(), take_over);
    let request = v1::ApplyRequest { resources, manager, take_over, ..v1::ApplyRequest::default() };
    one.api.apply(asked(request)).await.map(|answer| answer.into_inner().result.unwrap().revision)
}

async fn manager(one: &Running) -> String {
    let request = v1::GetPolicyRequest { name: "base".into(), ..v1::GetPolicyRequest::default() };
    one.api.get_policy(asked(request)).await.unwrap().into_inner().manager
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_manage_an_object_does_not_change_it() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    apply(&one, &[base("deny")], OURS, false).await.unwrap();
    assert_eq!(manager(&one).await, OURS);
    let end = one.replica.log.end().await.unwrap();

    // What is so already may be said by everybody; nothing else may.
    apply(&one, &servers(), "", false).await.unwrap();
    for manager in ["", "terraform"] {
        let status = apply(&one, &[base("allow")], manager, false).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "MANAGED");
        let said = "policy \"base\" is managed by kubernetes:default: change it there (`kubectl --namespace default \
                    edit policies.muster.dev base`), or take it over with `muster apply --take-over`";
        assert_eq!(status.message(), said);
        let details = status.get_error_details();
        assert_eq!(details.precondition_failure().unwrap().violations[0].subject, "resources[0].policy");
    }
    let back =
        v1::RollbackPolicyRequest { name: "base".into(), to: 1, ..v1::RollbackPolicyRequest::default() };
    // Generation 1 says the same: going back to it changes nothing.
    one.api.rollback_policy(asked(back)).await.unwrap();
    let delete = v1::DeletePolicyRequest { name: "base".into(), ..v1::DeletePolicyRequest::default() };
    let status = one.api.delete_policy(asked(delete)).await.unwrap_err();
    assert!(status.message().contains("is managed by"), "{status}");
    let wrong = apply(&one, &[base("allow")], "Not A Mark", false).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert_eq!(one.replica.log.end().await.unwrap(), end);

    // The manager changes it; a replica that starts later knows whose it is; who takes it over says so.
    apply(&one, &[base("allow")], OURS, false).await.unwrap();
    one.stop().await;
    let two = rig.run().await;
    assert_eq!(manager(&two).await, OURS);
    apply(&two, &[base("deny")], "", true).await.unwrap();
    assert_eq!(manager(&two).await, "");
    apply(&two, &[base("allow")], "", false).await.unwrap();
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_group_is_not_moved_along() {
    let rig = Rig::start().await;
    let one = rig.run().await;
    one.applied(&servers()).await;
    let web = json!({"group": "servers-web", "path": "/servers/web", "policies": ["web"]});
    apply(&one, std::slice::from_ref(&web), "kubernetes:default", false).await.unwrap();
    let to = v1::MoveGroupRequest {
        group: "/servers".into(),
        to: "/hosts".into(),
        ..v1::MoveGroupRequest::default()
    };
    let status = one.api.move_group(asked(to)).await.unwrap_err();
    assert!(status.message().starts_with("group \"servers-web\" is managed by"), "{status}");
    one.stop().await;
}
