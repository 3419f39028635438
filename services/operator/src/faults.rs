//! What becomes of the operator when the Kubernetes API conflicts, refuses, is busy, forgets, breaks off or falls silent.
//! The server is scripted; time is that of the tests, so that minutes are looked at in no time.

pub(crate) mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use runtime::{Readiness, Shutdown};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use self::server::{Fault, Server};
use crate::gate;
use crate::lease::{self, LeaseError, Seat};
use crate::object::Kind;
use crate::watch::{self, Objects};

/// Longest wait of a test, in its own time.
const LONG: Duration = Duration::from_secs(300);

/// Until something is so. Time passes as fast as nobody has anything to do.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let reached = timeout(LONG, async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(reached.await.is_ok(), "not within {LONG:?}: {what}");
}

fn path(kind: Kind, name: &str) -> String {
    format!("/apis/muster.dev/v1alpha1/namespaces/fleet/{}/{name}", kind.plural())
}

fn policy(generation: i64) -> Value {
    json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "Policy",
        "metadata": { "name": "p", "namespace": "fleet", "uid": "uid-p", "generation": generation },
        "spec": { "kind": "k", "document": { "n": generation } },
    })
}

fn kind() -> Value {
    json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "PolicyKind",
        "metadata": { "name": "k", "namespace": "fleet", "uid": "uid-k", "generation": 1 },
        "spec": { "schema": {} },
    })
}

/// A server with a kind `k` and a policy `p`, and who follows it.
struct Rig {
    server: Server,
    client: Client,
    objects: Objects,
    readiness: Readiness,
    stop: Shutdown,
    running: Vec<JoinHandle<()>>,
}

impl Rig {
    fn new() -> Self {
        let server = Server::new();
        server.put(&path(Kind::PolicyKind, "k"), kind());
        server.put(&path(Kind::Policy, "p"), policy(1));
        let client = gate::paced(Client::new(server.router(), "fleet"));
        let (readiness, stop) = (Readiness::new(), Shutdown::new());
        Self { server, client, objects: Objects::default(), readiness, stop, running: Vec::new() }
    }

    fn follow(&mut self) {
        let ready = Arc::new(self.readiness.register("kubernetes"));
        for kind in Kind::ALL {
            let from = (self.client.clone(), kind, None);
            let (objects, ready, stop) = (self.objects.clone(), Arc::clone(&ready), self.stop.clone());
            self.running.push(tokio::spawn(watch::follow(from, objects, ready, stop)));
        }
    }

    /// The generation of each object as the operator knows it; nothing as long as not all are known.
    fn known(&self) -> Option<BTreeMap<String, i64>> {
        let all = self.objects.all()?;
        Some(all.into_iter().map(|(key, object)| (key.name, object.generation)).collect())
    }

    async fn knows(&self, what: &str, expected: &[(&str, i64)]) {
        let expected: BTreeMap<String, i64> =
            expected.iter().map(|(name, generation)| ((*name).to_owned(), *generation)).collect();
        until(what, || self.known().as_ref() == Some(&expected)).await;
    }

    async fn end(self) {
        self.stop.request();
        for task in self.running {
            task.await.unwrap();
        }
    }
}

