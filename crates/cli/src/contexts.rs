//! Servers that one has logged in to, kept in the user's folder for configurations.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Largest file, in bytes: a line for each of some hundred servers.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A server and the token for it. No `Debug`, so that the token is not printed by accident.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) server: String,
    /// File of the CAs that may vouch for it; `None`: those that this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    pub(crate) token: String,
    /// How the token is exchanged for another; `None`: it is an API token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sign_in: Option<SignIn>,
}

/// A sign-in at an OpenID provider. No `Debug`, as above.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignIn {
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    /// File of the CAs that may vouch for the provider; `None`: those that this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// When the token ends, in seconds since 1970.
    pub(crate) expires_at: u64,
    /// What another token is given for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_token: Option<String>,
}

/// All servers that one has logged in to.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that counts where nothing else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// Where they are kept; `None` where the user has no home.
pub(crate) fn path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("muster/contexts.toml"))
}

impl Contexts {
    /// What is kept there; none without a file.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Failure::Read { name, source }),
        };
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Failure::Usage(format!(
                "{name} has mode {mode:04o}, so that others may read the tokens in it: revoke them if they could, \
                 and run chmod 600"
            )));
        }
        let bytes = crate::manifests::read_bounded(path, MAX_FILE_BYTES)?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        toml::from_str(&text).map_err(|error| {
            // The message of the parser may quote a token.
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Failure::Usage(format!(
                "{name}:{line}: is not as `muster login` writes it; remove it and log in again"
            ))
        })
    }

    /// Replaces the file as a whole, readable by its owner alone.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).map_err(|error| {
            Failure::Answer(format!("the contexts have no form that can be kept: {error}"))
        })?;
        let written = || -> io::Result<()> {
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let draft = path.with_extension(format!("draft-{}", std::process::id()));
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, path)
        };
        written().map_err(|source| Failure::Write { name: path.display().to_string(), source })
    }

    /// The one that was named, or else the current one.
    pub(crate) fn pick(&self, named: Option<&str>) -> Result<Option<(&str, &Context)>, Failure> {
        let find = |name: &str| self.contexts.get_key_value(name).map(|(name, it)| (name.as_str(), it));
        let Some(name) = named else { return Ok(self.current.as_deref().and_then(find)) };
        find(name).map(Some).ok_or_else(|| Failure::NotFound {
            cause: format!("there is no context {name:?}"),
            way_out: "`muster context list` shows those there are, `muster login NAME` makes one".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn sample() -> Contexts {
        let server = "http://127.0.0.1:7400".into();
        let context = Context { server, ca: None, token: "mat1_secret".into(), sign_in: None };
        Contexts { current: Some("home".into()), contexts: [("home".to_owned(), context)].into() }
    }

    #[test]
    fn contexts_are_kept_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/muster/contexts.toml");
        assert!(Contexts::load(&path).unwrap().contexts.is_empty());
        for _ in 0..2 {
            sample().save(&path).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
        let loaded = Contexts::load(&path).unwrap();
        assert_eq!(loaded.pick(None).unwrap().unwrap().1.token, "mat1_secret");
        assert_eq!(loaded.pick(Some("home")).unwrap().unwrap().1.server, "http://127.0.0.1:7400");
        assert!(loaded.pick(Some("other")).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Contexts::load(&path).err().unwrap().to_string().contains("chmod 600"));
    }

    #[test]
    fn a_damaged_file_is_told_without_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.toml");
        for text in ["token = \"mat1_secret\"", "[contexts.a]\ntoken = mat1_secret", "\u{0}"] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let said = Contexts::load(&path).err().unwrap().to_string();
            assert!(said.contains("log in again") && !said.contains("secret"), "{said}");
        }
    }
}
