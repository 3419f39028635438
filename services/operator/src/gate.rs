//! The way to the Kubernetes API. Everything goes through it, so that nothing is waited for without end and nothing is
//! asked for again and again: the client pauses after refusals, but a watch that ends at once is none for it, and when it
//! begins to list it thinks that all is well again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use kube::client::Body;
use kube::{Client, Config, Error};
use tokio::time::{Instant, sleep_until, timeout};
use tower::service_fn;

/// Longest wait for the head of an answer, with all attempts of the client when the server is busy. A server that asks for
/// a longer pause is asked again after this one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest pause between two starts of the same list or watch. Watches live for minutes.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two starts of the same list or watch: so long a change may be unseen once the server is well again.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// What began this long ago was well. More than the longest pause.
const WELL: Duration = Duration::from_secs(60);

/// Nobody answered.
#[derive(Debug, thiserror::Error)]
#[error("the Kubernetes API did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
struct Silence;

/// When a list or watch began, and how long after that the next one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    at: Instant,
    pause: Duration,
}

/// When the next one begins.
fn next(last: Option<Start>, now: Instant) -> Start {
    match last {
        Some(Start { at, pause }) if now < at + WELL => {
            Start { at: now.max(at + pause), pause: (pause * 2).min(MAX_PAUSE) }
        }
        Some(_) | None => Start { at: now, pause: MIN_PAUSE },
    }
}

/// A client of the Kubernetes API. It asks again when the server says that it is busy, and when it says so.
///
/// # Errors
/// If the configuration cannot be used.
pub(crate) fn client(config: Config) -> Result<Client, Error> {
    Client::try_from(config).map(paced)
}

/// A client whose requests have an end, and whose lists and watches do not begin again at once.
pub(crate) fn paced(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    // Two for each kind that is followed.
    let starts: Arc<Mutex<BTreeMap<(&'static str, String), Start>>> = Arc::default();
    let service = service_fn(move |request: Request<Body>| {
        let start = begins(&request).map(|what| {
            let mut starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
            let what = (what, request.uri().path().to_owned());
            let start = next(starts.get(&what).copied(), Instant::now());
            starts.insert(what, start);
            start.at
        });
        let client = client.clone();
        async move {
            if let Some(at) = start {
                sleep_until(at).await;
            }
            let answer = timeout(ANSWER_TIMEOUT, client.send(request)).await;
            answer.unwrap_or_else(|_| Err(Error::Service(Silence.into())))
        }
    });
    Client::new(service, namespace)
}

/// Whether a request begins a watch, or a list and not a further page of it.
fn begins(request: &Request<Body>) -> Option<&'static str> {
    let query = request.uri().query().unwrap_or_default();
    let has = |key: &str| query.split('&').any(|pair| pair.split_once('=').is_some_and(|(it, _)| it == key));
    match (has("watch"), has("limit"), has("continue")) {
        (true, ..) => Some("watch"),
        (false, true, false) => Some("list"),
        (false, ..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_at_once_begins_ever_more_rarely() {
        let first = Instant::now();
        let seconds = Duration::from_secs;
        let mut last = None;
        let mut check = |now: u64, expected: u64| {
            let start = next(last, first + seconds(now));
            assert_eq!(start.at - first, seconds(expected), "at {now}");
            last = Some(start);
        };
        // Each ends as soon as it has begun.
        for (now, expected) in [(0, 0), (0, 1), (1, 3), (3, 7), (7, 15), (15, 31), (31, 61), (61, 91)] {
            check(now, expected);
        }
        // One that ends later than the pause is not waited for.
        check(130, 130);
        // One that was well.
        check(420, 420);
        check(420, 421);
    }

    #[test]
    fn pages_of_a_list_are_not_paced() {
        for (query, expected) in [
            ("&watch=true&timeoutSeconds=290", Some("watch")),
            ("&limit=500", Some("list")),
            ("&limit=500&continue=abc", None),
            ("", None),
        ] {
            let uri = format!("/apis/muster.dev/v1alpha1/policies?{query}");
            assert_eq!(begins(&Request::get(uri).body(Body::empty()).unwrap()), expected, "{query}");
        }
    }
}
