//! PEM files: certificates, private keys, and when they changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Largest PEM file that is read: a bundle of all CAs that systems trust has 250 KB.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Why a file of certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no PEM file.
    #[error("{} is not a PEM file of {wanted}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// Why it is none.
        source: pem::Error,
    },
    /// There is no certificate in it.
    #[error("{} has no certificate: it should hold PEM blocks that begin with -----BEGIN CERTIFICATE-----", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate in it cannot be used as one of a CA.
    #[error("{} has a certificate that is not one of a CA", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<tokio_rustls::rustls::Error>,
    },
    /// Others may read a private key.
    #[error(
        "the key file {} has mode {mode:04o}: anyone may read it; if nobody else ever could, run chmod o= on it, else replace key and certificate",
        path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_PEM_BYTES).read_to_end(&mut bytes));
    read.map_err(|source| PemError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// The certificates in a PEM file, at least one.
///
/// # Errors
/// [`PemError`] if it cannot be read, is no PEM file, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let wanted = "certificates";
    let found = read.map_err(|source| PemError::Pem { path: path.to_owned(), wanted, source })?;
    if found.is_empty() { Err(PemError::Empty { path: path.to_owned() }) } else { Ok(found) }
}

/// Certificates (DER) as a PEM file has them.
#[must_use]
pub fn pem_of(certificates: &[Vec<u8>]) -> String {
    let blocks: Vec<_> =
        certificates.iter().map(|der| ::pem::Pem::new("CERTIFICATE", der.as_slice())).collect();
    ::pem::encode_many_config(&blocks, ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF))
}

/// The private key in a PEM file that not everybody may read. Its group may: that is how secrets are mounted.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| PemError::Read { path: path.to_owned(), source })?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(PemError::Mode { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| PemError::Pem {
        path: path.to_owned(),
        wanted: "a private key",
        source,
    })
}

/// The CAs in a PEM file.
pub(crate) fn roots(path: &Path) -> Result<Arc<RootCertStore>, PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| PemError::Ca { path: path.to_owned(), source: source.into() })?;
    }
    Ok(Arc::new(roots))
}

/// What tells that files have changed, mounted secrets that are switched by a link included. `None` for what is
/// not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<(u64, u64, SystemTime)>>);

impl Stamp {
    pub(crate) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let stamp = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
        };
        Self(paths.into_iter().map(stamp).collect())
    }
}
