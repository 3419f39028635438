//! What a provider says of itself (OpenID Connect Discovery 1.0).

use serde::Deserialize;

use crate::address::{Address, AddressError, Issuer};
use crate::http::{Answer, Http, HttpError};
use crate::keys::{Keys, KeysError};

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It did not answer.
    #[error("the provider cannot be asked")]
    Http(#[from] HttpError),
    /// It answered with something else.
    #[error("{what} of {issuer} is not there: HTTP status {status}")]
    Status {
        /// What was asked for.
        what: &'static str,
        /// Whose.
        issuer: String,
        /// The answer.
        status: u16,
    },
    /// Its document makes no sense.
    #[error("the document of {issuer} cannot be read")]
    Document {
        /// Whose.
        issuer: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// Its document is about somebody else.
    #[error("the document of {issuer} is that of {found:?}: the two must be the same, letter by letter")]
    Issuer {
        /// Who was asked.
        issuer: String,
        /// Who answers.
        found: String,
    },
    /// It names an address that is not asked.
    #[error("{what} of {issuer} {source}")]
    Address {
        /// What it is the address of.
        what: &'static str,
        /// Whose.
        issuer: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// Its keys cannot be used.
    #[error("the keys of {issuer} cannot be used")]
    Keys {
        /// Whose.
        issuer: String,
        /// Why not.
        source: KeysError,
    },
}

/// A provider and what it can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    issuer: Issuer,
    keys: Address,
    /// Where people are sent to log in.
    pub authorization: Option<Address>,
    /// Where tokens are fetched.
    pub token: Option<Address>,
    /// Where a login on another device begins (RFC 8628).
    pub device_authorization: Option<Address>,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
}

impl Provider {
    /// Asks a provider for its document.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn discover(http: &Http, issuer: &Issuer) -> Result<Self, ProviderError> {
        let wrong =
            |source| ProviderError::Address { what: "the document", issuer: issuer.to_string(), source };
        let answer = http.get(&issuer.document().map_err(wrong)?).await?;
        Self::read(issuer, &found(answer, "the document", issuer)?)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`ProviderError`] if it is another provider's, or names addresses that are not asked.
    pub fn read(issuer: &Issuer, document: &[u8]) -> Result<Self, ProviderError> {
        let name = || issuer.to_string();
        let document: Document = serde_json::from_slice(document)
            .map_err(|source| ProviderError::Document { issuer: name(), source })?;
        if document.issuer != issuer.as_str() {
            return Err(ProviderError::Issuer { issuer: name(), found: document.issuer });
        }
        let address = |what: &'static str, text: &str| {
            text.parse().map_err(|source| ProviderError::Address { what, issuer: name(), source })
        };
        let some = |what, text: Option<String>| text.map(|text| address(what, &text)).transpose();
        Ok(Self {
            keys: address("jwks_uri", &document.jwks_uri)?,
            authorization: some("authorization_endpoint", document.authorization_endpoint)?,
            token: some("token_endpoint", document.token_endpoint)?,
            device_authorization: some(
                "device_authorization_endpoint",
                document.device_authorization_endpoint,
            )?,
            issuer: issuer.clone(),
        })
    }

    /// Fetches the keys that it signs with.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn keys(&self, http: &Http) -> Result<Keys, ProviderError> {
        let answer = http.get(&self.keys).await?;
        let keys = Keys::read(&found(answer, "jwks_uri", &self.issuer)?);
        keys.map_err(|source| ProviderError::Keys { issuer: self.issuer.to_string(), source })
    }
}

fn found(answer: Answer, what: &'static str, issuer: &Issuer) -> Result<bytes::Bytes, ProviderError> {
    match answer.status {
        200 => Ok(answer.body),
        status => Err(ProviderError::Status { what, issuer: issuer.to_string(), status }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_its_providers_and_leads_nowhere_unsafe() {
        let check = |document: &str, expected: Result<(), &str>| {
            let issuer: Issuer = "https://a/x".parse().unwrap();
            match (Provider::read(&issuer, document.as_bytes()), expected) {
                (Ok(_), Ok(())) => {}
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
        };
        check(r#"{"issuer": "https://a/x", "jwks_uri": "https://b/keys"}"#, Ok(()));
        check(r#"{"issuer": "https://a/x/", "jwks_uri": "https://b/keys"}"#, Err("letter by letter"));
        check(
            r#"{"issuer": "https://a/x", "jwks_uri": "http://b/keys"}"#,
            Err("jwks_uri of https://a/x must begin"),
        );
        check(r#"{"issuer": "https://a/x"}"#, Err("cannot be read"));
        check("<html>", Err("cannot be read"));
        let document = r#"{"issuer": "https://a/x", "jwks_uri": "https://b", "token_endpoint": "http://b"}"#;
        check(document, Err("token_endpoint"));
    }
}
