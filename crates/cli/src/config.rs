//! Where the settings of the command line come from: flag, else environment, else file, else default.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tonic::transport::Uri;

use crate::args::{DEFAULT_DATA_DIR, DEFAULT_SERVER, Format, Global};
use crate::credential::{self, Credential};
use crate::failure::Failure;
use crate::local::Local;

/// Largest configuration file, in bytes: it holds five lines.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// What is in force.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) credential: Credential,
    pub(crate) output: Format,
}

/// A server, and how to know that it is the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// `https://…`, or `http://…` on this machine.
    pub(crate) url: String,
    /// File of the CAs that may vouch for it; `None`: those that this machine trusts.
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    server: Option<String>,
    ca_file: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    token_file: Option<PathBuf>,
    output: Option<Format>,
}

/// Resolves flags (clap has put the environment into them already) over the file.
pub(crate) fn resolve(global: Global) -> Result<Config, Failure> {
    let file = match &global.config {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let data_dir = global.data_dir.or(file.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let local = Local::find(&data_dir);
    let named = global.server.or(file.server);
    let of_local = || local.as_ref().map(|local| local.api.clone());
    let url = url(&named.or_else(of_local).unwrap_or_else(|| DEFAULT_SERVER.to_owned()))?;
    // What lies in the data directory is for the server that runs with it, and no other.
    let local = local.filter(|local| local.api == url);
    let (ca, token) = local.map_or((None, None), |local| (Some(local.ca), local.token));
    let credential = credential::find(global.token_file, file.token_file.or(token))?;
    credential.fits(&url)?;
    let server = Server { url, ca: global.ca_file.or(file.ca_file).or(ca) };
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

/// The address with its scheme; `host:port` alone is enough and means TLS.
fn url(text: &str) -> Result<String, Failure> {
    let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let parsed: Option<Uri> = url.parse().ok();
    match parsed {
        Some(uri) if url.starts_with("https://") && uri.authority().is_some() => Ok(url),
        Some(uri) if url.starts_with("http://") && uri.authority().is_some() => match is_loopback(&uri) {
            true => Ok(url),
            false => Err(Failure::Usage(format!(
                "{text}: only a server on this machine may be spoken to without TLS; use https://"
            ))),
        },
        Some(_) | None => {
            Err(Failure::Usage(format!("{text:?} is not the address of a server; use e.g. {DEFAULT_SERVER}")))
        }
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
            config: config.then(|| path.clone()),
            ..Global::default()
        };
        let check = |global: Global, url: &str, output: Format| {
            let config = resolve(global).unwrap();
            let server = Server { url: url.to_owned(), ca: None };
            assert_eq!((config.server, config.output), (server, output));
        };
        check(global(None, false), DEFAULT_SERVER, Format::Table);
        check(global(None, true), "https://10.0.0.1:7400", Format::Yaml);
        check(global(Some("https://h:1"), true), "https://h:1", Format::Yaml);
        check(global(Some("http://[::1]:1"), true), "http://[::1]:1", Format::Yaml);
    }

    #[test]
    fn a_server_on_this_machine_is_found_with_its_ca() {
        let folder = tempfile::tempdir().unwrap();
        let api = "https://127.0.0.1:7412";
        std::fs::write(folder.path().join("addresses.json"), format!("{{\"api\": \"{api}\", \"pid\": 7}}"))
            .unwrap();
        let check = |server: Option<&str>, ca_file: Option<&str>, (url, ca): (&str, Option<PathBuf>)| {
            let (server, ca_file) = (server.map(str::to_owned), ca_file.map(PathBuf::from));
            let data_dir = Some(folder.path().to_owned());
            let found = resolve(Global { server, ca_file, data_dir, ..Global::default() }).unwrap().server;
            assert_eq!(found, Server { url: url.to_owned(), ca });
        };
        let own = folder.path().join("tls/ca.pem");
        check(None, None, (api, Some(own.clone())));
        check(Some("127.0.0.1:7412"), None, (api, Some(own)));
        check(None, Some("x.pem"), (api, Some("x.pem".into())));
        check(Some("https://elsewhere"), None, ("https://elsewhere", None));
    }

    #[test]
    fn a_wrong_file_or_address_is_a_wrong_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("muster.toml");
        for (text, expected) in [
            ("server = 1", "muster.toml:1: invalid type: integer `1`, expected a string"),
            (
                "\nsurver = \"x\"",
                "muster.toml:2: unknown field `surver`, expected one of `server`, `ca-file`, `data-dir`, \
                 `token-file`, `output`",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let global = Global { config: Some(path.clone()), ..Global::default() };
            let failure = resolve(global).unwrap_err();
            assert_eq!(failure.exit_code(), exit::USAGE);
            assert!(failure.to_string().contains(expected), "{failure}");
        }
        for server in ["http://h:1", "http://10.0.0.1", "ftp://h", "http://", "a b", ""] {
            let global = Global { server: Some(server.to_owned()), ..Global::default() };
            assert_eq!(resolve(global).unwrap_err().exit_code(), exit::USAGE, "{server:?}");
        }
    }
}
