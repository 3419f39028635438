//! The control plane under test: a `musterd all` process of a release build with its own broker.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use domain::FleetId;
use serde::Deserialize;
use tempfile::TempDir;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use wire::access::{Account, Permissions};
use wire::api::v1::content_reference::Which;
use wire::api::v1::content_service_client::ContentServiceClient;
use wire::api::v1::identity_service_client::IdentityServiceClient;
use wire::api::v1::policy_service_client::PolicyServiceClient;
use wire::api::v1::presence_service_client::PresenceServiceClient;
use wire::api::v1::resource::Resource as Object;
use wire::api::v1::{
    ApplyRequest, ContentReference, ContentStatus, CreateTokenRequest, DiffRevisionsRequest, FleetStatus,
    GetContentStatusRequest, GetRevisionRequest, GetStatusRequest, Group, Kind, Mode, Policy, PromoteRequest,
    Resource, RevisionDetail, RevisionSelector, Settings, Token, revision_selector,
};

use crate::children::{Running, children_of};
use crate::{Bench, machine, sample};

/// The group of all agents.
pub const GROUP: &str = "bench";
/// Objects that one change may have.
const MAX_OBJECTS: usize = 1_000;
/// The one policy of the group.
const POLICY: &str = "bench";
/// How long a call may take: a change of 64 KiB beside ten thousand busy agents takes a second.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The variable that names the collector.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What is not the same for every control plane.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup<'a> {
    /// Heartbeats a second that an agent may send; 0: any number, where a few clients stand for many agents.
    pub heartbeat_limit: u32,
    /// A collector that it tells; without it nobody.
    pub collector: Option<&'a str>,
}

/// What `musterd all` says of itself.
#[derive(Deserialize)]
struct Addresses {
    api: String,
}

/// A connection on which each call carries the administrator's token.
type Line = InterceptedService<Channel, Bearer>;

/// The administrator's token.
#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    fn read(file: &Path) -> Result<Self> {
        let token = std::fs::read_to_string(file).context("musterd made no token")?;
        Ok(Self(format!("Bearer {}", token.trim()).parse()?))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Who changes policies.
#[derive(Clone)]
pub struct Operator(PolicyServiceClient<Line>);

impl Operator {
    /// Writes the policy of the group anew: `bytes` long, told apart by `salt`. Gives the store revision.
    ///
    /// # Errors
    /// When the change is refused.
    pub async fn change(&mut self, bytes: usize, salt: u64) -> Result<u64> {
        self.apply(vec![Object::Policy(policy(bytes, salt)?)]).await
    }

    async fn apply(&mut self, objects: Vec<Object>) -> Result<u64> {
        let resources = objects.into_iter().map(|object| Resource { resource: Some(object) }).collect();
        let request = ApplyRequest { resources, message: "bench".to_owned(), ..ApplyRequest::default() };
        let response = self.0.apply(request).await.context("the change was refused")?.into_inner();
        Ok(response.result.context("an answer without a result")?.revision)
    }
}

/// A running control plane; it, its broker and its data are gone when this is dropped.
pub struct Control {
    process: Running,
    operator: Operator,
    presence: PresenceServiceClient<Line>,
    identity: IdentityServiceClient<Line>,
    content: ContentServiceClient<Line>,
    data: TempDir,
}

impl Control {
    /// Starts `musterd all` and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started or does not become ready.
    pub async fn start(musterd: &Path, nats_server: &Path) -> Result<Self> {
        Self::start_with(musterd, nats_server, Setup::default()).await
    }

    /// As [`Control::start`], with the programs of a run and settings of its own.
    ///
    /// # Errors
    /// As [`Control::start`].
    pub async fn start_as(bench: &Bench, setup: Setup<'_>) -> Result<Self> {
        Self::start_with(&bench.musterd()?, &bench.nats_server, setup).await
    }

