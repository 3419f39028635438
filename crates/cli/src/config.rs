//! Where the settings of the command line come from: flag, else environment, else file, else default.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tonic::transport::Uri;

use crate::args::{DEFAULT_DATA_DIR, DEFAULT_SERVER, Format, Global};
use crate::contexts::{self, Contexts};
use crate::credential::{self, Credential};
use crate::failure::Failure;
use crate::local::Local;

/// Largest configuration file, in bytes: it holds five lines.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// What is in force.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) server: Server,
    /// What it is shown.
    pub(crate) credential: Credential,
    /// What was named on the command line, in the environment or in the file.
    pub(crate) given: Credential,
    /// The context whose token it is, if it is one's.
    pub(crate) kept: Option<String>,
    pub(crate) output: Format,
    /// Where a tracing UI shows a trace.
    pub(crate) trace_url: Option<String>,
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
    trace_url: Option<String>,
}

/// Resolves flags (clap has put the environment into them already) over the file, and that over the context.
pub(crate) fn resolve(global: Global) -> Result<Config, Failure> {
    let contexts = match contexts::path() {
        Some(path) => Contexts::load(&path)?,
        None => Contexts::default(),
    };
    resolve_with(global, &contexts)
}

fn resolve_with(global: Global, contexts: &Contexts) -> Result<Config, Failure> {
    let file = match &global.config {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let context = contexts.pick(global.context.as_deref())?;
    let data_dir = global.data_dir.or(file.data_dir);
    // A context or directory that was named comes before one that is merely there.
    let (by_name, by_directory) = (global.context.is_some(), data_dir.is_some());
    let local = Local::find(&data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()));
    let of_context = context.map(|(_, context)| context.server.clone());
    let of_local = local.as_ref().map(|local| local.api.clone());
    let found = if by_directory && !by_name { of_local.or(of_context) } else { of_context.or(of_local) };
    let named = global.server.or(file.server).or(found);
    let url = url(&named.unwrap_or_else(|| DEFAULT_SERVER.to_owned()))?;
    // What is kept for a server, or lies in its data directory, is for that server and no other.
    let context = context.filter(|(_, context)| context.server == url);
    let local = local.filter(|local| local.api == url);
    let (ca, token) = local.map_or((None, None), |local| (Some(local.ca), local.token));
    let given = credential::find(global.token_file, file.token_file)?;
    let credential = match (context, token) {
        (Some((_, context)), _) if given.is_none() => Credential::new(&context.token, "the context")?,
        (None, Some(token)) if given.is_none() => credential::find(None, Some(token))?,
        (Some(_) | None, _) => given.clone(),
    };
    credential.fits(&url)?;
    let kept = context.filter(|_| given.is_none()).map(|(name, _)| name.to_owned());
    let of_context = context.and_then(|(_, context)| context.ca.clone());
    let server = Server { url, ca: global.ca_file.or(file.ca_file).or(of_context).or(ca) };
    let output = global.output.or(file.output).unwrap_or_default();
    Ok(Config { server, credential, given, kept, output, trace_url: file.trace_url })
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
    use crate::contexts::Context;
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
            let config = resolve_with(global, &Contexts::default()).unwrap();
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
            let global = Global { server, ca_file, data_dir, ..Global::default() };
            let found = resolve_with(global, &Contexts::default()).unwrap().server;
            assert_eq!(found, Server { url: url.to_owned(), ca });
        };
        let own = folder.path().join("tls/ca.pem");
        check(None, None, (api, Some(own.clone())));
        check(Some("127.0.0.1:7412"), None, (api, Some(own)));
        check(None, Some("x.pem"), (api, Some("x.pem".into())));
        check(Some("https://elsewhere"), None, ("https://elsewhere", None));
    }

    #[test]
    fn what_a_context_keeps_goes_to_its_server_alone() {
        let ca: Option<PathBuf> = Some("/ca.pem".into());
        let context = Context {
            server: "https://127.0.0.1:1".into(),
            ca: ca.clone(),
            token: "mat1_a".into(),
            sign_in: None,
        };
        let contexts = Contexts { current: Some("a".into()), contexts: [("a".to_owned(), context)].into() };
        let check = |global: Global, (url, shown): (&str, bool)| {
            let config = resolve_with(global, &contexts).unwrap();
            assert_eq!((config.server.url.as_str(), !config.credential.is_none()), (url, shown));
            assert_eq!(config.server.ca, ca.clone().filter(|_| shown));
        };
        let at = |server: &str| Global { server: Some(server.to_owned()), ..Global::default() };
        check(Global::default(), ("https://127.0.0.1:1", true));
        check(at("127.0.0.1:1"), ("https://127.0.0.1:1", true));
        check(at("127.0.0.1:2"), ("https://127.0.0.1:2", false));
        let missing = Global { context: Some("b".into()), ..Global::default() };
        assert_eq!(resolve_with(missing, &contexts).unwrap_err().exit_code(), exit::NOT_FOUND);
    }

    #[test]
    fn a_named_directory_comes_before_the_current_context_and_after_a_named_one() {
        let folder = tempfile::tempdir().unwrap();
        let api = "https://127.0.0.1:7412";
        std::fs::write(folder.path().join("addresses.json"), format!("{{\"api\": \"{api}\"}}")).unwrap();
        let context =
            Context { server: "https://prod:1".into(), ca: None, token: "mat1_a".into(), sign_in: None };
        let contexts = Contexts { current: Some("a".into()), contexts: [("a".to_owned(), context)].into() };
        let check = |context: Option<&str>, data_dir: Option<&Path>, url: &str| {
            let (context, data_dir) = (context.map(str::to_owned), data_dir.map(Path::to_owned));
            let found = resolve_with(Global { context, data_dir, ..Global::default() }, &contexts).unwrap();
            assert_eq!(found.server.url, url);
        };
        check(None, None, "https://prod:1");
        check(None, Some(folder.path()), api);
        check(Some("a"), Some(folder.path()), "https://prod:1");
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
            let failure = resolve_with(global, &Contexts::default()).unwrap_err();
            assert_eq!(failure.exit_code(), exit::USAGE);
            assert!(failure.to_string().contains(expected), "{failure}");
        }
        for server in ["http://h:1", "http://10.0.0.1", "ftp://h", "http://", "a b", ""] {
            let global = Global { server: Some(server.to_owned()), ..Global::default() };
            let failure = resolve_with(global, &Contexts::default()).unwrap_err();
            assert_eq!(failure.exit_code(), exit::USAGE, "{server:?}");
        }
    }
}
