//! `muster watch`.

use clap::Args;
use wire::api::v1::{AgentFilter, WatchRequest};

use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Follow what happens: agents that come and go, new heads, what is applied and what fails
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  muster watch
  muster watch --group /servers -o json | jq .applied    # one JSON object a line")]
pub(crate) struct Watch {
    /// Only this group and those below it (path or name)
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    group: String,
}

impl Watch {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let filter = AgentFilter { group: self.group, include_children: true, ..AgentFilter::default() };
        let response = session.client.presence().watch(WatchRequest { filter: Some(filter) }).await;
        let mut events = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.notice("Watching; Ctrl-C ends it.")?;
        while let Some(event) = events.message().await.map_err(|status| session.client.refusal(status))? {
            session.show_event(&event, view::event::event)?;
        }
        Err(session.client.refusal(tonic::Status::unavailable("the server ended the stream of events")))
    }
}