/// What was refused, forgotten or cut off is found again, soon, and without asking all the time.
#[tokio::test(start_paused = true)]
async fn objects_are_known_again_after_each_fault() {
    for (what, verb, fault, times, most) in [
        ("lists fail", "GET", Fault::Status(500), 3, 5),
        ("lists are not allowed", "GET", Fault::Status(403), 3, 5),
        ("lists are of no kind yet", "GET", Fault::Status(404), 3, 5),
        ("lists are for later", "GET", Fault::Busy(1), 3, 5),
        ("a page of a list is forgotten", "GET", Fault::Status(410), 1, 3),
        ("a list is never answered", "GET", Fault::Silence, 1, 3),
        ("watches fail", "WATCH", Fault::Status(500), 3, 6),
        ("watches are for later", "WATCH", Fault::Busy(1), 3, 6),
        ("the version is forgotten", "WATCH", Fault::Status(410), 2, 6),
        ("the version is forgotten, as an event", "WATCH", Fault::Expired, 2, 6),
        ("watches break off in an event", "WATCH", Fault::Broken, 3, 8),
        ("watches end at once", "WATCH", Fault::Closed, 4, 7),
        ("a watch is never answered", "WATCH", Fault::Silence, 1, 4),
    ] {
        let mut rig = Rig::new();
        rig.server.script(verb, "/policies", fault, times);
        rig.follow();
        until(what, || rig.server.played()).await;
        // What happens meanwhile is told when all is well, though the way to it is lost.
        rig.server.put(&path(Kind::Policy, "p"), policy(2));
        rig.server.remove(&path(Kind::PolicyKind, "k"));
        rig.knows(what, &[("p", 2)]).await;
        rig.server.put(&path(Kind::Policy, "p"), policy(3));
        rig.knows(what, &[("p", 3)]).await;
        let asked = rig.server.asked("GET", "/policies").len() + rig.server.asked("WATCH", "/policies").len();
        assert!(asked <= most, "{what}: {asked} requests");
        rig.end().await;
    }
}

/// A watch ended and the server forgot what happened then: only a new list tells what is gone.
#[tokio::test(start_paused = true)]
async fn what_went_while_nobody_watched_is_gone() {
    for refused in [false, true] {
        let mut rig = Rig::new();
        rig.server.script("WATCH", "/policies", Fault::Closed, 1);
        rig.follow();
        until("the watch has ended", || rig.server.played()).await;
        rig.knows("all is listed", &[("k", 1), ("p", 1)]).await;
        rig.server.remove(&path(Kind::Policy, "p"));
        rig.server.forget(refused);
        rig.knows("only what is there", &[("k", 1)]).await;
        rig.end().await;
    }
}

/// A server that is ill for an hour is asked now and then.
#[tokio::test(start_paused = true)]
async fn nobody_asks_all_the_time() {
    let hour = Duration::from_secs(3_600);
    for (verb, fault, most) in [
        ("GET", Fault::Status(500), 240),
        ("GET", Fault::Silence, 130),
        ("WATCH", Fault::Status(500), 240),
        ("WATCH", Fault::Status(410), 240),
        ("WATCH", Fault::Expired, 240),
        ("WATCH", Fault::Broken, 240),
        ("WATCH", Fault::Closed, 240),
    ] {
        let mut rig = Rig::new();
        rig.server.script(verb, "/policies", fault, u32::MAX);
        rig.follow();
        sleep(hour).await;
        let asked = rig.server.asked(verb, "/policies").len();
        assert!((20..=most).contains(&asked), "{verb} {fault:?}: {asked} requests in an hour");
        rig.end().await;
    }
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/fleet/leases/muster-operator";

/// One who holds the Lease, and what it came to.
struct Holder {
    leads: tokio::sync::watch::Receiver<bool>,
    stop: Shutdown,
    task: JoinHandle<Result<(), LeaseError>>,
}

impl Holder {
    fn new(server: &Server, identity: &str) -> Self {
        let client = gate::paced(Client::new(server.router(), "fleet"));
        let seat =
            Seat { namespace: "fleet".into(), name: "muster-operator".into(), identity: identity.to_owned() };
        let ((sender, leads), stop) = (tokio::sync::watch::channel(false), Shutdown::new());
        let task = tokio::spawn(lease::run(client, seat, sender, stop.clone()));
        Self { leads, stop, task }
    }

    async fn leads(&mut self) {
        timeout(LONG, self.leads.wait_for(|leads| *leads)).await.expect("it leads in time").unwrap();
    }
}

/// Who writes to the Lease without taking it takes nothing.
#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_through_what_passes() {
    for (what, verb, fault, times) in [
        ("a conflict", "PUT", Fault::Status(409), 1),
        ("two refusals", "PUT", Fault::Status(500), 2),
        ("two refusals to read", "GET", Fault::Status(503), 2),
        ("busy", "PUT", Fault::Busy(1), 2),
    ] {
        let server = Server::new();
        let mut holder = Holder::new(&server, "one");
        holder.leads().await;
        server.script(verb, "/leases/", fault, times);
        until(what, || server.played()).await;
        let before = server.get(LEASE).unwrap()["spec"]["renewTime"].clone();
        until(what, || server.get(LEASE).unwrap()["spec"]["renewTime"] != before).await;
        assert!(!holder.task.is_finished(), "{what}");
        holder.stop.request();
        holder.task.await.unwrap().unwrap();
        assert!(server.get(LEASE).unwrap()["spec"]["holderIdentity"].is_null(), "{what}: it is let go");
        // One look and one word for each beat.
        assert!(server.asked("PUT", "/leases/").len() < 12, "{what}");
    }
}

