use std::time::Duration;

use kube::Client;
use runtime::{Readiness, Shutdown};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::faults::server::{Fault, Server};
use crate::gate;
use crate::object::FINALIZER;
use crate::watch;

/// Where nobody listens: what these tests look at needs no fleet.
const NOWHERE: &str = "http://127.0.0.1:9";

fn key(name: &str) -> Key {
    Key { kind: Kind::Policy, namespace: "fleet".into(), name: name.into() }
}

fn path(name: &str) -> String {
    format!("/apis/muster.dev/v1alpha1/namespaces/fleet/policies/{name}")
}

fn policy(name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "muster.dev/v1alpha1", "kind": "Policy",
        "metadata": { "name": name, "namespace": "fleet", "uid": uid, "generation": 2 },
        "spec": { "kind": "k", "document": {} },
    })
}

/// An operator that knows policies `p` and `q`, which the server has.
struct Rig {
    server: Server,
    operator: Operator,
    muster: Muster,
    stop: Shutdown,
    objects: BTreeMap<Key, Object>,
}

impl Rig {
    async fn new() -> Self {
        let server = Server::new();
        for name in ["p", "q"] {
            server.put(&path(name), policy(name, &format!("uid-{name}")));
        }
        let client = gate::paced(Client::new(server.router(), "fleet"));
        let servers = Servers {
            policy: NOWHERE.into(),
            content: NOWHERE.into(),
            presence: NOWHERE.into(),
            identity: NOWHERE.into(),
            ca: None,
            token: None,
        };
        let muster = Muster::open(&servers).await.unwrap();
        let operator = Operator {
            cluster: Cluster::new(client.clone(), "one"),
            servers,
            objects: Objects::default(),
            prefix: "kubernetes".into(),
            share: None,
        };
        let stop = Shutdown::new();
        let ready = std::sync::Arc::new(Readiness::new().register("kubernetes"));
        for kind in Kind::ALL {
            let from = (client.clone(), kind, None);
            let following =
                watch::follow(from, operator.objects.clone(), std::sync::Arc::clone(&ready), stop.clone());
            tokio::spawn(following);
        }
        let mut rig = Self { server, operator, muster, stop, objects: BTreeMap::new() };
        rig.look().await;
        rig
    }

    /// What the operator knows now.
    async fn look(&mut self) {
        let all = timeout(Duration::from_secs(60), async {
            loop {
                match self.operator.objects.all() {
                    Some(all) => return all,
                    None => sleep(Duration::from_millis(10)).await,
                }
            }
        });
        self.objects = all.await.unwrap();
    }

    fn pass(&self) -> Pass<'_> {
        Pass {
            operator: &self.operator,
            muster: self.muster.clone(),
            objects: &self.objects,
            outcomes: BTreeMap::new(),
            synced: BTreeSet::new(),
            changed: false,
            trouble: None,
        }
    }

    /// A pass that found the same of both.
    async fn tell(&self) -> Result<bool, PassError> {
        let mut pass = self.pass();
        for name in ["p", "q"] {
            let outcome = Outcome::Refused { reason: "Locked", message: "by another".into() };
            pass.outcomes.insert(key(name), outcome);
        }
        pass.tell().await
    }

    fn told(&self, name: &str) -> bool {
        let status = &self.server.get(&path(name)).unwrap()["status"];
        status["observedGeneration"] == 2 && status["conditions"][0]["reason"] == "Locked"
    }

    fn written(&self, name: &str) -> usize {
        self.server.asked("PATCH", &format!("/policies/{name}")).len()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.request();
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_was_not_taken_is_written_by_the_next_pass() {
    for fault in [Fault::Status(409), Fault::Status(500), Fault::Status(422), Fault::Busy(1)] {
        let mut rig = Rig::new().await;
        rig.server.script("PATCH", "/policies/p/status", fault, 1);
        let first = rig.tell().await;
        assert!(matches!(first, Err(PassError::Kubernetes(_))), "{fault:?}: {first:?}");
        // The other object does not wait for it.
        assert_eq!((rig.told("p"), rig.told("q")), (false, true), "{fault:?}");
        rig.look().await;
        assert!(rig.tell().await.unwrap(), "{fault:?}");
        assert!(rig.told("p"), "{fault:?}");
        rig.look().await;
        assert!(!rig.tell().await.unwrap(), "{fault:?}: all is told");
        assert_eq!((rig.written("p"), rig.written("q")), (2, 1), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_falls_silent_is_not_asked_for_each_object() {
    let rig = Rig::new().await;
    rig.server.script("PATCH", "/policies/", Fault::Silence, u32::MAX);
    let begun = Instant::now();
    let done = rig.tell().await;
    assert!(matches!(done, Err(PassError::Kubernetes(_))), "{done:?}");
    assert!(begun.elapsed() <= Duration::from_secs(31), "{:?}", begun.elapsed());
    assert_eq!((rig.written("p"), rig.written("q")), (1, 0));
}

/// An object went and another has its name. Neither is told what was found of the first, and nothing is wrong.
#[tokio::test(start_paused = true)]
async fn what_is_gone_needs_no_status() {
    let rig = Rig::new().await;
    rig.server.remove(&path("p"));
    rig.server.put(&path("p"), policy("p", "another"));
    rig.server.remove(&path("q"));
    assert!(rig.tell().await.unwrap());
    assert!(rig.server.get(&path("p")).unwrap()["status"].is_null());
    assert!(rig.server.get(&path("q")).is_none());
}

/// The fleet, which is nowhere, is not asked for what would not wait at its end.
#[tokio::test(start_paused = true)]
async fn nothing_is_made_for_what_could_not_be_held() {
    for fault in [Fault::Status(409), Fault::Status(500), Fault::Busy(1)] {
        let rig = Rig::new().await;
        rig.server.script("PATCH", "/policies/", fault, 2);
        let plan = || {
            let objects = ["p", "q"].map(|name| (key(name), rig.objects[&key(name)].wanted.clone().unwrap()));
            let batch = Batch { manager: "kubernetes:fleet".into(), objects: objects.into() };
            Plan { hold: vec![key("p"), key("q")], batches: vec![batch], ..Plan::default() }
        };
        let mut pass = rig.pass();
        pass.carry_out(plan()).await.unwrap();
        assert!(!pass.changed && pass.trouble.is_some() && pass.synced.is_empty(), "{fault:?}");
        // Now they can be held, and the fleet is asked for them.
        let mut pass = rig.pass();
        let asked = pass.carry_out(plan()).await;
        assert!(matches!(asked, Err(PassError::Refused(_))), "{asked:?}");
        for name in ["p", "q"] {
            let object = rig.server.get(&path(name)).unwrap();
            assert_eq!(object["metadata"]["finalizers"], json!([FINALIZER]), "{fault:?}");
        }
    }
}
