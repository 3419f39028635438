//! `musterd admin-token`: an API token for who has the broker.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use domain::ApiTokenName;
use domain::access::Role as ApiRole;
use runtime::access::{FIRST_TOKEN, first_token, store_token};
use runtime::{Nats, ServiceArgs, ServiceContext, Shutdown, Tasks};
use wire::access::Role;
use wire::api_token::{BearerToken, SECRET_BYTES};

/// Means standard output where a file is asked for.
const STDOUT: &str = "-";

/// Options of `musterd admin-token`.
#[derive(Debug, Args)]
pub(crate) struct AdminTokenArgs {
    /// File of the token, mode 0600. One that is there stays as it is; remove it to have another token made. "-" prints
    /// a new token instead.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Name of the token. What the store has by this name is replaced.
    #[arg(long, value_name = "NAME", default_value = FIRST_TOKEN)]
    name: ApiTokenName,

    /// Where the store is.
    #[command(flatten)]
    common: ServiceArgs,
}

pub(crate) async fn run(args: &AdminTokenArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let context = ServiceContext::connect(&args.common, Role::Identity, Tasks::new(shutdown)).await?;
    let made = match args.out.as_os_str() == STDOUT {
        true => print(&context.nats, &args.name).await,
        false => first_token(&context.nats, &args.out, &args.name).await.map_err(Into::into),
    };
    context.shutdown().request();
    let finished = context.finish().await;
    made?;
    Ok(finished?)
}

/// Makes a token and prints it, where no file would outlive the process.
async fn print(nats: &Nats, name: &ApiTokenName) -> anyhow::Result<()> {
    let bearer = BearerToken { name: name.clone(), secret: runtime::ids::random_secret::<SECRET_BYTES>() };
    store_token(nats, &bearer, ApiRole::Admin).await?;
    Ok(writeln!(std::io::stdout(), "{}", bearer.encode())?)
}
