//! An object store that speaks S3, over the HTTP and TLS that everything else here has.

use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ClientConfigKey, ClientOptions, Error, RetryConfig};
use tokio_stream::StreamExt as _;

/// How long a connection may take, where nothing else is said: that for credentials of the machine takes less.
const CONNECT_TIMEOUT: &str = "10s";
/// How long it may take until an answer begins, which is after a piece of some MiB was sent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an answer may rest.
const REST_TIMEOUT: Duration = Duration::from_secs(30);
/// Further tries of a request, and for how long: credentials must be good for all of them.
const RETRIES: RetryConfig = RetryConfig {
    max_retries: 4,
    retry_timeout: Duration::from_secs(4 * 60),
    backoff: object_store::BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(10),
        base: 2.0,
    },
};

/// Where an object store is. Who asks is told by the variables of the environment that all clients of S3 know.
#[derive(Debug, Clone, Args)]
pub(crate) struct S3Args {
    /// Address of an object store that speaks S3 and is not Amazon's: `https://HOST`, with a port if need be.
    #[arg(long, env = "AWS_ENDPOINT_URL_S3", value_name = "URL")]
    pub(super) s3_endpoint: Option<String>,

    /// Region of the bucket. Without it: us-east-1.
    #[arg(long, env = "AWS_REGION", value_name = "NAME")]
    pub(super) s3_region: Option<String>,
}

/// Address at which machines of Amazon ask for credentials: the last resort of [`open`].
pub(super) const MACHINE_CREDENTIALS: &str = "http://169.254.169.254/";

/// Opens a bucket; whether it is there shows when it is used.
pub(super) fn open(bucket: &str, args: &S3Args) -> Result<AmazonS3, Error> {
    let mut builder = AmazonS3Builder::from_env()
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
        .with_http_connector(Connector)
        .with_retry(RETRIES);
    if let Some(endpoint) = &args.s3_endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &args.s3_region {
        builder = builder.with_region(region);
    }
    let is_plain = |key| builder.get_config_value(&key).is_some_and(|url| url.starts_with("http://"));
    let allows = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    if (is_plain(AmazonS3ConfigKey::Endpoint) || is_plain(AmazonS3ConfigKey::S3Endpoint))
        && allows.as_deref() != Some("true")
    {
        let why = "its address is http://, which everybody on the way can read; give https://, or set AWS_ALLOW_HTTP=true";
        return Err(Error::Generic { store: "S3", source: why.into() });
    }
    builder.with_bucket_name(bucket).build()
}

/// Makes clients for the store and for what gives out credentials.
#[derive(Debug)]
struct Connector;

impl object_store::client::HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient, Error> {
        let failed = |source| Error::Generic { store: "S3", source };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let patience = options.get_config_value(&ClientConfigKey::ConnectTimeout);
        tcp.set_connect_timeout(patience.and_then(|text| humantime::parse_duration(&text).ok()));
        let provider = tokio_rustls::rustls::crypto::ring::default_provider;
        // A container knows no CA; then those count that vouch for public websites.
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider())
            .or_else(|_| HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider()))
            .map_err(|error| failed(error.into()))?;
        let allow_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let tls = if allow_http.as_deref() == Some("true") { tls.https_or_http() } else { tls.https_only() };
        let mut builder = Client::builder(TokioExecutor::new());
        let builder = builder.pool_timer(TokioTimer::new());
        Ok(HttpClient::new(Https { client: builder.build(tls.enable_http1().wrap_connector(tcp)) }))
    }
}

#[derive(Debug)]
struct Https {
    client: Client<HttpsConnector<HttpConnector>, HttpRequestBody>,
}

#[async_trait]
impl HttpService for Https {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(request)).await;
        let answer = answered.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?;
        let answer = answer.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            // The store shows one step of what went wrong: all of them are in it.
            HttpError::new(kind, std::io::Error::other(runtime::log::chain(&error)))
        })?;
        Ok(answer.map(|body| {
            let frames = body.into_data_stream().map(|piece| {
                let piece = piece.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
                Ok(hyper::body::Frame::data(piece))
            });
            let frames = frames
                .timeout(REST_TIMEOUT)
                .map(|piece| piece.unwrap_or_else(|late| Err(HttpError::new(HttpErrorKind::Timeout, late))));
            HttpResponseBody::new(StreamBody::new(frames))
        }))
    }
}
