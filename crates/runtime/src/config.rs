//! Layered configuration of a binary: flag, then environment, then file, then the documented default.
//!
//! The binary has one `clap` struct. The file is TOML whose keys are the long names of the flags
//! (`nats-url = "nats://nats:4222"`), named by `--config FILE` or the variable
//! `<BINARY>_CONFIG` (`MUSTERD_CONFIG`): each binary has its own, for their keys differ. Its values become the
//! defaults of the command, so that clap's own precedence does the rest and `--help` shows what is in force.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser, ValueHint};

mod markdown;
pub use markdown::markdown;

/// Environment variable that names the configuration file of a binary: `MUSTER_AGENT_CONFIG` for
/// `muster-agent`.
fn config_env(command: &Command) -> String {
    format!("{}_CONFIG", command.get_name().replace('-', "_").to_ascii_uppercase())
}

/// Largest configuration file. Ours are a few kilobytes; a larger file is a mistake in the path.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not a configuration file by its size.
    #[error("the configuration file {} has {bytes} bytes; at most {MAX_FILE_BYTES} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A key that no option has.
    #[error("the configuration file {} has the unknown key {key:?}; known keys: {}", path.display(), known.join(", "))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// All keys that may stand there.
        known: Vec<String>,
    },
    /// A value that is neither text, number, boolean nor a list of them.
    #[error("the configuration file {} gives {key:?} a {found}; it takes text, a number, true or false, or a list of these", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// TOML type of the value.
        found: &'static str,
    },
}

/// Reads the configuration of this process. On an error, `--help` or `--version` it prints and exits as clap
/// does (status 2 for an error).
#[must_use]
pub fn parse<T: Parser>() -> T {
    parse_with_tables(&[]).0
}

/// As [`parse`], and returns the TOML tables named in `tables`, for what flags cannot say (the handlers of
/// an agent). Tables that the file lacks are absent from the result.
#[must_use]
pub fn parse_with_tables<T: Parser>(tables: &[&str]) -> (T, toml::Table) {
    try_parse_from(std::env::args_os(), tables).unwrap_or_else(|error| error.exit())
}

/// As [`parse_with_tables`] for given arguments (the first is the name of the binary), without exiting.
///
/// # Errors
/// clap's error: [`clap::Error::exit`] prints it. Errors of the file are among them.
pub fn try_parse_from<T: Parser>(
    args: impl IntoIterator<Item = OsString>,
    tables: &[&str],
) -> Result<(T, toml::Table), clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut command = with_config_flag(T::command());
    let mut extra = toml::Table::new();
    let path = config_path(&args, &config_env(&command));
    let mut file = toml::Table::new();
    if let Some(path) = &path {
        let refuse = |error: ConfigError| command.clone().error(ErrorKind::Io, crate::log::chain(&error));
        file = read(path).map_err(refuse)?;
        for table in tables {
            if let Some((key, value)) = file.remove_entry(*table) {
                extra.insert(key, value);
            }
        }
        command = with_file(command.clone(), path, &file, tables).map_err(refuse)?;
    }
    let name_the_file = |error: clap::Error| match &path {
        Some(path) => naming_file(error, path, &file),
        None => error,
    };
    let matches = command.try_get_matches_from_mut(args).map_err(name_the_file)?;
    let parsed = T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((parsed, extra))
}

/// The command with the `--config` flag that [`parse`] understands.
#[must_use]
pub fn with_config_flag(command: Command) -> Command {
    let env = config_env(&command);
    command.arg(
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_hint(ValueHint::FilePath)
            .env(env)
            .global(true)
            .help("TOML file with options; keys are the long names of the flags"),
    )
}

fn config_path(args: &[OsString], env: &str) -> Option<PathBuf> {
    let mut args = args.iter().skip(1).take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os(env).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })
}

fn with_file(
    mut command: Command,
    path: &Path,
    file: &toml::Table,
    tables: &[&str],
) -> Result<Command, ConfigError> {
    let mut known = keys(&command);
    for (key, value) in file {
        if !known.contains(key) {
            known.extend(tables.iter().map(|table| format!("[{table}]")));
            known.sort();
            return Err(ConfigError::UnknownKey { path: path.to_owned(), key: key.clone(), known });
        }
        let values = texts(value).ok_or_else(|| ConfigError::Type {
            path: path.to_owned(),
            key: key.clone(),
            found: value.type_str(),
        })?;
        command = with_default(command, key, &values);
    }
    Ok(command)
}

/// Long names of all options of the command and its subcommands that a file may set, sorted.
fn keys(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(Arg::get_long);
    let own = own.filter(|long| !matches!(*long, "config" | "help" | "version")).map(str::to_owned);
    let mut keys: Vec<String> = own.chain(command.get_subcommands().flat_map(keys)).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn with_default(command: Command, key: &str, values: &[String]) -> Command {
    let holder =
        command.get_arguments().find(|arg| arg.get_long() == Some(key)).map(|arg| arg.get_id().clone());
    let command = match holder {
        Some(id) => command.mut_arg(id, |arg| arg.required(false).default_values(values.to_vec())),
        None => command,
    };
    command.mut_subcommands(|subcommand| with_default(subcommand, key, values))
}

fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(value) => Some(vec![value.to_string()]),
        toml::Value::Array(list) => list.iter().map(|item| texts(item).filter(|t| t.len() == 1)).try_fold(
            Vec::new(),
            |mut all, item| {
                all.extend(item?);
                Some(all)
            },
        ),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// Says that a refused value came from the file, which clap takes for a default.
fn naming_file(mut error: clap::Error, path: &Path, file: &toml::Table) -> clap::Error {
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else { return error };
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else { return error };
    let key = arg.trim_start_matches('-').split(' ').next().unwrap_or_default();
    let from_file = file.get(key).and_then(texts).is_some_and(|values| values.contains(value));
    if from_file {
        let note = format!("{arg} (from {})", path.display());
        error.insert(ContextKind::InvalidArg, ContextValue::String(note));
    }
    error
}

/// Parses a duration such as `500ms`, `5s`, `1m`, `24h` or `7d`: for `value_parser` of options.
///
/// # Errors
/// A text that says what is accepted.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let refuse = || format!("{text:?} is not a duration; write 500ms, 5s, 1m, 24h or 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
    let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse()),
    };
    number.checked_mul(unit_ms).map(std::time::Duration::from_millis).ok_or_else(refuse)
}

/// Text of an `OsStr` for messages.
fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
