//! The Kubernetes API: what there is, and what is written there, by one field manager. Finalizers and statuses go by
//! server-side apply, which names the object by uid, so that nothing is made again that is gone. A Secret is made by POST, so
//! that one of somebody else is not written over, and filled anew by a merge patch, which makes none.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use serde_json::json;

use crate::object::{FINALIZER, Key, Kind, Object};
use crate::status::Status;
use crate::tokens::{Held, secret_name};

/// Who writes, in `managedFields`.
pub(crate) const FIELD_MANAGER: &str = "muster-operator";
/// Says in a Secret which token it holds.
const TOKEN: &str = "muster.dev/token";
/// Says in a Secret for what spec its token was made.
const SPEC: &str = "muster.dev/spec-sha256";
/// Key of the join token in a Secret.
const KEY: &str = "token";
/// Longest note of an event, in bytes: Kubernetes takes 1 KiB.
const MAX_NOTE_BYTES: usize = 1_000;

/// Access to the objects.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    recorder: Recorder,
}

impl Cluster {
    /// `instance` is who we are in events.
    pub(crate) fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(instance.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, recorder }
    }

    fn api(&self, key: &Key) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &key.kind.resource())
    }

    /// Has an object wait for us at its end, or not any more. Answers whether it was there to be written.
    pub(crate) async fn hold(&self, object: &Object, held: bool) -> Result<bool, Error> {
        let finalizers: &[&str] = if held { &[FINALIZER] } else { &[] };
        let patch = json!({
            "apiVersion": format!("{}/{}", Kind::GROUP, Kind::VERSION),
            "kind": object.key.kind.name(),
            "metadata": { "name": object.key.name, "uid": object.uid, "finalizers": finalizers },
        });
        let params = PatchParams::apply(FIELD_MANAGER);
        was_there(self.api(&object.key).patch(&object.key.name, &params, &Patch::Apply(&patch)).await)
    }

    /// Writes the status of an object. Answers whether it was there to be written.
    pub(crate) async fn tell(&self, object: &Object, status: &Status) -> Result<bool, Error> {
        let patch = json!({
            "apiVersion": format!("{}/{}", Kind::GROUP, Kind::VERSION),
            "kind": object.key.kind.name(),
            "metadata": { "name": object.key.name, "uid": object.uid },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        was_there(self.api(&object.key).patch_status(&object.key.name, &params, &Patch::Apply(&patch)).await)
    }

    /// Tells whoever looks at the object what happened.
    pub(crate) async fn event(&self, object: &Object, (good, reason): (bool, &str), note: &str) {
        let event = Event {
            type_: if good { EventType::Normal } else { EventType::Warning },
            reason: reason.to_owned(),
            note: Some(note[..note.floor_char_boundary(MAX_NOTE_BYTES)].to_owned()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some(format!("{}/{}", Kind::GROUP, Kind::VERSION)),
            kind: Some(object.key.kind.name().to_owned()),
            name: Some(object.key.name.clone()),
            namespace: Some(object.key.namespace.clone()),
            uid: Some(object.uid.clone()),
            ..ObjectReference::default()
        };
        if let Err(error) = self.recorder.publish(&event, &about).await {
            tracing::debug!(%error, object = %object.key, "an event could not be told");
        }
    }

    fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// What the Secret of an EnrollmentToken holds.
    pub(crate) async fn held(&self, object: &Object) -> Result<Held, Error> {
        let name = secret_name(&object.key.name);
        let Some(secret) = self.secrets(&object.key.namespace).get_opt(&name).await? else {
            return Ok(Held::default());
        };
        let annotations = secret.metadata.annotations.unwrap_or_default();
        let said = |name: &str| annotations.get(name).cloned().unwrap_or_default();
        let owners = secret.metadata.owner_references.unwrap_or_default();
        Ok(Held {
            exists: true,
            ours: owners.iter().any(|owner| owner.uid == object.uid),
            token: said(TOKEN),
            spec: said(SPEC),
            filled: secret.data.is_some_and(|data| data.get(KEY).is_some_and(|token| !token.0.is_empty())),
        })
    }

    /// Puts a token into the Secret of an EnrollmentToken. One that is not there is made, with the EnrollmentToken as its
    /// owner; one of somebody else is left alone.
    pub(crate) async fn fill(
        &self,
        object: &Object,
        held: &Held,
        (token, spec, secret): (&str, &str, &str),
    ) -> Result<(), Error> {
        let annotations =
            BTreeMap::from([(TOKEN.to_owned(), token.to_owned()), (SPEC.to_owned(), spec.to_owned())]);
        let name = secret_name(&object.key.name);
        let wanted = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": object.key.namespace,
                "annotations": annotations,
                "labels": { "app.kubernetes.io/managed-by": FIELD_MANAGER },
                "ownerReferences": [{
                    "apiVersion": format!("{}/{}", Kind::GROUP, Kind::VERSION),
                    "kind": object.key.kind.name(),
                    "name": object.key.name,
                    "uid": object.uid,
                    "controller": true,
                }],
            },
            "stringData": { KEY: secret },
        });
        let secrets = self.secrets(&object.key.namespace);
        if held.exists {
            let params =
                PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            return secrets.patch(&name, &params, &Patch::Merge(&wanted)).await.map(drop);
        }
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let secret: Secret = serde_json::from_value(wanted).map_err(Error::SerdeError)?;
        secrets.create(&params, &secret).await.map(drop)
    }
}

/// What is gone, or another by that name, needs nothing any more. Any other conflict is of somebody who wrote at the same
/// time: an error, so that nobody takes for written what is not.
fn was_there<T>(done: Result<T, Error>) -> Result<bool, Error> {
    match done {
        Ok(_) => Ok(true),
        Err(Error::Api(answer)) if answer.code == 404 || is_about_uid(&answer) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a conflict is that there is no object of the uid that we named.
fn is_about_uid(answer: &kube::core::Status) -> bool {
    answer.code == 409 && answer.message.to_lowercase().contains("uid ")
}

/// Whether there was no answer at all: then the next request will have none either.
pub(crate) fn is_silence(error: &Error) -> bool {
    matches!(error, Error::Service(_) | Error::HyperError(_))
}

/// The HTTP status that the API server answered with.
pub(crate) fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(answer) => Some(answer.code),
        _ => None,
    }
}
