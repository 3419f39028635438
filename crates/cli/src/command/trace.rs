//! `muster trace`.

use clap::Args;
use wire::api::v1::{ChangeTrace, GetChangeRequest, GetDeliveryRequest};

use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// What stands for the trace id in the address of a tracing UI.
const PLACEHOLDER: &str = "{trace_id}";

/// Show the way of a change: who made it, when it was published, and when agents had it in force
#[derive(Debug, Args)]
#[command(after_long_help = "\
Everything but the link comes from the fleet itself: no tracing backend is asked. Presence remembers the newest 256
revisions since its start.

Examples:
  muster trace 42
  muster trace 42 -o json | jq -r .change.traceId
  muster trace 42 --url 'https://jaeger.example/trace/{trace_id}'")]
pub(crate) struct Trace {
    /// Revision of the change, as `muster apply` prints it
    #[arg(value_name = "REVISION")]
    revision: u64,
    /// Where a tracing UI shows a trace; {trace_id} stands for its id [env: MUSTER_TRACE_URL]
    #[arg(long, env = "MUSTER_TRACE_URL", value_name = "URL", hide_env = true)]
    url: Option<String>,
}

impl Trace {
    /// Asks and shows. `url` is the address that the configuration names.
    pub(crate) async fn run(self, session: &mut Session<'_>, url: Option<String>) -> Result<(), Failure> {
        let template = self.url.or(url).unwrap_or_default();
        if !template.is_empty() && !template.contains(PLACEHOLDER) {
            return Err(Failure::Usage(format!(
                "the address {template:?} has no {PLACEHOLDER}, where the id of the trace goes"
            )));
        }
        let asked = session.client.policy().get_change(GetChangeRequest { revision: self.revision }).await;
        let change = asked.map_err(|status| session.client.refusal(status))?.into_inner();
        let request = GetDeliveryRequest { revision: change.revision };
        let asked = session.client.presence().get_delivery(request).await;
        let delivery = asked.map_err(|status| session.client.refusal(status))?.into_inner();
        let known = !change.trace_id.is_empty();
        let url = if known { template.replace(PLACEHOLDER, &change.trace_id) } else { String::new() };
        let trace = ChangeTrace { change: Some(change), delivery: Some(delivery), url };
        session.show(&trace, view::trace::trace)
    }
}
