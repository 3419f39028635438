//! A CA for a control plane on one machine: made at the first start, it vouches for the listener and the broker, so
//! that TLS needs no preparation.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use domain::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};

use super::files::{PemError, certificates, roots};
use super::listener::{ListenerTls, TlsFiles};

/// How long the CA is good for: longer than the machine.
const CA_VALIDITY: Duration = Duration::from_hours(10 * 365 * 24);

/// How long a certificate is good for, as is usual for those that renew themselves.
const VALIDITY: Duration = Duration::from_hours(90 * 24);

/// A certificate is renewed when it has less than this left: a process that could not for a month has other troubles.
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

/// Certificates are good from this long ago, for clients whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_hours(1);

/// Names that every certificate has: how processes on the same machine reach it.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The name of the CA; the start of its key's digest follows, so that two of them are told apart.
const CA_NAME: &str = "Muster local CA";

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const CERT: &str = "server.pem";
const KEY: &str = "server.key";

/// Why the local CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalCaError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// "create", "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The CA's certificate is there and its key is not.
    #[error(
        "{} has a certificate and no key: restore {CA_KEY} beside it, or remove {CA} to get a new CA (clients and agents then need the new {CA})",
        path.display()
    )]
    KeyMissing {
        /// The certificate.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("a certificate cannot be used")]
    Pem(#[from] PemError),
    /// A key or certificate cannot be made or read.
    #[error("{} cannot be used by the local CA", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rcgen::Error,
    },
    /// A name is neither a host name nor an IP address.
    #[error("{name:?} is neither a host name nor an IP address that a certificate can be made for")]
    Name {
        /// The name.
        name: String,
    },
}

/// A CA in a directory of its own, and the certificate it made for this machine.
#[derive(Debug)]
pub struct LocalCa {
    dir: PathBuf,
    names: Vec<ServerName<'static>>,
    texts: Vec<String>,
}

impl LocalCa {
    /// Makes the CA and a certificate for `names` (host names and addresses, beside those of every machine), unless
    /// they are there.
    ///
    /// # Errors
    /// [`LocalCaError`] if a file cannot be used or a name is none.
    pub fn open(dir: impl Into<PathBuf>, names: &[String]) -> Result<Self, LocalCaError> {
        let dir = dir.into();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| LocalCaError::File { action: "create", path: dir.clone(), source })?;
        let mut texts: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
        texts.extend(names.iter().filter(|name| !LOCAL_NAMES.contains(&name.as_str())).cloned());
        let parse = |name: &String| {
            ServerName::try_from(name.clone()).map_err(|_| LocalCaError::Name { name: name.clone() })
        };
        let names = texts.iter().map(parse).collect::<Result<_, _>>()?;
        let ca = Self { dir, names, texts };
        ca.ensure_ca()?;
        ca.renew_if_due()?;
        Ok(ca)
    }

    /// The file with the CA's certificate, for those who verify.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join(CA)
    }

    /// The files of the certificate for this machine.
    #[must_use]
    pub fn files(&self) -> TlsFiles {
        TlsFiles { cert: self.dir.join(CERT), key: self.dir.join(KEY), client_ca: None }
    }

    /// Makes a new certificate when the one that is there ends within a month, or is not what it should be. True if
    /// it did.
    ///
    /// # Errors
    /// [`LocalCaError`] if a file cannot be used.
    pub fn renew_if_due(&self) -> Result<bool, LocalCaError> {
        let due = !self.will_hold(SystemTime::now() + RENEW_BEFORE);
        if due {
            self.issue(SystemTime::now())?;
            tracing::info!(names = self.texts.join(","), "made a certificate for this machine");
        }
        Ok(due)
    }

    /// Whether clients that verify with this CA will accept the certificate at a moment, under each name.
    fn will_hold(&self, at: SystemTime) -> bool {
        let Ok(roots) = roots(&self.ca()) else { return false };
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, super::provider()).build();
        let (Ok(verifier), Ok(chain)) = (verifier, certificates(&self.dir.join(CERT))) else { return false };
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(since);
        let holds = |name| verifier.verify_server_cert(&chain[0], &chain[1..], name, &[], at).is_ok();
        self.names.iter().all(holds) && ListenerTls::load(self.files()).is_ok()
    }

    fn ensure_ca(&self) -> Result<(), LocalCaError> {
        let (cert, key) = (self.dir.join(CA), self.dir.join(CA_KEY));
        let there = |path: &Path| {
            let seen = path.try_exists();
            seen.map_err(|source| LocalCaError::File { action: "read", path: path.to_owned(), source })
        };
        match (there(&cert)?, there(&key)?) {
            (true, true) => return certificates(&cert).map(drop).map_err(Into::into),
            (true, false) => return Err(LocalCaError::KeyMissing { path: cert }),
            (false, true) => {}
            (false, false) => {
                let made = KeyPair::generate().map_err(at(&key))?;
                write(&key, made.serialize_pem().as_bytes(), 0o600)?;
            }
        }
        // The key comes first: one without a certificate is a start that was cut, and gets its certificate now.
        let key = self.ca_key()?;
        let certificate = ca_params(SystemTime::now(), &key).self_signed(&key).map_err(at(&cert))?;
        write(&cert, certificate.pem().as_bytes(), 0o644)?;
        tracing::info!(path = %cert.display(), "made a CA for this machine");
        Ok(())
    }

    fn ca_key(&self) -> Result<KeyPair, LocalCaError> {
        let path = self.dir.join(CA_KEY);
        let text = std::fs::read_to_string(&path).map_err(|source| LocalCaError::File {
            action: "read",
            path: path.clone(),
            source,
        })?;
        KeyPair::from_pem(&text).map_err(at(&path))
    }

    pub(super) fn issue(&self, now: SystemTime) -> Result<(), LocalCaError> {
        let files = self.files();
        let key = KeyPair::generate().map_err(at(&files.key))?;
        let mut params = CertificateParams::new(self.texts.clone()).map_err(at(&files.cert))?;
        params.distinguished_name = name("Muster");
        (params.not_before, params.not_after) = validity(now, VALIDITY);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // NATS servers of a cluster are each other's clients, with the same certificate.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        // Only name and key of an issuer go into what it issues.
        let authority = self.ca_key()?;
        let issuer = Issuer::new(ca_params(now, &authority), authority);
        let certificate = params.signed_by(&key, &issuer).map_err(at(&files.cert))?;
        write(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
        write(&files.cert, certificate.pem().as_bytes(), 0o644)
    }
}

fn name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn ca_params(now: SystemTime, key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let digest = Digest::of(key.public_key_raw()).to_string();
    params.distinguished_name = name(&format!("{CA_NAME} {}", &digest[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(now, CA_VALIDITY);
    params
}

fn validity(now: SystemTime, validity: Duration) -> (OffsetDateTime, OffsetDateTime) {
    ((now - CLOCK_SKEW).into(), (now + validity).into())
}

fn at(path: &Path) -> impl FnOnce(rcgen::Error) -> LocalCaError + use<'_> {
    |source| LocalCaError::Certificate { path: path.to_owned(), source }
}

/// Replaces a file as a whole.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), LocalCaError> {
    let draft = path.with_extension("draft");
    let written = (|| {
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    })();
    written.map_err(|source| LocalCaError::File { action: "write", path: path.to_owned(), source })
}
