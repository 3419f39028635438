//! A release whose Pods run on this machine: NATS, services and whatever else a test starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use cluster::{Chart, Host, NAMESPACE, Objects, Plane, Pod, Secrets, free_port, request, root};
use live::{ADMIN_TOKEN, Cli, Process, eventually, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::bootstrap::secrets;

/// NATS servers of the chart.
pub(crate) const SERVERS: usize = 3;

/// Services of the chart, in the order of [`Release::services`].
pub(crate) const SERVICES: [&str; 4] = ["policy", "identity", "content", "presence"];

pub(crate) const POLICY: usize = 0;
pub(crate) const IDENTITY: usize = 1;
pub(crate) const CONTENT: usize = 2;
pub(crate) const PRESENCE: usize = 3;

/// What a release finds and the chart does not make.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) secrets: Secrets,
    /// Addresses in values, and where that is here.
    pub(crate) addresses: Vec<(String, String)>,
}

/// A release that was installed, filled its own Secrets, and runs.
pub(crate) struct Release {
    pub(crate) plane: Plane,
    pub(crate) host: Host,
    pub(crate) broker: Broker,
    /// Each with where it listens.
    pub(crate) services: Vec<(Pod, SocketAddr)>,
    /// Where everything of it lies.
    pub(crate) dir: PathBuf,
    /// The CA of the services.
    pub(crate) ca: PathBuf,
    addresses: [SocketAddr; SERVICES.len()],
    job: String,
    given: Secrets,
}

impl Release {
    /// Installs the chart. The Job of the bootstrap runs beside what waits for it, as in a cluster.
    pub(crate) async fn start(chart: &Chart) -> Self {
        Self::start_with(chart, Given::default()).await
    }

    /// The same, with what the chart does not make.
    pub(crate) async fn start_with(chart: &Chart, given: Given) -> Self {
        Self::start_on(Plane::start().await, chart, given).await
    }

    /// The same, on a control plane that is there.
    pub(crate) async fn start_on(plane: Plane, chart: &Chart, given: Given) -> Self {
        let mut it = Self::installed(plane, chart, given).await;
        let places = Places::of_chart(&mut it.host);
        let account = it.plane.service_account("muster-bootstrap").await;
        it.host.account(it.plane.address(), "muster-bootstrap", account);
        let mut bootstrap = it.host.pod(("Job", &it.job), "bootstrap", &[]);
        bootstrap.start(&it.host);
        eventually("Secrets are filled", async || {
            assert!(bootstrap.ended().is_none_or(|status| status.success()), "{}", bootstrap.log());
            let mut found = secrets(&it.plane).await;
            // These are not rendered where others make them.
            for name in ["muster-nats-tls", "muster-api-tls"] {
                found.entry(name.to_owned()).or_default();
            }
            found.retain(|_, data| data.is_empty());
            if found.is_empty() { Ok(()) } else { Err(format!("{found:?} {}", bootstrap.log())) }
        })
        .await;
        it.look_at_secrets().await;
        it.run("muster-nats", places, "muster-api-tls").await;
        ended_well(&mut bootstrap).await;
        it.look_at_secrets().await;
        it
    }

    /// Installs the chart. Nothing of it runs.
    pub(crate) async fn installed(plane: Plane, chart: &Chart, given: Given) -> Self {
        let crds = root().join("helm/muster-crds").display().to_string();
        plane.helm(&["install", "muster-crds", &crds], None).await.unwrap();
        plane.helm(&["install", "muster"], Some(chart)).await.unwrap();
        let dir = plane.path("host");
        std::fs::create_dir_all(&dir).unwrap();
        let objects = chart.render().unwrap();
        let job = objects.of("Job").next().and_then(|job| job["metadata"]["name"].as_str());
        let job = job.unwrap_or_default().to_owned();
        let mut host = Host::new(&dir, objects, all(&plane, &given.secrets).await);
        let addresses = SERVICES.map(|_| loopback());
        for (name, address) in SERVICES.iter().zip(&addresses) {
            host.address(format!("muster-{name}.{NAMESPACE}.svc.cluster.local:7400"), address.to_string());
        }
        for (from, to) in given.addresses {
            host.address(from, to);
        }
        let (ca, given) = (dir.join("api-ca.pem"), given.secrets);
        Self { plane, host, broker: Broker::default(), services: Vec::new(), dir, ca, addresses, job, given }
    }

