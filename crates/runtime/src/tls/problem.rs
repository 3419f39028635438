//! What a failed handshake says to people.

use std::error::Error;

use tokio_rustls::rustls::{self, AlertDescription, CertificateError, InvalidMessage};

/// What is wrong with a connection and what to do about it, if the cause is TLS.
pub(crate) fn tls_problem(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let within = within.map(|inner| inner as &(dyn Error + 'static));
        if let Some(found) = error.downcast_ref().or_else(|| within?.downcast_ref()) {
            return Some(explain(found));
        }
        next = within.and_then(Error::source).or_else(|| error.source());
    }
    None
}

fn explain(error: &rustls::Error) -> &'static str {
    use CertificateError as Wrong;
    match error {
        rustls::Error::InvalidCertificate(Wrong::UnknownIssuer | Wrong::BadSignature) => {
            "its certificate is not from a CA that is trusted here"
        }
        rustls::Error::InvalidCertificate(Wrong::NotValidForName | Wrong::NotValidForNameContext { .. }) => {
            "its certificate is for other names than the one in the URL"
        }
        rustls::Error::InvalidCertificate(Wrong::Expired | Wrong::ExpiredContext { .. }) => {
            "its certificate has expired, or the clock here is wrong"
        }
        rustls::Error::InvalidCertificate(Wrong::NotValidYet | Wrong::NotValidYetContext { .. }) => {
            "its certificate is not valid yet, or the clock here is wrong"
        }
        rustls::Error::InvalidCertificate(_) => "its certificate cannot be verified",
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS, or not from the first byte on"
        }
        rustls::Error::PeerIncompatible(_) => "it speaks no version of TLS that is safe",
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a client certificate: give one with --nats-cert and --nats-key"
        }
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => {
            "it does not accept our client certificate (--nats-cert): is it of another CA, or has it expired?"
        }
        rustls::Error::AlertReceived(_) => "it refused the TLS handshake; does it want a client certificate?",
        _ => "the TLS handshake failed",
    }
}
