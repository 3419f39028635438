//! Requests to a provider: one a connection, without redirects, with bounds on time and size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::address::Address;

/// Time for a request, from the look-up of the name to the last byte: a person waits behind it.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer: documents have some 5 KB, sets of keys as much for each dozen.
pub const MAX_ANSWER_BYTES: usize = 256 << 10;

/// Why a provider did not answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not within [`TIMEOUT`].
    #[error("{at} did not answer within {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// Host and port.
        at: String,
    },
    /// There is no connection.
    #[error("{at} cannot be reached")]
    Connect {
        /// Host and port.
        at: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Nobody says whom to trust.
    #[error("the CAs to verify providers with cannot be used: {0}")]
    Roots(String),
    /// It cannot be spoken to with TLS.
    #[error("TLS cannot be used")]
    Tls(#[from] rustls::Error),
    /// It does not speak HTTP.
    #[error("{at} does not answer as a provider does")]
    Exchange {
        /// Host and port.
        at: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// Its answer is too large, or broke off.
    #[error("the answer of {at} is larger than {MAX_ANSWER_BYTES} bytes, or broke off")]
    Body {
        /// Host and port.
        at: String,
    },
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status of HTTP.
    pub status: u16,
    /// The body, of at most [`MAX_ANSWER_BYTES`].
    pub body: Bytes,
}

/// Asks providers.
#[derive(Debug, Clone, Default)]
pub struct Http {
    ca: Option<PathBuf>,
}

impl Http {
    /// Believes servers that a CA in this PEM file vouches for; without it, those that this machine trusts. The file
    /// is read for each request.
    #[must_use]
    pub fn new(ca: Option<PathBuf>) -> Self {
        Self { ca }
    }

    /// Fetches.
    ///
    /// # Errors
    /// [`HttpError`] if no answer came. What status it has is for the caller to look at; redirects are not followed.
    pub async fn get(&self, address: &Address) -> Result<Answer, HttpError> {
        self.send(address, Method::GET, String::new()).await
    }

    /// Sends a form.
    ///
    /// # Errors
    /// As for [`Http::get`].
    pub async fn post(&self, address: &Address, fields: &[(&str, &str)]) -> Result<Answer, HttpError> {
        self.send(address, Method::POST, crate::form(fields)).await
    }

    async fn send(&self, address: &Address, method: Method, body: String) -> Result<Answer, HttpError> {
        let at = address.authority().to_owned();
        let asked = async {
            let failed = |source| HttpError::Connect { at: at.clone(), source };
            let stream = TcpStream::connect((address.host(), address.port())).await.map_err(failed)?;
            let request = request(address, method, body)?;
            if !address.is_tls() {
                return exchange(stream, request, &at).await;
            }
            let name = ServerName::try_from(address.host().to_owned());
            let name = name.map_err(|_| rustls::Error::General("the host has no name".to_owned()))?;
            let connector = TlsConnector::from(Arc::new(self.tls()?));
            exchange(connector.connect(name, stream).await.map_err(failed)?, request, &at).await
        };
        tokio::time::timeout(TIMEOUT, asked).await.map_err(|_| HttpError::TimedOut { at: at.clone() })?
    }

    fn tls(&self) -> Result<ClientConfig, HttpError> {
        let roots = match &self.ca {
            Some(path) => roots_of(path)?,
            None => roots_of_machine(),
        };
        Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, HttpError> {
    let wrong = |why: String| HttpError::Roots(format!("{}: {why}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("it has no certificate".to_owned())) } else { Ok(roots) }
}

/// Those that this machine trusts. A container knows no CA; then those count that vouch for public websites.
fn roots_of_machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that cannot be used; the others count.
    let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn request(address: &Address, method: Method, body: String) -> Result<Request<Full<Bytes>>, HttpError> {
    let mut request = Request::builder()
        .method(&method)
        .uri(address.path())
        .header(HOST, address.authority())
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close");
    if method == Method::POST {
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    let request = request.body(Full::new(Bytes::from(body)));
    Ok(request.expect("invariant: an address has a host and a path that can be sent"))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    at: &str,
) -> Result<Answer, HttpError> {
    let failed = |source| HttpError::Exchange { at: at.to_owned(), source };
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(failed)?;
    let answer = async {
        let (parts, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|_| HttpError::Body { at: at.to_owned() })?.to_bytes();
        Ok(Answer { status: parts.status.as_u16(), body })
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => {
            ended.map_err(failed)?;
            // What it has read is still to be taken.
            answer.await
        }
    }
}

#[cfg(test)]
mod tests;
