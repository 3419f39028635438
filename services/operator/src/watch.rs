//! The objects of Kubernetes, followed. Watches that break off begin again by themselves, with a pause that grows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt as _};
use runtime::{Condition, Shutdown};
use tokio::sync::Notify;

use crate::cluster::code;
use crate::object::{Key, Kind, Object};
use crate::status::Status;

/// All objects that are followed.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    inner: Arc<Mutex<Inner>>,
    /// Told when something has changed that a pass is about.
    pub(crate) wake: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Object>,
    /// Kinds whose first list is complete.
    loaded: BTreeSet<Kind>,
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is behind it is whole between any two statements.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All objects, once all kinds were listed.
    pub(crate) fn all(&self) -> Option<BTreeMap<Key, Object>> {
        let inner = self.lock();
        (inner.loaded.len() == Kind::ALL.len()).then(|| inner.objects.clone())
    }

    /// What was written, until the watch says the same.
    pub(crate) fn told(&self, object: &Object, status: &Status) {
        if let Some(there) = self.lock().objects.get_mut(&object.key).filter(|there| there.uid == object.uid)
        {
            there.status = status.clone();
        }
    }

    fn put(&self, object: Object) {
        // A status alone is what we wrote ourselves.
        let about = |it: &Object| Object { status: Status::default(), ..it.clone() };
        let wanted = about(&object);
        let before = self.lock().objects.insert(object.key.clone(), object);
        if before.as_ref().map(about) != Some(wanted) {
            self.wake.notify_one();
        }
    }

    fn remove(&self, key: &Key) {
        self.lock().objects.remove(key);
        self.wake.notify_one();
    }

    fn replace(&self, kind: Kind, all: BTreeMap<Key, Object>) -> bool {
        let mut inner = self.lock();
        inner.objects.retain(|key, _| key.kind != kind);
        inner.objects.extend(all);
        inner.loaded.insert(kind);
        self.wake.notify_one();
        inner.loaded.len() == Kind::ALL.len()
    }
}

/// Follows the objects of one kind, in one namespace or in all, until it is told to stop.
pub(crate) async fn follow(
    (client, kind, namespace): (Client, Kind, Option<String>),
    objects: Objects,
    ready: Arc<Condition>,
    stop: Shutdown,
) {
    let resource = kind.resource();
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client, &namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let mut listed: BTreeMap<Key, Object> = BTreeMap::new();
    while !stop.is_requested() {
        let events = watcher(api.clone(), watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(stop.until(events));
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    if take((kind, event), &mut listed, &objects) {
                        ready.set_ready();
                    }
                    continue;
                }
                Err(error) => error,
            };
            // It begins again by itself; who asks for what it may not see has to be told.
            tracing::warn!(
                kind = kind.name(),
                error = runtime::log::chain(&error),
                "objects cannot be followed"
            );
            if is_expired(&error) {
                break;
            }
        }
    }
}

/// Keeps what an event tells. Answers whether it has made the objects of all kinds known.
fn take(
    (kind, event): (Kind, watcher::Event<DynamicObject>),
    listed: &mut BTreeMap<Key, Object>,
    objects: &Objects,
) -> bool {
    match event {
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(object) => {
            listed.extend(Object::read(kind, &object).map(|object| (object.key.clone(), object)));
        }
        watcher::Event::InitDone => return objects.replace(kind, std::mem::take(listed)),
        watcher::Event::Apply(object) => {
            Object::read(kind, &object).into_iter().for_each(|it| objects.put(it));
        }
        watcher::Event::Delete(object) => {
            let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
            objects.remove(&Key { kind, namespace, name });
        }
    }
    false
}

/// Whether a watch was refused for the version that it wants to go on from: the watcher would ask for it for ever. One
/// that is told so by an event lists anew by itself.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(error) if code(error) == Some(410))
}
