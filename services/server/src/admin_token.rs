//! `musterd admin-token`: an API token for who has the broker.

use std::path::PathBuf;

use clap::Args;
use domain::ApiTokenName;
use runtime::access::{FIRST_TOKEN, first_token};
use runtime::{ServiceArgs, ServiceContext, Shutdown, Tasks};
use wire::access::Role;

/// Options of `musterd admin-token`.
#[derive(Debug, Args)]
pub(crate) struct AdminTokenArgs {
    /// File of the token, mode 0600. One that is there stays as it is; remove it to have another token made.
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
    let made = first_token(&context.nats, &args.out, &args.name).await;
    context.shutdown().request();
    let finished = context.finish().await;
    made?;
    Ok(finished?)
}
