//! The server at the other end.

use std::future::Future;
use std::time::Duration;

use runtime::client::{ANSWER_TIMEOUT, MAX_ANSWER_BYTES, Traced, endpoint};
use runtime::telemetry;
use runtime::tls::machine_trusts_nobody;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig};
use wire::api::v1::access_service_client::AccessServiceClient;
use wire::api::v1::audit_service_client::AuditServiceClient;
use wire::api::v1::content_service_client::ContentServiceClient;
use wire::api::v1::identity_service_client::IdentityServiceClient;
use wire::api::v1::policy_service_client::PolicyServiceClient;
use wire::api::v1::presence_service_client::PresenceServiceClient;
use wire::api::v1::trust_service_client::TrustServiceClient;
use wire::trace::{TRACEPARENT, TraceParent};

use crate::config::Server;
use crate::credential::Credential;
use crate::failure::Failure;

/// Longest wait for an answer about a whole content: the server looks for each of 20,000 chunks, or waits until a
/// garbage collection has ended.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(180);
/// Largest file with CAs: a bundle of all that systems trust has 250 KB.
const MAX_CA_BYTES: u64 = 1 << 20;
/// How a certificate begins in a PEM file.
const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
/// Objects asked for at a time where one object is small.
const PAGE: i32 = 1_000;
/// Objects asked for at a time where each carries a document of up to 256 KiB.
const PAGE_OF_DOCUMENTS: i32 = 50;
/// Generations of a policy asked for at a time: all that are kept.
const PAGE_OF_HISTORY: i32 = 100;
/// Most pages of one list: ten million objects; a server that never ends its list is noticed.
const MAX_PAGES: usize = 10_000;

/// A connection on which each call carries the caller's credential and the trace it belongs to.
pub(crate) type Line = InterceptedService<Traced, Carried>;

/// What each call carries.
#[derive(Clone)]
pub(crate) struct Carried {
    credential: Credential,
    trace: Option<MetadataValue<Ascii>>,
}

impl Carried {
    /// The calls of one command belong to one trace: the one that `TRACEPARENT` names, where the command is a part of
    /// something larger, or a new one. Where the calls are told, their spans say so themselves.
    fn new(credential: Credential) -> Self {
        let random = || runtime::ids::random_u64().max(1).to_be_bytes();
        let place = telemetry::parent().unwrap_or_else(|| {
            let (half, rest, span_id) = (random(), random(), random());
            let mut trace_id = [0; 16];
            trace_id[..8].copy_from_slice(&half);
            trace_id[8..].copy_from_slice(&rest);
            TraceParent { trace_id, span_id, sampled: true }
        });
        Self { credential, trace: place.to_string().parse().ok() }
    }
}

impl Interceptor for Carried {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(trace) = &self.trace {
            request.metadata_mut().insert(TRACEPARENT, trace.clone());
        }
        self.credential.call(request)
    }
}

/// The services of one server.
#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    channel: Line,
    /// Without a limit on how long a call takes: uploads and downloads last as long as they make progress.
    unhurried: Line,
}

/// A call that takes longer than most.
pub(crate) async fn patiently<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, tonic::Status> {
    match tokio::time::timeout(CONTENT_TIMEOUT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded(format!(
            "the server did not answer within {} s",
            CONTENT_TIMEOUT.as_secs()
        ))),
    }
}

/// Why a call failed, if it may go well the next time: because of what lies between here and the server, or
/// because the server cannot answer now.
pub(crate) fn passing(status: &tonic::Status) -> Option<String> {
    // What came from the server has no source; some of what the transport says has none either.
    let of_transport = std::error::Error::source(status).is_some()
        || status.code() == tonic::Code::Cancelled
        || status.message().starts_with("h2 protocol error");
    if of_transport {
        return Some("the connection broke off".to_owned());
    }
    let may_pass = [tonic::Code::Unavailable, tonic::Code::DeadlineExceeded].contains(&status.code());
    may_pass.then(|| status.message().to_owned())
}

/// How to know that the server is the one.
fn tls(server: &Server) -> Result<ClientTlsConfig, Failure> {
    let tls = ClientTlsConfig::new();
    let Some(path) = &server.ca else {
        return Ok(if machine_trusts_nobody() { tls.with_webpki_roots() } else { tls.with_native_roots() });
    };
    let pem = crate::manifests::read_bounded(path, MAX_CA_BYTES)?;
    if !pem.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN) {
        return Err(Failure::Usage(format!(
            "{} has no certificate; it should be a PEM file",
            path.display()
        )));
    }
    Ok(tls.ca_certificate(Certificate::from_pem(pem)))
}