    /// Runs NATS servers of a StatefulSet, and all services. The Secret `tls` is that of the services.
    pub(crate) async fn run(&mut self, nats: &str, places: Places, tls: &str) {
        std::fs::write(&self.ca, self.host.secret(tls, "ca.crt")).unwrap();
        self.broker = Broker::start(&self.host, nats, places);
        // A service gives NATS half a minute, after which a kubelet would start it again. Three servers that find each other on
        // a busy machine may take longer.
        for number in 0..SERVERS {
            self.broker.ready(number).await;
        }
        self.start_services().await;
    }

    /// What Secrets hold now; Pods that run keep what they were given.
    pub(crate) async fn look_at_secrets(&mut self) {
        self.host.fill(all(&self.plane, &self.given).await);
    }

    /// What another release makes beside it, and Secrets that are there for that one.
    pub(crate) async fn also(&mut self, objects: Objects, secrets: Secrets) {
        self.host.also(objects);
        self.given.extend(secrets);
        self.look_at_secrets().await;
    }

    /// Runs the Job of the bootstrap once more; what it said, and whether it went well.
    pub(crate) async fn bootstrap(&mut self, name: &str) -> (bool, String) {
        let mut pod = self.host.pod(("Job", &self.job), name, &[]);
        pod.start(&self.host);
        let mut status = None;
        until("the Job ends", || {
            status = pod.ended();
            status.map(drop).ok_or_else(|| pod.log())
        })
        .await;
        self.look_at_secrets().await;
        (status.unwrap().success(), pod.log())
    }

    /// Stops all services, as scaling them to 0 does.
    pub(crate) async fn stop_services(&mut self) {
        for (pod, _) in &mut self.services {
            pod.terminate();
            let name = pod.name.clone();
            until(format!("{name} ends"), || pod.ended().map(drop).ok_or_else(|| pod.log())).await;
        }
    }

    /// Starts all services (anew): together, for each may wait for what another makes.
    pub(crate) async fn start_services(&mut self) {
        let starting = SERVICES.iter().zip(self.addresses);
        let starting = starting.map(|(name, address)| service(&self.host, (name, name), address, &self.ca));
        let pods = futures::future::join_all(starting).await;
        self.services = pods.into_iter().zip(self.addresses).collect();
    }

    /// The command line for a service, by its place; there is no token yet.
    pub(crate) fn cli(&self, at: usize) -> Cli {
        Cli::new(&self.services[at].1.to_string(), &self.ca, self.dir.clone())
    }

    /// Makes the first token as the notes say, and gives what else they say.
    pub(crate) async fn first_token(&self) -> String {
        let notes = self.plane.helm(&["get", "notes", "muster"], None).await.unwrap();
        let words = between(&notes, "deploy/muster-identity -- ", " > admin.token");
        let words: Vec<&str> = words.split(' ').collect();
        let made = self.services[IDENTITY].0.exec(&self.host, &words).await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let path = self.dir.join(ADMIN_TOKEN);
        std::fs::write(&path, &made.stdout).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        notes
    }

    /// Lets a Pod speak to Kubernetes as its ServiceAccount.
    pub(crate) async fn account(&mut self, name: &str) {
        let folder = self.plane.service_account(name).await;
        self.host.account(self.plane.address(), name, folder);
    }
}

/// What the Secrets of a release hold, with those that were given to it.
async fn all(plane: &Plane, given: &Secrets) -> Secrets {
    let mut all = secrets(plane).await;
    all.extend(given.clone());
    all
}

/// What stands between two texts.
pub(crate) fn between(text: &str, from: &str, to: &str) -> String {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from:?} in {text}"));
    rest.split(to).next().unwrap().to_owned()
}

