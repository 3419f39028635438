//! The API of the fleet.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;
use runtime::client::{
    ANSWER_TIMEOUT, Credential, CredentialError, Line, MAX_ANSWER_BYTES, Traced, endpoint,
};
use tonic::transport::{Certificate, ClientTlsConfig};
use tonic::{Code, Status};
use wire::api::v1;
use wire::api::v1::content_service_client::ContentServiceClient;
use wire::api::v1::identity_service_client::IdentityServiceClient;
use wire::api::v1::policy_service_client::PolicyServiceClient;
use wire::api::v1::presence_service_client::PresenceServiceClient;
use wire::api::v1::resource::Resource as Any;

use crate::fleet::{Fleet, Stage};
use crate::object::{Key, Kind};
use crate::plan::Batch;

/// Objects asked for at a time where one object is small.
const PAGE: i32 = 1_000;
/// Objects asked for at a time where each carries a document of up to 256 KiB.
const PAGE_OF_DOCUMENTS: i32 = 50;
/// Most pages of one list: ten million objects; a server that never ends its list is noticed.
const MAX_PAGES: usize = 10_000;
/// Groups that the presence service lists at once.
const MAX_LISTED_GROUPS: usize = 1_000;
/// Longest CA file: a bundle of all that systems trust has 250 KB.
const MAX_CA_BYTES: usize = 1 << 20;
/// Why changes are made, in their history.
const MESSAGE: &str = "Kubernetes";

/// Where the services of the fleet are.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    pub(crate) policy: String,
    pub(crate) content: String,
    pub(crate) presence: String,
    pub(crate) identity: String,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) token: Option<PathBuf>,
}

/// Why the fleet cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MusterError {
    /// A file of the configuration.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file that holds something else.
    #[error("{} is larger than {MAX_CA_BYTES} bytes, or no text", path.display())]
    File { path: PathBuf },
    /// The token.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// An address.
    #[error("{url} cannot be used")]
    Address { url: String, source: tonic::transport::Error },
    /// A service answered with an error.
    #[error("{what}: {}", status.message())]
    Call { what: &'static str, status: Box<Status> },
    /// A list without end.
    #[error("the list of {0} has more than {MAX_PAGES} pages")]
    Endless(&'static str),
}

/// Clients of all services.
#[derive(Clone)]
pub(crate) struct Muster {
    policy: PolicyServiceClient<Line>,
    content: ContentServiceClient<Line>,
    presence: PresenceServiceClient<Line>,
    identity: IdentityServiceClient<Line>,
}

fn called(what: &'static str) -> impl Fn(Status) -> MusterError {
    move |status| MusterError::Call { what, status: Box::new(status) }
}

async fn read(path: &PathBuf) -> Result<String, MusterError> {
    let bytes = tokio::fs::read(path).await;
    let bytes = bytes.map_err(|source| MusterError::Read { path: path.clone(), source })?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_CA_BYTES);
    text.ok_or_else(|| MusterError::File { path: path.clone() })
}

