//! `muster whoami`.

use clap::Args;
use wire::api::v1::WhoAmIRequest;

use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Show who you are to the server, and what you may do
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster whoami\n  muster whoami --token-file ci.token -o json")]
pub(crate) struct Whoami {}

impl Whoami {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let answer = session.client.access().who_am_i(WhoAmIRequest {}).await;
        let answer = answer.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&answer, view::api_token::whoami)
    }
}
