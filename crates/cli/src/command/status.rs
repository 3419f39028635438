//! `muster status`.

use clap::Args;
use wire::api::v1::GetStatusRequest;

use crate::args::MODES;
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Show the fleet, or a group, at a glance: who is there and who runs the head
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster status\n  muster status --group /servers\n  muster status -o json | jq .all.failed\n\n{MODES}"
))]
pub(crate) struct Status {
    /// Only this group and those below it (path or name)
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    group: String,
}

impl Status {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = GetStatusRequest { group: self.group, only_itself: false, min_revision: 0 };
        let response = session.client.presence().get_status(request).await;
        let status = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&status, view::status::status)
    }
}
