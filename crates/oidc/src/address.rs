//! Addresses that a provider may have: with TLS, or on this machine.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;

/// Longest address, in bytes: that of an issuer travels in every token.
const MAX_BYTES: usize = 1024;

/// Why a text is no address of a provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no URL, or one that cannot be asked.
    #[error("must be a URL such as https://login.example.com/realm, of at most {MAX_BYTES} bytes")]
    NotAUrl,
    /// Others would read and change what travels.
    #[error("must begin with https://; http:// is for a provider on this machine")]
    Plaintext,
    /// An issuer is a name; it has neither.
    #[error("must have neither a query (?) nor a fragment (#)")]
    Query,
}

/// An address that may be asked: `https://…`, or `http://…` on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    uri: Uri,
    text: String,
}

impl Address {
    /// Whether requests go over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// Host and port as they stand in the address.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// The address as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let readable = text.len() <= MAX_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
        let uri: Option<Uri> = text.parse().ok().filter(|_| readable);
        let uri = uri.ok_or(AddressError::NotAUrl)?;
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        // A login in an address would be sent to whoever the address names.
        if uri.host().is_none_or(str::is_empty) || authority.contains('@') {
            return Err(AddressError::NotAUrl);
        }
        let address = Self { uri, text: text.to_owned() };
        match address.uri.scheme_str() {
            Some("https") => Ok(address),
            Some("http") if is_loopback(address.host()) => Ok(address),
            Some("http") => Err(AddressError::Plaintext),
            Some(_) | None => Err(AddressError::NotAUrl),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// The name of a provider, which is the address that its document is found below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer(Address);

impl Issuer {
    /// The name, exactly as tokens carry it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Where its document lies (OpenID Connect Discovery 1.0, section 4).
    ///
    /// # Errors
    /// [`AddressError`] if the name is too long for that.
    pub(crate) fn document(&self) -> Result<Address, AddressError> {
        format!("{}/.well-known/openid-configuration", self.as_str().trim_end_matches('/')).parse()
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Issuer {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains(['?', '#']) {
            return Err(AddressError::Query);
        }
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_on_this_machine() {
        for text in
            ["https://login.example.com", "http://127.0.0.1:3000/x", "http://[::1]:1", "http://localhost"]
        {
            assert_eq!(text.parse::<Issuer>().map(|issuer| issuer.to_string()).as_deref(), Ok(text));
        }
        for (text, expected) in [
            ("http://login.example.com", AddressError::Plaintext),
            ("http://localhost.evil", AddressError::Plaintext),
            ("http://127.0.0.1.evil", AddressError::Plaintext),
            ("http://127.0.0.1@evil", AddressError::NotAUrl),
            ("ftp://127.0.0.1", AddressError::NotAUrl),
            ("login.example.com", AddressError::NotAUrl),
            ("https://", AddressError::NotAUrl),
            ("https://a b", AddressError::NotAUrl),
            ("", AddressError::NotAUrl),
            ("https://a?b", AddressError::Query),
            ("https://a#b", AddressError::Query),
        ] {
            assert_eq!(text.parse::<Issuer>(), Err(expected), "{text}");
        }
        assert_eq!(
            format!("https://{}", "a".repeat(MAX_BYTES)).parse::<Issuer>(),
            Err(AddressError::NotAUrl)
        );
    }

    #[test]
    fn a_document_lies_below_its_issuer() {
        for (issuer, document) in [
            ("https://a", "https://a/.well-known/openid-configuration"),
            ("https://a/", "https://a/.well-known/openid-configuration"),
            ("https://a:8443/realms/x", "https://a:8443/realms/x/.well-known/openid-configuration"),
        ] {
            let found = issuer.parse::<Issuer>().unwrap().document().unwrap();
            assert_eq!(found.as_str(), document);
        }
        let address: Address = "https://[::1]:8443/a?b=c".parse().unwrap();
        assert_eq!((address.host(), address.port(), address.path()), ("::1", 8443, "/a?b=c"));
    }
}
