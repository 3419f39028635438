//! The part of the catalogue that this service decides on: groups, tokens and the epoch.

use runtime::Nats;
use runtime::store::{Author, Catalogue};
use wire::subject::StoreKey;

/// Who changes the catalogue when an operator asks this service to. Operators have no names yet.
const ACTOR: &str = "operator";

pub(crate) fn new(nats: Nats) -> Catalogue {
    Catalogue::new(nats, |key, body| match key {
        StoreKey::Group(_) | StoreKey::Token(_) | StoreKey::Epoch => Some(wire::catalog::read(key, body)),
        // Large, or none of this service's business.
        StoreKey::Kind(_)
        | StoreKey::Policy(_)
        | StoreKey::Channel(_)
        | StoreKey::Content(..)
        | StoreKey::Uploads
        | StoreKey::Sweep => None,
    })
}

pub(crate) fn author(message: &str) -> Author {
    Author { actor: ACTOR.to_owned(), message: message.to_owned(), trace_id: None }
}
