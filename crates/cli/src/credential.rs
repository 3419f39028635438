//! What the command line shows a server to be let in: an API token.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub(crate) use runtime::client::Credential;
use runtime::client::MAX_TOKEN_BYTES;

use crate::failure::Failure;

/// The variable that holds a token itself, where a file is not to be had.
const TOKEN: &str = "MUSTER_TOKEN";

/// Looks for a credential: the file that was named, else the environment, else the file of the configuration.
pub(crate) fn find(named: Option<PathBuf>, configured: Option<PathBuf>) -> Result<Credential, Failure> {
    let from_environment = || std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    match (named, from_environment(), configured) {
        (Some(file), _, _) | (None, None, Some(file)) => read(&file),
        (None, Some(token), _) => Ok(Credential::new(&token, TOKEN)?),
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
    let bytes = crate::manifests::read_bounded(path, MAX_TOKEN_BYTES as u64)?;
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    Ok(Credential::new(text, &name)?)
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
            let found = find(Some(path.clone()), None).map(|found| assert!(!found.is_none()));
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
}