impl Muster {
    /// Reads the token and the CA anew, for both may change, and prepares connections.
    pub(crate) async fn open(servers: &Servers) -> Result<Self, MusterError> {
        let mut tls = ClientTlsConfig::new();
        if let Some(path) = &servers.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(path).await?));
        }
        let credential = match &servers.token {
            Some(path) => Credential::new(read(path).await?.trim(), &path.display().to_string())?,
            None => Credential::default(),
        };
        let line = |url: &String| -> Result<Line, MusterError> {
            credential.fits(url)?;
            let endpoint = endpoint(url, tls.clone());
            let endpoint = endpoint.map_err(|source| MusterError::Address { url: url.clone(), source })?;
            let channel = endpoint.timeout(ANSWER_TIMEOUT).connect_lazy();
            Ok(Line::new(Traced::new(channel, url), credential.clone()))
        };
        Ok(Self {
            policy: PolicyServiceClient::new(line(&servers.policy)?)
                .max_decoding_message_size(MAX_ANSWER_BYTES),
            content: ContentServiceClient::new(line(&servers.content)?)
                .max_decoding_message_size(MAX_ANSWER_BYTES),
            presence: PresenceServiceClient::new(line(&servers.presence)?)
                .max_decoding_message_size(MAX_ANSWER_BYTES),
            identity: IdentityServiceClient::new(line(&servers.identity)?)
                .max_decoding_message_size(MAX_ANSWER_BYTES),
        })
    }

    /// The fleet as it is, with the content of these channels.
    pub(crate) async fn fleet(&self, channels: &[String]) -> Result<Fleet, MusterError> {
        let mut fleet = Fleet::default();
        let (groups, revision) = self.groups().await?;
        fleet.groups = groups.into_iter().map(|group| (group.name.clone(), group)).collect();
        let kinds = pages("kinds", |page_token| async {
            let request =
                v1::ListKindsRequest { page_size: PAGE_OF_DOCUMENTS, page_token, min_revision: revision };
            let page = self.policy.clone().list_kinds(request).await?.into_inner();
            Ok((page.kinds, page.next_page_token))
        });
        fleet.kinds = kinds.await?.into_iter().map(|kind| (kind.name.clone(), kind)).collect();
        let policies = pages("policies", |page_token| async {
            let request = v1::ListPoliciesRequest {
                kind: String::new(),
                page_size: PAGE_OF_DOCUMENTS,
                page_token,
                min_revision: revision,
            };
            let page = self.policy.clone().list_policies(request).await?.into_inner();
            Ok((page.policies, page.next_page_token))
        });
        fleet.policies = policies.await?.into_iter().map(|policy| (policy.name.clone(), policy)).collect();
        let tokens = pages("tokens", |page_token| async {
            let request = v1::ListTokensRequest { page_size: PAGE, page_token };
            let page = self.identity.clone().list_tokens(request).await?.into_inner();
            Ok((page.tokens, page.next_page_token))
        });
        fleet.tokens = tokens.await?.into_iter().map(|token| (token.name.clone(), token)).collect();
        for channel in channels {
            self.channel(&mut fleet, (channel, revision)).await?;
        }
        fleet.counts = self.counts(&fleet, revision).await?;
        // After the heads: who has taken one by then has said which content it wants.
        for channel in channels.iter().filter(|channel| fleet.stages.keys().any(|(name, _)| name == *channel))
        {
            let request = v1::GetContentStatusRequest { channel: channel.clone(), group: String::new() };
            let status = self.presence.clone().get_content_status(request).await;
            let status = status.map_err(called("the state of a channel cannot be read"))?.into_inner();
            fleet.content.insert(channel.clone(), status);
        }
        Ok(fleet)
    }

    async fn groups(&self) -> Result<(Vec<v1::Group>, u64), MusterError> {
        let revision = AtomicU64::new(0);
        let groups = pages("groups", |page_token| async {
            let request = v1::ListGroupsRequest { page_size: PAGE, page_token, ..Default::default() };
            let page = self.policy.clone().list_groups(request).await?.into_inner();
            revision.store(page.revision, Ordering::Relaxed);
            Ok((page.groups, page.next_page_token))
        });
        Ok((groups.await?, revision.into_inner()))
    }

    /// A channel's stages. One that is not there has none.
    async fn channel(&self, fleet: &mut Fleet, (name, revision): (&String, u64)) -> Result<(), MusterError> {
        let request = v1::GetChannelRequest { channel: name.clone(), min_revision: revision };
        let channel = match self.content.clone().get_channel(request).await {
            Ok(channel) => channel.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(()),
            Err(status) => return Err(called("a channel cannot be read")(status)),
        };
        for stage in channel.stages {
            let names = Stage {
                revision: stage.revision,
                manager: stage.manager,
                store_revision: channel.store_revision,
            };
            fleet.stages.insert((name.clone(), stage.name), names);
        }
        Ok(())
    }

    /// How the agents of each group stand, once the heads of this revision are known.
    async fn counts(
        &self,
        fleet: &Fleet,
        min_revision: u64,
    ) -> Result<BTreeMap<String, v1::AgentCounts>, MusterError> {
        let ask = async |group: &str, only_itself: bool| {
            let request = v1::GetStatusRequest { group: group.to_owned(), only_itself, min_revision };
            let status = self.presence.clone().get_status(request).await;
            status.map(tonic::Response::into_inner).map_err(called("the state of the agents cannot be read"))
        };
        let all = ask("", false).await?;
        let mut counts = BTreeMap::new();
        if all.groups.len() < MAX_LISTED_GROUPS {
            for group in all.groups {
                counts.insert(group.path, group.agents.unwrap_or_default());
            }
            return Ok(counts);
        }
        for group in fleet.groups.values().filter(|group| group.agents > 0) {
            counts.insert(group.path.clone(), ask(&group.path, true).await?.all.unwrap_or_default());
        }
        Ok(counts)
    }

    /// Makes one change.
    pub(crate) async fn apply(&self, batch: &Batch) -> Result<v1::ApplyResponse, Status> {
        let resources = batch.objects.iter().map(|(_, resource)| resource.clone()).collect();
        let (message, manager) = (MESSAGE.to_owned(), batch.manager.clone());
        let request = v1::ApplyRequest { resources, message, manager, ..v1::ApplyRequest::default() };
        self.policy.clone().apply(request).await.map(tonic::Response::into_inner)
    }

    /// Takes our mark from an object.
    pub(crate) async fn let_go(&self, resource: &v1::Resource) -> Result<(), Status> {
        let (resources, message) = (vec![resource.clone()], MESSAGE.to_owned());
        let request = v1::ApplyRequest { resources, message, take_over: true, ..v1::ApplyRequest::default() };
        self.policy.clone().apply(request).await.map(drop)
    }

    /// Deletes what an object was about. What is not there is gone already.
    pub(crate) async fn delete(&self, key: &Key, manager: &str) -> Result<(), Status> {
        let (name, message, manager) = (key.name.clone(), MESSAGE.to_owned(), manager.to_owned());
        let mut policy = self.policy.clone();
        let done = match key.kind {
            Kind::Group => {
                let request = v1::DeleteGroupRequest { group: name, message, manager, ..Default::default() };
                policy.delete_group(request).await.map(drop)
            }
            Kind::Policy => {
                let request = v1::DeletePolicyRequest { name, message, manager, ..Default::default() };
                policy.delete_policy(request).await.map(drop)
            }
            Kind::PolicyKind => {
                let request = v1::DeleteKindRequest { name, message, manager, ..Default::default() };
                policy.delete_kind(request).await.map(drop)
            }
            Kind::EnrollmentToken | Kind::ContentRelease => Ok(()),
        };
        gone(done)
    }

    /// Makes a token of this id.
    pub(crate) async fn make_token(
        &self,
        token: v1::Token,
        manager: &str,
    ) -> Result<v1::JoinTokenSecret, Status> {
        let resources = vec![v1::Resource { resource: Some(Any::Token(token)) }];
        let (message, manager) = (MESSAGE.to_owned(), manager.to_owned());
        let request = v1::ApplyRequest { resources, message, manager, ..v1::ApplyRequest::default() };
        let made = self.policy.clone().apply(request).await?.into_inner().tokens.pop();
        made.ok_or_else(|| Status::internal("the server made no token"))
    }

    pub(crate) async fn revoke(&self, token: &str, manager: &str) -> Result<(), Status> {
        let (name, manager) = (token.to_owned(), manager.to_owned());
        let request = v1::RevokeTokenRequest { name, manager, take_over: false };
        gone(self.identity.clone().revoke_token(request).await.map(drop))
    }
}

fn gone(done: Result<(), Status>) -> Result<(), Status> {
    match done {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        done => done,
    }
}

/// Fetches page after page.
async fn pages<T, F>(what: &'static str, mut fetch: impl FnMut(String) -> F) -> Result<Vec<T>, MusterError>
where
    F: Future<Output = Result<(Vec<T>, String), Status>>,
{
    let (mut items, mut token) = (Vec::new(), String::new());
    for _ in 0..MAX_PAGES {
        let (page, next) = fetch(token).await.map_err(called("the fleet cannot be read"))?;
        items.extend(page);
        if next.is_empty() {
            return Ok(items);
        }
        token = next;
    }
    Err(MusterError::Endless(what))
}

/// Whether a failure is of the way to the server or of its state, so that the same may go well later.
pub(crate) fn passing(status: &Status) -> bool {
    let of_transport = std::error::Error::source(status).is_some();
    of_transport
        || matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Aborted
                | Code::Internal
                | Code::Unknown
        )
}

/// Size of a resource in a request.
pub(crate) fn size(resource: &v1::Resource) -> usize {
    resource.encoded_len()
}
