//! Reads: groups, kinds, policies, and why a group has what it has. All wait, within bounds, for the
//! revision that the caller asks for.

use std::sync::Arc;

use domain::access::Reach;
use domain::explain::explain;
use domain::{GroupPath, KindName, PolicyName, Revision};
use prost::Message as _;
use tonic::Status;
use wire::api::v1;

use super::{MAX_MESSAGE_BYTES, convert, history, page, refuse, show};
use crate::change::reach;
use crate::fold::View;
use crate::replica::Replica;

async fn view(replica: &Replica, min_revision: u64) -> Result<Arc<View>, Status> {
    reach(replica, Revision(min_revision)).await.map_err(|behind| refuse::behind(&behind))
}

pub(super) async fn get_group(
    replica: &Replica,
    reach: &Reach,
    request: v1::GetGroupRequest,
) -> Result<v1::Group, Status> {
    let view = view(replica, request.min_revision).await?;
    let id = &convert::find_group(&view.catalog, reach, "group", &request.group)?.id;
    let group = view.catalog.group(id).ok_or_else(|| refuse::missing("Group", &request.group))?;
    Ok(show::group(replica, &view.catalog, view.compiled.effective(id), group))
}

pub(super) async fn list_groups(
    replica: &Replica,
    reach: &Reach,
    request: v1::ListGroupsRequest,
) -> Result<v1::ListGroupsResponse, Status> {
    let size = page::usual_size(request.page_size)?;
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(GroupPath::new(token).map_err(|error| refuse::field("page_token", error))?),
    };
    let view = view(replica, request.min_revision).await?;
    let under = match request.under.as_str() {
        "" => reach.sight(&view.catalog).top(),
        text => Some(convert::find_group(&view.catalog, reach, "under", text)?.path.clone()),
    };
    let groups = under.map(|under| view.catalog.subtree(&under)).unwrap_or_default().into_iter();
    let groups = groups.filter(|group| after.as_ref().is_none_or(|after| group.value.path > *after));
    let shown = groups.map(|group| {
        let effective = view.compiled.effective(&group.value.id);
        (group.value.path.to_string(), show::group(replica, &view.catalog, effective, group))
    });
    let (groups, next_page_token) = page::page(shown, size);
    Ok(v1::ListGroupsResponse { groups, next_page_token, revision: view.revision().0 })
}

pub(super) async fn get_kind(replica: &Replica, request: v1::GetKindRequest) -> Result<v1::Kind, Status> {
    let name: KindName = convert::name("name", &request.name)?;
    let view = view(replica, request.min_revision).await?;
    view.catalog.kind(&name).map(show::kind).ok_or_else(|| refuse::missing("PolicyKind", &request.name))
}

pub(super) async fn list_kinds(
    replica: &Replica,
    request: v1::ListKindsRequest,
) -> Result<v1::ListKindsResponse, Status> {
    let size = page::usual_size(request.page_size)?;
    let view = view(replica, request.min_revision).await?;
    let after = request.page_token.as_str();
    let kinds = view.catalog.kinds().filter(|kind| kind.value.name.as_str() > after);
    let (kinds, next_page_token) =
        page::page(kinds.map(|kind| (kind.value.name.to_string(), show::kind(kind))), size);
    Ok(v1::ListKindsResponse { kinds, next_page_token, revision: view.revision().0 })
}

pub(super) async fn get_policy(
    replica: &Replica,
    reach: &Reach,
    request: v1::GetPolicyRequest,
) -> Result<v1::Policy, Status> {
    let name: PolicyName = convert::name("name", &request.name)?;
    let view = view(replica, request.min_revision).await?;
    let sight = reach.sight(&view.catalog);
    if !sight.policy(&name) {
        return Err(refuse::missing("Policy", &request.name));
    }
    let newest = view.catalog.policy(&name);
    if request.generation == 0 || newest.is_some_and(|p| p.value.generation == request.generation) {
        let newest = newest.ok_or_else(|| refuse::missing("Policy", &request.name))?;
        return Ok(show::policy(&show::users(&view.catalog, &sight), newest));
    }
    let version = history::version(replica, &name, request.generation).await?;
    Ok(v1::Policy { revision: version.revision.0, ..show::policy_alone(&version.policy) })
}

pub(super) async fn list_policies(
    replica: &Replica,
    reach: &Reach,
    request: v1::ListPoliciesRequest,
) -> Result<v1::ListPoliciesResponse, Status> {
    let size = page::usual_size(request.page_size)?;
    let kind: Option<KindName> = match request.kind.as_str() {
        "" => None,
        text => Some(convert::name("kind", text)?),
    };
    let view = view(replica, request.min_revision).await?;
    if let Some(kind) = kind.as_ref().filter(|kind| view.catalog.kind(kind).is_none()) {
        return Err(refuse::missing("PolicyKind", kind.as_str()));
    }
    let after = request.page_token.as_str();
    let policies = view.catalog.policies().filter(|policy| policy.value.name.as_str() > after);
    let policies = policies.filter(|policy| kind.as_ref().is_none_or(|kind| policy.value.kind == *kind));
    let sight = reach.sight(&view.catalog);
    let policies = policies.filter(|policy| sight.policy(&policy.value.name));
    let users = show::users(&view.catalog, &sight);
    let shown = policies.map(|policy| (policy.value.name.to_string(), show::policy(&users, policy)));
    let (policies, next_page_token) = page::page(shown, size);
    Ok(v1::ListPoliciesResponse { policies, next_page_token, revision: view.revision().0 })
}

pub(super) async fn explain_group(
    replica: &Replica,
    reach: &Reach,
    request: v1::ExplainGroupRequest,
) -> Result<v1::ExplainGroupResponse, Status> {
    let pointer = convert::pointer(&request.pointer)?;
    let kind: Option<KindName> = match request.kind.as_str() {
        "" => None,
        text => Some(convert::name("kind", text)?),
    };
    let view = view(replica, request.min_revision).await?;
    let group = convert::find_group(&view.catalog, reach, "group", &request.group)?;
    if let Some(kind) = kind.as_ref().filter(|kind| view.catalog.kind(kind).is_none()) {
        return Err(refuse::missing("PolicyKind", kind.as_str()));
    }
    let explained = explain(&view.catalog, &group.id, kind.as_ref(), &pointer);
    let effective = view.compiled.effective(&group.id);
    let response = v1::ExplainGroupResponse {
        path: group.path.to_string(),
        documents: explained.into_iter().map(show::explanation).collect(),
        settings: effective.map(|effective| show::settings(effective.settings())),
        settings_origin: show::origin(&view.catalog, &group.path),
        head_revision: replica.heads(|heads| heads.revision(&group.id)).0,
        content: show::content(&view.catalog, &group.path),
    };
    if response.encoded_len() > MAX_MESSAGE_BYTES {
        let why = "the explanation is too large for one answer: ask for one kind or a pointer";
        return Err(Status::resource_exhausted(why));
    }
    Ok(response)
}
