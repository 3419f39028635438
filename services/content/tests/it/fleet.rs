//! What the tests share: a server, replicas, and a client that uploads as `muster` does.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use codec::chunk::{Chunk, Chunker};
use content::Config;
use domain::catalog::{Entry as Object, Group};
use domain::content::retention::Piece;
use domain::content::{Census, ChannelName, ContentIndex, ContentPointer, Manifest};
use domain::{Digest, GroupId, GroupPath, Timestamp};
use runtime::content_keys::ContentKeys;
use runtime::nats::{Connection, Nats};
use runtime::nats_server::{NatsServer, Setup, find};
use runtime::store::{ChangeInfo, Entry, Log};
use runtime::{ContentKeyArgs, Listener, ServiceArgs, ServiceContext, Shutdown, Tasks};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use wire::api::v1;
use wire::api::v1::content_service_client::ContentServiceClient;
use wire::subject::STREAM_CONTENT;

/// Longest wait for any state. Reached only by a failure.
const SOON: Duration = Duration::from_secs(60);

pub(crate) type Client = ContentServiceClient<Channel>;

pub(crate) struct Fleet {
    pub(crate) server: NatsServer,
    pub(crate) nats: Nats,
    pub(crate) keys: ContentKeyArgs,
    /// What presence tells all the time; `None` if there is no presence.
    pub(crate) census: watch::Sender<Option<Census>>,
    presence: JoinHandle<()>,
    dir: TempDir,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.presence.abort();
    }
}

pub(crate) struct Replica {
    pub(crate) context: ServiceContext,
    pub(crate) api: Client,
}

