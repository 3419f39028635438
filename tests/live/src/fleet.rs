//! A control plane of processes beside one `nats-server`.

use std::path::{Path, PathBuf};

use async_nats::{Client, ConnectOptions};
use domain::FleetId;
use runtime::broker;
use runtime::nats_server::{self, NatsServer, Setup};
use runtime::tls::{self, LocalCa, ServerTls, TlsFiles};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use wire::access::{Account, Permissions};

use crate::agents::AgentProcess;
use crate::bare::Creds;
use crate::cli::Cli;
use crate::disk::SmallDisk;
use crate::line::ADMIN_TOKEN;
use crate::process::Process;
use crate::wait::{eventually, until};

/// One `musterd SERVICE` process.
pub struct Service {
    /// `policy`, `presence`, `identity`, `content`, or `all` of them.
    pub service: &'static str,
    /// Its process.
    pub process: Process,
    /// Where its API listens.
    pub address: String,
    /// File of the CA that vouches for it.
    pub ca: PathBuf,
    name: String,
}

impl Service {
    /// A connection to its API, as any client makes one.
    ///
    /// # Errors
    /// If it does not listen, or is not the one that the CA vouches for.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let ca = std::fs::read(&self.ca).expect("the CA can be read");
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        Endpoint::from_shared(format!("https://{}", self.address))?.tls_config(tls)?.connect().await
    }
}

/// A control plane. Everything ends when it is dropped.
pub struct Fleet {
    /// The broker.
    pub nats: NatsServer,
    /// The services.
    pub services: Vec<Service>,
    /// The disk of the broker, where it has one of its own.
    pub store: Option<SmallDisk>,
    dir: TempDir,
    key: PathBuf,
    content_key: PathBuf,
    ca: LocalCa,
    root_key: PathBuf,
    /// Further options of each process.
    options: Vec<String>,
}

impl Fleet {
    /// All services in one process.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// All services in one process, with further options.
    pub async fn start_with(options: &[&str]) -> Self {
        Self::of(1, &["all"], options).await
    }

    /// All services in one process, with further options in pairs, beside a broker with TLS that wants a certificate of
    /// everyone.
    pub async fn with_client_certificates(options: &[&str]) -> Self {
        Self::beside(1, &["all"], options, Beside { certificates: true, disk: None }).await
    }

    /// All services in one process, with further options, beside a broker whose disk has this size (as `mount` reads it).
    /// `None` where the test may not mount one.
    pub async fn with_store_of(size: &str, options: &[&str]) -> Option<Self> {
        let fleet =
            Self::beside(1, &["all"], options, Beside { certificates: false, disk: Some(size) }).await;
        fleet.store.is_some().then_some(fleet)
    }

    /// So many replicas of each service, each in a process of its own.
    pub async fn with_replicas(replicas: usize) -> Self {
        Self::of(replicas, &["policy", "identity", "presence"], &[]).await
    }

    /// So many replicas of content, beside one of each other service.
    pub async fn with_content_replicas(replicas: usize) -> Self {
        let mut fleet = Self::of(1, &["policy", "identity", "presence", "content"], &[]).await;
        for number in 1..replicas {
            let at = fleet.add("content", number, &[]);
            fleet.wait_ready(at).await;
        }
        fleet
    }

