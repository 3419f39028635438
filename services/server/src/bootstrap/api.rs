//! The Kubernetes API, as far as it is needed here: Secrets that are there are read and filled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use runtime::tasks::{TaskFailure, attach};
use runtime::tls;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;

use super::plan::{self, Data};

/// Longest wait for an answer, the connection included. The Job tries again.
const PATIENCE: Duration = Duration::from_secs(15);
/// Largest answer: a Secret has at most 1 MiB, which base64 makes longer.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Longest part of a refusal that is repeated.
const MAX_REASON_CHARS: usize = 500;

/// Why the Kubernetes API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// There was no answer.
    #[error("cannot {action} {name}: the Kubernetes API at {address} gave no answer")]
    NoAnswer { action: &'static str, name: String, address: SocketAddr, source: TaskFailure },
    /// The answer is a refusal.
    #[error("cannot {action} {name}: the Kubernetes API refused it ({status}): {reason}")]
    Refused { action: &'static str, name: String, status: StatusCode, reason: String },
    /// The answer is no Secret.
    #[error("cannot read Secret {name}: what the Kubernetes API answered is none")]
    NoSecret { name: String },
    /// What is there is not what follows from the root.
    #[error(
        "Secret {name} holds another {keys} than the one that follows from the root Secret: it was changed, or filled for another fleet. Take these keys out of it to have them made again"
    )]
    Differs { name: String, keys: String },
}

/// A Secret as it was read.
#[derive(Debug)]
pub(super) struct Secret {
    pub(super) name: String,
    pub(super) data: Data,
    version: String,
}

/// Where the Kubernetes API is, and who asks.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) address: SocketAddr,
    /// Folder of the service account.
    pub(super) account: PathBuf,
    pub(super) namespace: String,
}

/// A request as it is sent.
struct Call<'a> {
    action: &'static str,
    name: &'a str,
    path: String,
    patch: Option<Value>,
}

impl Api {
    /// A Secret that the chart made.
    pub(super) async fn secret(&self, name: &str) -> Result<Secret, ApiError> {
        let call = Call { action: "read", name, path: self.secret_path(name), patch: None };
        let answer = self.call(&call).await?;
        read(name, &answer).ok_or_else(|| ApiError::NoSecret { name: name.to_owned() })
    }

    /// Adds what is missing; what is there must be the same.
    pub(super) async fn complete(&self, secret: &Secret, wanted: &Data) -> Result<(), ApiError> {
        let missing = plan::missing(&secret.data, wanted)
            .map_err(|keys| ApiError::Differs { name: secret.name.clone(), keys: keys.join(", ") })?;
        self.put(secret, some(missing)).await
    }

    /// Puts values in the place of those that are there.
    pub(super) async fn replace(&self, secret: &Secret, wanted: &Data) -> Result<(), ApiError> {
        let changed = wanted.iter().filter(|(key, body)| secret.data.get(*key) != Some(*body));
        self.put(secret, some(changed.map(|(key, body)| (key.clone(), body.clone())).collect())).await
    }

    /// Gives a value another name, in one step.
    pub(super) async fn rename(&self, secret: &Secret, from: &str, to: &str) -> Result<(), ApiError> {
        let body = secret.data.get(from).cloned();
        self.put(secret, BTreeMap::from([(from.to_owned(), None), (to.to_owned(), body)])).await
    }

    /// `None` takes a key out.
    async fn put(&self, secret: &Secret, data: BTreeMap<String, Option<Vec<u8>>>) -> Result<(), ApiError> {
        if data.is_empty() {
            return Ok(());
        }
        let keys = super::names(&data);
        let encode = |body: Vec<u8>| Value::from(STANDARD.encode(body));
        let encoded: Map<String, Value> =
            data.into_iter().map(|(key, body)| (key, body.map(encode).unwrap_or_default())).collect();
        // Refused if somebody changed it since it was read: then all is looked at anew.
        let patch = json!({ "metadata": { "resourceVersion": secret.version }, "data": encoded });
        let (name, path) = (secret.name.as_str(), self.secret_path(&secret.name));
        self.call(&Call { action: "fill", name, path, patch: Some(patch) }).await?;
        tracing::info!(secret = secret.name, keys, "filled a Secret");
        Ok(())
    }

    /// Has the Pods of a StatefulSet started again one by one, unless that was done for the same `reason`.
    pub(super) async fn restart(&self, name: &str, reason: &str) -> Result<(), ApiError> {
        let annotations = json!({ "muster.dev/certificate": reason });
        let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
        let path = format!("/apis/apps/v1/namespaces/{}/statefulsets/{name}", self.namespace);
        self.call(&Call { action: "restart", name, path, patch: Some(patch) }).await?;
        tracing::info!(statefulset = name, "NATS servers start again with a new certificate");
        Ok(())
    }

    fn secret_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/secrets/{name}", self.namespace)
    }

    async fn call(&self, call: &Call<'_>) -> Result<Value, ApiError> {
        let (action, name) = (call.action, call.name.to_owned());
        let sent = tokio::time::timeout(PATIENCE, self.send(call)).await;
        let sent = sent.unwrap_or_else(|_| Err(format!("nothing within {PATIENCE:?}").into()));
        match sent {
            Ok((status, body)) if status.is_success() => Ok(body),
            Ok((status, body)) => {
                let reason = body["message"].as_str().unwrap_or("it does not say why");
                let reason = reason.chars().take(MAX_REASON_CHARS).collect();
                Err(ApiError::Refused { action, name, status, reason })
            }
            Err(source) => Err(ApiError::NoAnswer { action, name, address: self.address, source }),
        }
    }

    async fn send(&self, call: &Call<'_>) -> Result<(StatusCode, Value), TaskFailure> {
        // Both are read for each call: a token is another one after an hour.
        let token = tokio::fs::read_to_string(self.account.join("token")).await?;
        let stream = TcpStream::connect(self.address).await?;
        let stream = tls::verified(&self.account.join("ca.crt"), stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let _connection = attach(async move { drop(connection.await) });
        let mut request = Request::builder()
            .uri(&call.path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        let mut body = Bytes::new();
        if let Some(patch) = &call.patch {
            request = request.method(Method::PATCH).header(CONTENT_TYPE, "application/merge-patch+json");
            body = patch.to_string().into();
        }
        let answer = sender.send_request(request.body(Full::new(body))?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

fn some(data: Data) -> BTreeMap<String, Option<Vec<u8>>> {
    data.into_iter().map(|(key, body)| (key, Some(body))).collect()
}

fn read(name: &str, answer: &Value) -> Option<Secret> {
    let version = answer["metadata"]["resourceVersion"].as_str()?.to_owned();
    let mut data = Data::new();
    for (key, value) in answer.get("data").and_then(Value::as_object).into_iter().flatten() {
        data.insert(key.clone(), STANDARD.decode(value.as_str()?).ok()?);
    }
    Some(Secret { name: name.to_owned(), data, version })
}
