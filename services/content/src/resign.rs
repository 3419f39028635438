//! Signs again what was signed by keys that the fleet trusts no more. A content is what its digest says, whoever signed
//! it; but agents that join after a rotation take only what the keys of today have signed.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::Digest;
use runtime::Shutdown;
use wire::agent::v1::Envelope;
use wire::envelope::{MANIFEST, MAX_SIGNATURES, open_threshold};
use wire::sign::KeySet;

use crate::Refused;
use crate::replica::Replica;
use crate::store::StoreError;

/// Pause before a pass that failed begins again.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// The trust roots cannot be followed any more.
#[derive(Debug, thiserror::Error)]
#[error("the trust roots cannot be followed any more: the connection is closed")]
pub(crate) struct RootsGone;

/// Looks through all revisions at the start and after each trust root that names other keys for content.
pub(crate) async fn run(replica: &Replica) -> Result<(), RootsGone> {
    tokio::select! {
        ended = follow(replica, &replica.shutdown) => ended,
        () = replica.shutdown.requested() => Ok(()),
    }
}

async fn follow(replica: &Replica, shutdown: &Shutdown) -> Result<(), RootsGone> {
    replica.catalogue.loaded().await;
    let mut roots = replica.store.roots.changes();
    let mut done = None;
    while !shutdown.is_requested() {
        roots.mark_unchanged();
        let keys = replica.store.roots.content();
        if done.as_ref() != Some(&keys) {
            match pass(replica, &keys).await {
                Ok(signed) => {
                    tracing::info!(signed, "all contents are signed by keys that count");
                    done = Some(keys);
                }
                Err(error) => {
                    let Refused(status) = error;
                    tracing::warn!(
                        error = status.message(),
                        "contents could not all be signed anew: trying again"
                    );
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
        }
        roots.changed().await.map_err(|_| RootsGone)?;
    }
    Ok(())
}

/// How many manifests were signed anew.
async fn pass(replica: &Replica, keys: &KeySet) -> Result<usize, Refused> {
    if !keys.keys.contains(&replica.store.key.public_key()) {
        // Another replica has the right key, or an operator is on the way with it.
        tracing::warn!(
            "the content key of this process is not one that the fleet's trust root names: nothing new can be signed"
        );
        return Ok(0);
    }
    let catalog = replica.catalogue.current();
    let manifests: BTreeSet<Digest> = catalog
        .channels()
        .flat_map(|channel| {
            catalog.content_revisions(&channel.value.name).map(|revision| revision.value.manifest)
        })
        .collect();
    let mut signed = 0;
    for manifest in manifests {
        signed += usize::from(sign(replica, &manifest, keys).await?);
    }
    Ok(signed)
}

/// Adds the signature of this process where those that are there do not suffice. What needs the signatures of further
/// keys waits for them.
async fn sign(replica: &Replica, manifest: &Digest, keys: &KeySet) -> Result<bool, Refused> {
    let Some(bytes) = replica.store.envelope(manifest).await? else { return Ok(false) };
    let Ok(stored) = wire::envelope::parse_shared(&bytes) else { return Ok(false) };
    if Digest::of(&stored.payload) != *manifest || is_enough(&stored, keys) {
        return Ok(false);
    }
    let signed = with_own(replica, stored, keys)?;
    if !is_enough(&signed, keys) {
        tracing::warn!(%manifest, "a content needs the signatures of further keys before new agents take it");
    }
    replica.store.put_manifest(manifest, &signed).await?;
    resign_index(replica, manifest).await?;
    Ok(true)
}

/// Whether agents that join now take a manifest with these signatures.
pub(crate) fn is_enough(envelope: &Envelope, keys: &KeySet) -> bool {
    open_threshold(envelope, MANIFEST, &keys.keys, keys.threshold).is_ok()
}

/// The envelope with the signature of this process before those that it has, as far as they count: what does not hold
/// would only stand in the way.
pub(crate) fn with_own(replica: &Replica, stored: Envelope, keys: &KeySet) -> Result<Envelope, StoreError> {
    let own = wire::envelope::seal_by(MANIFEST, stored.payload.to_vec(), &*replica.store.key)?;
    let mut signatures = Vec::new();
    for signature in own.signatures.into_iter().chain(stored.signatures.clone()) {
        let alone = Envelope { signatures: vec![signature.clone()], ..stored.clone() };
        if !signatures.contains(&signature) && open_threshold(&alone, MANIFEST, &keys.keys, 1).is_ok() {
            signatures.push(signature);
        }
    }
    signatures.truncate(MAX_SIGNATURES);
    Ok(Envelope { signatures, ..stored })
}

/// An index that a key of before signed still says the truth: it is checked against the manifest.
async fn resign_index(replica: &Replica, name: &Digest) -> Result<(), Refused> {
    let Some(manifest) = replica.store.manifest(name).await? else { return Ok(()) };
    let known = replica.store.roots.known();
    let before: Vec<_> = known
        .iter()
        .flat_map(|known| known.chain.roots())
        .flat_map(|root| KeySet::of("content_keys", &root.content).unwrap_or_default().keys)
        .collect();
    let stored = replica.store.index_signed_by(name, &manifest, &before).await?;
    if let Some(index) = &stored.index {
        // If another replica was quicker, theirs is signed by a key that counts.
        replica.store.put_index(index, stored.sequence).await?;
    }
    Ok(())
}
