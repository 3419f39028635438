//! A Kubernetes API server that does as a script says: it keeps objects and tells watches of changes as the real one does,
//! and answers some requests otherwise.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

/// Largest body of a request.
const MAX_BYTES: usize = 1 << 20;

/// What becomes of a request instead of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// This status.
    Status(u16),
    /// 429, and when to come back, in seconds.
    Busy(u64),
    /// Nothing, ever.
    Silence,
    /// Of a watch: 410 as an event.
    Expired,
    /// Of a watch: half an event, and the end of the connection.
    Broken,
    /// Of a watch: the end.
    Closed,
}

#[derive(Default)]
struct State {
    version: u64,
    /// Older versions cannot be watched from.
    oldest: u64,
    /// Whether who begins at one is refused; else the first event says so.
    refuses: bool,
    objects: BTreeMap<String, Value>,
    /// Version, path, kind of change, object.
    events: Vec<(u64, String, &'static str, Value)>,
    /// Verb, part of the path, what happens, how often.
    script: Vec<(&'static str, &'static str, Fault, u32)>,
    asked: Vec<(Instant, String)>,
}

/// The server.
#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

fn failure(code: u16, message: &str) -> Response {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "Scripted",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), body.to_string()).into_response()
}

fn merge(into: &mut Value, from: &Value, key: &str) {
    if let Some(value) = from.get(key) {
        into[key] = value.clone();
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changes: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What answers requests: in this process, or behind a socket.
    pub(crate) fn router(&self) -> Router {
        let server = self.clone();
        Router::new().fallback(move |request| {
            let server = server.clone();
            async move { server.answer(request).await }
        })
    }

    /// The next requests of a verb (`WATCH` is one) and path end like this.
    pub(crate) fn script(&self, verb: &'static str, path: &'static str, fault: Fault, times: u32) {
        self.state().script.push((verb, path, fault, times));
    }

    /// Whether all of the script has happened.
    pub(crate) fn played(&self) -> bool {
        self.state().script.iter().all(|(.., times)| *times == 0)
    }

    /// When it was asked for something, by verb and part of the path.
    pub(crate) fn asked(&self, verb: &str, part: &str) -> Vec<Instant> {
        let state = self.state();
        let of_it = |text: &str| text.starts_with(&format!("{verb} ")) && text.contains(part);
        state.asked.iter().filter(|(_, text)| of_it(text)).map(|(at, _)| *at).collect()
    }

    /// Makes or changes an object.
    pub(crate) fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{version}").into();
        }
        let was = state.objects.insert(path.to_owned(), object.clone());
        let change = if was.is_some() { "MODIFIED" } else { "ADDED" };
        state.events.push((version, path.to_owned(), change, object.clone()));
        self.changes.send_replace(version);
        object
    }

    pub(crate) fn remove(&self, path: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let mut object = state.objects.remove(path).expect("it is there");
        object["metadata"]["resourceVersion"] = version.to_string().into();
        state.events.push((version, path.to_owned(), "DELETED", object));
        self.changes.send_replace(version);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// What happened before now can be told to nobody any more. Who asks for it is refused, or told by an event.
    pub(crate) fn forget(&self, refuses: bool) {
        let mut state = self.state();
        state.refuses = refuses;
        state.oldest = state.version;
        state.events.clear();
    }

    async fn answer(&self, request: axum::extract::Request) -> Response {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<&str, &str> =
            parts.uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('=')).collect();
        let verb = if query.get("watch") == Some(&"true") { "WATCH" } else { parts.method.as_str() };
        let fault = {
            let mut state = self.state();
            state.asked.push((Instant::now(), format!("{verb} {path}")));
            let of_it = |(of, part, _, times): &&mut (&str, &str, Fault, u32)| {
                *of == verb && path.contains(*part) && *times > 0
            };
            state.script.iter_mut().find(of_it).map(|(_, _, fault, times)| {
                *times -= 1;
                *fault
            })
        };
        match fault {
            Some(Fault::Status(code)) => return failure(code, "as the script says"),
            Some(Fault::Busy(seconds)) => {
                let mut answer = failure(429, "too many requests");
                answer.headers_mut().insert("retry-after", seconds.to_string().parse().unwrap());
                return answer;
            }
            Some(Fault::Silence) => return std::future::pending().await,
            Some(Fault::Expired) => return Body::from(expired()).into_response(),
            Some(Fault::Broken) => return Body::from_stream(broken()).into_response(),
            Some(Fault::Closed) => return Body::empty().into_response(),
            None => {}
        }
        if verb == "WATCH" {
            let from = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
            let refused = Some(self.state()).is_some_and(|state| state.refuses && from < state.oldest);
            if refused {
                return failure(410, "too old resource version");
            }
            return Body::from_stream(self.watch(path, from)).into_response();
        }
        let body = to_bytes(body, MAX_BYTES).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match parts.method {
            Method::GET => self.read(&path),
            Method::PATCH => self.apply(&path, &body),
            _ => self.write(&path, body),
        }
    }

    fn read(&self, path: &str) -> Response {
        if let Some(object) = self.get(path) {
            return object.to_string().into_response();
        }
        let Some((_, plural)) = path.rsplit_once("/v1alpha1/") else { return failure(404, "not found") };
        let state = self.state();
        let part = format!("/{plural}/");
        let items: Vec<&Value> =
            state.objects.iter().filter(|(path, _)| path.contains(&part)).map(|(_, object)| object).collect();
        let metadata = json!({ "resourceVersion": state.version.to_string() });
        json!({ "apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items })
            .to_string()
            .into_response()
    }

    /// Server-side apply of finalizers or a status.
    fn apply(&self, path: &str, patch: &Value) -> Response {
        let path = path.strip_suffix("/status").unwrap_or(path);
        let Some(mut object) = self.get(path) else {
            return failure(
                409,
                "uid mismatch: the provided object specified uid u, and no existing object was found",
            );
        };
        let uid = &patch["metadata"]["uid"];
        if *uid != object["metadata"]["uid"] {
            return failure(409, "Precondition failed: UID in precondition: u, UID in object meta: v");
        }
        merge(&mut object, patch, "status");
        merge(&mut object["metadata"], &patch["metadata"], "finalizers");
        self.put(path, object).to_string().into_response()
    }

    /// Makes an object, or replaces one that is as it was when it was read.
    fn write(&self, path: &str, mut object: Value) -> Response {
        if path.ends_with("s") {
            let name = object["metadata"]["name"].as_str().unwrap_or("event").to_owned();
            return self.put(&format!("{path}/{name}"), object).to_string().into_response();
        }
        let there = self.get(path).unwrap_or_default();
        if there["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return failure(
                409,
                "the object has been modified; please apply your changes to the latest version",
            );
        }
        object["metadata"]["uid"] = there["metadata"]["uid"].clone();
        self.put(path, object).to_string().into_response()
    }

    /// What happens after a version, until the connection ends.
    fn watch(&self, path: String, from: u64) -> impl Stream<Item = io::Result<String>> + Send + use<> {
        let plural = path.rsplit('/').next().unwrap_or_default();
        let part = format!("/{plural}/");
        let seen = (self.clone(), self.changes.subscribe(), from);
        futures::stream::unfold(seen, move |(server, mut changes, from)| {
            let part = part.clone();
            async move {
                loop {
                    let (next, oldest) = {
                        let state = server.state();
                        let mut of_it = state.events.iter().filter(|(_, path, ..)| path.contains(&part));
                        (of_it.find(|(version, ..)| *version > from).cloned(), state.oldest)
                    };
                    if from < oldest {
                        return Some((Ok(expired()), (server, changes, u64::MAX)));
                    }
                    if let Some((version, _, change, object)) = next {
                        let line = format!("{}\n", json!({ "type": change, "object": object }));
                        return Some((Ok(line), (server, changes, version)));
                    }
                    changes.changed().await.ok()?;
                }
            }
        })
    }
}

fn expired() -> String {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410,
    });
    format!("{}\n", json!({ "type": "ERROR", "object": status }))
}

fn broken() -> impl Stream<Item = io::Result<String>> + Send {
    let cut = io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer");
    futures::stream::iter([Ok("{\"type\":\"MODIFIED\",\"object\":{\"apiVer".to_owned()), Err(cut)])
}
