//! Where the settings of the command line come from: flag, else environment, else file, else default.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::{DEFAULT_SERVER, Format, Global};
use crate::credential::{self, Credential};
use crate::failure::Failure;

/// Largest configuration file, in bytes: it holds three lines.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// What is in force.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) server: String,
    pub(crate) credential: Credential,
    pub(crate) output: Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    server: Option<String>,
    token_file: Option<PathBuf>,
    output: Option<Format>,
}

/// Resolves flags (clap has put the environment into them already) over the file.
pub(crate) fn resolve(global: Global) -> Result<Config, Failure> {
    let file = match &global.config {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let server = global.server.or(file.server).unwrap_or_else(|| DEFAULT_SERVER.to_owned());
    let server = url(&server)?;
    let credential = credential::find(global.token_file, file.token_file)?;
    credential.fits(&server)?;
    Ok(Config { server, credential, output: global.output.or(file.output).unwrap_or_default() })
}

fn read(path: &Path) -> Result<File, Failure> {
    let name = path.display().to_string();
    let bytes = crate::manifests::read_bounded(path, MAX_FILE_BYTES)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(Failure::Usage(format!(
            "{name} is larger than {MAX_FILE_BYTES} bytes; is it the right file?"
        )));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::Usage(format!("{name} is not UTF-8 text; it should be a TOML file")))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Failure::Usage(format!("{name}:{line}: {}", error.message().trim()))
    })
}

/// The address with its scheme; `host:port` alone is enough.
fn url(text: &str) -> Result<String, Failure> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    if url.starts_with("https://") {
        return Err(Failure::Usage(format!(
            "{text}: servers speak plain HTTP/2 on loopback in this version; use http://"
        )));
    }
    let parsed: Option<tonic::transport::Uri> = url.parse().ok();
    match parsed {
        Some(uri) if url.starts_with("http://") && uri.authority().is_some() => Ok(url),
        Some(_) | None => {
            Err(Failure::Usage(format!("{text:?} is not the address of a server; use e.g. {DEFAULT_SERVER}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::exit;

    #[test]
    fn flags_win_over_the_file_and_that_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("muster.toml");
        std::fs::write(&path, "server = \"10.0.0.1:7400\"\noutput = \"yaml\"\n").unwrap();
        let global = |server: Option<&str>, config: bool| Global {
            server: server.map(str::to_owned),
            token_file: None,
            output: None,
            config: config.then(|| path.clone()),
        };
        let check = |global: Global, server: &str, output: Format| {
            let config = resolve(global).unwrap();
            assert_eq!((config.server.as_str(), config.output), (server, output));
        };
        check(global(None, false), DEFAULT_SERVER, Format::Table);
        check(global(None, true), "http://10.0.0.1:7400", Format::Yaml);
        check(global(Some("http://h:1"), true), "http://h:1", Format::Yaml);
    }

    #[test]
    fn a_wrong_file_or_address_is_a_wrong_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("muster.toml");
        for (text, expected) in [
            ("server = 1", "muster.toml:1: invalid type: integer `1`, expected a string"),
            (
                "\nsurver = \"x\"",
                "muster.toml:2: unknown field `surver`, expected one of `server`, `token-file`, `output`",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let global = Global { config: Some(path.clone()), ..Global::default() };
            let failure = resolve(global).unwrap_err();
            assert_eq!(failure.exit_code(), exit::USAGE);
            assert!(failure.to_string().contains(expected), "{failure}");
        }
        for server in ["https://h:1", "ftp://h", "http://", "a b", ""] {
            let global = Global { server: Some(server.to_owned()), ..Global::default() };
            assert_eq!(resolve(global).unwrap_err().exit_code(), exit::USAGE, "{server:?}");
        }
    }
}