    /// So many processes of each of these.
    ///
    /// # Panics
    /// If something does not start.
    async fn of(replicas: usize, services: &[&'static str], options: &[&str]) -> Self {
        Self::beside(replicas, services, options, Beside::default()).await
    }

    /// The same beside a broker of some kind.
    async fn beside(
        replicas: usize,
        services: &[&'static str],
        options: &[&str],
        Beside { certificates, disk }: Beside<'_>,
    ) -> Self {
        let mut dir = tempfile::tempdir().expect("a temporary directory can be made");
        // For people who look for the cause of a failure: logs and states of all processes stay.
        dir.disable_cleanup(std::env::var_os("MUSTER_TEST_KEEP").is_some());
        let binary = nats_server::find(None).await.expect("nats-server is there: make tools");
        let broker = dir.path().join("broker");
        let _made = broker::init(&broker, &fleet_id()).expect("an operator can be made");
        let store = disk.and_then(|size| SmallDisk::mount(&dir.path().join("nats"), size));
        let setup = Setup::new(binary, dir.path().join("nats")).with_operator(&broker);
        let mut setup = setup.expect("the operator is there");
        let (ca, clients) = (local_ca(dir.path(), "tls"), local_ca(dir.path(), CLIENTS));
        let TlsFiles { cert, key, .. } = ca.files();
        let tls = ServerTls { cert, key, ca: ca.ca(), client_ca: Some(clients.ca()), first: false };
        setup.tls = certificates.then_some(tls);
        setup.operator.as_mut().expect("it was just read").push_str(MONITOR);
        let nats = NatsServer::start(setup).await.expect("it starts");
        let keys = ["director.key", "content.key", "root.key"].map(|name| dir.path().join(name));
        let [key, content_key, root_key] = keys;
        for key in [&key, &content_key, &root_key] {
            drop(runtime::keys::load_or_create(key).expect("a key can be made"));
        }
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let services_there = Vec::new();
        let mut fleet =
            Self { nats, services: services_there, store, dir, key, content_key, root_key, ca, options };
        if certificates {
            let (TlsFiles { cert, key, .. }, ca) = (clients.files(), fleet.broker_ca());
            for (name, path) in [("--nats-ca-file", ca), ("--nats-cert", cert), ("--nats-key", key)] {
                fleet.options.extend([name.to_owned(), path.to_string_lossy().into_owned()]);
            }
        }
        for number in 0..replicas {
            for service in services {
                fleet.add(service, number, &[]);
            }
        }
        for at in 0..fleet.services.len() {
            fleet.wait_ready(at).await;
        }
        fleet.make_admin().await;
        fleet
    }

    /// Makes the token that [`Fleet::cli`] and all else here call with, as whoever has the broker does.
    async fn make_admin(&self) {
        let (url, out) = (self.nats.url(), self.dir.path().join(ADMIN_TOKEN).to_string_lossy().into_owned());
        let creds = self.creds().to_string_lossy().into_owned();
        let mut args =
            vec!["admin-token", "--out", &out, "--name", "test", "--nats-url", &url, "--nats-creds", &creds];
        // Of the further options, those that say how to reach the broker.
        let towards = self.options.chunks_exact(2).filter(|pair| pair[0].starts_with("--nats-"));
        args.extend(towards.flatten().map(String::as_str));
        let mut made = Process::start(self.dir.path(), "admin-token", "musterd", &args, &[]);
        assert!(made.wait().await.success(), "{}", made.log());
    }

    /// Starts one more replica; [`Fleet::wait_ready`] tells when it is of use.
    pub fn add(&mut self, service: &'static str, number: usize, env: &[(&str, &str)]) -> usize {
        let name = format!("{service}-{number}");
        let process = self.spawn(&name, service, env);
        self.services.push(Service { service, process, address: String::new(), ca: self.ca.ca(), name });
        self.services.len() - 1
    }

    fn spawn(&self, name: &str, service: &str, env: &[(&str, &str)]) -> Process {
        let (url, key) = (self.nats.url(), self.key.to_string_lossy().into_owned());
        let creds = self.creds().to_string_lossy().into_owned();
        let mut args = vec![service, "--listen", "127.0.0.1:0", "--log-format", "json"];
        args.extend(["--nats-url", &url, "--nats-creds", &creds]);
        if !["presence", "content"].contains(&service) {
            args.extend(["--director-key", &key]);
        }
        if service == "presence" {
            // Where replicas are tested, one client sends as much as many agents.
            args.extend(["--agent-heartbeat-limit", "0"]);
        }
        let content_key = self.content_key.to_string_lossy().into_owned();
        if service != "presence" {
            args.extend(["--content-key", &content_key]);
        }
        let root_key = self.root_key.to_string_lossy().into_owned();
        if ["identity", "all"].contains(&service) {
            args.extend(["--root-key", &root_key]);
        }
        let TlsFiles { cert, key, .. } = self.ca.files();
        let (cert, key) = (cert.to_string_lossy(), key.to_string_lossy());
        args.extend(["--tls-cert", &cert, "--tls-key", &key]);
        args.extend(self.options.iter().map(String::as_str));
        let data = self.dir.path().join(format!("data-{name}")).to_string_lossy().into_owned();
        if service == "all" {
            args.extend(["--data-dir", &data]);
        }
        Process::start(self.dir.path(), name, "musterd", &args, env)
    }

    /// Starts a service again that has ended.
    pub async fn restart(&mut self, at: usize) {
        self.restart_with(at, &[]).await;
    }

    /// Starts a service again that has ended, with an environment of its own, for example a crash point.
    pub async fn restart_with(&mut self, at: usize, env: &[(&str, &str)]) {
        let name = self.services[at].name.clone();
        let mark = self.services[at].process.log().len();
        self.services[at].process = self.spawn(&name, self.services[at].service, env);
        self.services[at].address.clear();
        self.wait_ready_after(at, mark).await;
    }

    /// Waits until a service answers that it is ready.
    pub async fn wait_ready(&mut self, at: usize) {
        self.wait_ready_after(at, 0).await;
    }

    async fn wait_ready_after(&mut self, at: usize, mark: usize) {
        let service = &mut self.services[at];
        let mut address = String::new();
        until(format!("{} listens", service.name), || {
            assert_eq!(service.process.ended(), None, "{} ended: {}", service.name, service.process.log());
            let log = service.process.log();
            address = listening(&log[mark.min(log.len())..]).ok_or(log)?;
            Ok(())
        })
        .await;
        service.address.clone_from(&address);
        let log = || service.process.log();
        eventually(format!("{} is ready", service.name), async || {
            match https_get(&service.ca, &address, "/readyz").await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
                Ok(answer) => Err(format!("{answer}\n{}", log())),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Numbers of the replicas of a service.
    #[must_use]
    pub fn replicas(&self, service: &str) -> Vec<usize> {
        let is_one = |one: &Service| one.service == service || one.service == "all";
        let wanted = |(at, one): (usize, &Service)| is_one(one).then_some(at);
        self.services.iter().enumerate().filter_map(wanted).collect()
    }

    /// The CLI, talking to the first replica of a service.
    #[must_use]
    pub fn cli(&self, service: &str) -> Cli {
        self.cli_of(self.replicas(service)[0])
    }

    /// The CLI, talking to one process.
    #[must_use]
    pub fn cli_of(&self, at: usize) -> Cli {
        self.cli_at(&self.services[at].address)
    }

    /// The CLI, talking to whatever listens at an address as one of the services.
    #[must_use]
    pub fn cli_at(&self, address: &str) -> Cli {
        Cli::new(address, &self.ca.ca(), self.dir.path().to_owned())
    }

    /// The CA that vouches for the broker, where it has TLS.
    #[must_use]
    pub fn broker_ca(&self) -> PathBuf {
        self.ca.ca()
    }

    /// The certificate of that broker, and of the API.
    #[must_use]
    pub fn server_files(&self) -> TlsFiles {
        self.ca.files()
    }

    /// The CA of clients of a broker that wants certificates, and the one that services show.
    #[must_use]
    pub fn clients(&self) -> LocalCa {
        local_ca(self.dir.path(), CLIENTS)
    }

    /// Credentials of all services.
    #[must_use]
    pub fn creds(&self) -> PathBuf {
        broker::fleet_dir(&self.dir.path().join("broker"), &fleet_id())
    }

    /// Options of a client of the broker that may do everything in an account: an administrator, or an intruder who took
    /// the broker over.
    ///
    /// # Panics
    /// If its credentials cannot be made.
    #[must_use]
    pub fn master(&self, account: Account) -> ConnectOptions {
        let all = || vec![">".to_owned()];
        let file = self.mint_file(account, Permissions { publish: all(), subscribe: all() });
        ConnectOptions::with_credentials(&file).expect("credentials that were just made can be read")
    }

    /// Credentials of a new user that may do so much in an account.
    #[must_use]
    pub fn mint(&self, account: Account, permissions: Permissions) -> Creds {
        Creds::read(&self.mint_file(account, permissions))
    }

    fn mint_file(&self, account: Account, permissions: Permissions) -> String {
        let file = broker::mint(&self.dir.path().join("broker"), &fleet_id(), account, permissions);
        file.expect("the keys of the account are there")
    }

    /// A client that may do everything in an account.
    ///
    /// # Panics
    /// If the broker is not there.
    pub async fn admin(&self, account: Account) -> Client {
        self.master(account).connect(self.nats.url()).await.expect("the broker is there")
    }

    /// Directory for whatever a test leaves.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A join token for a group.
    ///
    /// # Panics
    /// If none is to be had.
    pub async fn token(&self, group: &str, uses: u32) -> String {
        let made = self.cli("identity").json(&format!("token create --group {group} --uses {uses}")).await;
        made["token"].as_str().expect("an answer has a token").to_owned()
    }

    /// An agent in a group, started.
    pub async fn agent(&self, id: &str, group: &str) -> AgentProcess {
        let mut agent = AgentProcess::new(self.dir.path(), id, &self.token(group, 1).await);
        agent.start();
        agent
    }

    /// Where the broker says how it is.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn monitor(&self) -> String {
        let pid = self.nats.pid().expect("it runs");
        let ports = std::fs::read(self.nats.dir().join(format!("nats-server_{pid}.ports")));
        let ports: Value = serde_json::from_slice(&ports.expect("it wrote them down")).expect("JSON");
        ports["monitoring"][0].as_str().expect("it listens").to_owned()
    }

    /// Waits until presence shows something of an agent, as `muster agent show -o json` prints it.
    pub async fn shows(&self, agent: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let (cli, holds) = (&self.cli("presence"), &holds);
        let line = &format!("agent show {agent} -o json");
        eventually(format!("presence shows of {agent}: {what}"), move || async move {
            let output = cli.run(line).await;
            match serde_json::from_str::<Value>(&output.stdout) {
                Ok(shown) if holds(&shown) => Ok(shown),
                Ok(shown) => Err(shown.to_string()),
                Err(_) => Err(output.stderr),
            }
        })
        .await
    }
}

/// What the broker is told beside who may do what: to say how it is, on a port that the system chooses.
const MONITOR: &str = "\nhttp: \"127.0.0.1:-1\"\n";

/// What kind of broker.
#[derive(Default)]
struct Beside<'a> {
    /// It wants a certificate of everyone.
    certificates: bool,
    /// The size of its disk, where it has one of its own.
    disk: Option<&'a str>,
}

/// Folder of the CA of clients.
const CLIENTS: &str = "clients";

fn local_ca(dir: &Path, name: &str) -> LocalCa {
    LocalCa::open(dir.join(name), &[]).expect("a CA can be made")
}

/// The fleet that all processes serve.
fn fleet_id() -> FleetId {
    FleetId::new("default").expect("an id")
}

/// The address in the last line of a log that says "listening".
fn listening(log: &str) -> Option<String> {
    let line = log.lines().rfind(|line| line.contains("\"listening\""))?;
    let line: Value = serde_json::from_str(line).ok()?;
    Some(line.get("address")?.as_str()?.to_owned())
}

/// An HTTP/1.1 request over TLS; the whole answer as text.
async fn https_get(ca: &Path, address: &str, path: &str) -> Result<String, runtime::tasks::TaskFailure> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tls::verified(ca, tokio::net::TcpStream::connect(address).await?).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