/// Waits for a Pod that has an end of its own.
pub(crate) async fn ended_well(pod: &mut Pod) {
    let name = pod.name.clone();
    until(format!("{name} ends"), || pod.ended().map(drop).ok_or_else(|| pod.log())).await;
    assert!(pod.ended().is_some_and(|status| status.success()), "{name}: {}", pod.log());
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// Waits until a process takes connections.
pub(crate) async fn listens(process: &Process, address: SocketAddr) {
    eventually(format!("somebody listens at {address}"), async || {
        let connected = TcpStream::connect(address).await;
        connected.map(drop).map_err(|error| format!("{error}: {}", process.log()))
    })
    .await;
}

/// Where NATS servers listen: for clients, for each other, for probes, for WebSockets.
pub(crate) struct Places {
    pub(crate) clients: [SocketAddr; SERVERS],
    pub(crate) routes: [SocketAddr; SERVERS],
    monitors: [SocketAddr; SERVERS],
    web: [SocketAddr; SERVERS],
}

impl Places {
    pub(crate) fn choose() -> Self {
        let [clients, routes, monitors, web] = [(); 4].map(|()| [(); SERVERS].map(|()| loopback()));
        Self { clients, routes, monitors, web }
    }

    /// Those of the chart's own servers.
    fn of_chart(host: &mut Host) -> Self {
        let domain = format!("{NAMESPACE}.svc.cluster.local");
        let places = Self::choose();
        for (number, route) in places.routes.iter().enumerate() {
            host.address(format!("muster-nats-{number}.muster-nats-nodes.{domain}:6222"), route.to_string());
        }
        // What a Service stands for: all that are behind it.
        let urls: Vec<String> = places.clients.iter().map(|client| format!("tls://{client}")).collect();
        host.address(format!("tls://muster-nats.{domain}:4222"), urls.join(","));
        places
    }
}

/// NATS servers: each with where its clients and its probes go.
#[derive(Default)]
pub(crate) struct Broker {
    pub(crate) pods: Vec<Pod>,
    pub(crate) clients: Vec<SocketAddr>,
    /// Where WebSockets lead, if they lead anywhere.
    pub(crate) web: Vec<SocketAddr>,
    pub(crate) monitors: Vec<SocketAddr>,
}

impl Broker {
    fn start(host: &Host, set: &str, places: Places) -> Self {
        let Places { clients, routes, monitors, web } = places;
        let mut pods = Vec::new();
        for number in 0..SERVERS {
            let listen = [
                ("0.0.0.0:4222", clients[number]),
                ("0.0.0.0:6222", routes[number]),
                ("0.0.0.0:8222", monitors[number]),
                ("0.0.0.0:8443", web[number]),
            ];
            let mut pod = host.pod(("StatefulSet", set), &format!("{set}-{number}"), &listen);
            pod.start(host);
            pods.push(pod);
        }
        Self { pods, clients: clients.into(), web: web.into(), monitors: monitors.into() }
    }

    /// Waits until one is.
    pub(crate) async fn ready(&mut self, number: usize) {
        let (path, _) = self.pods[number].readiness();
        let address = self.monitors[number];
        let pod = &mut self.pods[number];
        eventually(format!("{} is ready", pod.name), async || {
            assert_eq!(pod.ended(), None, "{} ended: {}", pod.name, pod.log());
            match plain_get(address, &path).await {
                Ok(answer) if answer.contains(" 200 ") => Ok(()),
                Ok(answer) => Err(format!("{answer} {}", pod.log())),
                Err(error) => Err(format!("{error} {}", pod.log())),
            }
        })
        .await;
    }
}

pub(crate) async fn plain_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A Pod of a service, or of the operator, that is ready.
pub(crate) async fn service(host: &Host, (name, pod): (&str, &str), address: SocketAddr, ca: &Path) -> Pod {
    let mut pod = host.pod(("Deployment", &format!("muster-{name}")), pod, &[("0.0.0.0:7400", address)]);
    pod.start(host);
    let (path, secure) = pod.readiness();
    assert!(secure);
    eventually(format!("{name} is ready"), async || {
        assert_eq!(pod.ended(), None, "{name} ended: {}", pod.log());
        match request((ca, address), "", ("GET", &path), None).await {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(format!("{status} {body} {}", pod.log())),
            Err(error) => Err(format!("{error} {}", pod.log())),
        }
    })
    .await;
    pod
}
