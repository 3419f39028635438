//! An OpenID provider, as those who ask it meet it: its document and its keys, tokens that it signed, and the few
//! requests of HTTP that takes.
//!
//! The gate of the services reads keys and verifies tokens; the command line fetches tokens and reads none. What a
//! token allows is decided in `domain::access`.

mod address;
mod http;
mod keys;
mod provider;
mod random;
mod token;

pub use address::{Address, AddressError, Issuer};
pub use http::{Answer, Http, HttpError, MAX_ANSWER_BYTES, TIMEOUT};
pub use keys::{Keys, KeysError, MAX_KEYS};
pub use provider::{Provider, ProviderError};
pub use random::{RandomError, code_challenge, secret};
pub use token::{Algorithm, MAX_TOKEN_BYTES, Token, TokenError};

/// Fields of a form or a query, as they travel.
#[must_use]
pub fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// The fields in a form or a query.
pub fn fields(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    form_urlencoded::parse(text.as_bytes()).into_owned()
}