    async fn start_with(musterd: &Path, nats_server: &Path, setup: Setup<'_>) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
        let log = data.path().join("musterd.log");
        let output = File::create(&log)?;
        let mut command = Command::new(musterd);
        command
            .arg("all")
            .args(["--listen", "127.0.0.1:0"])
            .args(["--agent-heartbeat-limit", &setup.heartbeat_limit.to_string()])
            .arg("--data-dir")
            .arg(data.path().join("data"))
            .env("MUSTER_NATS_SERVER", nats_server)
            .env_remove(COLLECTOR)
            .envs(setup.collector.map(|collector| (COLLECTOR, collector)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut process = Running::start("musterd", &mut command)?;
        let addresses = data.path().join("data").join("addresses.json");
        let api = process.until(async || read_api(&addresses)).await;
        let api = api.with_context(|| format!("its log ends: {}", tail(&log)))?;
        let ca = std::fs::read(data.path().join("data/tls/ca.pem"))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        let endpoint = Endpoint::from_shared(api)?.tls_config(tls)?.timeout(CALL_TIMEOUT);
        let token = Bearer::read(&data.path().join("data/admin.token"))?;
        let channel = InterceptedService::new(endpoint.connect_lazy(), token);
        let mut control = Self {
            operator: Operator(PolicyServiceClient::new(channel.clone())),
            presence: PresenceServiceClient::new(channel.clone()),
            identity: IdentityServiceClient::new(channel.clone()),
            content: ContentServiceClient::new(channel),
            process,
            data,
        };
        let presence = control.presence.clone();
        let ready = async || presence.clone().get_status(GetStatusRequest::default()).await.ok();
        control.process.until(ready).await.with_context(|| format!("its log ends: {}", tail(&log)))?;
        Ok(control)
    }

    /// Makes the kind, the policy and the group of all agents, in push mode with default settings.
    ///
    /// # Errors
    /// When the change is refused.
    pub async fn prepare(&mut self, bytes: usize) -> Result<()> {
        let schema = wire::document::to_struct(&sample::schema())?;
        let kind = Kind { name: "bench".to_owned(), schema, ..Kind::default() };
        self.apply(vec![Object::Kind(kind), Object::Policy(policy(bytes, 0)?), Object::Group(group(None))])
            .await?;
        Ok(())
    }

    /// Sets the time between the heartbeats of the group's agents.
    ///
    /// # Errors
    /// When the change is refused.
    pub async fn beat_every(&mut self, interval: Duration) -> Result<()> {
        self.apply(vec![Object::Group(group(Some(interval)))]).await?;
        Ok(())
    }

    /// Revision of the group's head, once presence knows it.
    ///
    /// # Errors
    /// When presence does not answer, or does not know the group.
    pub async fn head(&mut self) -> Result<u64> {
        let written = self.apply(vec![Object::Group(group(Some(Duration::from_secs(60))))]).await?;
        let status = self.status(written).await?;
        Ok(status.groups.first().context("presence does not know the group")?.head_revision)
    }

    /// Writes the policy of the group anew: `bytes` long, told apart by `salt`. Gives the store revision.
    ///
    /// # Errors
    /// When the change is refused.
    pub async fn change(&mut self, bytes: usize, salt: u64) -> Result<u64> {
        self.operator.change(bytes, salt).await
    }

    /// Who changes policies, apart from the rest.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator.clone()
    }

    /// Makes `count` groups below the root, which assigns the policy, three levels deep.
    ///
    /// # Errors
    /// When a change is refused.
    pub async fn grow_tree(&mut self, count: usize) -> Result<()> {
        let root = Group { name: "root".to_owned(), path: "/".to_owned(), ..group(None) };
        self.apply(vec![Object::Group(root)]).await?;
        let groups: Vec<Object> = (0..count)
            .map(|n| {
                Object::Group(Group { name: format!("group-{n}"), path: sample::path(n), ..Group::default() })
            })
            .collect();
        for some in groups.chunks(MAX_OBJECTS) {
            self.apply(some.to_vec()).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, objects: Vec<Object>) -> Result<u64> {
        self.operator.apply(objects).await
    }

    /// Makes the agents follow a stage of a content channel, and start to download at once.
    ///
    /// # Errors
    /// When the change is refused.
    pub async fn follow(&mut self, channel: &str, stage: &str) -> Result<()> {
        let which = Some(Which::Stage(stage.to_owned()));
        let mut group = group(None);
        group.content = vec![ContentReference { channel: channel.to_owned(), which }];
        if let Some(settings) = &mut group.settings {
            settings.content_spread = Some(prost_types::Duration::default());
        }
        self.apply(vec![Object::Group(group)]).await?;
        Ok(())
    }

    /// The newest revision of a channel.
    ///
    /// # Errors
    /// When there is none.
    pub async fn newest(&mut self, channel: &str) -> Result<RevisionDetail> {
        let selector = Some(RevisionSelector { channel: channel.to_owned(), which: None });
        Ok(self.content.get_revision(GetRevisionRequest { selector }).await?.into_inner())
    }

    /// Bytes of the chunks that only the later of two revisions has.
    ///
    /// # Errors
    /// When one of them is not there.
    pub async fn missing_chunk_bytes(&mut self, channel: &str, from: u32, to: u32) -> Result<u64> {
        let selector = |revision| {
            let which = Some(revision_selector::Which::Revision(revision));
            Some(RevisionSelector { channel: channel.to_owned(), which })
        };
        let request = DiffRevisionsRequest { from: selector(from), to: selector(to) };
        Ok(self.content.diff_revisions(request).await?.into_inner().chunk_bytes)
    }

    /// Makes a stage name the newest revision of a channel; gives its number.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn promote(&mut self, channel: &str, stage: &str) -> Result<u32> {
        let selector = Some(RevisionSelector { channel: channel.to_owned(), which: None });
        let request = PromoteRequest { selector, stage: stage.to_owned(), ..PromoteRequest::default() };
        let change = self.content.promote(request).await?.into_inner();
        Ok(change.revision.context("an answer without a revision")?.revision)
    }

    /// How far a channel has got.
    ///
    /// # Errors
    /// When presence does not answer.
    pub async fn content_status(&mut self, channel: &str) -> Result<ContentStatus> {
        let request = GetContentStatusRequest { channel: channel.to_owned(), group: String::new() };
        Ok(self.presence.get_content_status(request).await?.into_inner())
    }

    /// Its data directory, by which `muster` finds it.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// A credentials file for the control plane's broker.
    ///
    /// # Errors
    /// When the keys of the account are not in the data directory.
    pub fn mint(&self, account: Account, permissions: Permissions) -> Result<String> {
        let broker = self.data_dir().join("broker");
        Ok(runtime::broker::mint(&broker, &FleetId::new("default")?, account, permissions)?)
    }

    /// The most resident memory that `musterd` had so far, in bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        machine::peak_resident_bytes(&self.process.id().to_string())
    }

