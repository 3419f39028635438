//! `musterd init`: the operator and the accounts of a fleet, made once.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use domain::FleetId;
use runtime::broker::{self, Made};

/// Options of `musterd init`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InitArgs {
    /// Directory for all of it. What is there is checked and never changed.
    #[arg(long, env = "MUSTER_BROKER_DIR", value_name = "DIR")]
    dir: PathBuf,

    /// The fleet. Each has accounts of its own; run this again for another one.
    #[arg(long, env = "MUSTER_FLEET", value_name = "ID", default_value = "default")]
    fleet: FleetId,
}

/// Makes what is missing and says what to do with it.
pub(crate) fn main(args: &InitArgs) -> ExitCode {
    let (text, code) = match broker::init(&args.dir, &args.fleet) {
        Ok(made) => (report(args, made), ExitCode::SUCCESS),
        Err(error) => (format!("error: {}\n", runtime::log::chain(&error)), ExitCode::FAILURE),
    };
    let written = match code == ExitCode::SUCCESS {
        true => std::io::stdout().write_all(text.as_bytes()),
        false => std::io::stderr().write_all(text.as_bytes()),
    };
    if written.is_ok() { code } else { ExitCode::FAILURE }
}

fn report(args: &InitArgs, made: Made) -> String {
    let (dir, fleet) = (args.dir.display(), &args.fleet);
    let done = |made: bool| if made { "made now" } else { "there already, left as it is" };
    format!(
        "operator        {}: {dir}/operator
fleet {fleet}  {}: {dir}/fleets/{fleet}

Every nats-server: include {dir}/nats.conf, which holds no secret, in its configuration. Servers that run already
take a new fleet from there at their next start.
Every service: --nats-creds {dir}/fleets/{fleet}, or only its own folder there, roles/SERVICE.
Keep {dir}/operator off-line, and a copy of all of it: a new operator means new credentials for every service, and that
every agent must join again.
",
        done(made.operator),
        done(made.fleet),
    )
}
