//! What whoever calls the API needs: a connection to a server, and the credential that lets it in.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{HeaderValue, Request as HttpRequest, Response as HttpResponse};
use domain::access::method;
use tonic::body::Body;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tower::Service;
use wire::trace::TRACEPARENT;

use crate::telemetry::spans;

/// Longest wait for a connection: a server on the same network answers in milliseconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer. Servers end their own waits (for a revision) well before.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent connection is tested, and how long the test may take: who watches would else wait for ever
/// for a machine that is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Largest answer: a page of policies with documents of the largest size.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Longest token, in bytes: it fits one line and one header.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// A connection on which each call carries the caller's credential, and is told.
pub type Line = InterceptedService<Traced, Credential>;

/// Why a credential cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The text is no token.
    #[error("{origin} holds no token: it should be one line of text")]
    None {
        /// Where it came from.
        origin: String,
    },
    /// Others would read it on its way.
    #[error(
        "refusing to send a token to {server}: without TLS the network reads it; use an https:// address, or reach the \
         server through an SSH tunnel to 127.0.0.1"
    )]
    Plaintext {
        /// The server.
        server: String,
    },
}

/// A credential, or none. `Debug` hides it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Credential(..)" } else { "Credential(none)" })
    }
}

impl Credential {
    /// The credential in `text`, which came from `origin`.
    ///
    /// # Errors
    /// [`CredentialError::None`] if it is not one line of at most [`MAX_TOKEN_BYTES`].
    pub fn new(text: &str, origin: &str) -> Result<Self, CredentialError> {
        let wrong = || CredentialError::None { origin: origin.to_owned() };
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || text.len() > MAX_TOKEN_BYTES {
            return Err(wrong());
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}").parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The token itself, to be kept.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.0.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }

    /// A credential does not travel where others can read it.
    ///
    /// # Errors
    /// [`CredentialError::Plaintext`] for a server on another machine that is spoken to without TLS.
    pub fn fits(&self, server: &str) -> Result<(), CredentialError> {
        if self.0.is_none() || !server.starts_with("http://") || is_loopback(server) {
            return Ok(());
        }
        Err(CredentialError::Plaintext { server: server.to_owned() })
    }
}

/// A connection whose calls are spans, where spans are made: below where the call is made, and above what the server does.
/// A span ends when the answer begins, as in the server.
#[derive(Debug, Clone)]
pub struct Traced {
    channel: Channel,
    /// Host and port of the server.
    server: Option<Arc<(String, u16)>>,
}

impl Traced {
    /// A connection to the server at `url`.
    #[must_use]
    pub fn new(channel: Channel, url: &str) -> Self {
        let uri: Option<tonic::transport::Uri> = url.parse().ok();
        let place = |uri: &tonic::transport::Uri| {
            let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
            Some(Arc::new((uri.host()?.to_owned(), uri.port_u16().unwrap_or(usual))))
        };
        Self { channel, server: uri.as_ref().and_then(place) }
    }
}

impl Service<HttpRequest<Body>> for Traced {
    type Response = HttpResponse<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(context).map_err(|error| Status::from_error(Box::new(error)))
    }

    fn call(&mut self, mut request: HttpRequest<Body>) -> Self::Future {
        let row = method(request.uri().path().trim_start_matches('/'));
        let span = spans::call(row.map_or("_OTHER", |row| row.name), self.server.as_deref());
        let place = spans::place(&span).and_then(|place| HeaderValue::try_from(place.to_string()).ok());
        if let Some(place) = place {
            request.headers_mut().insert(TRACEPARENT, place);
        }
        let answer = self.channel.call(request);
        let mut call = Call { span, code: Code::Cancelled };
        Box::pin(async move {
            let answer = answer.await.map_err(|error| Status::from_error(Box::new(error)));
            call.answered(match &answer {
                Ok(answer) => Status::from_header_map(answer.headers()).map_or(Code::Ok, |it| it.code()),
                Err(status) => status.code(),
            });
            answer
        })
    }
}

/// A call under way, and how it ends: who does not wait for the answer cancels it.
struct Call {
    span: tracing::Span,
    code: Code,
}

impl Call {
    /// A method, so that the future takes the whole call, and drops it when it is dropped: an assignment takes the field alone.
    fn answered(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        spans::call_ended(&self.span, spans::code(self.code));
    }
}

fn is_loopback(server: &str) -> bool {
    let uri: Option<tonic::transport::Uri> = server.parse().ok();
    let host = uri.as_ref().and_then(tonic::transport::Uri::host).unwrap_or_default();
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// The server at `url`, not connected yet. With an `https://` address, `tls` says how to know that it is the one.
///
/// # Errors
/// If `url` is none, or a CA in `tls` is none.
pub fn endpoint(url: &str, tls: ClientTlsConfig) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    if url.starts_with("https://") { endpoint.tls_config(tls.timeout(CONNECT_TIMEOUT)) } else { Ok(endpoint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_sent_where_others_read_it() {
        let token = Credential::new("mat1_abc", "x").unwrap();
        for server in ["http://127.0.0.1:7400", "http://[::1]:7400", "http://localhost:1", "https://h:1"] {
            assert!(token.fits(server).is_ok(), "{server}");
        }
        for server in ["http://10.0.0.1:7400", "http://localhost.evil:7400", "http://h:1"] {
            assert!(token.fits(server).unwrap_err().to_string().contains("TLS"), "{server}");
            assert!(Credential::default().fits(server).is_ok());
        }
        assert_eq!(format!("{token:?}"), "Credential(..)");
    }
}
