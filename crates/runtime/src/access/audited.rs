//! A change on its way through the audit: entered before it is tried, and again with what came of it.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use domain::Digest;
use domain::access::{Effect, Method};
use domain::audit::{Asker, What};
use tonic::{Code, Status};

use super::refuse;
use crate::audit::Audit;

/// Largest request that is held while it is entered: the largest that any service takes, and its frame.
const MAX_REQUEST_BYTES: usize = 17 * 1024 * 1024;
/// What stands before a message in the body of a call.
const FRAME_BYTES: usize = 5;

/// The store revision that an answer tells of, for its entry in the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written(pub u64);

/// An answer to a change, with the store revision after it; 0 if nothing was stored.
#[must_use]
pub fn written<T>(answer: T, revision: u64) -> tonic::Response<T> {
    let mut response = tonic::Response::new(answer);
    response.extensions_mut().insert(Written(revision));
    response
}

/// Runs a change. If it cannot be entered, it is not tried.
pub(super) async fn run(
    audit: &Audit,
    asker: Asker,
    row: &'static Method,
    (request, next): (Request, Next),
) -> Result<Response, Status> {
    let (request, what) = described(row, request).await?;
    let entered = audit.enter(asker.clone(), row.name, what).await;
    let asked = entered.map_err(|error| refuse::not_audited(&error))?;
    let response = next.run(request).await;
    let what = outcome(asked, &response);
    if let Err(error) = audit.enter(asker, row.name, what).await {
        // The change is made, and its beginning is entered: the caller is told what came of it all the same.
        let error = crate::log::chain(&error);
        tracing::error!(method = row.name, asked, error, "the end of a change is not in the audit");
    }
    Ok(response)
}

/// The request and what is entered of it.
async fn described(row: &Method, request: Request) -> Result<(Request, What), Status> {
    if row.effect == Effect::Uploads {
        return Ok((request, What::Asked { request: Digest::default(), targets: Vec::new() }));
    }
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, MAX_REQUEST_BYTES).await.map_err(|_| {
        Status::out_of_range(format!("the request broke off, or is larger than {MAX_REQUEST_BYTES} bytes"))
    })?;
    let targets = wire::audit::targets(row.name, &body);
    let digest = Digest::of(body.get(FRAME_BYTES..).unwrap_or_default());
    Ok((Request::from_parts(parts, Body::from(body)), What::Asked { request: digest, targets }))
}

fn outcome(asked: u64, response: &Response) -> What {
    // Services answer with one message or with a status in the first headers.
    let status = Status::from_header_map(response.headers());
    let revision = response.extensions().get::<Written>().map_or(0, |written| written.0);
    let (code, message) = match status {
        Some(status) if status.code() != Code::Ok => (number(status.code()), status.message().to_owned()),
        Some(_) | None => (0, String::new()),
    };
    What::Ended { asked, code, message, revision }
}

/// A status code as it travels.
pub(super) fn number(code: Code) -> u32 {
    u32::try_from(i32::from(code)).unwrap_or_default()
}
