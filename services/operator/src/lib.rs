//! Keeps a fleet as custom resources of Kubernetes say, and reports back what the agents make of it.
//!
//! # What it stands on
//! - It is one more client of the API, with an API token of its own: it has no road to the broker, and nothing that it does
//!   could not be done with `muster`.
//! - A pass compares all objects with all of the fleet and plans ([`plan`], without I/O); what came in between is found by
//!   the next pass. So an edit by hand, a lost event and a restart are the same case, and everything is repaired.
//! - What it keeps in the fleet carries the mark of its namespace. The API refuses others who would change that, and it
//!   changes nothing of others.
//! - Its finalizer and the status it writes with server-side apply, so that whoever writes the spec sees no difference. What it
//!   has for itself it makes and changes otherwise: the Secrets that it owns by a POST and then merge patches, the Lease by PUT.
//! - One of several works, by a Lease.
//! - Nothing is waited for without end, and a Kubernetes API that is ill is asked now and then: `gate`.

mod cluster;
pub mod crd;
#[cfg(test)]
mod faults;
mod fleet;
mod gate;
mod lease;
mod muster;
mod object;
mod pass;
mod plan;
mod status;
mod tokens;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use runtime::telemetry::spans;
use runtime::tls::ListenerTlsError;
use runtime::{Condition, Listener, ListenerTlsArgs, Readiness, ServeError, Shutdown, Tasks, TasksError};
use tokio::sync::watch as channel;
use tonic::service::Routes;
use tracing::Instrument as _;

use crate::cluster::Cluster;
use crate::lease::Seat;
use crate::muster::Servers;
pub use crate::object::Kind;
use crate::pass::{Operator, SETTLE};
use crate::watch::Objects;

/// Shortest pause between passes that have nothing to do: what agents do meanwhile shows soon.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Options of the operator.
#[derive(Debug, Clone, Args)]
#[group(id = "operator")]
pub struct Config {
    /// Address for gRPC health and the probes /healthz and /readyz.
    #[arg(long, env = "MUSTER_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,

    /// TLS of the listener.
    #[command(flatten)]
    pub tls: ListenerTlsArgs,

    /// The API of the fleet: https://HOST:PORT, or http://HOST:PORT on this machine.
    #[arg(long, env = "MUSTER_SERVER", value_name = "URL", default_value = "https://127.0.0.1:7400")]
    pub server: String,

    /// Where the content service is, if elsewhere.
    #[arg(long, env = "MUSTER_CONTENT_SERVER", value_name = "URL")]
    pub content_server: Option<String>,

    /// Where the presence service is, if elsewhere.
    #[arg(long, env = "MUSTER_PRESENCE_SERVER", value_name = "URL")]
    pub presence_server: Option<String>,

    /// Where the identity service is, if elsewhere.
    #[arg(long, env = "MUSTER_IDENTITY_SERVER", value_name = "URL")]
    pub identity_server: Option<String>,

    /// PEM file with the CAs that vouch for the API.
    #[arg(long, env = "MUSTER_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// File of an API token with the role "operator".
    #[arg(long, env = "MUSTER_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The namespace whose objects count. Without it: all namespaces.
    #[arg(long, env = "MUSTER_OPERATOR_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,

    /// What the marks of this operator in the fleet begin with; NAME:NAMESPACE is a mark. Clusters that keep parts of one
    /// fleet have different ones, which begin with "kubernetes".
    #[arg(long, env = "MUSTER_OPERATOR_MARK", value_name = "NAME", default_value = "kubernetes")]
    pub mark: String,

    /// How many of its agents must have an object before it is Ready, in percent of all of them. Without it: all that are
    /// online or late. The annotation muster.dev/ready-share of an object comes first.
    #[arg(long, env = "MUSTER_OPERATOR_READY_SHARE", value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(0..=100))]
    pub ready_share: Option<u64>,

    /// Longest time between two looks at the fleet: by then what somebody changed there is put right.
    #[arg(long, env = "MUSTER_OPERATOR_RESYNC", value_name = "TIME", default_value = "30s", value_parser = resync)]
    pub resync: Duration,

    /// The Lease by which one of several operators works.
    #[arg(long, env = "MUSTER_OPERATOR_LEASE", value_name = "NAME", default_value = "muster-operator")]
    pub lease: String,

    /// Namespace of the Lease. Without it: that of the process, or of the kubeconfig.
    #[arg(long, env = "MUSTER_OPERATOR_LEASE_NAMESPACE", value_name = "NAME")]
    pub lease_namespace: Option<String>,

    /// Who this is among several operators. Without it: a random name.
    #[arg(long, env = "MUSTER_OPERATOR_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,
}

fn resync(text: &str) -> Result<Duration, String> {
    let span = wire::manifest::duration::parse(text).map_err(|error| error.to_string())?;
    let duration = Duration::from_millis(span.0);
    let allowed = MIN_PAUSE..=Duration::from_secs(3600);
    if allowed.contains(&duration) { Ok(duration) } else { Err("must be between 1s and 1h".to_owned()) }
}

