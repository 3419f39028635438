//! The audit, for who looks at it.

use std::sync::Arc;

use domain::access::Role;
use domain::audit::{Entry, What};
use runtime::nats::StreamMessage;
use tonic::{Request, Response, Status};
use wire::api::v1::audit_service_server::AuditService;
use wire::api::v1::{self, AuditPhase, ListAuditEntriesRequest, ListAuditEntriesResponse};
use wire::subject::{STREAM_AUDIT, audit_entry};
use wire::time::to_timestamp;

use super::access::role;
use crate::{Shared, status};

/// Entries on a page if the caller does not say.
const DEFAULT_PAGE: u32 = 100;

/// Most entries on a page: about 600 bytes each.
const MAX_PAGE: u32 = 500;

/// The service as tonic calls it.
pub(crate) struct Audit(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_entries(
        &self,
        request: Request<ListAuditEntriesRequest>,
    ) -> Result<Response<ListAuditEntriesResponse>, Status> {
        list(&self.0, request.get_ref()).await.map(Response::new)
    }
}

/// The page token is the place in the stream where the next page begins.
async fn list(
    shared: &Shared,
    request: &ListAuditEntriesRequest,
) -> Result<ListAuditEntriesResponse, Status> {
    let size = match u32::try_from(request.page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(status::invalid("page_size", "must not be negative")),
    };
    let state = shared.nats.stream_state(STREAM_AUDIT).await.map_err(|error| status::unavailable(&error))?;
    let Some(state) = state else { return Ok(ListAuditEntriesResponse::default()) };
    let from = match (request.page_token.as_str(), u64::from(request.last)) {
        ("", 0) => state.first_sequence,
        ("", last) => state.first_sequence.max((state.last_sequence + 1).saturating_sub(last)),
        (token, _) => {
            token.parse().map_err(|_| status::invalid("page_token", "is not from a page before"))?
        }
    };
    if from > state.last_sequence {
        return Ok(ListAuditEntriesResponse::default());
    }
    let found = shared.nats.direct_get_from(STREAM_AUDIT, &audit_entry(), from, size).await;
    let found = found.map_err(|error| status::unavailable(&error))?;
    let next = found.last().map(|message| message.sequence + 1).filter(|next| *next <= state.last_sequence);
    Ok(ListAuditEntriesResponse {
        entries: found.iter().map(message).collect(),
        next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
    })
}

/// An entry that cannot be read is shown by its bytes: leaving it out would hide it.
fn message(stored: &StreamMessage) -> v1::AuditEntry {
    let bytes = stored.payload.to_vec();
    match wire::audit::read(&bytes) {
        Ok(entry) => v1::AuditEntry { stored: bytes, ..shown(entry) },
        Err(_) => v1::AuditEntry { stored: bytes, ..v1::AuditEntry::default() },
    }
}

fn shown(entry: Entry) -> v1::AuditEntry {
    let known = v1::AuditEntry {
        number: entry.number,
        time: Some(to_timestamp(entry.at)),
        actor: entry.asker.name,
        role: entry.asker.role.map_or(v1::Role::Unspecified, |it: Role| role(it)).into(),
        address: entry.asker.address,
        method: entry.method,
        ..v1::AuditEntry::default()
    };
    match entry.what {
        What::Asked { targets, .. } => v1::AuditEntry { phase: AuditPhase::Asked.into(), targets, ..known },
        What::Ended { asked, code, message, revision } => {
            v1::AuditEntry { phase: AuditPhase::Ended.into(), asked, code, message, revision, ..known }
        }
        What::Refused { code, message, left_out } => {
            v1::AuditEntry { phase: AuditPhase::Refused.into(), code, message, left_out, ..known }
        }
    }
}
