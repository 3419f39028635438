//! `musterd selftest`: whether a control plane does what it is for.
//!
//! With the programs that operators and machines use, `muster` and `muster-agent`, from beside this one: a policy of its own goes
//! to a group of its own, an agent in push mode and one in pull mode join, run it and its change, and presence sees both.
//! Whatever came of it, all is taken away again; its names are random, so that it can be told from what is somebody else's.
//! The API token for that ends by itself.

mod trial;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use domain::access::Role as ApiRole;
use domain::{ApiTokenName, Span};
use runtime::access::{lend_token, take_back_token};
use runtime::broker::RoleFiles;
use runtime::{Shutdown, ids};
use wire::access::Role;
use wire::api_token::{BearerToken, SECRET_BYTES};

use crate::backup::Place;
use crate::work::Work;
use trial::Trial;

/// Characters that tell one run from another.
const RUN_CHARS: usize = 8;
/// How long the API token is good for beyond the longest run: for taking everything away.
const TOKEN_REST: Duration = Duration::from_secs(5 * 60);
/// Longest run that can be asked for.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Options of `musterd selftest`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SelftestArgs {
    /// The API of the fleet: https://HOST:PORT, or http://HOST:PORT on this machine.
    #[arg(long, env = "MUSTER_SERVER", value_name = "URL", default_value = "https://127.0.0.1:7400")]
    server: String,

    /// Where the presence service is, if elsewhere.
    #[arg(long, env = "MUSTER_PRESENCE_SERVER", value_name = "URL")]
    presence_server: Option<String>,

    /// Where the identity service is, if elsewhere.
    #[arg(long, env = "MUSTER_IDENTITY_SERVER", value_name = "URL")]
    identity_server: Option<String>,

    /// PEM file with the CAs that vouch for the API.
    #[arg(long, env = "MUSTER_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Folder with fleet.creds of the role identity, as `musterd init` made it: with it an API token is made for the test.
    #[arg(long, env = "MUSTER_NATS_CREDS", value_name = "DIR")]
    nats_creds: PathBuf,

    /// Longest time that all of it may take, cleaning up apart.
    #[arg(long, env = "MUSTER_SELFTEST_TIMEOUT", value_name = "TIME", default_value = "3m", value_parser = timeout)]
    timeout: Duration,

    /// Where the broker is.
    #[command(flatten)]
    place: Place,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = runtime::config::duration(text)?;
    let allowed = Duration::from_secs(1)..=MAX_TIMEOUT;
    if allowed.contains(&timeout) { Ok(timeout) } else { Err("must be between 1s and 1h".to_owned()) }
}

/// Tries it, and cleans up.
pub(crate) async fn run(args: &SelftestArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let name = format!("selftest-{}", ids::random_text(RUN_CHARS));
    let work = Work::new(&name)?;
    let login = RoleFiles::fleet_login(&args.nats_creds, Role::Identity)?;
    let connection = args.place.connection("musterd selftest").with_login(Role::Identity, login);
    let nats = Place::connect(&connection).await?;
    let token = ApiTokenName::new(&name)?;
    let bearer = BearerToken { name: token.clone(), secret: ids::random_secret::<SECRET_BYTES>() };
    lend_token(&nats, &bearer, ApiRole::Operator, Span::from(args.timeout + TOKEN_REST)).await?;
    let mut trial = Trial::new(args, &name, (&work, &bearer))?;
    let tried = tokio::select! {
        tried = trial.run() => tried,
        () = shutdown.requested() => Err(anyhow::anyhow!("told to stop before all was tried")),
    };
    if let Err(error) = &tried {
        // Before the cleaning up, which may take as long.
        tracing::error!(name, error = runtime::log::chain(error.as_ref()), "it does not work: cleaning up");
    }
    let cleaned = trial.clean_up().await;
    let taken = take_back_token(&nats, &token).await;
    nats.close().await;
    tried.with_context(|| format!("the control plane failed the test {name}"))?;
    cleaned
        .with_context(|| format!("the control plane passed, but something named {name} is left behind"))?;
    taken.with_context(|| format!("the API token {name} is left behind; it ends soon by itself"))?;
    tracing::info!(name, "the control plane passed");
    Ok(())
}