/// The options of a replica that does nothing by itself.
pub(crate) fn quiet() -> Config {
    Config {
        content_quota: 1 << 30,
        keep_revisions: 100,
        keep_for: Duration::from_secs(90 * 86_400),
        gc_every: Duration::from_secs(86_400),
        patches: 8,
        patch_workers: 0,
        work_dir: None,
    }
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        let filter = std::env::var("MUSTER_LOG").unwrap_or_else(|_| "off".to_owned());
        let log = runtime::log::LogConfig { log_format: runtime::log::LogFormat::Text, log_level: filter };
        // The first test of the process starts the log for all.
        drop(runtime::log::init(&log));
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup::new(find(None).await.unwrap(), dir.path().join("nats"));
        let server = NatsServer::start(setup).await.unwrap();
        let nats = Nats::connect(&Connection::service(vec![server.url()], "test")).await.unwrap();
        let (census, told) = watch::channel(Some(Census::default()));
        let presence = tokio::spawn(tell(nats.clone(), told));
        let mut fleet = Self { server, nats, keys: ContentKeyArgs::default(), census, presence, dir };
        fleet.keys.content_key = Some(fleet.key("content.key"));
        fleet
    }

    /// Makes a further key and gives its file.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        runtime::keys::load_or_create(&file).unwrap();
        file
    }

    /// Starts a replica and waits until it is ready.
    pub(crate) async fn replica(&self, config: &Config) -> Replica {
        let args = ServiceArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            nats_url: vec![self.server.url()],
            tls: runtime::ListenerTlsArgs { insecure_plaintext: true, ..Default::default() },
            nats_tls: runtime::BrokerTlsArgs::default(),
            nats_creds: None,
            agent_servers: vec![],
            agent_ca_file: None,
            fleet: "main".parse().unwrap(),
            director_key: Some(self.key("director.key")),
            content_keys: self.keys.clone(),
            access: runtime::access::AccessArgs { insecure_no_auth: true, ..Default::default() },
            trust: runtime::TrustArgs {
                root_key: Some(self.key("root.key")),
                ..runtime::TrustArgs::default()
            },
            stream_replicas: 1,
        };
        let context =
            ServiceContext::connect(&args, wire::access::Role::Content, Tasks::new(Shutdown::new()))
                .await
                .unwrap();
        let mut routes = RoutesBuilder::default();
        content::start(config, &context, &mut routes).await.unwrap();
        let listener = Listener::bind(args.listen, args.tls.security().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.address());
        context.serve(listener, routes);
        soon(context.readiness.ready()).await;
        Replica { context, api: Client::connect(url).await.unwrap() }
    }

    /// Writes objects to the catalogue, as other services do.
    pub(crate) async fn write(&self, objects: &[Object]) -> u64 {
        let log = Log::new(self.nats.clone());
        let entries = objects.iter().map(|object| Entry {
            key: wire::catalog::store_key(&object.key()),
            body: wire::catalog::encode(object).unwrap().into(),
        });
        let info = ChangeInfo {
            id: runtime::ids::random_id().parse().unwrap(),
            actor: "test".into(),
            message: String::new(),
            time: Timestamp(1),
            trace_id: None,
        };
        let entries: Vec<Entry> = entries.collect();
        loop {
            let end = log.end().await.unwrap();
            if let Ok(revision) = log.commit(&info, entries.clone(), end).await {
                return revision.0;
            }
        }
    }

    /// A group that follows a stage of a channel.
    pub(crate) async fn group(&self, id: &str, path: &str, channel: &str, pointer: ContentPointer) {
        let mut group = Group::new(GroupId::new(id).unwrap(), GroupPath::new(path).unwrap());
        group.content.insert(ChannelName::new(channel).unwrap(), pointer);
        self.write(&[Object::Group(group.into())]).await;
    }

    /// All pieces that are stored.
    pub(crate) async fn pieces(&self) -> BTreeSet<Piece> {
        let page = self.nats.subjects(STREAM_CONTENT, "content.>", 0).await.unwrap();
        assert_eq!(page.next, None);
        page.subjects.iter().map(|subject| wire::piece::parse(subject).unwrap()).collect()
    }

    /// The place of the newest message of content: it stays when nothing is stored.
    pub(crate) async fn content_end(&self) -> u64 {
        self.nats.stream_state(STREAM_CONTENT).await.unwrap().unwrap().last_sequence
    }

    /// The manifest of a revision and its index, as agents read them.
    pub(crate) async fn index(&self, revision: &v1::Revision) -> (Manifest, ContentIndex) {
        let name = Digest(revision.manifest.as_slice().try_into().unwrap());
        let keys = ContentKeys::load(&self.keys).unwrap().trust;
        let get = async |piece| {
            let subject = wire::piece::subject(&piece);
            let message = self.nats.direct_get_last(STREAM_CONTENT, &subject).await.unwrap().unwrap();
            wire::envelope::parse(&message.payload).unwrap()
        };
        let manifest = get(Piece::Manifest(name)).await;
        let manifest = wire::content::open_manifest(&manifest, &name, &keys).unwrap();
        let index = get(Piece::Index(name)).await;
        let index = wire::content::open_index(&index, &name, &manifest, &keys.keys).unwrap();
        (manifest, index)
    }
}

/// Tells the census as presence does, only more often.
async fn tell(nats: Nats, told: watch::Receiver<Option<Census>>) {
    let mut due = tokio::time::interval(Duration::from_millis(50));
    loop {
        due.tick().await;
        let census = told.borrow().as_ref().map(wire::content::encode_census);
        if let Some(census) = census {
            drop(nats.client().publish(wire::subject::pattern::CENSUS, census.into()).await);
        }
    }
}

impl Replica {
    pub(crate) async fn stop(self) {
        self.context.shutdown().request();
        drop(self.api);
        self.context.finish().await.unwrap();
    }
}

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("the state is reached in time")
}

/// Waits until a question is answered with yes.
pub(crate) async fn until(mut question: impl AsyncFnMut() -> bool) {
    soon(async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A content of one file, cut as `muster` cuts.
pub(crate) struct Content {
    pub(crate) channel: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) chunks: Vec<Chunk>,
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| word()).take(bytes).collect()
}

