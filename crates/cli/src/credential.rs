//! What the command line shows a server to be let in: an API token.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::failure::Failure;

/// Largest token file, in bytes: it holds one line.
const MAX_FILE_BYTES: u64 = 8 << 10;
/// The variable that holds a token itself, where a file is not to be had.
const TOKEN: &str = "MUSTER_TOKEN";

/// A credential, or none. `Debug` hides it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credential(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Credential(..)" } else { "Credential(none)" })
    }
}

/// Looks for a credential: the file that was named, else the environment, else the file of the configuration.
pub(crate) fn find(named: Option<PathBuf>, configured: Option<PathBuf>) -> Result<Credential, Failure> {
    let from_environment = || std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    match (named, from_environment(), configured) {
        (Some(file), _, _) | (None, None, Some(file)) => read(&file),
        (None, Some(token), _) => Credential::new(&token, TOKEN),
        (None, None, None) => Ok(Credential::default()),
    }
}

fn read(path: &Path) -> Result<Credential, Failure> {
    let name = path.display().to_string();
    let metadata = std::fs::metadata(path);
    let metadata = metadata.map_err(|source| Failure::Read { name: name.clone(), source })?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Failure::Usage(format!(
            "{name} has mode {mode:04o}, so that others may read the token in it: revoke it if they could, and \
             run chmod 600"
        )));
    }
    let bytes = crate::manifests::read_bounded(path, MAX_FILE_BYTES)?;
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    Credential::new(text, &name)
}

impl Credential {
    /// The credential in `text`, which came from `origin`.
    pub(crate) fn new(text: &str, origin: &str) -> Result<Self, Failure> {
        let wrong = || Failure::Usage(format!("{origin} holds no token: it should be one line of text"));
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || text.len() as u64 > MAX_FILE_BYTES {
            return Err(wrong());
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}").parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }

    /// Whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The token itself, to be kept.
    pub(crate) fn token(&self) -> Option<&str> {
        self.0.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }

    /// A credential does not travel where others can read it.
    pub(crate) fn fits(&self, server: &str) -> Result<(), Failure> {
        if self.0.is_none() || !server.starts_with("http://") || is_loopback(server) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "refusing to send a token to {server}: without TLS the network reads it; use an https:// address, or \
             reach the server through an SSH tunnel to 127.0.0.1"
        )))
    }
}

fn is_loopback(server: &str) -> bool {
    let uri: Option<tonic::transport::Uri> = server.parse().ok();
    let host = uri.as_ref().and_then(tonic::transport::Uri::host).unwrap_or_default();
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::failure::exit;

    #[test]
    fn a_token_file_is_the_owners_alone_and_holds_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let check = |text: &str, mode: u32, expected: Result<(), &str>| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = find(Some(path.clone()), None).map(|found| assert!(found.0.is_some()));
            match (found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(failure), Err(part)) => {
                    assert_eq!(failure.exit_code(), exit::USAGE);
                    let text = failure.to_string();
                    assert!(text.contains(part) && !text.contains("mat1"), "{text}");
                }
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        };
        check("mat1_abc\n", 0o600, Ok(()));
        check("mat1_abc", 0o400, Ok(()));
        check("mat1_abc", 0o640, Err("chmod 600"));
        check("", 0o600, Err("holds no token"));
        check("mat1_abc\nmat1_def", 0o600, Err("holds no token"));
        assert!(matches!(find(Some("nowhere".into()), None), Err(Failure::Read { .. })));
    }

    #[test]
    fn a_token_is_not_sent_where_others_read_it() {
        let token = Credential::new("mat1_abc", "x").unwrap();
        for server in ["http://127.0.0.1:7400", "http://[::1]:7400", "http://localhost:1", "https://h:1"] {
            assert!(token.fits(server).is_ok(), "{server}");
        }
        for server in ["http://10.0.0.1:7400", "http://localhost.evil:7400", "http://h:1"] {
            assert!(token.fits(server).unwrap_err().to_string().contains("TLS"), "{server}");
            assert!(Credential::default().fits(server).is_ok());
        }
        assert_eq!(format!("{token:?}"), "Credential(..)");
    }
}