/// Why the operator does not run.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No access to Kubernetes.
    #[error("the Kubernetes API cannot be used: in a Pod its ServiceAccount is used, elsewhere KUBECONFIG")]
    Kubernetes(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The mark is none.
    #[error("--mark {mark:?} cannot be used")]
    Mark {
        /// What was given.
        mark: String,
        /// Why not.
        source: domain::catalog::KeeperError,
    },
    /// The listener has no certificate.
    #[error("the probes cannot be served with TLS")]
    Tls(#[from] ListenerTlsError),
    /// The listener failed.
    #[error("the probes cannot be served")]
    Serve(#[from] ServeError),
    /// A task failed or did not stop.
    #[error("the process stopped")]
    Tasks(#[from] TasksError),
}

/// Runs until `shutdown`.
///
/// # Errors
/// [`OperatorError`] if it cannot start, a part of it fails, or another operator takes over.
pub async fn run(config: &Config, shutdown: Shutdown) -> Result<(), OperatorError> {
    let mark = plan::mark(&config.mark, "x");
    domain::catalog::Keeper::new(&mark)
        .map_err(|source| OperatorError::Mark { mark: config.mark.clone(), source })?;
    let listener = Listener::bind(config.listen, config.tls.security()?).await?;
    let kubernetes =
        kube::Config::infer().await.map_err(|error| OperatorError::Kubernetes(Box::new(error)))?;
    let namespace = config.lease_namespace.clone().unwrap_or_else(|| kubernetes.default_namespace.clone());
    let client = gate::client(kubernetes).map_err(|error| OperatorError::Kubernetes(Box::new(error)))?;
    let identity = config.identity.clone().unwrap_or_else(runtime::ids::random_id);
    let tasks = Tasks::new(shutdown);
    let readiness = Readiness::new();
    let objects = Objects::default();
    let followed = Arc::new(readiness.register("kubernetes"));
    for kind in Kind::ALL {
        let from = (client.clone(), kind, config.namespace.clone());
        let (objects, ready, stop) = (objects.clone(), Arc::clone(&followed), tasks.shutdown().clone());
        tasks.spawn(format!("follow {}", kind.plural()), async move {
            watch::follow(from, objects, ready, stop).await;
            Ok::<(), OperatorError>(())
        });
    }
    let (leads, leading) = channel::channel(false);
    let seat = Seat { namespace, name: config.lease.clone(), identity: identity.clone() };
    let (at, stop) = (client.clone(), tasks.shutdown().clone());
    tasks.spawn("lease", lease::run(at, seat, leads, stop));
    let operator = Operator {
        cluster: Cluster::new(client, &identity),
        servers: servers(config),
        objects,
        prefix: config.mark.clone(),
        share: config.ready_share,
    };
    let (resync, ready, stop) = (config.resync, readiness.register("muster"), tasks.shutdown().clone());
    tasks.spawn("passes", async move {
        passes(&operator, (leading, resync), &ready, &stop).await;
        Ok::<(), OperatorError>(())
    });
    let stop = tasks.shutdown().clone();
    tasks.spawn("serve", async move { listener.serve(Routes::default(), &[], readiness, stop).await });
    Ok(tasks.finish().await?)
}

fn servers(config: &Config) -> Servers {
    let or = |server: &Option<String>| server.clone().unwrap_or_else(|| config.server.clone());
    Servers {
        policy: config.server.clone(),
        content: or(&config.content_server),
        presence: or(&config.presence_server),
        identity: or(&config.identity_server),
        ca: config.ca_file.clone(),
        token: config.token_file.clone(),
    }
}

/// Pass after pass: when something changes in Kubernetes, soon while something happens in the fleet, and else from time
/// to time.
async fn passes(
    operator: &Operator,
    (mut leading, resync): (channel::Receiver<bool>, Duration),
    ready: &Condition,
    stop: &Shutdown,
) {
    ready.set_ready();
    tokio::select! {
        // The sender ends with the process.
        _ = leading.wait_for(|leads| *leads) => tracing::info!("this operator works now"),
        () = stop.requested() => return,
    }
    let mut pause = MIN_PAUSE;
    loop {
        // A pass that is cut off is gone on with by the next operator.
        let span = spans::work_after("pass", None);
        let passed = tokio::select! {
            passed = operator.pass().instrument(span.clone()) => passed,
            () = stop.requested() => return,
        };
        // What goes wrong goes on to go wrong for a while: after it the pause grows as if nothing had happened.
        let happened = match passed {
            Ok(happened) => {
                ready.set_ready();
                happened
            }
            Err(error) => {
                let text = runtime::log::chain(&error);
                let _within = span.enter();
                spans::failed(&span, "not_ended");
                tracing::warn!(error = text, "a pass did not come to its end");
                ready.set_not_ready(text);
                false
            }
        };
        drop(span);
        pause = if happened { MIN_PAUSE } else { (pause * 2).min(resync) };
        tokio::select! {
            () = operator.objects.wake.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => return,
        }
    }
}