impl Client {
    pub(crate) async fn connect(server: &Server, credential: Credential) -> Result<Self, Failure> {
        let url = &server.url;
        let unreachable = |source| Failure::Unreachable { url: url.clone(), source };
        let tls = if url.starts_with("https://") { tls(server)? } else { ClientTlsConfig::new() };
        let endpoint = endpoint(url, tls).map_err(unreachable)?;
        let unhurried = endpoint.connect_lazy();
        let channel = endpoint.timeout(ANSWER_TIMEOUT).connect().await.map_err(unreachable)?;
        let carried = Carried::new(credential);
        let channel = Line::new(Traced::new(channel, url), carried.clone());
        let unhurried = Line::new(Traced::new(unhurried, url), carried);
        Ok(Self { url: url.clone(), channel, unhurried })
    }

    pub(crate) fn policy(&self) -> PolicyServiceClient<Line> {
        PolicyServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn content(&self) -> ContentServiceClient<Line> {
        ContentServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// For calls that last; see [`patiently`].
    pub(crate) fn content_unhurried(&self) -> ContentServiceClient<Line> {
        ContentServiceClient::new(self.unhurried.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn presence(&self) -> PresenceServiceClient<Line> {
        PresenceServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn identity(&self) -> IdentityServiceClient<Line> {
        IdentityServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn access(&self) -> AccessServiceClient<Line> {
        AccessServiceClient::new(self.channel.clone())
    }

    pub(crate) fn trust(&self) -> TrustServiceClient<Line> {
        TrustServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Line> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// A refusal of this server.
    pub(crate) fn refusal(&self, status: tonic::Status) -> Failure {
        self.refusal_of(status, Vec::new())
    }

    /// A refusal of resources that have names of their own.
    pub(crate) fn refusal_of(&self, status: tonic::Status, resources: Vec<String>) -> Failure {
        Failure::Status { status: Box::new(status), url: self.url.clone(), resources }
    }
}

/// How much of a list to fetch, and in pieces of what size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages {
    limit: usize,
    size: i32,
}

impl Pages {
    pub(crate) fn of_small(limit: Option<usize>) -> Self {
        Self { limit: limit.unwrap_or(usize::MAX), size: PAGE }
    }

    pub(crate) fn of_documents(limit: Option<usize>) -> Self {
        Self { limit: limit.unwrap_or(usize::MAX), size: PAGE_OF_DOCUMENTS }
    }

    pub(crate) fn of_history(limit: Option<usize>) -> Self {
        Self { limit: limit.unwrap_or(usize::MAX), size: PAGE_OF_HISTORY }
    }

    /// Fetches page after page. `fetch` takes a page size and token and returns items and next token.
    pub(crate) async fn fetch<T, F, A>(self, mut fetch: F) -> Result<Vec<T>, Failure>
    where
        F: FnMut(i32, String) -> A,
        A: Future<Output = Result<(Vec<T>, String), Failure>>,
    {
        let mut items = Vec::new();
        let mut token = String::new();
        for _ in 0..MAX_PAGES {
            let left = i32::try_from(self.limit.saturating_sub(items.len())).unwrap_or(i32::MAX);
            if left == 0 {
                return Ok(items);
            }
            let (page, next) = fetch(self.size.min(left), token).await?;
            items.extend(page);
            items.truncate(self.limit);
            if next.is_empty() {
                return Ok(items);
            }
            token = next;
        }
        Err(Failure::Answer(format!("the list has more than {MAX_PAGES} pages")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves the numbers below `total`.
    async fn fetch(pages: Pages, total: usize) -> Result<Vec<usize>, Failure> {
        pages
            .fetch(|size, token| async move {
                let from: usize = if token.is_empty() { 0 } else { token.parse().unwrap() };
                let to = total.min(from + usize::try_from(size).unwrap());
                Ok(((from..to).collect(), if to < total { to.to_string() } else { String::new() }))
            })
            .await
    }

    #[tokio::test]
    async fn lists_are_fetched_to_their_end_or_limit() {
        for (limit, total, expected) in [
            (None, 0, 0),
            (None, 2_500, 2_500),
            (Some(1_500), 2_500, 1_500),
            (Some(0), 5, 0),
            (Some(9), 5, 5),
        ] {
            let items = fetch(Pages::of_small(limit), total).await.unwrap();
            assert_eq!(items, (0..expected).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_list_without_end_is_noticed() {
        let pages = Pages::of_small(None);
        let endless = pages.fetch(|_, _| async { Ok((Vec::<u8>::new(), "again".to_owned())) }).await;
        assert!(matches!(endless, Err(Failure::Answer(_))));
    }
}