/// Who cannot renew stops before another begins, whatever the reason.
#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_before_another_begins() {
    for (what, verb, fault) in [
        ("refusals", "PUT", Fault::Status(500)),
        ("conflicts", "PUT", Fault::Status(409)),
        ("silence", "PUT", Fault::Silence),
        ("silence to a look", "GET", Fault::Silence),
        ("busy", "GET", Fault::Busy(3_600)),
    ] {
        let server = Server::new();
        let mut one = Holder::new(&server, "one");
        one.leads().await;
        let renewed = Instant::now();
        server.script(verb, "/leases/", fault, u32::MAX);
        let end = timeout(LONG, one.task).await.unwrap_or_else(|_| panic!("{what}: it goes on")).unwrap();
        assert!(matches!(end, Err(LeaseError::Lost { .. })), "{what}: {end:?}");
        let stopped = renewed.elapsed();
        assert!(stopped <= Duration::from_millis(10_100), "{what}: it stopped after {stopped:?}");
        assert!(server.asked("GET", "/leases/").len() < 8, "{what}");
    }
}

/// Another has taken it, for it thought that nobody works.
#[tokio::test(start_paused = true)]
async fn who_finds_another_in_the_lease_stops() {
    let server = Server::new();
    let mut one = Holder::new(&server, "one");
    one.leads().await;
    let mut lease = server.get(LEASE).unwrap();
    lease["spec"]["holderIdentity"] = "two".into();
    server.put(LEASE, lease);
    let end = timeout(Duration::from_secs(4), one.task).await.unwrap().unwrap();
    let Err(LeaseError::Taken { holder, .. }) = end else { panic!("{end:?}") };
    assert_eq!(holder, "two");
    // A third one waits out the term of who is there, and no longer.
    let begun = Instant::now();
    let mut three = Holder::new(&server, "three");
    three.leads().await;
    let waited = begun.elapsed();
    assert!((15..19).contains(&waited.as_secs()), "{waited:?}");
    three.stop.request();
    three.task.await.unwrap().unwrap();
}

/// The client as the operator has it, through a socket. A server that is busy says when to come again.
#[tokio::test]
async fn who_is_busy_is_asked_again_when_it_says_so() {
    let server = Server::new();
    server.put(LEASE, json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {} }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(axum::serve(listener, server.router()).into_future());
    let client = gate::client(kube::Config::new(url.parse().unwrap())).unwrap();
    server.script("GET", "/leases/", Fault::Busy(1), 2);
    server.script("GET", "/leases/", Fault::Status(503), 1);
    let leases: kube::Api<k8s_openapi::api::coordination::v1::Lease> = kube::Api::namespaced(client, "fleet");
    leases.get("muster-operator").await.unwrap();
    let asked = server.asked("GET", "/leases/");
    assert_eq!(asked.len(), 4);
    for pair in asked[..3].windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_secs(1), "{:?}", pair[1] - pair[0]);
    }
    // What is no matter of time is not asked again.
    server.script("GET", "/leases/", Fault::Status(500), 1);
    leases.get("muster-operator").await.unwrap_err();
    assert_eq!(server.asked("GET", "/leases/").len(), 5);
    serving.abort();
}