    /// A join token for the group, good for `uses` agents.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn token(&mut self, uses: usize) -> Result<String> {
        let details = Token { group: format!("/{GROUP}"), uses: u32::try_from(uses)?, ..Token::default() };
        let made = self.identity.create_token(CreateTokenRequest { details: Some(details) }).await?;
        Ok(made.into_inner().token)
    }

    /// The group as presence sees it once it knows the heads of `min_revision`.
    ///
    /// # Errors
    /// When presence does not answer.
    pub async fn status(&mut self, min_revision: u64) -> Result<FleetStatus> {
        let request = GetStatusRequest { group: format!("/{GROUP}"), only_itself: true, min_revision };
        Ok(self.presence.get_status(request).await.context("presence does not answer")?.into_inner())
    }

    /// Resident memory of `musterd` and of its broker, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> (u64, u64) {
        let (musterd, broker) = self.processes();
        (machine::resident_bytes(&musterd), broker.map_or(0, |id| machine::resident_bytes(&id)))
    }

    /// Processor time that `musterd` and its broker have used, in milliseconds of one core.
    #[must_use]
    pub fn processor_ms(&self) -> (f64, f64) {
        let (musterd, broker) = self.processes();
        (machine::processor_ms(&musterd), broker.map_or(0.0, |id| machine::processor_ms(&id)))
    }

    fn processes(&self) -> (String, Option<String>) {
        (self.process.id().to_string(), children_of(self.process.id()).first().map(ToString::to_string))
    }
}

fn group(heartbeat_interval: Option<Duration>) -> Group {
    let heartbeat_interval = heartbeat_interval.and_then(|interval| interval.try_into().ok());
    let settings = Settings { mode: Some(Mode::Push.into()), heartbeat_interval, ..Settings::default() };
    Group {
        name: GROUP.to_owned(),
        path: format!("/{GROUP}"),
        settings: Some(settings),
        policies: vec![POLICY.to_owned()],
        ..Group::default()
    }
}

fn policy(bytes: usize, salt: u64) -> Result<Policy> {
    let document = wire::document::to_struct(&sample::document(bytes, salt))?;
    Ok(Policy { name: POLICY.to_owned(), kind: "bench".to_owned(), document, ..Policy::default() })
}

/// The program under test: as named, or beside this one.
///
/// # Errors
/// When it is not there.
pub fn find_musterd(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("musterd"),
    };
    ensure!(path.is_file(), "{} is missing: build it with cargo build --release --bins", path.display());
    Ok(path)
}

/// URL of the API, from the file that is there while `musterd all` serves.
fn read_api(addresses: &Path) -> Option<String> {
    let text = std::fs::read_to_string(addresses).ok()?;
    Some(serde_json::from_str::<Addresses>(&text).ok()?.api)
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}
