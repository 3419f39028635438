//! Where the broker is and who vouches for it, signed for agents that have joined.

use std::sync::{Mutex, PoisonError};

use runtime::clock;
use wire::agent::v1::Envelope;
use wire::broker::Broker;

use crate::{Shared, assign};

/// Signed once for each trust root: what is signed changes with the options of this process only.
#[derive(Default)]
pub(crate) struct SignedBroker(Mutex<Option<(u64, Envelope)>>);

impl SignedBroker {
    /// `None` while agents would not believe what this replica signs; they keep what they know.
    pub(crate) fn get(&self, shared: &Shared) -> Option<Envelope> {
        if !assign::may_sign(shared) {
            return None;
        }
        let version = shared.roots.version();
        let mut signed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, envelope)) = signed.as_ref().filter(|(of, _)| *of == version) {
            return Some(envelope.clone());
        }
        let broker = Broker {
            fleet: shared.fleet.clone(),
            issued_at: clock::now(),
            servers: shared.trust.servers().to_vec(),
            trust: shared.trust.broker().clone(),
        };
        let payload = wire::broker::encode(&broker);
        match wire::envelope::seal_by(wire::envelope::BROKER, payload, &*shared.director) {
            Ok(envelope) => Some(signed.insert((version, envelope)).1.clone()),
            Err(error) => {
                tracing::warn!(%error, "where the broker is could not be signed: agents keep what they know");
                None
            }
        }
    }
}
