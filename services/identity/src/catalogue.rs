//! The part of the catalogue that this service decides on: groups, tokens of both sorts and the epoch.

use domain::access::Caller;
use runtime::Nats;
use runtime::store::{Author, Catalogue};
use wire::subject::StoreKey;

pub(crate) fn new(nats: Nats) -> Catalogue {
    Catalogue::new(nats, |key, body| match key {
        StoreKey::Group(_) | StoreKey::Token(_) | StoreKey::ApiToken(_) | StoreKey::Epoch => {
            Some(wire::catalog::read(key, body))
        }
        // Large, or none of this service's business.
        StoreKey::Kind(_)
        | StoreKey::Policy(_)
        | StoreKey::Channel(_)
        | StoreKey::Content(..)
        | StoreKey::Uploads
        | StoreKey::Sweep => None,
    })
}

pub(crate) fn author(caller: &Caller, message: &str) -> Author {
    Author { actor: caller.name.clone(), message: message.to_owned(), trace_id: None }
}
