//! `musterd bootstrap`: fills the Secrets of a control plane in Kubernetes, once.
//!
//! The chart renders them without data and lets this process read and fill exactly those. What is in one stays; a new
//! version may add to it. The root Secret comes first: whatever else is missing follows from it, so a crash at any
//! point leaves a state from which the next try goes on.

mod api;
mod certificates;
mod plan;
mod token;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use runtime::{Shutdown, broker, keys};
use wire::access::Role;

use crate::backup::Place;
use crate::work::Work;
use api::Api;
use plan::Data;

/// The services whose Secrets are filled.
const ROLES: [Role; 5] = [Role::Policy, Role::Content, Role::Presence, Role::Identity, Role::Backup];

const ROOT_KEY: &str = "root.key";
const DIRECTOR_KEY: &str = "director.key";
const CONTENT_KEY: &str = "content.key";
const CONTENT_PUBLIC_KEY: &str = "content.pub";
const OPERATOR: &str = "nats.conf";

/// Options of `musterd bootstrap`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BootstrapArgs {
    /// The namespace of the Secrets.
    #[arg(long, env = "MUSTER_BOOTSTRAP_NAMESPACE", value_name = "NAME")]
    namespace: String,

    /// What the names of the Secrets begin with: PREFIX-root, PREFIX-policy-keys and so on. They must be there.
    #[arg(long, env = "MUSTER_BOOTSTRAP_PREFIX", value_name = "NAME")]
    prefix: String,

    /// Names in the certificate of NATS servers, separated by commas. Without any, no certificates are made.
    #[arg(
        long,
        env = "MUSTER_BOOTSTRAP_NATS_NAMES",
        value_name = "NAME",
        value_delimiter = ',',
        requires = "api_name"
    )]
    nats_name: Vec<String>,

    /// Names in the certificate of the services, separated by commas.
    #[arg(
        long,
        env = "MUSTER_BOOTSTRAP_API_NAMES",
        value_name = "NAME",
        value_delimiter = ',',
        requires = "nats_name"
    )]
    api_name: Vec<String>,

    /// The StatefulSet of NATS servers, which are started again one by one when their certificate is another.
    #[arg(long, env = "MUSTER_BOOTSTRAP_NATS_STATEFULSET", value_name = "NAME")]
    nats_statefulset: Option<String>,

    /// Make an API token for the operator as well, PREFIX-operator, and keep it in the Secret PREFIX-operator-token. Its hash
    /// goes to the NATS servers, for which this waits. One that is there is kept and its end moved away.
    #[arg(long, env = "MUSTER_BOOTSTRAP_OPERATOR_TOKEN")]
    operator_token: bool,

    /// The fleet, which has accounts of its own, and its broker.
    #[command(flatten)]
    place: Place,

    /// Address of the Kubernetes API.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", value_name = "ADDRESS")]
    kubernetes_host: std::net::IpAddr,

    /// Port of the Kubernetes API.
    #[arg(long, env = "KUBERNETES_SERVICE_PORT", value_name = "PORT", default_value = "443")]
    kubernetes_port: u16,

    /// Folder with `token` and `ca.crt` of the service account.
    #[arg(
        long,
        env = "MUSTER_SERVICE_ACCOUNT_DIR",
        value_name = "DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount"
    )]
    service_account_dir: PathBuf,
}

impl BootstrapArgs {
    fn secret(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }
}

/// Fills what is empty.
pub(crate) async fn run(args: &BootstrapArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let work = Work::new("bootstrap")?;
    let api = Api {
        address: (args.kubernetes_host, args.kubernetes_port).into(),
        account: args.service_account_dir.clone(),
        namespace: args.namespace.clone(),
    };
    tokio::select! {
        done = fill(args, &api, work.path()) => done,
        () = shutdown.requested() => anyhow::bail!("told to stop before all was done"),
    }
}

async fn fill(args: &BootstrapArgs, api: &Api, work: &Path) -> anyhow::Result<()> {
    fill_keys(args, api, work).await?;
    if !args.nats_name.is_empty() {
        certificates::fill(args, api, work).await?;
    }
    if args.operator_token {
        token::fill(args, api, work).await?;
    }
    tracing::info!(prefix = args.prefix, "every Secret holds what it should");
    Ok(())
}

async fn fill_keys(args: &BootstrapArgs, api: &Api, work: &Path) -> anyhow::Result<()> {
    let root = api.secret(&args.secret("root")).await?;
    let mut others = vec![api.secret(&args.secret("nats-operator")).await?];
    for role in ROLES {
        others.push(api.secret(&args.secret(&format!("{role}-keys"))).await?);
    }
    if root.data.is_empty() && others.iter().any(|secret| !secret.data.is_empty()) {
        if let Some(empty) = others.iter().find(|secret| secret.data.is_empty()) {
            anyhow::bail!(
                "Secret {} is empty and cannot be filled, because {} is empty as well while others are not: restore {} from the copy that was kept",
                empty.name,
                root.name,
                root.name
            );
        }
        tracing::info!("the root Secret is kept elsewhere; all that follows from it is there");
        return Ok(());
    }
    let dir = work.join("root");
    plan::restore(&root.data, &dir).with_context(|| format!("Secret {} cannot be used", root.name))?;
    let _made = broker::init(&dir, &args.place.fleet)?;
    let [root_key, director, content] = [ROOT_KEY, DIRECTOR_KEY, CONTENT_KEY].map(|name| dir.join(name));
    keys::load_or_create(&root_key)?;
    keys::load_or_create(&director)?;
    let public = keys::load_or_create(&content)?.verifying_key();
    let config = fs::read(dir.join(OPERATOR))?;
    // Follows from the rest, and says where it lay when it was made.
    fs::remove_file(dir.join(OPERATOR))?;
    api.complete(&root, &plan::collect(&dir)?).await?;
    let mut others = others.iter();
    if let Some(operator) = others.next() {
        api.replace(operator, &Data::from([(OPERATOR.to_owned(), config)])).await?;
    }
    for (role, secret) in ROLES.into_iter().zip(others) {
        let mut wanted =
            plan::files(&broker::fleet_dir(&dir, &args.place.fleet).join("roles").join(role.name()))?;
        match role {
            Role::Policy => drop(wanted.insert(DIRECTOR_KEY.to_owned(), fs::read(&director)?)),
            Role::Identity => {
                wanted.insert(DIRECTOR_KEY.to_owned(), fs::read(&director)?);
                wanted.insert(ROOT_KEY.to_owned(), fs::read(&root_key)?);
                wanted.insert(CONTENT_PUBLIC_KEY.to_owned(), hex::encode(public.as_bytes()).into_bytes());
            }
            Role::Content => drop(wanted.insert(CONTENT_KEY.to_owned(), fs::read(&content)?)),
            _ => {}
        }
        api.complete(secret, &wanted).await?;
    }
    Ok(())
}

/// What a Secret holds, as text for errors and logs: names, never values.
fn names<V>(data: &BTreeMap<String, V>) -> String {
    data.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}