impl Content {
    pub(crate) fn new(channel: &str, bytes: Vec<u8>) -> Self {
        let chunks = Chunker::new(bytes.as_slice(), bytes.len() as u64).map(Result::unwrap).collect();
        Self { channel: channel.to_owned(), bytes, chunks }
    }

    pub(crate) fn begin(&self) -> v1::BeginUploadRequest {
        let digest = Digest::of(&self.bytes).0.to_vec();
        v1::BeginUploadRequest {
            channel: self.channel.clone(),
            files: vec![v1::ContentFile {
                path: "data".to_owned(),
                bytes: self.bytes.len() as u64,
                digest: digest.clone(),
                executable: false,
            }],
            chunk_digests: self.chunks.iter().flat_map(|chunk| chunk.digest.0).collect(),
            chunk_bytes: self.chunks.iter().map(|chunk| chunk.bytes.len() as u32).collect(),
            digest,
        }
    }

    /// The messages that carry chunks.
    pub(crate) fn messages(&self, manifest: &[u8], positions: &[u32]) -> Vec<v1::UploadChunksRequest> {
        let message = |position: &u32| v1::UploadChunksRequest {
            manifest: manifest.to_vec(),
            position: *position,
            frame: codec::frame::compress(&self.chunks[*position as usize].bytes).into(),
        };
        positions.iter().map(message).collect()
    }

    pub(crate) fn finish(&self, manifest: &[u8]) -> v1::FinishUploadRequest {
        v1::FinishUploadRequest {
            channel: self.channel.clone(),
            manifest: manifest.to_vec(),
            ..v1::FinishUploadRequest::default()
        }
    }
}

/// What an upload came to.
#[derive(Debug)]
pub(crate) struct Pushed {
    pub(crate) revision: v1::Revision,
    /// Chunks that were sent.
    pub(crate) sent: usize,
    pub(crate) created: bool,
}

/// Uploads a content as a new revision.
pub(crate) async fn push(api: &mut Client, content: &Content) -> Result<Pushed, Status> {
    let begun = api.begin_upload(content.begin()).await?.into_inner();
    if let Some(revision) = begun.existing {
        return Ok(Pushed { revision, sent: 0, created: false });
    }
    let messages = content.messages(&begun.manifest, &begun.missing);
    let sent = messages.len();
    let stored = api.upload_chunks(futures::stream::iter(messages)).await?.into_inner();
    assert_eq!(stored.chunks as usize, sent);
    let finished = api.finish_upload(content.finish(&begun.manifest)).await?.into_inner();
    Ok(Pushed { revision: finished.revision.unwrap(), sent, created: finished.created })
}

/// A selector of a revision by number; 0 is the newest.
pub(crate) fn numbered(channel: &str, revision: u32) -> Option<v1::RevisionSelector> {
    let which = (revision > 0).then_some(v1::revision_selector::Which::Revision(revision));
    Some(v1::RevisionSelector { channel: channel.to_owned(), which })
}

/// The bytes of a revision, chunk by chunk.
pub(crate) async fn fetch(api: &mut Client, channel: &str, revision: u32) -> Result<Vec<u8>, Status> {
    let request = v1::FetchRequest { selector: numbered(channel, revision), from_chunk: 0 };
    let mut pieces = api.fetch(request).await?.into_inner();
    let (mut manifest, mut bytes, mut at) = (None, Vec::new(), 0);
    while let Some(piece) = pieces.message().await? {
        match piece.piece.unwrap() {
            v1::fetch_response::Piece::Head(head) => {
                let envelope = wire::envelope::parse(&head.manifest).unwrap();
                manifest = Some(wire::content::read_manifest(&envelope.payload).unwrap());
            }
            v1::fetch_response::Piece::Frame(frame) => {
                let chunk = manifest.as_ref().unwrap().chunks()[at];
                bytes.extend(codec::frame::decompress(&frame, chunk.bytes as usize).unwrap());
                at += 1;
            }
        }
    }
    Ok(bytes)
}

/// The reason that programs read from a refusal.
pub(crate) fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
